//! Stacks on two nodes: clients of every proxy that discovers Swarm tasks lose nothing, and an image of one node is refused on
//! others.

use std::fs;

use super::nodes::SwarmNodes;
use super::stack::TestStack;
use crate::test_project::{TestProject, WAIT_LIMIT, free_port, wait_until};

const FILE: &str = "
x-zd: {engine: swarm}
services:
  app:
    image: ${ZD_APP_IMAGE}
    environment: {VERSION: '${VERSION}', HEALTH_STATUS: '${HEALTH_STATUS:-200}'}
    healthcheck: {test: [CMD, /sample-app, probe], interval: 3s, timeout: 5s, retries: 1}
    deploy:
      endpoint_mode: dnsrr
      replicas: 4
      labels:
        traefik.http.routers.app.rule: PathPrefix(`/`)
        traefik.http.services.app.loadbalancer.server.port: '3000'
      update_config: {parallelism: 2, monitor: 2s, order: start-first, failure_action: rollback}
      rollback_config: {parallelism: 2, monitor: 1s, order: start-first}
  caddy:
    image: ${CADDY_IMAGE}
    configs: [{source: caddy, target: /etc/caddy/Caddyfile}]
    ports: [{target: 80, published: '${PROXY_PORT}', mode: host}]
    deploy: &here {endpoint_mode: dnsrr, placement: {constraints: [node.role == manager]}}
  haproxy:
    image: ${HAPROXY_IMAGE}
    configs: [{source: haproxy, target: /usr/local/etc/haproxy/haproxy.cfg}]
    ports: [{target: 80, published: '${HAPROXY_PORT}', mode: host}]
    deploy: *here
  traefik:
    image: ${TRAEFIK_IMAGE}
    command:
      - --entrypoints.web.address=:80
      - --providers.swarm=true
      - --providers.swarm.refreshSeconds=1
      - --providers.swarm.network=${STACK}_default
    volumes: ['${SOCKET}:/var/run/docker.sock']
    ports: [{target: 80, published: '${TRAEFIK_PORT}', mode: host}]
    deploy: *here
configs:
  caddy:
    content: |
      :80 {
        reverse_proxy {
          dynamic a {
            name tasks.app
            port 3000
            refresh 500ms
            versions ipv4
          }
          lb_policy round_robin
          lb_try_duration 5s
          lb_try_interval 50ms
          fail_duration 2s
          transport http {
            dial_timeout 500ms
            keepalive 30s
          }
        }
      }
  haproxy:
    content: |
      defaults
        mode http
        timeout connect 2s
        timeout client 60s
        timeout server 60s
        option redispatch
        retries 3
      resolvers docker
        nameserver dns 127.0.0.11:53
        timeout resolve 500ms
        timeout retry 500ms
      frontend public
        bind :80
        default_backend app
      backend app
        server-template app 12 tasks.app:3000 check inter 500ms resolvers docker init-addr none
";

#[test]
fn clients_of_three_proxies_on_two_nodes_lose_no_request() {
    let nodes = SwarmNodes::new(1, 1);
    nodes.load_images(&["CADDY_IMAGE", "HAPROXY_IMAGE", "TRAEFIK_IMAGE"]);
    let stack = TestStack::new(&nodes, "fronts", FILE);
    let ports = [stack.variable("PROXY_PORT").parse().expect("a port"), free_port(), free_port()];
    let socket = nodes.host(0).replace("unix://", "");
    let own =
        format!("HAPROXY_PORT={} TRAEFIK_PORT={} STACK={} SOCKET={socket}", ports[1], ports[2], stack.name);
    stack.set_variables(&format!("VERSION=1 {own}"));
    stack.deploy("").exits(0);
    assert_eq!(stack.task_nodes("app").len(), 2, "nodes that it runs on");
    for port in ports {
        let load = || stack.start_load_at(port, "--rate 5 --clients 1").stop();
        wait_until(&format!("the proxy at {port} routes to it"), WAIT_LIMIT, || load().lost() == 0);
    }
    let under_load = |words: &str, code: i32, versions: &[&str]| {
        let loads: Vec<_> =
            ports.iter().map(|port| stack.start_load_at(*port, "--clients 4 --rate 20")).collect();
        let result = stack.deploy(words);
        result.exits(code);
        loads.into_iter().for_each(|load| load.stop().all_from(versions));
        result
    };
    stack.set_variables("VERSION=2");
    let (sent, lost) = under_load("app", 0, &["1", "2"]).witness_counts();
    assert!(sent > 0 && lost == 0, "the witness sent {sent} and lost {lost}");
    stack.wait_for_versions("app", &["2"; 4]);
    stack.set_variables("VERSION=3 HEALTH_STATUS=503");
    under_load("app --health-deadline 30s", 3, &["2"]).says("release 2 serves");
    stack.wait_for_versions("app", &["2"; 4]);
}

#[test]
fn an_image_or_a_folder_of_one_node_is_refused_unless_the_service_stays_there() {
    let nodes = SwarmNodes::new(1, 1);
    let stack = TestStack::new(
        &nodes,
        "apart",
        "x-zd: {engine: swarm}\nservices: {app: {image: 'zdsw/apart:1', volumes: ['./conf:/conf'], deploy: {endpoint_mode: dnsrr}}}\n",
    );
    stack.set_variables("DOCKER_BUILDKIT=0");
    for folder in ["image", "conf"] {
        fs::create_dir_all(stack.path(folder)).expect("a folder");
    }
    stack.write("image/Dockerfile", &format!("FROM {}\nENV VERSION=1\n", stack.variable("ZD_APP_IMAGE")));
    stack.docker(&format!("build --quiet --tag zdsw/apart:1 {}", stack.path("image").display()));
    // Without the default flag of tests with several nodes.
    let deploy = |words: &str| TestProject::deploy(&stack, words);
    let result = deploy("");
    result.exits(2).says("for 2 reasons").says("is on this node only").says("is in the project's folder");
    result.says("--push").says("node.hostname ==");
    assert!(stack.service("app").is_null());
    stack.write_override("services: {app: {deploy: {placement: {constraints: [node.role == manager]}}}}");
    deploy("").exits(0);
    wait_until("it runs where its image is", WAIT_LIMIT, || stack.task_nodes("app") == [nodes.id(0)]);
}
