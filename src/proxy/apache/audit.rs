//! Requirements on Apache's configuration, and requests that its restart loses.

use std::time::Duration;

use super::Apache;
use crate::error::Error;
use crate::finding::Finding;
use crate::proxy::kit::hosts::audit::{HostsAudit, Rules};
use crate::proxy::{Proxy, RolloutShape};

const RULES: Rules = Rules {
    configuration: &"apache-configuration",
    address: &"apache-address",
    extra_hosts: &"apache-extra-hosts",
    absolute_name: &"apache-absolute-name",
    one_instance: &"apache-one-instance",
    same_run: &"apache-same-run",
};

impl Apache {
    /// # Errors
    /// A requirement that the configuration does not meet.
    pub(super) fn check(&self, shape: &RolloutShape) -> Result<(), Error> {
        let (backends, hosts) = (&shape.backends, self.hosts_audit());
        let problem = hosts
            .broken_configuration(&self.settings.error)
            .or_else(|| hosts.fixed_address(backends))
            .or_else(|| hosts.fixed_name(backends))
            .or_else(|| hosts.absolute_name(backends))
            .or_else(|| hosts.one_instance(backends))
            .or_else(|| self.check_run(shape).err());
        problem.map_or(Ok(()), Err)
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
            directive: "ProxyPass / http://",
            test: "httpd -t",
        }
    }

    /// Apache answers requests for the stopped side of a pair with an error, unless the sides are members of a
    /// balancer. Then it tries the stopped side again and again.
    fn idle_side(&self, shape: &RolloutShape) -> Option<Error> {
        let [first, second] = &shape.services[..] else { return None };
        let runs = |service: &str| shape.backends.iter().any(|b| b.is_running && b.service == service);
        // Compose starts both sides with the proxy.
        let all_start = !self.is_running() && ![first, second].iter().any(|(service, _)| runs(service));
        let is_served = |(service, names): &(String, Vec<String>)| {
            (all_start || runs(service)) && self.passes().to(names).next().is_some()
        };
        let idle = [first, second].into_iter().find(|side| !is_served(side))?;
        let active = if idle.0 == first.0 { &second.0 } else { &first.0 };
        let why = format!(
            "`{}` and `{active}` are the sides of a pair, and Apache finds no address for one that does not run",
            idle.0
        );
        let fix = format!(
            "deploy one service instead, with the name `{active}`: compose-zd starts its new instance beside the old"
        );
        Some(self.hosts_audit().refused(&"apache-one-side", why, &fix))
    }

    /// Finding that the restart of a deploy closes idle client connections. The other modules wait for one more request.
    pub(super) fn closes_idle_clients(&self, shape: &RolloutShape) -> Option<Finding> {
        let settings = &self.settings;
        let names: Vec<String> = shape.names().flatten().cloned().collect();
        let is_affected = settings.mpm == "event"
            && settings.routes.keepalive > Duration::ZERO
            && self.needs_restart(&names);
        is_affected.then(|| {
            let message = format!(
                "{}: it runs `mpm_event`, so the one graceful restart of a deploy closes idle client connections, and a client that \
                 does not retry loses a request",
                self.name()
            );
            let fix = "add `disablereuse=on` to the `ProxyPass` or `BalancerMember` of the service, so that no restart is needed, or \
                 use `mpm_worker`";
            Finding::loss("apache-keepalive", message, fix)
        })
    }
}
