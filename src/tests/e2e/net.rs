//! A private network on this machine: one namespace with a switch, and one namespace for each connected node.
//!
//! The switch has its own namespace because the engine of the machine drops packets between bridges that it does not know.
//! So no firewall rule of the machine has to change.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::test_project::{WAIT_LIMIT, wait_until};

/// Prefix of the name of every namespace, link, cgroup and folder.
const PREFIX: &str = "zde2e";

/// Greatest number of networks at a time on this machine.
const MAX_NETWORKS: u8 = 200;

/// Last byte of the address of this machine.
const HOST_BYTE: u8 = 254;

pub struct Network {
    name: String,
    /// Third byte of the addresses.
    number: u8,
    /// Lock on the number while the network exists.
    _claim: File,
}

impl Network {
    /// Creates a network with the first free number, and removes leftovers of a killed run with that number.
    pub fn new() -> Network {
        let (number, claim) = (0..MAX_NETWORKS).find_map(claim_number).expect("a free number for a network");
        let net = Network { name: format!("{PREFIX}{number}"), number, _claim: claim };
        net.remove();
        fs::create_dir_all(net.folder()).expect("a folder");
        net.create();
        net
    }

    fn create(&self) {
        let Network { name, .. } = self;
        let own = self.address(HOST_BYTE);
        add_namespace(name);
        ip(&format!("-n {name} link add switch up type bridge"));
        ip(&format!("link add {name} type veth peer name machine netns {name}"));
        ip(&format!("-n {name} link set machine up master switch"));
        ip(&format!("addr add {own}/24 dev {name}"));
        ip(&format!("link set {name} up"));
    }

    /// Creates a namespace with its own address, connected to the switch.
    pub fn add_node(&self, node: u8) -> Ipv4Addr {
        let (name, address) = (self.namespace(node), self.address(node));
        let switch = &self.name;
        add_namespace(&name);
        ip(&format!("-n {switch} link add port{node} type veth peer name eth0 netns {name}"));
        ip(&format!("-n {switch} link set port{node} up master switch"));
        ip(&format!("-n {name} addr add {address}/24 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        address
    }

    /// Disconnects a node in both directions.
    pub fn disconnect(&self, node: u8) {
        ip(&format!("-n {} link set port{node} down", self.name));
    }

    /// Connects a node again.
    pub fn reconnect(&self, node: u8) {
        ip(&format!("-n {} link set port{node} up", self.name));
    }

    /// Ids of the processes of a node outside containers.
    pub fn processes(&self, node: u8) -> Vec<String> {
        let output = try_ip(&format!("netns pids {}", self.namespace(node)));
        output.lines().map(String::from).collect()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn namespace(&self, node: u8) -> String {
        format!("{}-{node}", self.name)
    }

    /// Folder for the files of the nodes.
    pub fn folder(&self) -> PathBuf {
        std::env::temp_dir().join(&self.name)
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, host)
    }

    /// Removes everything with the name of the network.
    fn remove(&self) {
        for namespace in self.namespaces() {
            // The processes in the namespace end soon after the test process, but not at once.
            wait_until(&format!("{namespace} is empty"), WAIT_LIMIT, || {
                try_ip(&format!("netns pids {namespace}")).is_empty()
            });
            try_ip(&format!("netns del {namespace}"));
        }
        try_ip(&format!("link del {}", self.name));
        cgroups(&self.name).iter().for_each(|group| remove_cgroup(group));
        let _ = fs::remove_dir_all(self.folder());
    }

    fn namespaces(&self) -> Vec<String> {
        let of_node = format!("{}-", self.name);
        let listed = try_ip("netns list");
        let names = listed.lines().filter_map(|l| l.split_whitespace().next());
        names.filter(|n| *n == self.name || n.starts_with(&of_node)).map(String::from).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

fn claim_number(number: u8) -> Option<(u8, File)> {
    let path = std::env::temp_dir().join(format!("compose-zd-e2e-{PREFIX}{number}.lock"));
    let file = File::create(path).expect("a lock file");
    file.try_lock().is_ok().then_some((number, file))
}

fn add_namespace(name: &str) {
    ip(&format!("netns add {name}"));
    ip(&format!("-n {name} link set lo up"));
}

/// Control groups with this name, in every hierarchy.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = hierarchies.chain([root.into()]).map(|hierarchy| hierarchy.join(name));
    all.filter(|group| group.is_dir() && !group.is_symlink()).collect()
}

/// Removes a control group and its children. The files in it cannot be removed, and need not be.
fn remove_cgroup(group: &Path) {
    let inner = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    inner.filter(|path| path.is_dir()).for_each(|path| remove_cgroup(&path));
    let _ = fs::remove_dir(group);
}

fn ip(line: &str) {
    let output = command(line).output().expect("`ip`: run scripts/setup");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`ip {line}`: {stderr}; namespaces need root");
}

fn try_ip(line: &str) -> String {
    let output = command(line).output().expect("`ip`: run scripts/setup");
    String::from_utf8_lossy(&output.stdout).trim().into()
}

fn command(line: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}
