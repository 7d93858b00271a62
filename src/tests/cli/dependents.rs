//! Dependents and init containers get the same from a rollout as from a recreation by Compose.

use super::*;

/// A project whose `worker` depends on `app` with `restart: true`.
fn project_with_dependent() -> FakeDocker {
    let fake = FakeDocker::new();
    let health = format!("x-zd: {{health: {{path: /up, port: {}}}}}", fake.port);
    let depends = "depends_on: {app: {condition: service_started, restart: true}}";
    let services = format!("app: {{image: app:1, {health}}}, worker: {{image: w:1, {depends}}}");
    fake.write("config.yaml", &format!("name: p\nservices: {{{services}}}\n"));
    let worker = fs::read_to_string(fake.path("containers/old")).unwrap();
    let worker = worker.replace("\"old\"", "\"worker\"").replace("p-app-1", "p-worker-1");
    fake.write("containers/worker", &worker.replace("service\": \"app\"", "service\": \"worker\""));
    fake
}

#[test]
fn a_dependent_with_restart_true_restarts_after_the_old_instance_stopped() {
    let fake = project_with_dependent();
    let notice = "`depends_on.….restart: true`: `worker` restarts afterwards";
    says(&fake.run("deploy app --dry-run").success(), &[notice]);
    assert!(!fake.changes().contains("restart"), "{}", fake.changes());
    says(&fake.run("deploy app").success(), &[notice, "restarting `worker`"]);
    let changes = fake.changes();
    assert!(changes.contains("stop old\ncompose restart --no-deps worker\n"), "{changes}");

    // Nothing changed, so nothing restarts.
    let before = fake.changes();
    fake.run("deploy app").success();
    assert_eq!(fake.changes(), before);
}

#[test]
fn a_dependent_that_fails_to_restart_is_reported_and_the_release_serves() {
    let fake = project_with_dependent();
    fake.write("restart-fails", "");
    let run = fake.run("deploy app").success();
    says(&run, &["the new release serves, and `worker` could not be restarted", "no such device"]);
}

fn project_with_init_containers() -> FakeDocker {
    let fake = FakeDocker::new();
    let health = format!("x-zd: {{health: {{path: /up, port: {}}}}}", fake.port);
    let steps = "pre_start: [{command: [/migrate, secret], user: root}, {image: busybox, command: ['true']}]";
    fake.service(&format!("image: app:1, environment: {{KEY: hidden}}, {steps}, {health}"));
    fake
}

#[test]
fn init_containers_run_before_the_first_new_instance_starts() {
    let fake = project_with_init_containers();
    let run = fake.run("deploy app -v").success();
    let changes = fake.changes();
    let label = "--label com.docker.compose.project=p --label com.docker.compose.service=app --label com.docker.compose.hook=pre_start";
    let first = format!("create {label} --volumes-from new --user root --env KEY app:1 /migrate secret");
    let second = format!("create {label} --volumes-from new --env KEY busybox true");
    let end = "start --attach init\nrm --force --volumes init";
    assert!(changes.contains(&format!("\n{first}\n{end}\n{second}\n{end}\nstart new\n")), "{changes}");
    says(&run, &["running job `app.pre_start[0]`", "migrated", "job `app.pre_start[1]` completed"]);
    assert!(!stderr(&run).contains("secret") && !stderr(&run).contains("hidden"), "{}", stderr(&run));
}

#[test]
fn an_init_container_left_by_a_killed_run_is_removed() {
    let fake = project_with_init_containers();
    let text = fs::read_to_string(fake.path("containers/old")).unwrap();
    let label = r#""Labels": {"com.docker.compose.hook": "pre_start", "#;
    let left = text.replace("\"old\"", "\"left\"").replace("p-app-1", "eager").replace("running", "exited");
    fake.write("containers/left", &left.replacen("\"Labels\": {", label, 1));
    fake.run("deploy app").success();
    let changes = fake.changes();
    assert!(changes.contains("\nrm left\ncreate --label "), "{changes}");
}

#[test]
fn a_failed_init_container_ends_the_deploy_before_anything_starts() {
    let fake = project_with_init_containers();
    fake.write("init-fails", "");
    let run = fake.run("deploy app").code(3);
    says(&run, &["`app.pre_start[0]` failed", "app-1 served before and still serves"]);
    let changes = fake.changes();
    assert!(!changes.contains("start new") && changes.ends_with("rm new\n"), "{changes}");
    assert!(fake.path("containers/old").exists());
}
