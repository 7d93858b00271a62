//! Simulation of dockercloud/haproxy: a manager that adds all running instances unless it is frozen.

use super::*;
use crate::proxy::dockercloud::Dockercloud;

const HEADER: &str = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
    srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state \
    bk_f_forced_id srv_f_forced_id";

pub struct Manager {
    proxy: Dockercloud,
    is_frozen: bool,
    running: Vec<&'static str>,
    /// Servers of HAProxy, and whether each is drained.
    servers: BTreeMap<&'static str, bool>,
}

pub fn simulation() -> Manager {
    let mut proxy = Dockercloud::new(&container(&[]));
    proxy.learn(&output("backend web\n server p-app-1 p-app-1:3000 check\n"));
    Manager { proxy, is_frozen: false, running: Vec::new(), servers: BTreeMap::new() }
}

impl Manager {
    /// Renders the configuration and reloads HAProxy, which clears the flags.
    fn render(&mut self) {
        if !self.is_frozen {
            self.servers = self.running.iter().map(|name| (*name, false)).collect();
        }
    }

    fn send(&mut self, commands: &str) {
        for command in commands.split("; ").filter(|c| !c.is_empty()) {
            let name = command.split([' ', '/']).nth(3).expect("a server");
            let is_drained = command.ends_with("state drain");
            *self.servers.iter_mut().find(|(server, _)| **server == name).expect("a server").1 = is_drained;
        }
    }
}

impl Simulation for Manager {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn answer(&self, query: &Query) -> CommandResult {
        let Query::Exec(exec) = query else { return output("") };
        if exec.argv[0] != "python" {
            return output("");
        }
        let row = |(name, is_drained): (&&str, &bool)| {
            let admin = if *is_drained { 8 } else { 0 };
            format!("4 web 1 {name} {} 2 {admin} 1 1 2 6 3 4 6 0 0 0\n", address(name))
        };
        let rows: String = self.servers.iter().map(row).collect();
        let manager = if self.is_frozen { "T\n@frozen p" } else { "S" };
        output(format!("1\n{HEADER}\n{rows}\n# pxname,svname,qcur,qmax,scur,smax\n\n@manager {manager}\n"))
    }

    fn run(&mut self, action: &Action) {
        let Action::Exec(exec) = action else { panic!("{action:?}") };
        match exec.argv[3].as_str() {
            "freeze" => self.is_frozen = true,
            "resume" | "release" => self.is_frozen = false,
            "send" | "render" => {}
            other => panic!("{other}"),
        }
        self.render();
        self.send(&exec.argv[5].clone());
    }

    fn set_running(&mut self, running: &[&'static str]) {
        self.running = running.to_vec();
        self.render();
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        let serves = |name: &&str| self.servers.get(*name) == Some(&false);
        self.running.iter().copied().filter(serves).collect()
    }
}
