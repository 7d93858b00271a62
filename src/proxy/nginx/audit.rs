//! Requirements on nginx's configuration, and requests that its reload loses.

use super::{KEEPALIVE_FILE, KEEPALIVE_MIN_TIMEOUT, KEEPALIVE_SINCE, Nginx, scripts};
use crate::error::{Error, Rule};
use crate::finding::Finding;
use crate::proxy::kit::hosts::audit::{HostsAudit, Rules};
use crate::proxy::{Backend, Change, Proxy, RolloutShape};

const RULES: Rules = Rules {
    configuration: &"nginx-configuration",
    address: &"nginx-address",
    extra_hosts: &"nginx-extra-hosts",
    absolute_name: &"nginx-absolute-name",
    one_instance: &"nginx-one-instance",
    same_run: &"nginx-same-run",
};

impl Nginx {
    /// # Errors
    /// A requirement that the configuration does not meet.
    pub(super) fn check(&self, shape: &RolloutShape, is_planned: bool) -> Result<Vec<Finding>, Error> {
        let (backends, hosts) = (&shape.backends, self.hosts_audit());
        let problem = hosts
            .broken_configuration(&self.settings.error)
            .or_else(|| self.single_process())
            .or_else(|| self.dynamic_route(backends))
            .or_else(|| hosts.fixed_address(backends))
            .or_else(|| hosts.fixed_name(backends))
            .or_else(|| hosts.absolute_name(backends))
            .or_else(|| hosts.one_instance(backends))
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
        self.idle_side(shape).or_else(|| self.hosts_audit().same_run(shape)).map_or(Ok(()), Err)
    }

    fn hosts_audit(&self) -> HostsAudit<'_> {
        HostsAudit {
            place: &self.place,
            passes: self.passes(),
            fixed_names: &self.settings.fixed_names,
            rules: RULES,
            directive: "proxy_pass http://",
            test: "nginx -t",
        }
    }

    fn refused(&self, rule: Rule, why: String, fix: &str) -> Error {
        self.hosts_audit().refused(rule, why, fix)
    }

    fn single_process(&self) -> Option<Error> {
        let why = "`master_process off` leaves it one process, so a reload cannot be confirmed";
        let fix = "remove `master_process off`";
        self.settings.routes.is_single_process.then(|| self.refused(&"nginx-one-process", why.into(), fix))
    }

    /// Names that nginx resolves while it runs change at once when an instance starts or stops, ready or not.
    fn dynamic_route(&self, backends: &[Backend]) -> Option<Error> {
        let hosts = self.hosts_audit();
        let (backend, upstream) = hosts.upstreams(backends).find(|(_, upstream)| upstream.is_dynamic)?;
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

    /// The idle side of a pair has no address, and nginx does not start with a name that it cannot resolve.
    fn idle_side(&self, shape: &RolloutShape) -> Option<Error> {
        let [first, second] = &shape.services[..] else { return None };
        let runs = |service: &str| shape.backends.iter().any(|b| b.is_running && b.service == service);
        // Compose starts both sides with the proxy.
        let all_start = !self.is_running() && ![first, second].iter().any(|(service, _)| runs(service));
        let is_routed = |names: &[String]| self.passes().to(names).next().is_some();
        let is_served =
            |(service, names): &(String, Vec<String>)| (all_start || runs(service)) && is_routed(names);
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
