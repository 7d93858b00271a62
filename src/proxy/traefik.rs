//! Traefik with its docker provider. During a rollout pins control the route: containers whose labels repeat the route
//! of the instances with a higher priority. Traefik needs no flag, no volume and no API for that.

mod checks;
mod constraints;
mod cookie;
mod generation;
mod labels;
mod public_route;
mod route_copy;
mod scripts;
mod state;
mod static_config;
mod version_check;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_yaml::Value;

use super::effects::Action;
use super::kit::connections;
use super::{
    Abilities, Adapter, Audit, Backend, Change, DefaultRoute, Discovery, Endpoint, FileLookup, Goal,
    InFlight, ListeningService, Next, Place, Planned, Proxy, ProxyContainer, ProxyFiles, ProxyState, Query,
    ReadBy, RolloutShape, Rotation, RouteInfo, boxed,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec, Helper};
use crate::error::Error;
use generation::{Generation, ListedContainer};
use labels::{HttpLabels, Labels};
use route_copy::{ForeignRouter, LabelList, Naming, RouteCopy};
use state::TraefikState;
use static_config::TraefikStaticConfig;
use version_check::{Api, VersionCheck};

/// A middleware may delay a request for a moment and then send it to the previous route.
const LATE_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Time after which a pin ends by itself, in seconds.
const LIFETIME: u64 = 900;

/// Age from which pins are replaced by a new generation.
const RENEW_AGE: Duration = Duration::from_secs(LIFETIME / 2);

/// Interval at which missing and old pins are replaced, and outbid ones removed.
const RENEWAL: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq)]
pub struct Traefik {
    place: ProxyContainer,
    config: TraefikStaticConfig,
    /// Query for the pins that are in force.
    version_check: Option<VersionCheck>,
    /// The API, where it needs no password.
    api: Option<Api>,
    /// HTTP client in the image.
    tool: Option<String>,
    /// Services with a port, to which `exposedByDefault` gives a route.
    listening: Vec<ListeningService>,
}

pub const ADAPTER: Adapter = Adapter {
    kind: "traefik",
    is_image,
    route_setting: |backend| requests_route(&backend.labels).then_some("the labels `traefik.…`"),
    detect: |container, _| detect(container).map(boxed),
    declared: |container| boxed(Traefik::new(container)),
};

/// The official image, a derived one, or a container whose process is traefik.
pub fn detect(container: &Container) -> Option<Traefik> {
    let is_traefik_flag = |word: &String| {
        let flag = word.to_lowercase();
        ["--providers.", "--entrypoints."].iter().any(|start| flag.starts_with(start))
    };
    let is_process = container.args.iter().any(is_traefik_flag)
        || container.programs().any(|program| program == "traefik");
    let is_derived =
        container.label("org.opencontainers.image.source") == Some("https://github.com/traefik/traefik");
    (is_image(&container.config.image) || is_derived || is_process).then(|| Traefik::new(container))
}

/// `traefik`, from any registry; not `traefik/whoami`.
pub fn is_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or("");
    name.split([':', '@']).next() == Some("traefik")
}

/// The labels request a route from Traefik.
pub fn requests_route(labels: &Labels) -> bool {
    match labels::enabled(labels) {
        Some(enabled) => enabled,
        None => labels::mention_a_route(labels),
    }
}

/// Host and path of a request that matches a router of these labels; none where their rules need more.
pub fn request_from_labels(labels: &Labels) -> Option<(Option<String>, String)> {
    HttpLabels::parse(labels).rules().find_map(public_route::request)
}

impl Traefik {
    pub fn new(container: &Container) -> Self {
        let mut traefik = Traefik {
            place: ProxyContainer::new("traefik", container),
            config: TraefikStaticConfig::default(),
            version_check: None,
            api: None,
            tool: None,
            listening: Vec::new(),
        };
        traefik.configure(TraefikStaticConfig::read(container, None));
        traefik
    }

    fn configure(&mut self, settings: TraefikStaticConfig) {
        (self.version_check, self.api) = (VersionCheck::find(&settings), Api::without_password(&settings));
        self.config = settings;
    }

    /// The docker provider's constraints accept a backend; none where they cannot be evaluated.
    fn matches_constraints(&self, backend: &Backend) -> Option<bool> {
        constraints::matches(self.config.constraints(), &labels_of(backend))
    }

    /// False if the docker provider ignores containers with these labels.
    fn accepts(&self, labels: &Labels) -> bool {
        let is_exposed = labels::enabled(labels).unwrap_or(self.config.exposes_by_default());
        is_exposed && constraints::matches(self.config.constraints(), labels) != Some(false)
    }

    /// The service of a backend to which Traefik routes without a label that requests it.
    fn routed_by_default(&self, backend: &Backend) -> Option<&ListeningService> {
        let has_choice =
            labels::enabled(&backend.labels).is_some() || labels::mention_a_route(&backend.labels);
        let is_same = |s: &&ListeningService| s.project == backend.project && s.service == backend.service;
        self.listening.iter().find(is_same).filter(|_| !has_choice && self.can_route_to(backend))
    }

    /// The user most likely wants the route that a service has without a label: the file requests one by now, names this
    /// proxy, or sets the rule of such routes.
    fn is_expected(&self, service: &ListeningService) -> bool {
        let container = &self.place.container;
        let is_named =
            service.proxy.as_ref().is_some_and(|p| container.name() == p || container.id.starts_with(p));
        let has_rule = self.config.sets_default_rule() && service.is_web;
        requests_route(&service.labels) || is_named || has_rule
    }

    /// Traefik accepts a backend of another service, and reaches it.
    fn can_route_to(&self, backend: &Backend) -> bool {
        let is_proxy = self.place.container.compose() == Some((&backend.project, &backend.service));
        let is_accepted = self.config.has("providers.docker") && self.accepts(&labels_of(backend));
        is_accepted && !is_proxy && self.place.reaches_via_host(backend)
    }

    fn id(&self) -> &str {
        &self.place.container.id
    }

    /// Host name that only the version check of a mark uses. Another Traefik in front of the same service has its own.
    fn check_host(&self, mark: &str) -> String {
        let proxy = self.id().get(..12).unwrap_or(self.id());
        format!("compose-zd.{}.{proxy}.invalid", mark.replace('/', ".").to_lowercase())
    }

    fn parse_state(&self, answers: &[CommandResult], mark: &str) -> Result<TraefikState, Error> {
        let text = |n: usize| answers.get(n).map_or("", |answer| answer.stdout.as_str());
        let state = TraefikState::parse(text(0), text(1), mark);
        let open = connections::parse(answers.get(2));
        state.map(|state| TraefikState { connections: open, ..state }).ok_or_else(|| {
            let output = answers.get(1).map_or("", CommandResult::stderr_or_stdout);
            Error::unchanged(format!("{}: cannot read its routes", self.name())).detail(output)
        })
    }

    /// Ids of the endpoints that get requests, by pins or by Traefik's own discovery.
    fn routed(&self, state: &TraefikState, endpoints: &[Endpoint]) -> BTreeSet<String> {
        let pinned = state.in_force(self.id()).map(|generation| &generation.targets);
        let is_routed = |e: &&Endpoint| match pinned {
            Some(targets) => targets.contains(&e.id),
            None => !e.addresses.is_empty() && !e.unhealthy,
        };
        endpoints.iter().filter(is_routed).map(|e| e.id.clone()).collect()
    }

    /// State of the proxy for these endpoints.
    fn read(&self, state: &TraefikState, endpoints: &[Endpoint]) -> ProxyState {
        let in_force = state.in_force(self.id());
        let newest = state.own(self.id()).rfind(|g| g.is_complete());
        let in_flight = |e: &Endpoint| -> (String, InFlight) {
            let leaves = in_force.filter(|g| !g.targets.contains(&e.id));
            // The pins were not in force at once.
            let quiet = leaves.map(|g| g.age(state.now).saturating_sub(self.config.throttle()));
            (e.id.clone(), state.in_flight(e, quiet.unwrap_or_default()))
        };
        ProxyState {
            routed: self.routed(state, endpoints),
            failing: BTreeSet::new(),
            config_applied: newest.map(|g| &g.token) == state.served.as_ref(),
            in_flight: endpoints.iter().map(in_flight).collect(),
            has_retired_process: in_force.is_some()
                && endpoints.iter().any(|e| HttpLabels::parse(&e.labels).has_middlewares()),
        }
    }

    /// Next step towards a rotation: pins for it, unless they run already.
    fn steer(&self, state: &TraefikState, rotation: &Rotation, mark: &str) -> Next {
        let running = |endpoints: &[Endpoint]| -> Vec<Endpoint> {
            endpoints.iter().filter(|e| !e.addresses.is_empty()).cloned().collect()
        };
        let rotation = Rotation { inside: running(&rotation.inside), ..rotation.clone() };
        let check = self.version_check.as_ref();
        let copy = check.and_then(|c| RouteCopy::new(&self.config, c, self.check_host(mark), &rotation));
        // Without an instance inside, there is no route to keep.
        let Some(copy) = copy else { return Next::Done };
        let content = copy.content();
        let is_desired = |g: &&Generation| {
            g.content == content && g.is_complete() && g.has_route() && g.age(state.now) < RENEW_AGE
        };
        let newest = state.own(self.id()).rfind(|g| g.has_route());
        match newest.filter(is_desired) {
            Some(newest) if state.in_force(self.id()) == Some(newest) => match self.outbid_pins(state) {
                outbid if outbid.is_empty() => Next::Done,
                outbid => Next::Finish(outbid),
            },
            Some(_) => Next::Wait,
            None => Next::Run(self.start(state, &copy, &rotation, mark)),
        }
    }

    /// Starts a generation of pins, and removes those that the one in force outbids. The pins of several instances
    /// merge into one service. Their route is on a pin of its own, so that it comes with all of them or not at all.
    fn start(&self, state: &TraefikState, copy: &RouteCopy, rotation: &Rotation, mark: &str) -> Vec<Change> {
        let parts = if copy.inside.len() == 1 { 1 } else { copy.inside.len() + 1 };
        let generation = self.next_generation(state, copy.content(), parts);
        let foreign = self.foreign_routers(&state.containers, &rotation.all());
        let naming = Naming {
            prefix: format!("zd-{}", generation.token),
            raise: generation.number,
            token: &generation.token,
            foreign: &foreign,
        };
        let pin = |n: usize, endpoint: Option<&Endpoint>| {
            let target = endpoint.map_or("", |e| e.id.as_str());
            let mut labels = generation.labels(mark, target);
            labels.extend(copy.common_labels());
            labels.extend(endpoint.map(|e| copy.service_labels(&naming, e)).unwrap_or_default());
            if endpoint.is_none() {
                labels.extend(copy.idle_service_labels(&naming));
            }
            if n + 1 == parts {
                labels.extend(copy.router_labels(&naming));
            }
            let ports = endpoint.map(|e| copy.ports(e)).unwrap_or_default();
            self.pin(&generation, n, mark, (target, &ports), labels)
        };
        let targets = copy.inside.iter().map(Some).chain((parts > 1).then_some(None));
        let started = targets.enumerate().map(|(n, endpoint)| Action::Start(pin(n, endpoint)));
        started.map(Change::from).chain(self.outbid_pins(state)).collect()
    }

    fn next_generation(&self, state: &TraefikState, content: String, parts: usize) -> Generation {
        let number = state.next_number();
        let token = route_copy::hash((&content, number, &state.uptime, self.id()));
        Generation { number, token, content, proxy: self.id().into(), parts, ..Generation::default() }
    }

    fn pin(
        &self,
        generation: &Generation,
        n: usize,
        mark: &str,
        (target, ports): (&str, &[u16]),
        labels: LabelList,
    ) -> Helper {
        let container = &self.place.container;
        let image = if container.image_id.is_empty() { &container.config.image } else { &container.image_id };
        let network = if target.is_empty() { self.id() } else { target };
        let options = "--rm --read-only --cap-drop ALL --security-opt no-new-privileges --stop-signal KILL \
                       --log-driver none";
        Helper {
            name: format!("compose-zd-pin-{}-{}-{n}", mark.replace('/', "-"), generation.token),
            image: image.clone(),
            network: format!("container:{network}"),
            labels,
            entrypoint: "sh".into(),
            options: options.split_whitespace().map(String::from).collect(),
            command: vec!["-c".into(), scripts::pin_script(ports, LIFETIME)],
        }
    }

    /// Pins of this proxy that are older than the generation in force.
    fn outbid_pins(&self, state: &TraefikState) -> Vec<Change> {
        let in_force = state.in_force(self.id()).map_or(0, |g| g.number);
        let outbid = state.own(self.id()).filter(|g| g.number < in_force);
        outbid.flat_map(|g| &g.pins).map(|id| Action::Remove(id.clone()).into()).collect()
    }

    /// Routers in the labels of containers of other services that Traefik accepts.
    fn foreign_routers(&self, containers: &[ListedContainer], own: &[Endpoint]) -> Vec<ForeignRouter> {
        let key = |labels: &Labels| {
            ["project", "service"].map(|k| labels.get(&format!("com.docker.compose.{k}")).cloned())
        };
        let is_foreign = |c: &&ListedContainer| {
            self.accepts(&c.labels) && !c.is_pin() && !own.iter().any(|e| key(&e.labels) == key(&c.labels))
        };
        let routers = containers.iter().filter(is_foreign).flat_map(|c| {
            let http = HttpLabels::parse(&c.labels);
            let mappings: Vec<Value> = http.routers.into_iter().map(|(_, router)| router).collect();
            let router = |router: &Value| {
                let router = router.as_mapping()?;
                let (rule, priority) = route_copy::rule_and_priority(router, &self.config, &c.labels)?;
                Some(ForeignRouter { rule, priority })
            };
            mappings.iter().filter_map(router).collect::<Vec<_>>()
        });
        let mut routers: Vec<ForeignRouter> = routers.collect();
        routers.sort();
        routers.dedup();
        routers
    }

    /// Hands the route back to Traefik's own discovery. The proof that it is up to date is a last pin, which is in
    /// force only together with everything that happened before its start.
    fn hand_back(&self, state: &TraefikState, discovery: &Discovery, mark: &str) -> Next {
        let is_orphan = |g: &Generation| !discovery.existing.contains(&g.proxy);
        let pins = state.generations.iter().filter(|g| g.proxy == self.id() || is_orphan(g));
        let removals: Vec<Change> =
            pins.flat_map(|g| &g.pins).map(|id| Action::Remove(id.clone()).into()).collect();
        if removals.is_empty() {
            return Next::Done;
        }
        let running: Vec<&Endpoint> =
            discovery.endpoints.iter().filter(|e| !e.addresses.is_empty()).collect();
        let Some(model) = running.first() else { return Next::Finish(removals) };
        // Discovery leaves out an instance until it is healthy. One that is not pinned is no loss.
        let pinned = state.own(self.id()).rfind(|g| g.has_route()).map(|g| &g.targets);
        if running.iter().any(|e| e.unhealthy && pinned.is_some_and(|targets| targets.contains(&e.id))) {
            return Next::Wait;
        }
        let instances: BTreeSet<(&str, &[std::net::IpAddr])> =
            running.iter().map(|e| (e.id.as_str(), e.addresses.as_slice())).collect();
        let content = route_copy::hash(instances);
        let proof = state.own(self.id()).rfind(|g| !g.has_route() && g.content == content && g.is_complete());
        match proof {
            Some(proof) if state.served.as_ref() == Some(&proof.token) => Next::Finish(removals),
            Some(_) => Next::Wait,
            None => self.start_proof(state, model, content, mark),
        }
    }

    fn start_proof(&self, state: &TraefikState, model: &Endpoint, content: String, mark: &str) -> Next {
        let Some(check) = &self.version_check else { return Next::Wait };
        let generation = self.next_generation(state, content, 1);
        let naming = Naming {
            prefix: format!("zd-{}", generation.token),
            raise: generation.number,
            token: &generation.token,
            foreign: &[],
        };
        let mut labels = generation.labels(mark, "");
        labels.extend(route_copy::common_labels(&self.config, model));
        labels.extend(route_copy::check_labels(check, &self.check_host(mark), &naming));
        let pin = self.pin(&generation, 0, mark, ("", &[]), labels);
        Next::Run(vec![Action::Start(pin).into()])
    }
}

/// Labels of a container of a backend, with those of Compose.
fn labels_of(backend: &Backend) -> Labels {
    let mut labels = backend.labels.clone();
    labels.insert("com.docker.compose.project".into(), backend.project.clone());
    labels.insert("com.docker.compose.service".into(), backend.service.clone());
    labels
}

impl Proxy for Traefik {
    fn place(&self) -> Place<'_> {
        Place::Container(&self.place)
    }

    /// Backends that request a route and that Traefik accepts. With `exposedByDefault` Traefik routes to everything with
    /// a port. A service without labels counts if the user most likely wants its route.
    fn routes_to(&self, backend: &Backend) -> bool {
        let has_labels =
            labels::enabled(&backend.labels) == Some(true) || labels::mention_a_route(&backend.labels);
        let is_expected = || self.routed_by_default(backend).is_some_and(|s| self.is_expected(s));
        (has_labels && self.can_route_to(backend)) || is_expected()
    }

    fn learn_services(&mut self, services: &[ListeningService]) {
        self.listening = services.to_vec();
    }

    fn default_route(&self, backend: &Backend) -> Option<DefaultRoute> {
        let service = &self.routed_by_default(backend).filter(|_| !self.routes_to(backend))?.service;
        Some(DefaultRoute {
            rule: labels::default_rule(self.config.default_rule(), &labels_of(backend)),
            cause: "providers.docker.exposedByDefault",
            hint: format!(
                "with the label `traefik.enable=true` at `services.{service}` a deploy keeps the route; with \
                 `traefik.enable=false` Traefik drops it"
            ),
        })
    }

    fn route_to(&self, backend: &Backend) -> RouteInfo {
        let labels = labels_of(backend);
        let http = HttpLabels::parse(&labels);
        let default = labels::default_rule(self.config.default_rule(), &labels);
        RouteInfo {
            port: http.port().or(backend.exposed.first().copied()),
            host: http.rules().find_map(labels::host).or_else(|| labels::host(&default?)),
            not_http: false,
            answer_timeout: None,
            public: public_route::public_routes(&self.config, &labels),
        }
    }

    fn introduction(&self) -> Option<Exec> {
        Some(self.place.sh(scripts::config_script(&static_config::files(&self.place.container))))
    }

    fn learn(&mut self, output: &CommandResult) {
        let (head, file) = match output.stdout.split_once("@file ") {
            Some((head, rest)) => (head, rest.split_once('\n')),
            None => (output.stdout.as_str(), None),
        };
        self.tool = head.trim().strip_prefix("@tool ").map(String::from);
        self.configure(TraefikStaticConfig::read(&self.place.container, file));
    }

    /// Uses the arguments, where there is no file. The image is assumed to be the official one, which has wget.
    fn learn_files(&mut self, files: FileLookup) -> bool {
        let names = static_config::files(&self.place.container);
        let file = names.iter().find_map(|name| Some((name.as_str(), files(name)?.text)));
        self.tool = Some("wget".into());
        self.configure(TraefikStaticConfig::read(
            &self.place.container,
            file.as_ref().map(|(name, text)| (*name, text.as_str())),
        ));
        self.config.has("providers.docker")
    }

    fn doubt(&self, _backends: &[Backend]) -> Option<String> {
        if !self.config.has("providers") {
            return Some("its static configuration cannot be read, or has no provider".into());
        }
        let provider = self.config.remote_provider()?;
        Some(format!("its provider `{provider}` has routes that compose-zd does not read"))
    }

    fn route_files(&self) -> Vec<String> {
        self.config.route_files().map(String::from).collect()
    }

    /// Traefik watches the files of its routes. It reads everything else at its start only.
    fn files(&self) -> ProxyFiles {
        let watched = self.config.route_files().map(|path| (path.into(), ReadBy::Watch));
        let fixed = static_config::files(&self.place.container).into_iter().map(|file| (file, ReadBy::Start));
        let paths = watched.chain(fixed).filter(|(path, _): &(String, ReadBy)| path.starts_with('/'));
        ProxyFiles { paths: paths.collect(), ..ProxyFiles::default() }
    }

    fn audit(&self, shape: &RolloutShape, _planned: Option<&Planned>) -> Audit {
        Audit::default().and(|| self.check(&shape.backends).map(|()| Vec::new()))
    }

    fn abilities(&self) -> Abilities {
        Abilities { late_requests: LATE_REQUEST_GRACE, renewal: Some(RENEWAL), ..Abilities::default() }
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        let files: Vec<String> = self.route_files();
        match goal {
            Goal::Patched(_) if files.is_empty() => vec![Query::Containers],
            Goal::Patched(_) => {
                vec![Query::Containers, self.place.sh(scripts::references_script(&files)).into()]
            }
            _ => {
                let endpoints = goal.endpoints();
                let host = self.check_host(&generation::mark(&endpoints).unwrap_or_default());
                let script = scripts::state_script(self.version_check.as_ref(), self.api.as_ref(), &host);
                vec![Query::Containers, self.place.sh(script).into(), self.place.connections_to(&endpoints)]
            }
        }
    }

    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error> {
        if let Goal::Patched(shape) = goal {
            self.check_foreign_routers(answers, shape)?;
            return Ok((ProxyState::default(), Next::Done));
        }
        let endpoints = goal.endpoints();
        let Some(mark) = generation::mark(&endpoints) else { return Ok((ProxyState::default(), Next::Done)) };
        let state = self.parse_state(answers, &mark)?;
        let next = match goal {
            Goal::Observed(_) | Goal::Patched(_) => Next::Done,
            Goal::Gated(rotation) | Goal::Rotation(rotation) => self.steer(&state, rotation, &mark),
            Goal::HandedBack(discovery) => self.hand_back(&state, discovery, &mark),
        };
        Ok((self.read(&state, &endpoints), next))
    }

    fn diagnose(&self) -> Query {
        self.place.sh(scripts::diagnosis_script(self.version_check.as_ref(), self.api.as_ref())).into()
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
