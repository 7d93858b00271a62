//! Routes of configurations, the requirements on them, and the changes towards each goal.

use super::*;
use crate::docker::inspect::Container;
use crate::proxy::public_route::PublicRoute;
use crate::proxy::{Change, Discovery, Endpoint, InFlight, Rotation};

fn container(json: &str) -> Container {
    serde_json::from_str(json).expect("a container")
}

/// Proxy that has printed this introduction, on the network `front`.
fn proxy_with(introduction: &str) -> Apache {
    let json = r#"{"Id": "lb", "Name": "/p-lb-1", "State": {"Status": "running"},
        "Config": {"Image": "httpd:2.4"}, "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut proxy = Apache::new(&container(json));
    proxy.learn(&output(introduction));
    proxy
}

fn output(text: &str) -> CommandResult {
    CommandResult { code: Some(0), stdout: text.into(), stderr: String::new() }
}

/// Proxy with this configuration.
fn proxy(text: &str) -> Apache {
    proxy_with(&format!("@user 0\n@hosts rw\n@mpm event\n@config\n# configuration file mod_info:\n{text}\n"))
}

fn backend(names: &[&str], is_running: bool) -> Backend {
    Backend {
        project: "p".into(),
        service: names[0].into(),
        names: names.iter().map(ToString::to_string).collect(),
        networks: vec!["front".into()],
        addresses: if is_running { vec!["172.21.0.1".parse().unwrap()] } else { Vec::new() },
        is_running,
        ..Backend::default()
    }
}

fn shape(services: &[&str]) -> RolloutShape {
    RolloutShape {
        tune: true,
        project: "p".into(),
        services: services.iter().map(|s| (s.to_string(), vec![s.to_string()])).collect(),
        backends: services
            .iter()
            .flat_map(|s| [backend(&[s, &format!("p-{s}-1")], true), backend(&[s], false)])
            .collect(),
        ..RolloutShape::default()
    }
}

#[test]
fn apache_is_known_by_its_image_its_program_and_its_environment() {
    let is_apache = |json: &str| detect(&container(json)).is_some();
    for image in ["httpd", "httpd:2.4-alpine", "ubuntu/apache2:2.4", "r.example/bitnami/apache@sha256:1"] {
        assert!(is_apache(&format!(r#"{{"Config": {{"Image": "{image}"}}}}"#)), "{image}");
    }
    assert!(is_apache(r#"{"Path": "httpd-foreground"}"#));
    assert!(is_apache(r#"{"Path": "docker-php-entrypoint", "Args": ["apache2-foreground"]}"#));
    assert!(is_apache(r#"{"Path": "sh", "Args": ["-c", "exec /usr/sbin/apache2ctl -D FOREGROUND"]}"#));
    assert!(is_apache(r#"{"Config": {"Env": ["HTTPD_VERSION=2.4.62"]}}"#));
    for image in ["apache/kafka", "my-httpd", "tomcat"] {
        assert!(!is_apache(&format!(r#"{{"Config": {{"Image": "{image}"}}}}"#)), "{image}");
    }
}

#[test]
fn each_kind_of_route_has_its_host_and_port() {
    let table = [
        ("ProxyPass / http://app/", Some(80), false),
        ("ProxyPass \"/x\" 'https://App/x' timeout=5", Some(443), false),
        ("ProxyPassMatch ^/(.*)$ http://app:3000/$1", Some(3000), false),
        ("<Location /x>\nProxyPass ws://app:1/\n</Location>", Some(1), false),
        ("<LocationMatch x>\nProxyPassMatch h2c://app\n</LocationMatch>", Some(80), false),
        ("RewriteRule ^/(.*) http://app:3000/$1 [L,P]", Some(3000), false),
        ("RewriteRule ^/(.*) \"http://app:3000/$1\" [proxy,QSA]", Some(3000), false),
        ("ProxyPassMatch ^(/.*)$ http://app:3000$1", Some(3000), false),
        ("RewriteRule ^(.*)$ HTTP://APP$1 [P]", Some(80), false),
        ("RewriteRule ^ http://app:3000%{REQUEST_URI} [P]", Some(3000), false),
        (
            "<Proxy balancer://p>\nBalancerMember http://App:81\n</Proxy>\nRewriteRule ^ Balancer://P%{REQUEST_URI} [P]",
            Some(81),
            false,
        ),
        ("<FilesMatch \\.php$>\nSetHandler \"proxy:fcgi://app:9000\"\n</FilesMatch>", Some(9000), true),
        ("ProxyPass / uwsgi://app:3031/", Some(3031), true),
        ("ProxyPass / ajp://app", Some(8009), true),
        (
            "ProxyPass / balancer://Pool/\n<Proxy balancer://pool>\nBalancerMember http://app:8080\n</Proxy>",
            Some(8080),
            false,
        ),
        ("BalancerMember balancer://pool http://app:8080\nProxyPass / balancer://pool", Some(8080), false),
    ];
    for (text, port, not_http) in table {
        for text in [text.to_string(), format!("<VirtualHost *:80>\n{text}\n</VirtualHost>")] {
            let proxy = proxy(&text);
            assert!(proxy.routes_to(&backend(&["app"], true)), "{text}");
            let route = proxy.route_to(&backend(&["app"], true));
            assert_eq!((route.port, route.not_http), (port, not_http), "{text}");
        }
    }
    for other in [
        "ProxyPass / http://other/",
        "ProxyPass /app !",
        "ProxyPass / unix:/run/app.sock|http://localhost/",
        "# ProxyPass / http://app/",
        "RewriteRule ^/(.*) http://app/$1 [R]",
        "RewriteRule ^/(.*) http://%{HTTP_HOST}/$1 [P]",
        "RewriteRule ^/(.*) http://$1-app:3000/ [P]",
        "SetHandler \"proxy:unix:/run/php.sock|fcgi://app\"",
        "DocumentRoot /srv/app",
    ] {
        assert!(!proxy(other).routes_to(&backend(&["app"], true)), "{other}");
    }
}

#[test]
fn public_routes_have_the_port_name_and_path_of_their_host() {
    let route = |port, tls, host: Option<&str>, path: &str| PublicRoute {
        port,
        tls,
        host: host.map(String::from),
        path: path.into(),
    };
    let pass = "ProxyPass / http://app/";
    let table = [
        (format!("Listen 80\n{pass}"), vec![route(80, false, None, "/")]),
        (format!("Listen [::]:81\nServerName a\n{pass}"), vec![route(81, false, None, "/")]),
        (
            format!(
                "<VirtualHost *:443>\nSSLEngine on\nServerName a.example:443\nServerAlias *.x b.example\n{pass}\n</VirtualHost>"
            ),
            vec![route(443, true, Some("a.example"), "/"), route(443, true, Some("b.example"), "/")],
        ),
        (
            format!("Listen 8443 https\n<VirtualHost *>\n{pass}\n</VirtualHost>"),
            vec![route(8443, true, None, "/")],
        ),
        (
            "Listen 80\nProxyPass /a/b http://app/\n<Location /a>\nProxyPass http://app/\n</Location>".into(),
            vec![route(80, false, None, "/a"), route(80, false, None, "/a/b")],
        ),
        ("Listen 80\nProxyPassMatch ^/x(.*) http://app/$1".into(), Vec::new()),
        ("Listen 80\nRewriteRule ^/?(.*)$ http://app/$1 [P]".into(), vec![route(80, false, None, "/")]),
    ];
    for (text, expected) in table {
        assert_eq!(proxy(&text).route_to(&backend(&["app"], true)).public, expected, "{text}");
    }
}

#[test]
fn an_instance_gets_the_host_of_the_client_only_on_request() {
    let header = |line: &str| {
        let text = format!(
            "<VirtualHost *:80>\nServerName a.example\nProxyPass / http://app:3000/\n{line}\n</VirtualHost>"
        );
        proxy(&text).route_to(&backend(&["app"], true)).host
    };
    assert_eq!(header("").as_deref(), Some("app:3000"));
    assert_eq!(header("ProxyPreserveHost On").as_deref(), Some("a.example"));
    assert_eq!(header("ProxyPreserveHost Off").as_deref(), Some("app:3000"));
}

#[test]
fn the_time_for_an_answer_is_the_shortest_of_all_places() {
    let seconds =
        |text: &str| proxy(text).route_to(&backend(&["app"], true)).answer_timeout.expect("a time").as_secs();
    let table = [
        (GOOD.to_string(), 60),
        (format!("Timeout 300\n{GOOD}"), 300),
        (format!("Timeout 5\nProxyTimeout 90\n{GOOD}"), 90),
        (format!("ProxyTimeout 90\n<VirtualHost *:80>\n{GOOD} timeout=20\n</VirtualHost>"), 20),
    ];
    for (text, expected) in table {
        assert_eq!(seconds(&text), expected, "{text}");
    }
}

/// php:apache is the image of many an app.
#[test]
fn files_only_is_no_proxy() {
    assert!(proxy("DocumentRoot /srv").routes_nowhere());
    assert!(!proxy("ProxyPass / http://other/").routes_nowhere());
    let unreadable = proxy_with("");
    assert!(!unreadable.routes_nowhere() && unreadable.doubt(&[]).is_some());
    assert!(Apache::new(&Container::default()).routes_nowhere(), "a stopped one");
}

/// Rule of the refusal of an audit.
fn refusal(proxy: &Apache, shape: &RolloutShape) -> &'static str {
    proxy.audit(shape, None).refused.expect("a refusal").rule.copied().unwrap_or_default()
}

#[test]
fn a_configuration_that_cannot_be_switched_is_refused() {
    let app = shape(&["app"]);
    assert_eq!(refusal(&proxy("ProxyPass / http://172.21.0.1:3000/"), &app), "apache-address");
    assert_eq!(refusal(&proxy("ProxyPass / http://p-app-1:3000/"), &app), "apache-one-instance");
    let broken = format!("@error AH00526: Syntax error\n@config\n# configuration file /a:\n{GOOD}");
    assert_eq!(refusal(&proxy_with(&broken), &app), "apache-configuration");
    let fixed = format!("@host 10.0.0.1 app\n@config\n# configuration file /a:\n{GOOD}");
    assert_eq!(refusal(&proxy_with(&fixed), &app), "apache-extra-hosts");
    let pinned = format!("@host 10.0.0.1 app # compose-zd p/app\n@config\n# configuration file /a:\n{GOOD}");
    assert_eq!(proxy_with(&pinned).audit(&app, None).refused, None);
    assert_eq!(proxy(GOOD).audit(&app, None).refused, None);

    let members = "<Proxy balancer://p>\nBalancerMember http://a\nBalancerMember http://b\n</Proxy>\nProxyPass / balancer://p/";
    let both = shape(&["a", "b"]);
    assert_eq!(proxy(members).audit(&both, None).refused, None);
    let mut idle = both.clone();
    idle.backends.retain(|backend| backend.service != "b" || !backend.is_running);
    assert_eq!(refusal(&proxy(members), &idle), "apache-one-side");
    // Before the first start Compose will start all of them.
    let mut planned = proxy(members);
    planned.place.container.state.status = "created".into();
    let mut none = both.clone();
    none.backends.retain(|backend| !backend.is_running);
    assert_eq!(planned.audit(&none, None).refused, None);
    assert_eq!(refusal(&planned, &idle), "apache-one-side");

    let mut same = proxy(GOOD);
    for (key, value) in [("project", "p"), ("service", "web")] {
        let key = format!("com.docker.compose.{key}");
        same.place.container.config.labels.insert(key, value.into());
    }
    let with_web = RolloutShape { names_in_same_run: vec!["web".into()], ..app };
    assert_eq!(refusal(&same, &with_web), "apache-same-run");
    assert!(same.advance(&[output(&state(&[9], &[]))], &Goal::Patched(with_web)).is_err());
}

#[test]
fn a_name_is_pinned_as_apache_looks_it_up() {
    let names = |text: &str| proxy(text).passes().services_of(&shape(&["app"]))[0].names.clone();
    assert_eq!(names("ProxyPass / http://APP:3000/"), ["app".to_string()].into());
    let members = "<Proxy balancer://p>\nBalancerMember http://app\nBalancerMember http://app.\n</Proxy>\nProxyPass / balancer://p/";
    assert_eq!(refusal(&proxy(members), &shape(&["app"])), "apache-absolute-name");
}

#[test]
fn the_price_of_a_restart_is_named_where_idle_clients_pay_it() {
    let losses = |mpm: &str, text: &str| {
        let proxy = proxy_with(&format!("@mpm {mpm}\n@config\n# configuration file /a:\n{text}\n"));
        (proxy.losses(&[], &shape(&["app"])).len(), proxy.abilities().late_requests.as_millis())
    };
    let pool = |parameter: &str| {
        format!(
            "<Proxy balancer://p>\nBalancerMember http://app {parameter}\n</Proxy>\nProxyPass / balancer://p/"
        )
    };
    let table = [
        ("event", GOOD.to_string(), 1, 6000),
        ("worker", GOOD.to_string(), 0, 6000),
        ("prefork", format!("KeepAliveTimeout 300ms\n{GOOD}"), 0, 1300),
        ("event", format!("KeepAlive Off\n{GOOD}"), 0, 1000),
        (
            "event",
            format!(
                "KeepAlive Off\n{GOOD}\n<VirtualHost *:80>\nKeepAlive On\nKeepAliveTimeout 2\n</VirtualHost>"
            ),
            1,
            3000,
        ),
        ("event", GOOD.replace("3000/", "3000/ disablereuse=on"), 0, 6000),
        ("event", GOOD.replace("3000/", "3000/ disablereuse=on addressttl=60"), 1, 6000),
        ("event", format!("{GOOD}\n{}", GOOD.replace("3000/", "3000/ enablereuse=off")), 1, 6000),
        ("event", pool("enablereuse=Off"), 0, 6000),
        ("event", pool("disablereuse=off"), 1, 6000),
    ];
    for (mpm, text, count, late) in table {
        assert_eq!(losses(mpm, &text), (count, late), "{mpm} {text}");
    }
}

#[test]
fn a_proxy_that_does_not_run_is_known_by_its_files() {
    let planned = |files: &[(&str, &str)], image: &str, args: &str| {
        let json = format!(
            r#"{{"Config": {{"Image": "{image}", "Env": ["APP=app"]}}, "Args": [{args}], "NetworkSettings": {{"Networks": {{"front": {{}}}}}}}}"#
        );
        let mut proxy = Apache::new(&container(&json));
        let file = |path: &str| {
            let (_, text) = files.iter().find(|(own, _)| *own == path)?;
            Some(crate::proxy::MountedFile { text: text.to_string(), read_only: true })
        };
        let is_known = proxy.learn_files(&file);
        (is_known, proxy.routes_to(&backend(&["app"], false)), proxy.routes_nowhere())
    };
    let routes = (true, true, false);
    let main = "/usr/local/apache2/conf/httpd.conf";
    assert_eq!(planned(&[(main, GOOD)], "httpd", ""), routes);
    assert_eq!(planned(&[(main, "ProxyPass / http://${APP}/")], "ours", ""), routes);
    let site = ("/usr/local/apache2/conf/extra/site.conf", GOOD);
    assert_eq!(
        planned(
            &[(main, "Include conf/extra/*.conf"), ("/usr/local/apache2/conf/extra", "site.conf\n"), site],
            "ours",
            ""
        ),
        routes
    );
    assert_eq!(planned(&[site], "httpd", r#""-c", "Include conf/extra/site.conf""#), routes);
    assert_eq!(planned(&[("/etc/apache2/sites-available/000-default.conf", GOOD)], "ours", ""), routes);
    let mut stopped = Apache::new(&container(r#"{"Config": {"Env": ["MPM=event"]}}"#));
    let text = format!("LoadModule mpm_${{MPM}}_module x.so\n{GOOD}");
    stopped.learn_files(&|path| {
        (path == main).then(|| crate::proxy::MountedFile { text: text.clone(), read_only: true })
    });
    assert_eq!(stopped.closes_idle_clients(&shape(&["app"])).map(|f| f.rule), Some("apache-keepalive"));
    assert_eq!(planned(&[], "httpd:2.4", ""), (true, false, true));
    assert_eq!(planned(&[], "php:8-apache", ""), (false, false, true));
}

const GOOD: &str = "ProxyPass / http://app:3000/";

fn endpoint(n: u8, is_running: bool) -> Endpoint {
    Endpoint {
        id: format!("c{n}"),
        names: vec!["app".into(), format!("p-app-{n}")],
        service: "app".into(),
        addresses: is_running.then(|| format!("172.21.0.{n}").parse().unwrap()).into_iter().collect(),
        labels: [("com.docker.compose.project".to_string(), "p".to_string())].into(),
        ..Endpoint::default()
    }
}

/// Goal with the first instance outside and the second one inside.
fn switch() -> Goal {
    let (inside, outside) = (vec![endpoint(2, true)], vec![endpoint(1, true)]);
    Goal::Rotation(Rotation { inside, outside, ..Rotation::default() })
}

/// First line of each change, and the arguments of `write`.
fn shown(next: &Next) -> Vec<String> {
    let line = |change: &Change| {
        let script = change.exec().expect("a command").argv[2].clone();
        let first = script.lines().next().unwrap_or_default().to_string();
        let write = script.lines().last().filter(|l| l.starts_with("write")).unwrap_or_default();
        format!("{first} {write}").trim().to_string()
    };
    next.changes().iter().map(line).collect()
}

fn state(children: &[u64], pins: &[&str]) -> String {
    let children = children.iter().map(|ticks| format!("@child {ticks}\n"));
    let pins = pins.iter().map(|pin| format!("@pin {pin} # compose-zd p/app\n"));
    let text: String = children.chain(pins).collect();
    format!("{text}@watcher compose-zd p/app watcher\n@now 1000\n@end\n")
}

fn advance(text: &str, goal: &Goal, state: &str) -> (ProxyState, Next) {
    proxy(text).advance(&[output(state)], goal).expect("a step")
}

const OLD: &str = "172.21.0.1 app";
const NEW: &str = "172.21.0.2 app";

#[test]
fn a_gate_pins_the_instances_inside_without_a_restart() {
    let gate = Goal::Gated(Rotation {
        inside: vec![endpoint(1, true)],
        outside: vec![endpoint(2, false)],
        ..Rotation::default()
    });
    let pinned =
        "# pin the addresses write \"# since 0 was  # compose-zd p/app\" '172.21.0.1 app # compose-zd p/app'";
    assert_eq!(shown(&advance(GOOD, &gate, &state(&[9], &[])).1), [pinned]);
    assert_eq!(advance(GOOD, &gate, &state(&[9], &["# since 0 was ", OLD])).1, Next::Done);
}

#[test]
fn a_switch_pins_and_restarts_and_is_confirmed_by_the_mark() {
    let pin = "# pin the addresses write \"# since $now was 172.21.0.1 # compose-zd p/app\" '172.21.0.2 app # compose-zd p/app'";
    let (before, next) = advance(GOOD, &switch(), &state(&[9], &["# since 0 was ", OLD]));
    assert_eq!(before.routed, ["c1".to_string()].into());
    assert_eq!(shown(&next), [pin, "# test the configuration", "# restart gracefully"]);
    let after = |children: &[u64], pins: &[&str]| {
        let (state, next) = advance(GOOD, &switch(), &state(children, pins));
        let routed = state.routed.into_iter().collect::<Vec<_>>().join(" ");
        (routed, state.config_applied, state.has_retired_process, shown(&next).len())
    };
    let since = "# since 900 was 172.21.0.1";
    // A child that is newer than the pins does not prove a restart.
    assert_eq!(after(&[9, 901], &[since, NEW]), ("c1 c2".into(), false, true, 3));
    assert_eq!(after(&[9, 901], &[since, NEW, "# reloaded"]), ("c2".into(), true, true, 0));
    assert_eq!(after(&[901, 902], &[since, NEW, "# reloaded"]), ("c2".into(), true, false, 0));
    assert_eq!(after(&[], &[since, NEW, "# reloaded"]), ("c2".into(), false, false, 0));
}

#[test]
fn a_name_that_is_looked_up_for_each_request_needs_no_restart() {
    let text = GOOD.replace("3000/", "3000/ disablereuse=on");
    let (_, next) = advance(&text, &switch(), &state(&[9], &["# since 0 was ", OLD]));
    assert_eq!(
        shown(&next),
        [
            "# pin the addresses write \"# since 0 was 172.21.0.1 # compose-zd p/app\" '172.21.0.2 app # compose-zd p/app'"
        ]
    );
    let (state, next) = advance(&text, &switch(), &state(&[9], &["# since 0 was 172.21.0.1", NEW]));
    assert_eq!((state.config_applied, state.has_retired_process, next), (true, false, Next::Done));
}

#[test]
fn pins_are_removed_once_they_are_what_runs() {
    let handed_back = |running: &[u8]| {
        Goal::HandedBack(Discovery {
            endpoints: [1, 2].map(|n| endpoint(n, running.contains(&n))).to_vec(),
            ..Discovery::default()
        })
    };
    let switched = state(&[901], &["# since 900 was 172.21.0.1", NEW, "# reloaded"]);
    let next = advance(GOOD, &handed_back(&[2]), &switched).1;
    assert_eq!(
        (matches!(next, Next::Finish(_)), shown(&next)),
        (true, vec!["# remove the pins write".into()])
    );
    assert_eq!(
        shown(&advance(GOOD, &handed_back(&[1, 2]), &switched).1).len(),
        3,
        "Apache lacks an instance"
    );
    assert_eq!(advance(GOOD, &handed_back(&[2]), &state(&[9], &[])).1, Next::Done);
}

#[test]
fn the_watcher_of_a_read_only_proxy_has_its_files() {
    let proxy = proxy_with(&format!("@user 0\n@hosts ro\n@config\n# configuration file /a:\n{GOOD}\n"));
    let without_watcher = state(&[9], &[]).replace("@watcher", "@other");
    let next = proxy.advance(&[output(&without_watcher)], &Goal::Patched(shape(&["app"]))).expect("a step").1;
    let exec = next.changes()[0].exec().expect("a command").clone();
    let options = "--detach --label compose-zd.watcher=p/app --volumes-from lb --pid container:lb";
    assert_eq!(
        (exec.options.join(" ").as_str(), exec.sidecar_image.as_deref()),
        (options, Some("httpd:2.4"))
    );
}

#[test]
fn connections_count_as_requests_by_what_they_carry() {
    let idle = "10.0.0.2:1 172.21.0.1:3000 0 0 9 9 20000 20000 20000 0\n";
    let busy = "10.0.0.2:2 172.21.0.1:3000 0 0 9 0 20 20000 20000 0\n";
    let answers = [output(&state(&[9], &[])), output(&format!("{idle}{busy}"))];
    let goal = Goal::Observed(vec![endpoint(1, true), endpoint(2, true)]);
    let at_most = |text: &str| {
        let state = proxy(text).advance(&answers, &goal).expect("a state").0;
        assert!(matches!(state.in_flight["c1"], InFlight::Connections { .. }));
        [state.in_flight["c1"].at_most(), state.in_flight["c2"].at_most()]
    };
    assert_eq!(at_most(GOOD), [(1, false), (0, false)]);
    assert_eq!(at_most(&format!("{GOOD}\nProxyPass /ws ws://app:3000/")), [(2, true), (0, false)]);
    assert!(proxy(GOOD).advance(&[output("@now 3\n")], &switch()).is_err(), "a cut answer");
}

#[test]
fn the_scripts_are_valid() {
    let service =
        hosts::PinnedService { project: "p".into(), service: "it's".into(), names: BTreeSet::new() };
    let watcher = hosts::watcher_script(&service, &(scripts::PROGRAM.watcher)());
    let files = proxy(GOOD).files();
    assert_eq!(files.read_by("/usr/local/apache2/conf/httpd.conf"), crate::proxy::ReadBy::Reload);
    assert_eq!(files.read_by("/srv/index.html"), crate::proxy::ReadBy::Watch);
    let reload = files.reload.expect("a reload");
    let reload = [reload.state, reload.check, reload.apply].map(|exec| exec.argv[2].clone());
    let scripts =
        [scripts::introduction(), scripts::test(), scripts::restart(&[service]), scripts::state(), watcher];
    for script in scripts.into_iter().chain(reload) {
        let checked = std::process::Command::new("sh").args(["-n", "-c", &script]).output().expect("a shell");
        assert!(checked.status.success(), "{script}{}", String::from_utf8_lossy(&checked.stderr));
    }
}
