//! A stopped proxy: no command deploys behind it and reports success.

use super::*;

/// Image of a proxy, its further keys, and its files: each the path and the text, or the target of a link.
struct StoppedProxy {
    image: &'static str,
    keys: &'static str,
    files: &'static [(&'static str, &'static str)],
}

const NGINX: &str = "events {} http { include conf.d/*.conf; }";
const SITE: &str = "server { listen 80; location / { proxy_pass http://app:3000; } }";

/// Stopped proxies that route to `app`, with their files in the image or in a volume.
const PROXIES: [StoppedProxy; 11] = [
    StoppedProxy {
        image: "nginx:1.29",
        keys: "",
        files: &[("/etc/nginx/nginx.conf", NGINX), ("/etc/nginx/conf.d/app.conf", SITE)],
    },
    StoppedProxy {
        image: "our-own",
        keys: r#""Path": "nginx", "Args": ["-g", "daemon off;"],"#,
        files: &[
            ("/etc/nginx/nginx.conf", "events {} http { include /etc/nginx/sites-enabled/*; }"),
            ("/etc/nginx/sites-available/app", SITE),
            ("/etc/nginx/sites-enabled/app", "@link ../sites-available/app"),
        ],
    },
    StoppedProxy {
        image: "httpd:2.4",
        keys: "",
        files: &[("/usr/local/apache2/conf/httpd.conf", "ProxyPass / http://app:3000/\n")],
    },
    StoppedProxy {
        image: "haproxy:3.2",
        keys: "",
        files: &[("/usr/local/etc/haproxy/haproxy.cfg", "backend b\n  server a app:3000\n")],
    },
    StoppedProxy {
        image: "haproxy:3.2",
        keys: r#""Args": ["haproxy", "-W", "-f", "/conf"],"#,
        files: &[("/conf/0.cfg", "global\n"), ("/conf/1.cfg", "backend b\n  server a app:3000\n")],
    },
    StoppedProxy {
        image: "caddy:2",
        keys: "",
        files: &[("/etc/caddy/Caddyfile", ":80 {\n reverse_proxy app:3000\n}\n")],
    },
    StoppedProxy { image: "traefik:3", keys: r#""Args": ["--providers.docker=true"],"#, files: &[] },
    StoppedProxy {
        image: "traefik:3",
        keys: "",
        files: &[("/etc/traefik/traefik.yml", "providers: {docker: {}}\n")],
    },
    StoppedProxy { image: "nginxproxy/nginx-proxy:1.7", keys: "", files: &[] },
    StoppedProxy { image: "lucaslorentz/caddy-docker-proxy:2", keys: "", files: &[] },
    StoppedProxy { image: "dockercloud/haproxy", keys: "", files: &[] },
];

/// Settings by which the proxies that read no file find `app`.
const ROUTE: &str =
    "labels: {traefik.http.routers.a.rule: 'PathPrefix(`/`)', caddy: x, caddy.reverse_proxy: y}";

fn write_app(fake: &FakeDocker, keys: &str) {
    let health = format!("x-zd: {{health: {{path: /up, port: {}}}}}", fake.port);
    let app = format!("{{image: app:1, networks: {{default: }}, {keys}{health}}}");
    let networks = "networks: {default: {name: p_default}}";
    fake.write("config.yaml", &format!("name: p\n{networks}\nservices: {{app: {app}}}\n"));
}

/// The running app, and the stopped proxy of a project.
fn with_proxy(proxy: &StoppedProxy, project: &str, state: &str) -> FakeDocker {
    let fake = FakeDocker::new();
    let route = match proxy.image {
        image if image.contains("nginx-proxy") => "environment: {VIRTUAL_HOST: x}, ",
        image if image.contains("traefik") || image.contains("caddy-docker") => &format!("{ROUTE}, "),
        _ => "",
    };
    write_app(&fake, route);
    for (path, text) in proxy.files {
        let file = fake.path(&format!("files/lb{path}"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        match text.strip_prefix("@link ") {
            Some(target) => std::os::unix::fs::symlink(target, file).unwrap(),
            None => fs::write(file, text).unwrap(),
        }
    }
    let (image, keys) = (proxy.image, proxy.keys);
    fake.write(
        "containers/lb",
        &format!(
            r#"{{"Id": "lb", "Name": "/{project}-proxy-1", "Image": "sha256:lb", "State": {{"Status": "{state}"}}, {keys}
"Config": {{"Image": "{image}", "Env": ["ADDITIONAL_SERVICES=p:app"], "Labels": {{"com.docker.compose.project": "{project}",
  "com.docker.compose.service": "proxy", "com.docker.compose.oneoff": "False"}}}},
"NetworkSettings": {{"Networks": {{"p_default": {{"IPAddress": ""}}}}}}}}
"#
        ),
    );
    fake
}

#[test]
fn a_deploy_behind_a_stopped_proxy_changes_nothing_and_names_the_command_that_starts_it() {
    for (n, proxy) in PROXIES.iter().enumerate() {
        // The proxy belongs to the project, or to another one on the same network.
        for (project, words) in [("p", "deploy app"), ("q", "deploy app"), ("p", "deploy"), ("p", "up app")] {
            let fake = with_proxy(proxy, project, "exited");
            let run = fake.run(words).code(1);
            let all = format!("{n} {} {project} {words}:\n{}", proxy.image, stderr(&run));
            let name = format!("`{project}-proxy-1` is stopped, so no request reaches `app`");
            let command = format!("`docker start {project}-proxy-1`");
            assert!(all.contains(&name) && all.contains(&command), "{all}");
            assert_eq!(fake.changes(), "", "{all}");
        }
    }
}

#[test]
fn check_and_status_name_the_stopped_proxy_of_another_project() {
    for proxy in &PROXIES {
        let fake = with_proxy(proxy, "q", "exited");
        let check = fake.run("check app").code(1);
        let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
        assert!(output.contains("[proxy-down]") && output.contains("`docker start q-proxy-1`"), "{output}");
        says(&fake.run("status app").success(), &["`q-proxy-1` is stopped", "`docker start q-proxy-1`"]);
    }
}

#[test]
fn a_stopped_web_server_that_routes_elsewhere_is_no_obstacle() {
    let other = "server { location / { proxy_pass http://blog:80; } }";
    let files = "server { root /srv; }";
    let proxy = |image, path, text: &'static str| {
        let files: &'static [(&str, &str)] =
            Box::leak(Box::new([("/etc/nginx/nginx.conf", NGINX), (path, text)]));
        StoppedProxy { image, keys: "", files }
    };
    for proxy in [
        proxy("nginx:1", "/etc/nginx/conf.d/a.conf", other),
        proxy("nginx:1", "/etc/nginx/conf.d/a.conf", files),
        proxy("httpd:2.4", "/usr/local/apache2/conf/httpd.conf", "DocumentRoot /srv\n"),
        proxy("haproxy:3", "/usr/local/etc/haproxy/haproxy.cfg", "backend b\n  server s blog:80\n"),
        proxy("caddy:2", "/etc/caddy/Caddyfile", ":80 {\n reverse_proxy blog:80\n}\n"),
    ] {
        let fake = with_proxy(&proxy, "p", "exited");
        fake.run("deploy app").success();
    }
}

#[test]
fn a_proxy_of_the_project_whose_routes_cannot_be_read_may_be_the_one() {
    for image in ["haproxy:3", "caddy:2", "traefik:3"] {
        let fake = with_proxy(&StoppedProxy { image, keys: "", files: &[] }, "p", "exited");
        write_app(&fake, "");
        says(&fake.run("deploy app").code(1), &["`docker start p-proxy-1`"]);
        fake.run("deploy app --proxy-kind none").success();
    }
}

/// The published port of nginx, whose container does not exist yet, is no port of an app.
#[test]
fn a_project_that_never_ran_is_not_deployed_without_names() {
    let fake = FakeDocker::new();
    fs::remove_file(fake.path("containers/old")).unwrap();
    let port = "{target: 80, published: '8080', protocol: tcp, mode: ingress}";
    let nginx = format!("nginx: {{image: nginx:1, networks: {{default: }}, ports: [{port}]}}");
    let networks = "networks: {default: {name: p_default}}";
    let app = "app: {image: app:1, networks: {default: }}";
    fake.write("config.yaml", &format!("name: p\n{networks}\nservices: {{{app}, {nginx}}}\n"));
    let run = fake.run("deploy").code(2);
    says(&run, &["nothing of project `p` runs", "`compose-zd up` starts it"]);
    assert_eq!(fake.changes(), "");
}

/// HAProxy without a socket tells nothing about its rotation.
#[test]
fn status_shows_the_containers_behind_a_proxy_that_tells_nothing() {
    let proxy = StoppedProxy { image: "haproxy:3", keys: "", files: &[] };
    let fake = with_proxy(&proxy, "p", "running");
    fake.write("exec", "backend b\n  server a app:3000\n");
    fake.fail("show stat", "no such socket");
    let run = fake.run("status app").success();
    says(&run, &["the rotation of `app` is unknown", "`compose-zd check app`"]);
    let output = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    assert!(output.contains("app-1") && output.contains("unknown"), "{output}");
}

#[test]
fn a_paused_or_crashing_proxy_is_as_bad_as_a_stopped_one() {
    for (state, problem, command) in [
        ("paused", "is paused", "docker unpause p-proxy-1"),
        ("restarting", "keeps crashing", "docker logs --tail 20 p-proxy-1"),
        ("created", "is stopped", "docker start p-proxy-1"),
    ] {
        let fake = with_proxy(&PROXIES[0], "p", state);
        says(&fake.run("deploy app").code(1), &[problem, command]);
    }
}
