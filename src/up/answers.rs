//! Public URLs that answered before services were recreated. A container that runs does not prove that its site answers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::Project;
use crate::observe;
use crate::proxy::public_route::{PublicRoute, WitnessUrl};
use crate::proxy::{Backend, Proxy};
use crate::report::probes::ProbeOutcome;
use crate::targets::is_member;
use crate::wait::{self, StopSignal, WaitResult};
use crate::witness::answering::AnsweringUrl;
use crate::witness::urls::configured_url;

const POLL: Duration = Duration::from_secs(1);

/// Most requests at a time.
const MAX_OPEN: usize = 16;

/// Number of good answers in a row, because some processes of a proxy may still have its former configuration.
const CONFIRMATIONS: usize = 4;

/// Public URLs that answered.
#[derive(Default)]
pub struct Answers {
    urls: Vec<(AnsweringUrl, Option<Origin>)>,
    /// Timeout for all of them to answer again.
    limit: Duration,
}

/// Route from which a URL was derived.
struct Origin {
    proxy: Arc<dyn Proxy>,
    service: String,
    /// Backend of the URL before the change.
    backend: Backend,
    route: PublicRoute,
}

/// What is known of a route after the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RouteAfter {
    /// False if the running proxy does not publish the port of the URL any more.
    is_published: bool,
    /// False if the labels or variables of the service do not ask for the route any more.
    is_wanted: bool,
    /// False if the running proxy has other routes to the service, and not this one.
    is_configured: bool,
}

impl RouteAfter {
    /// True if the URL has to answer. A route that the user removed does not.
    fn lasts(self) -> bool {
        self.is_published && self.is_wanted && self.is_configured
    }
}

impl Answers {
    /// Sends a request to each public URL of the project, before these services are recreated.
    ///
    /// # Errors
    /// Docker fails.
    pub fn find(docker: &Docker, project: &Project, recreated: &[String]) -> Result<Answers> {
        if recreated.is_empty() || !project.witness.on {
            return Ok(Answers::default());
        }
        let urls: Vec<(WitnessUrl, Option<Origin>)> = match configured_url(&project.witness) {
            Some(url) => vec![(url, None)],
            // The ports of a remote engine are not on this machine.
            None if docker.is_remote() => Vec::new(),
            None => derived_urls(&Running::read(docker, project)?, project, recreated),
        };
        let deadlines = recreated.iter().map(|s| project.services[s].settings.timing.deadline);
        let limit = deadlines.max().unwrap_or_default();
        let first_answers = in_parallel(&urls, |(url, _)| AnsweringUrl::find(url, &project.witness));
        let answering = urls.into_iter().zip(first_answers);
        let urls = answering.filter_map(|((_, origin), found)| Some((found?, origin))).collect();
        Ok(Answers { urls, limit })
    }

    /// Waits until all URLs answer again, except those that the user removed.
    ///
    /// # Errors
    /// A URL that does not, with its last answer; a signal.
    pub fn wait(&self, docker: &Docker, project: &Project, stop: &StopSignal) -> Result<(), Error> {
        if self.urls.is_empty() {
            return Ok(());
        }
        let (mut silent, mut confirmed) = (Vec::new(), 0);
        let waited = wait::until(POLL, self.limit, stop, || {
            silent = self.silent(docker, project);
            confirmed = if silent.is_empty() { confirmed + 1 } else { 0 };
            Ok::<_, Error>((confirmed >= CONFIRMATIONS).then_some(()))
        })?;
        match waited {
            WaitResult::Interrupted(signal) => Err(Error::interrupted(signal)),
            WaitResult::TimedOut if !silent.is_empty() => Err(self.error(&silent)),
            WaitResult::TimedOut | WaitResult::Done(()) => Ok(()),
        }
    }

    /// URLs without a good answer, by their index, and the outcomes of their requests.
    fn silent(&self, docker: &Docker, project: &Project) -> Vec<(usize, ProbeOutcome)> {
        let outcomes = in_parallel(&self.urls, |(url, _)| url.failure());
        let mut silent: Vec<(usize, ProbeOutcome)> =
            outcomes.into_iter().enumerate().filter_map(|(n, outcome)| Some((n, outcome?))).collect();
        // A proxy that cannot be read yet proves nothing.
        if let Some(now) = (!silent.is_empty()).then(|| Running::read(docker, project).ok()).flatten() {
            let lasts = |n: usize| self.urls[n].1.as_ref().is_none_or(|o| now.after(project, o).lasts());
            silent.retain(|(n, _)| lasts(*n));
        }
        silent
    }

    fn error(&self, silent: &[(usize, ProbeOutcome)]) -> Error {
        let (first, origin) = &self.urls[silent[0].0];
        let limit = humantime::format_duration(self.limit);
        let message = format!(
            "`{}` answered {} before services were recreated, and gives no good answer after {limit}",
            first.url(),
            first.status
        );
        let error = silent.iter().fold(Error::unchanged(message), |error, (n, outcome)| {
            error.detail(&format!("GET {} → {outcome}", self.urls[*n].0.url()))
        });
        let proxy = origin.as_ref().and_then(|o| o.proxy.container()).map(Container::name);
        error.hint(match proxy {
            Some(name) => format!("`docker logs {name}` shows the messages of the proxy"),
            None => "`docker compose logs` shows the messages of the services".into(),
        })
    }
}

/// Proxies and containers at one moment.
struct Running {
    containers: Vec<Container>,
    proxies: Vec<Arc<dyn Proxy>>,
}

impl Running {
    fn read(docker: &Docker, project: &Project) -> Result<Running> {
        let containers = docker.containers()?;
        let proxies = observe::detect(docker, project, &containers)?;
        Ok(Running { containers, proxies })
    }

    /// Running containers of a service.
    fn backends(&self, project: &Project, service: &str) -> Vec<Backend> {
        let runs = |c: &&Container| c.is_running() && is_member(project, c, &[service]);
        self.containers.iter().filter(runs).map(Backend::from).collect()
    }

    fn after(&self, project: &Project, origin: &Origin) -> RouteAfter {
        let Origin { proxy, service, backend: before, route } = origin;
        let backends = self.backends(project, service);
        let same = self.proxies.iter().filter(|p| p.is_running() && is_same(p.as_ref(), proxy.as_ref()));
        let same: Vec<&Arc<dyn Proxy>> = same.collect();
        let port = |p: &dyn Proxy| p.published_address(route.port).map(|address| address.port());
        let is_off = backends.is_empty() && project.services[service].replicas() == Some(0);
        // Only what the user sets is of now: the former proxy does not know a new address.
        let as_before = |now: &Backend| Backend {
            environment: now.environment.clone(),
            labels: now.labels.clone(),
            ..before.clone()
        };
        let mut wanted = backends.iter().map(|now| proxy.route_to(&as_before(now)).public);
        let configured: Vec<PublicRoute> =
            same.iter().flat_map(|p| backends.iter().flat_map(|b| p.route_to(b).public)).collect();
        RouteAfter {
            is_published: same.is_empty() || same.iter().any(|p| port(p.as_ref()) == port(proxy.as_ref())),
            is_wanted: !is_off && (backends.is_empty() || wanted.any(|routes| routes.contains(route))),
            is_configured: configured.is_empty() || configured.contains(route),
        }
    }
}

/// True for proxies of the same service, in any container.
fn is_same(one: &dyn Proxy, other: &dyn Proxy) -> bool {
    match (one.container(), other.container()) {
        (Some(one), Some(other)) if one.compose().is_some() => one.compose() == other.compose(),
        _ => one.name() == other.name(),
    }
}

/// Public URLs of the routes to the services of the project. A published port without a proxy may belong to any protocol, so
/// it counts only where its service is recreated. A proxy of another project counts only if it reaches the service: Traefik has
/// a route to each container of the engine.
fn derived_urls(
    running: &Running,
    project: &Project,
    recreated: &[String],
) -> Vec<(WitnessUrl, Option<Origin>)> {
    let settings = &project.witness;
    let mut found: Vec<(WitnessUrl, Option<Origin>)> = Vec::new();
    for service in project.services.keys() {
        let backends = running.backends(project, service);
        let counts =
            |p: &&Arc<dyn Proxy>| p.is_running() && (!p.place().is_port() || recreated.contains(service));
        for (proxy, backend) in
            running.proxies.iter().filter(counts).flat_map(|p| backends.iter().map(move |b| (p, b)))
        {
            if !proxy.routes_to(backend) {
                continue;
            }
            let routes = proxy.route_to(backend).public.into_iter();
            for route in routes.filter(|route| cfg!(feature = "tls") || !route.tls) {
                let address = proxy.published_address(route.port);
                let url = address
                    .and_then(|a| route.witness_url(a, settings.host.as_deref(), settings.path.as_deref()));
                let Some(url) = url.filter(|url| found.iter().all(|(other, _)| other != url)) else {
                    continue;
                };
                let (proxy, service, backend) = (proxy.clone(), service.clone(), backend.clone());
                found.push((url, Some(Origin { proxy, service, backend, route })));
            }
        }
    }
    found
}

/// Results for all items, in their order.
fn in_parallel<T: Sync, R: Send>(items: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let run = &run;
    let results = items.chunks(MAX_OPEN).flat_map(|chunk| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = chunk.iter().map(|item| scope.spawn(move || run(item))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panicked")).collect::<Vec<R>>()
        })
    });
    results.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_url_has_to_answer_unless_the_user_removed_its_route() {
        for bits in 0..8 {
            let [is_published, is_wanted, is_configured] = [1, 2, 4].map(|bit| bits & bit != 0);
            let after = RouteAfter { is_published, is_wanted, is_configured };
            assert_eq!(after.lasts(), bits == 7, "{after:?}");
        }
    }

    fn container(service: &str, id: &str, image: &str, variable: &str, ports: Value) -> Container {
        let container = json!({
            "Id": id,
            "Name": format!("/shop-{service}-1"),
            "State": {"Status": "running", "Running": true},
            "Config": {
                "Image": image,
                "Env": [variable],
                "Labels": {"com.docker.compose.project": "shop", "com.docker.compose.service": service},
            },
            "NetworkSettings": {
                "Networks": {"back": {"NetworkID": "n", "IPAddress": "10.0.0.2"}},
                "Ports": ports,
            },
        });
        serde_json::from_value(container).unwrap()
    }

    /// nginx-proxy at a host port, and `app` with a host name, if it runs.
    fn running(id: &str, port: u16, host: Option<&str>) -> Running {
        let ports = json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": port.to_string()}]});
        let proxy = container("proxy", id, "nginxproxy/nginx-proxy", "MODE=1", ports);
        let app = |host| container("app", "app", "app", &format!("VIRTUAL_HOST={host}"), json!({}));
        let containers: Vec<Container> = std::iter::once(proxy).chain(host.map(app)).collect();
        let proxies = crate::proxy::detect(&containers).into_iter().map(Arc::from).collect();
        Running { containers, proxies }
    }

    #[test]
    fn a_proxy_that_does_not_reach_a_service_has_no_url_of_it() {
        let yaml = "name: shop\nservices: {app: {image: app}}";
        let project = Project::read(yaml, "compose.yaml", &Default::default()).unwrap();
        let count = |network: &str| {
            let proxy = json!({
                "Id": "other", "Name": "/other-proxy-1", "State": {"Status": "running", "Running": true},
                "Config": {"Image": "nginxproxy/nginx-proxy"},
                "NetworkSettings": {
                    "Networks": {network: {"NetworkID": network, "IPAddress": "10.0.0.3"}},
                    "Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]},
                },
            });
            let app = container("app", "app", "app", "VIRTUAL_HOST=a.test", json!({}));
            let containers = vec![serde_json::from_value(proxy).unwrap(), app];
            let proxies = crate::proxy::detect(&containers).into_iter().map(Arc::from).collect();
            derived_urls(&Running { containers, proxies }, &project, &["app".into()]).len()
        };
        assert_eq!((count("back"), count("elsewhere")), (1, 0));
    }

    #[test]
    fn a_route_lasts_in_a_new_container_of_the_proxy() {
        let project = |keys: &str| {
            let yaml = format!("name: shop\nservices: {{app: {{image: app, {keys}}}, proxy: {{image: p}}}}");
            Project::read(&yaml, "compose.yaml", &Default::default()).unwrap()
        };
        let found = |running: &Running| {
            let backend = running.backends(&project(""), "app").remove(0);
            let proxy = running.proxies[0].clone();
            let route = proxy.route_to(&backend).public.remove(0);
            Origin { proxy, service: "app".into(), backend, route }
        };
        let origin = found(&running("a", 8000, Some("a.test")));
        let lasts = |now: Running, keys: &str| now.after(&project(keys), &origin).lasts();
        assert!(lasts(running("b", 8000, Some("a.test")), ""));
        assert!(lasts(running("b", 8000, None), ""), "a service that failed has to answer");
        assert!(!lasts(running("b", 8000, None), "scale: 0"));
        assert!(!lasts(running("b", 8001, Some("a.test")), ""), "another port");
        assert!(!lasts(running("b", 8000, Some("b.test")), ""), "another host");
        let stopped = Running { containers: Vec::new(), proxies: Vec::new() };
        assert!(lasts(stopped, ""), "a proxy that failed has to answer");
    }
}
