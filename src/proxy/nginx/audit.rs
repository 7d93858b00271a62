//! Requirements on nginx's configuration, and requests that its reload loses.

use std::collections::BTreeSet;

use super::{KEEPALIVE_FILE, KEEPALIVE_MIN_TIMEOUT, KEEPALIVE_SINCE, Nginx, Upstream, scripts};
use crate::error::Error;
use crate::finding::Finding;
use crate::proxy::{Backend, Change, Proxy, RolloutShape};

const WITHOUT_PROXY_HINT: &str = "`--proxy-kind none` deploys without gate and drain";

impl Nginx {
    /// # Errors
    /// A requirement that the configuration does not meet.
    pub(super) fn check(&self, shape: &RolloutShape, is_planned: bool) -> Result<Vec<Finding>, Error> {
        let backends = &shape.backends;
        let problem = self
            .broken_configuration()
            .or_else(|| self.single_process())
            .or_else(|| self.dynamic_route(backends))
            .or_else(|| self.fixed_address(backends))
            .or_else(|| self.fixed_name(backends))
            .or_else(|| self.one_instance(backends))
            .or_else(|| self.check_run(shape).err());
        match problem {
            Some(error) => Err(error),
            None if is_planned && self.is_old() => {
                Ok(self.closes_idle_clients(shape.tune).into_iter().collect())
            }
            None => Ok(Vec::new()),
        }
    }

    /// # Errors
    /// A run of services that cannot be switched together.
    pub(super) fn check_run(&self, shape: &RolloutShape) -> Result<(), Error> {
        self.idle_side(shape).or_else(|| self.same_run(shape)).map_or(Ok(()), Err)
    }

    fn refused(&self, rule: &'static &'static str, why: String, fix: &str) -> Error {
        self.place.refused(why, format!("{fix}; {WITHOUT_PROXY_HINT}")).rule(rule)
    }

    /// Upstreams of these backends, each with its backend.
    fn upstreams<'n>(&'n self, backends: &'n [Backend]) -> impl Iterator<Item = (&'n Backend, &'n Upstream)> {
        backends.iter().flat_map(|b| self.passes_to(&b.names).map(move |(_, upstream)| (b, upstream)))
    }

    fn broken_configuration(&self) -> Option<Error> {
        let error = self.settings.error.trim();
        if error.is_empty() {
            return None;
        }
        let is_without_shell = error.contains("executable file not found") || error.contains("\"sh\"");
        let (why, fix) = if is_without_shell {
            (
                "its image has no shell, so compose-zd cannot switch its routes",
                "use an image with a shell, such as the official one",
            )
        } else {
            (
                "it refuses its configuration, so it cannot reload",
                "correct the file, and test it with `nginx -t` in the container",
            )
        };
        Some(self.refused(&"nginx-configuration", why.into(), fix).detail(error))
    }

    fn single_process(&self) -> Option<Error> {
        let why = "`master_process off` leaves it one process, so a reload cannot be confirmed";
        let fix = "remove `master_process off`";
        self.settings.routes.is_single_process.then(|| self.refused(&"nginx-one-process", why.into(), fix))
    }

    /// Names that nginx resolves while it runs change at once when an instance starts or stops, ready or not.
    fn dynamic_route(&self, backends: &[Backend]) -> Option<Error> {
        let (backend, upstream) = self.upstreams(backends).find(|(_, upstream)| upstream.is_dynamic)?;
        let (host, service) = (&upstream.host, &backend.service);
        let port = upstream.port.map(|port| format!(":{port}")).unwrap_or_default();
        let why = format!(
            "it resolves `{host}` by its `resolver` while it runs, so a new instance of `{service}` gets requests before it \
             is ready, and an old one after its end"
        );
        let fix = format!(
            "write `upstream {service} {{ server {host}{port}; }}` and `proxy_pass http://{service};`, without a variable and \
             without `resolve`: compose-zd then switches it, also after the address changes"
        );
        Some(self.refused(&"nginx-resolver", why, &fix))
    }

    fn fixed_address(&self, backends: &[Backend]) -> Option<Error> {
        let with_address = |backend: &&Backend| {
            let addresses: Vec<String> = backend.addresses.iter().map(ToString::to_string).collect();
            self.passes_to(&addresses).next().is_some()
        };
        let service = &backends.iter().find(with_address)?.service;
        let why = format!("it routes to an address of `{service}`, which a new instance does not have");
        Some(self.refused(
            &"nginx-address",
            why,
            &format!("route to the name: `proxy_pass http://{service}:…`"),
        ))
    }

    /// A name in the hosts file keeps its address beside the pins.
    fn fixed_name(&self, backends: &[Backend]) -> Option<Error> {
        let is_fixed = |upstream: &Upstream| {
            self.settings.fixed_names.iter().any(|name| name.eq_ignore_ascii_case(&upstream.host))
        };
        let (_, upstream) = self.upstreams(backends).find(|(_, upstream)| is_fixed(upstream))?;
        let why = format!("its `/etc/hosts` fixes the address of `{}`", upstream.host);
        let fix = format!("remove `{}` from its `extra_hosts` or `links`", upstream.host);
        Some(self.refused(&"nginx-extra-hosts", why, &fix))
    }

    /// Each name has to be one that the new instances have, too.
    fn one_instance(&self, backends: &[Backend]) -> Option<Error> {
        let future: BTreeSet<&String> =
            backends.iter().filter(|b| !b.is_running).flat_map(|b| &b.names).collect();
        let is_lost = |upstream: &Upstream| {
            !future.is_empty() && !future.iter().any(|name| name.eq_ignore_ascii_case(&upstream.host))
        };
        let (backend, upstream) = self.upstreams(backends).find(|(_, upstream)| is_lost(upstream))?;
        let (host, service) = (&upstream.host, &backend.service);
        let why = format!("it routes to `{host}`, a single instance that the deploy replaces");
        let fix = format!("route to the service instead: `proxy_pass http://{service}:…`");
        Some(self.refused(&"nginx-one-instance", why, &fix))
    }

    /// The idle side of a pair has no address, and nginx does not start with a name that it cannot resolve.
    fn idle_side(&self, shape: &RolloutShape) -> Option<Error> {
        let [first, second] = &shape.services[..] else { return None };
        let runs = |service: &str| shape.backends.iter().any(|b| b.is_running && b.service == service);
        let is_routed = |names: &[String]| self.passes_to(names).next().is_some();
        let is_served = |(service, names): &(String, Vec<String>)| runs(service) && is_routed(names);
        let idle = [first, second].into_iter().find(|side| !is_served(side))?;
        let active = if idle.0 == first.0 { &second.0 } else { &first.0 };
        let why = format!(
            "`{}` and `{}` are the sides of a pair, and nginx does not start while a name in its configuration has no address",
            idle.0, active
        );
        let fix = format!(
            "deploy one service instead, with the name `{active}`: compose-zd starts its new instance beside the old"
        );
        Some(self.refused(&"nginx-one-side", why, &fix))
    }

    /// A new nginx of the same run would start with the old instances, and would not be reloaded.
    fn same_run(&self, shape: &RolloutShape) -> Option<Error> {
        let (project, own) = self.place.container.compose()?;
        let is_deployed = project == shape.project && shape.names_in_same_run.iter().any(|name| name == own);
        let (service, _) = shape.services.first().filter(|_| is_deployed)?;
        let why = format!(
            "it is an instance of `{own}`, which this run replaces too, and a new one would keep the old addresses of `{service}`"
        );
        let fix = format!(
            "deploy one after the other: `compose-zd deploy {service}`, then `compose-zd deploy {own}`"
        );
        Some(self.refused(&"nginx-same-run", why, &fix))
    }

    /// True if nginx has no `keepalive_min_timeout`.
    fn is_old(&self) -> bool {
        self.settings.version.is_some_and(|version| version < KEEPALIVE_SINCE)
    }

    /// Finding that the reload of a deploy closes idle client connections.
    pub(super) fn closes_idle_clients(&self, tune: bool) -> Option<Finding> {
        let line = format!("keepalive_min_timeout {}s;", KEEPALIVE_MIN_TIMEOUT.as_secs());
        let add = format!("add `{line}` to `http` in its configuration");
        let (why, fix) = match () {
            () if self.settings.routes.has_keepalive_min_timeout || self.settings.version.is_none() => {
                return None;
            }
            () if self.is_old() => {
                let fix = format!("use nginx 1.27.4 or later; {add} then");
                ("its nginx is older than 1.27.4 and has no `keepalive_min_timeout`", fix)
            }
            () if self.settings.own_folder.is_none() => ("`keepalive_min_timeout` is not set", add),
            () if !tune => (
                "`keepalive_min_timeout` is not set, and compose-zd may not set it (`x-zd.proxy.tune: false`)",
                add,
            ),
            () => {
                let message = format!(
                    "{}: the first deploy sets `keepalive_min_timeout`, by one reload that closes idle client connections",
                    self.name()
                );
                return Some(Finding::note("nginx-keepalive", message, format!("{add} before")));
            }
        };
        let message = format!(
            "{}: {why}, so the one reload of a deploy closes idle client connections, and a client that does not retry loses a \
             request",
            self.name()
        );
        Some(Finding::loss("nginx-keepalive", message, fix))
    }

    /// Change that keeps a reload from closing idle client connections.
    pub(super) fn keepalive_patch(&self, tune: bool) -> Option<Change> {
        let settings = &self.settings;
        let is_supported = settings.version.is_some_and(|version| version >= KEEPALIVE_SINCE);
        let folder = settings.own_folder.as_ref().filter(|_| tune && is_supported)?;
        (!settings.routes.has_keepalive_min_timeout).then(|| Change {
            note: format!(
                "{}: set `keepalive_min_timeout {}s` in {folder}/{KEEPALIVE_FILE}, so that a reload does not cut idle clients",
                self.name(),
                KEEPALIVE_MIN_TIMEOUT.as_secs()
            ),
            required: false,
            ..self.place.sh(scripts::keepalive(folder)).into()
        })
    }
}
