//! Requirements on the configuration of a proxy whose names are pinned.

use std::collections::BTreeSet;

use crate::error::{Error, Rule};
use crate::proxy::kit::passes::{Passes, Upstream};
use crate::proxy::{Backend, ProxyContainer, RolloutShape};

/// Rule of each requirement.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub configuration: Rule,
    pub address: Rule,
    pub extra_hosts: Rule,
    pub absolute_name: Rule,
    pub one_instance: Rule,
    pub same_run: Rule,
}

/// Configuration of a proxy.
#[derive(Clone, Copy)]
pub struct HostsAudit<'p> {
    pub place: &'p ProxyContainer,
    pub passes: &'p Passes,
    /// Names in the hosts file of lines that are not compose-zd's.
    pub fixed_names: &'p BTreeSet<String>,
    pub rules: Rules,
    /// Directive that routes to a name, before the service's name.
    pub directive: &'static str,
    /// Command that tests the configuration.
    pub test: &'static str,
}

impl HostsAudit<'_> {
    /// Refusal before anything was changed.
    pub fn refused(&self, rule: Rule, why: String, fix: &str) -> Error {
        let hint = format!("{fix}; `--proxy-kind none` deploys without gate and drain");
        self.place.refused(why, hint).rule(rule)
    }

    fn route_hint(&self, service: &str) -> String {
        format!("`{}{service}:…`", self.directive)
    }

    /// Upstreams of these backends, each with its backend.
    pub fn upstreams<'n>(
        &'n self,
        backends: &'n [Backend],
    ) -> impl Iterator<Item = (&'n Backend, &'n Upstream)> {
        backends.iter().flat_map(|b| self.passes.to(&b.names).map(move |(_, upstream)| (b, upstream)))
    }

    /// An error of the proxy's own test of its configuration, or of reading it.
    pub fn broken_configuration(&self, error: &str) -> Option<Error> {
        let error = error.trim();
        if error.is_empty() {
            return None;
        }
        let is_without_shell = error.contains("executable file not found") || error.contains("\"sh\"");
        let (why, fix) = if is_without_shell {
            (
                "its image has no shell, so compose-zd cannot switch its routes",
                "use an image with a shell, such as the official one".into(),
            )
        } else {
            (
                "it refuses its configuration, so it cannot reload",
                format!("correct the file, and test it with `{}` in the container", self.test),
            )
        };
        Some(self.refused(self.rules.configuration, why.into(), &fix).detail(error))
    }

    pub fn fixed_address(&self, backends: &[Backend]) -> Option<Error> {
        let service = &backends.iter().find(|backend| self.passes.has_address_of(backend))?.service;
        let why = format!("it routes to an address of `{service}`, which a new instance does not have");
        let fix = format!("route to the name: {}", self.route_hint(service));
        Some(self.refused(self.rules.address, why, &fix))
    }

    /// A name in the hosts file keeps its address beside the pins.
    pub fn fixed_name(&self, backends: &[Backend]) -> Option<Error> {
        let is_fixed =
            |upstream: &Upstream| self.fixed_names.iter().any(|n| n.eq_ignore_ascii_case(&upstream.host));
        let (_, upstream) = self.upstreams(backends).find(|(_, upstream)| is_fixed(upstream))?;
        let why = format!("its `/etc/hosts` fixes the address of `{}`", upstream.host);
        let fix = format!("remove `{}` from its `extra_hosts` or `links`", upstream.host);
        Some(self.refused(self.rules.extra_hosts, why, &fix))
    }

    /// The watcher relies on that no name with a dot at its end is in the hosts file.
    pub fn absolute_name(&self, backends: &[Backend]) -> Option<Error> {
        let (_, upstream) = self.upstreams(backends).find(|(_, upstream)| upstream.host.ends_with('.'))?;
        let host = &upstream.host;
        let why = format!("it routes to `{host}`, and a name with a dot at its end cannot be pinned");
        let fix = format!("write `{}`", host.trim_end_matches('.'));
        Some(self.refused(self.rules.absolute_name, why, &fix))
    }

    /// Each name has to be one that the new instances have, too.
    pub fn one_instance(&self, backends: &[Backend]) -> Option<Error> {
        let future: BTreeSet<&String> =
            backends.iter().filter(|b| !b.is_running).flat_map(|b| &b.names).collect();
        let is_lost = |upstream: &Upstream| {
            !future.is_empty() && !future.iter().any(|name| name.eq_ignore_ascii_case(&upstream.host))
        };
        let (backend, upstream) = self.upstreams(backends).find(|(_, upstream)| is_lost(upstream))?;
        let (host, service) = (&upstream.host, &backend.service);
        let why = format!("it routes to `{host}`, a single instance that the deploy replaces");
        let fix = format!("route to the service instead: {}", self.route_hint(service));
        Some(self.refused(self.rules.one_instance, why, &fix))
    }

    /// A new proxy of the same run would start with the old instances, and would not be reloaded.
    pub fn same_run(&self, shape: &RolloutShape) -> Option<Error> {
        let (project, own) = self.place.container.compose()?;
        let is_deployed = project == shape.project && shape.names_in_same_run.iter().any(|name| name == own);
        let (service, _) = shape.services.first().filter(|_| is_deployed)?;
        let why = format!(
            "it is an instance of `{own}`, which this run replaces too, and a new one would keep the old addresses of `{service}`"
        );
        let fix = format!(
            "deploy one after the other: `compose-zd deploy {service}`, then `compose-zd deploy {own}`"
        );
        Some(self.refused(self.rules.same_run, why, &fix))
    }
}
