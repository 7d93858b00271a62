//! An ssh server on a node, at its address only, with its own keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::engine::RemoteEngine;
use crate::node::run;
use crate::test_project::{WAIT_LIMIT, wait_until};

/// First process of the server, which ends with the test. It runs in the network of a node, with the files of this machine.
const INIT: &str = r#"
mkdir -p /run/sshd
/usr/sbin/sshd -D -e -f "$1" </dev/null &
read -r _
"#;

/// Greatest number of simultaneous logins (`MaxStartups`); sshd rejects some of a larger number.
pub const MAX_CONNECTIONS: usize = 3;

pub struct SshServer {
    child: Child,
    client: PathBuf,
    address: String,
}

impl SshServer {
    /// Starts a server for clients with these settings.
    pub fn start(engine: &RemoteEngine, folder: &Path, settings: &str) -> SshServer {
        fs::create_dir_all(folder).expect("a folder");
        for key in ["host", "own"] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.join(key)));
        }
        let address = engine.node.address.to_string();
        let public = |key: &str| fs::read_to_string(folder.join(key)).expect("a key");
        fs::write(folder.join("authorized"), public("own.pub")).expect("a file");
        fs::write(folder.join("known"), format!("{address} {}", public("host.pub"))).expect("a file");
        let place = folder.display();
        let client = client(folder, settings);
        let settings = format!(
            "ListenAddress {address}:22\nHostKey {place}/host\nAuthorizedKeysFile {place}/authorized\n\
             PidFile none\nMaxStartups {MAX_CONNECTIONS}:30:20\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nStrictModes no\nSetEnv DOCKER_HOST={}\n",
            engine.node.host()
        );
        fs::write(folder.join("sshd_config"), settings).expect("a file");
        let log = fs::File::create(folder.join("log")).expect("a file");
        let child = Command::new("nsenter")
            .arg(format!("--net=/var/run/netns/{}", engine.node.name))
            .args(["unshare", "--pid", "--fork", "--mount-proc", "bash", "-c", INIT, "init"])
            .arg(folder.join("sshd_config"))
            .stdin(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("`nsenter` can be started");
        let door = SshServer { child, client, address };
        door.wait_until_open(folder);
        door
    }

    fn wait_until_open(&self, folder: &Path) {
        wait_until("sshd lets one in", WAIT_LIMIT, || {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(!log.contains("rror"), "sshd (run scripts/setup): {log}");
            let mut ssh = Command::new(self.client.join("ssh"));
            let tried = ssh.args([&format!("root@{}", self.address), "true"]).stdin(Stdio::null()).output();
            tried.is_ok_and(|output| output.status.success())
        });
    }

    /// Variables for compose-zd: the address of the engine, and a PATH with the test's own `ssh` first.
    pub fn variables(&self) -> String {
        let path = std::env::var("PATH").expect("a PATH");
        format!("DOCKER_HOST=ssh://root@{} PATH={}:{path}", self.address, self.client.display())
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Writes an `ssh` wrapper with its own configuration file, because ssh ignores HOME.
fn client(folder: &Path, more: &str) -> PathBuf {
    let (place, bin) = (folder.display(), folder.join("bin"));
    let settings = format!(
        "Host *\nIdentityFile {place}/own\nIdentitiesOnly yes\nUserKnownHostsFile {place}/known\n\
         StrictHostKeyChecking yes\nBatchMode yes\nLogLevel ERROR\n\
         KexAlgorithms curve25519-sha256\n\
         ControlPath {place}/one\n{more}"
    );
    fs::write(folder.join("config"), settings).expect("a file");
    fs::create_dir_all(&bin).expect("a folder");
    fs::write(bin.join("ssh"), format!("#!/bin/sh\nexec /usr/bin/ssh -F {place}/config \"$@\"\n"))
        .expect("a file");
    fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).expect("it may be run");
    bin
}
