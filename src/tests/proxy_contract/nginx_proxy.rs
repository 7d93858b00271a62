//! Simulation of nginx-proxy: every running instance without a marker gets requests.

use super::*;
use crate::proxy::nginx_proxy::NginxProxy;

/// State of an nginx whose worker started 100 s after its configuration was written.
const CLOCKS: &str = "@clock 1500.25 2026-11-21 03:41:32.500000000 +0000\n\
    @written 2026-11-21 05:31:32.500000000 +0200\n@worker 100025 nginx: worker process\n";

pub struct Markers {
    proxy: NginxProxy,
    template: String,
    running: Vec<&'static str>,
    markers: BTreeSet<String>,
}

pub fn simulation() -> Markers {
    let template = corpus("nginx-template").into_iter().next().expect("a template");
    let proxy = NginxProxy::single_container(&container(&[]));
    Markers { proxy, template, running: Vec::new(), markers: [OTHER.to_string()].into() }
}

/// Ids of the markers in a line.
fn marked(line: &str) -> impl Iterator<Item = String> {
    line.split([' ', ';'])
        .filter_map(|word| word.trim_matches('\'').rsplit_once('/'))
        .map(|(_, id)| id.into())
}

impl Simulation for Markers {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn answer(&self, query: &Query) -> CommandResult {
        let Query::Exec(exec) = query else { panic!("{query:?}") };
        if script(exec).contains("@template") {
            return output(format!("@writable yes\n@template\n{}", self.template));
        }
        if script(exec).contains("@keepalive") {
            return output("@version nginx version: nginx/1.29.5\n@keepalive /etc/nginx/nginx.conf\n");
        }
        let servers: String =
            self.serving().iter().map(|n| format!("server {}:3000;\n", address(n))).collect();
        output(format!("{servers}{CLOCKS}@end\n"))
    }

    fn run(&mut self, action: &Action) {
        let Action::Exec(exec) = action else { panic!("{action:?}") };
        if let Some(template) = &exec.stdin {
            self.template = template.clone();
            return;
        }
        for line in script(exec).lines() {
            if let Some((_, touched)) = line.split_once("touch ") {
                self.markers.extend(marked(touched));
            } else if let Some(removed) = line.strip_prefix("rm -f ") {
                let removed: Vec<String> = marked(removed).collect();
                self.markers.retain(|id| !removed.contains(id));
            } else if let Some((kept, _)) =
                line.trim_start().strip_prefix("case ").and_then(|l| l.split_once(" in "))
            {
                let kept: Vec<&str> = kept.trim_matches('\'').split(' ').collect();
                self.markers.retain(|id| kept.contains(&id.as_str()));
            }
        }
        assert!(self.markers.contains(OTHER), "the marker of another rollout stays");
    }

    fn set_running(&mut self, running: &[&'static str]) {
        self.running = running.to_vec();
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        self.running.iter().copied().filter(|name| !self.markers.contains(*name)).collect()
    }
}
