//! End-to-end tests of the promises of compose-zd, on a real engine with real clients. Every test starts its own project, runs a
//! load generator before, during and after the deploy, and counts lost requests.
//!
//! The tests need the engine, Compose and the images that `scripts/setup` builds.

#[path = "e2e/adopt.rs"]
mod adopt;
#[path = "e2e/apache.rs"]
mod apache;
#[path = "e2e/caddy.rs"]
mod caddy;
#[path = "e2e/chaos.rs"]
mod chaos;
#[path = "e2e/check.rs"]
mod check;
#[path = "e2e/cli_runner.rs"]
mod cli_runner;
#[path = "e2e/clients.rs"]
mod clients;
#[path = "e2e/container_name.rs"]
mod container_name;
#[path = "e2e/dependencies.rs"]
mod dependencies;
#[path = "e2e/detection.rs"]
mod detection;
#[path = "e2e/docker_api.rs"]
mod docker_api;
#[path = "e2e/engines.rs"]
mod engines;
#[path = "e2e/failure.rs"]
mod failure;
#[path = "e2e/files.rs"]
mod files;
#[path = "e2e/haproxy.rs"]
mod haproxy;
#[path = "e2e/hold.rs"]
mod hold;
#[path = "e2e/interrupt.rs"]
mod interrupt;
#[path = "e2e/load.rs"]
mod load;
#[path = "e2e/monitor.rs"]
mod monitor;
#[path = "e2e/multi_service.rs"]
mod multi_service;
#[path = "e2e/net.rs"]
mod net;
#[path = "e2e/nginx.rs"]
mod nginx;
#[path = "e2e/node.rs"]
mod node;
#[path = "e2e/pair.rs"]
mod pair;
#[path = "e2e/port.rs"]
mod port;
#[path = "e2e/promises.rs"]
mod promises;
#[path = "e2e/proxy.rs"]
mod proxy;
#[path = "e2e/refusal.rs"]
mod refusal;
#[path = "e2e/remote.rs"]
mod remote;
#[path = "e2e/rollback.rs"]
mod rollback;
#[path = "e2e/rules.rs"]
mod rules;
#[path = "e2e/scale.rs"]
mod scale;
#[path = "e2e/status.rs"]
mod status;
#[path = "e2e/swarm.rs"]
mod swarm;
#[path = "e2e/test_project.rs"]
mod test_project;
#[path = "e2e/traefik.rs"]
mod traefik;
#[path = "e2e/unhealthy.rs"]
mod unhealthy;
#[path = "e2e/up.rs"]
mod up;
#[path = "e2e/up_failures.rs"]
mod up_failures;
#[path = "e2e/update.rs"]
mod update;
#[path = "e2e/upgrade.rs"]
mod upgrade;
#[path = "e2e/witness.rs"]
mod witness;
#[path = "e2e/worker.rs"]
mod worker;
