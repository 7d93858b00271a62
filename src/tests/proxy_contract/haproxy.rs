//! Simulation of HAProxy: slots of a template that DNS fills.

use super::*;
use crate::proxy::haproxy::Haproxy;

const CONFIGURATION: &str = "global\n stats socket /tmp/haproxy.sock level admin\n\
    backend web\n server-template app 4 app:3000 check resolvers docker init-addr none\n";
const HEADER: &str = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
    srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state \
    bk_f_forced_id srv_f_forced_id";
const DRAINED: u32 = 8;
const NO_ADDRESS: u32 = 32;

pub struct Slots {
    proxy: Haproxy,
    /// Instance and drain flag of each slot.
    slots: [(Option<&'static str>, bool); 4],
}

pub fn simulation() -> Slots {
    let mut proxy = Haproxy::new(&container(&[]));
    proxy.learn(&output(CONFIGURATION));
    Slots { proxy, slots: [(None, false); 4] }
}

impl Simulation for Slots {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn answer(&self, query: &Query) -> CommandResult {
        let Query::Exec(_) = query else { return output("") };
        let row = |(n, (instance, is_drained)): (usize, &(Option<&str>, bool))| {
            let (number, admin) = (n + 1, if *is_drained { DRAINED } else { 0 });
            match instance {
                Some(name) => {
                    format!("3 web {number} app{number} {} 2 {admin} 1 1 12 15 3 4 6 0 0 0\n", address(name))
                }
                None => {
                    format!("3 web {number} app{number} - 0 {} 1 1 12 1 0 0 14 0 0 0\n", admin | NO_ADDRESS)
                }
            }
        };
        let rows: String = self.slots.iter().enumerate().map(row).collect();
        output(format!("1\n{HEADER}\n{rows}\n# pxname,svname,qcur,qmax,scur,smax\n"))
    }

    fn run(&mut self, action: &Action) {
        let Action::Exec(exec) = action else { panic!("{action:?}") };
        let commands = script(exec).lines().find_map(|l| l.strip_prefix("c='")).expect("commands");
        for command in commands.trim_end_matches('\'').split("; ") {
            let words: Vec<&str> = command.split(' ').collect();
            let number: usize = words[2].trim_start_matches("web/app").parse().expect("a number");
            match words[3..] {
                ["state", "drain"] => self.slots[number - 1].1 = true,
                ["state", "ready"] => self.slots[number - 1].1 = false,
                ["health", _] => {}
                _ => panic!("{command}"),
            }
        }
    }

    fn set_running(&mut self, running: &[&'static str]) {
        for (instance, _) in &mut self.slots {
            *instance = instance.filter(|name| running.contains(name));
        }
        for name in running {
            if !self.slots.iter().any(|(instance, _)| *instance == Some(name)) {
                self.slots.iter_mut().find(|(instance, _)| instance.is_none()).expect("a free slot").0 =
                    Some(name);
            }
        }
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        self.slots
            .iter()
            .filter(|(_, is_drained)| !is_drained)
            .filter_map(|(instance, _)| *instance)
            .collect()
    }
}
