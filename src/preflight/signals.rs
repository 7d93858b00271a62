//! Reaction of the first process of a container to its stop signal. The kernel does not deliver a signal to process 1
//! unless the process handles it: without a handler the process is killed at the end of the grace period.

use std::path::Path;

/// Signal masks of a process, from `/proc/PID/status`; bit 0 is signal 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SignalMasks {
    ignored: u64,
    caught: u64,
    /// Blocked signals, for which the process waits in another way (`signalfd`).
    blocked: u64,
    /// The process is an init, which waits for all signals by `sigwait`. The kernel unblocks them meanwhile.
    is_init: bool,
}

/// Names of the inits that pass signals to their child: those of the engines, and those that images have.
const INITS: [&str; 5] = ["docker-init", "catatonit", "tini", "tini-static", "dumb-init"];

impl SignalMasks {
    /// Masks of an init.
    pub fn of_init() -> SignalMasks {
        SignalMasks { is_init: true, ..SignalMasks::default() }
    }

    /// Parses `/proc/PID/status`; none if the process is not process 1 of its container.
    pub fn of_first_process(status: &str) -> Option<SignalMasks> {
        let line = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        // A kernel without PID namespaces has no `NSpid`.
        let number = line("NSpid:").or(line("Pid:"))?.split_whitespace().next_back()?;
        let mask = |key: &str| u64::from_str_radix(line(key)?, 16).ok();
        let masks = SignalMasks {
            ignored: mask("SigIgn:")?,
            caught: mask("SigCgt:")?,
            blocked: mask("SigBlk:")?,
            is_init: line("Name:").is_some_and(|name| INITS.contains(&name)),
        };
        (number == "1").then_some(masks)
    }

    /// The signal reaches the process.
    pub fn has_effect(&self, number: u32) -> bool {
        let bit = 1u64 << (number - 1);
        self.is_init || (self.ignored & bit == 0 && (self.caught | self.blocked) & bit != 0)
    }
}

/// The Linux number of a signal, from its name or number; none for signals that no process can handle.
pub fn signal_number(name: &str) -> Option<u32> {
    let bare = name.trim().to_uppercase();
    let bare = bare.strip_prefix("SIG").unwrap_or(&bare);
    let names = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("USR1", 10),
        ("USR2", 12),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
        ("WINCH", 28),
        ("PWR", 30),
    ];
    let named = names.iter().find(|(n, _)| *n == bare).map(|(_, number)| *number);
    named.or_else(|| bare.parse().ok().filter(|n| (1..=64).contains(n) && ![9, 19].contains(n)))
}

/// The shell that stays process 1 and passes no signal to its command: `sh -c …` without `exec` and without `trap`.
pub fn wrapping_shell(words: &[String]) -> Option<&str> {
    let [shell, rest @ ..] = words else { return None };
    let shell = Path::new(shell).file_name()?.to_str()?;
    let flags = rest.iter().take_while(|w| w.starts_with('-')).count();
    let has_script = rest[..flags].iter().any(|w| !w.starts_with("--") && w.ends_with('c'));
    let script = rest.get(flags).filter(|_| has_script)?;
    let mut words = script.split(|c: char| c.is_whitespace() || ";&|(".contains(c));
    let passes_signals = words.any(|w| ["exec", "trap"].contains(&w));
    (["sh", "ash", "dash", "bash", "ksh", "zsh"].contains(&shell) && !passes_signals).then_some(shell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(own: &str, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nPid:\t4711\nNSpid:\t4711\t{own}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    /// All combinations of blocked, ignored and caught.
    #[test]
    fn a_signal_has_effect_if_it_is_caught_or_blocked_and_not_ignored() {
        let term = 1 << 14;
        for (blocked, ignored, caught) in (0..8).map(|n| (n & 1, n >> 1 & 1, n >> 2 & 1)) {
            let text = status("1", blocked * term, ignored * term, (caught * term) | 2);
            let has_effect = SignalMasks::of_first_process(&text).unwrap().has_effect(15);
            assert_eq!(
                has_effect,
                ignored == 0 && (blocked == 1 || caught == 1),
                "{blocked} {ignored} {caught}"
            );
        }
        let go_runtime = SignalMasks::of_first_process(&status("1", 0, 0, 0xffff_ffff_ffff_feff)).unwrap();
        assert!(go_runtime.has_effect(15) && go_runtime.has_effect(64) && !go_runtime.has_effect(9));
    }

    #[test]
    fn a_process_other_than_the_first_gives_no_masks() {
        assert_eq!(SignalMasks::of_first_process(&status("17", 0, 0, 1 << 14)), None);
        assert_eq!(SignalMasks::of_first_process("no such file"), None);
        let inside = status("1", 0, 0, 1 << 14).replace("\t4711", "\t1");
        assert!(
            SignalMasks::of_first_process(&inside).is_some(),
            "as in the output of `cat /proc/1/status` in the container"
        );
    }

    /// Masks as on a real engine: an init in `sigtimedwait` blocks nothing.
    #[test]
    fn an_init_takes_every_signal() {
        for name in INITS {
            let text = status("1", 0, 0x3000, 0).replace("Name:\tx", &format!("Name:\t{name}"));
            assert!(SignalMasks::of_first_process(&text).unwrap().has_effect(15), "{name}");
        }
        assert!(!SignalMasks::of_first_process(&status("1", 0, 0x3000, 0)).unwrap().has_effect(15));
        assert!(SignalMasks::of_init().has_effect(15));
    }

    #[test]
    fn signals_have_the_names_that_docker_accepts() {
        let all = ["SIGTERM", "term", "15", "SIGINT", "SIGQUIT", "SIGUSR1", "WINCH"].map(signal_number);
        assert_eq!(all, [15, 15, 15, 2, 3, 10, 28].map(Some));
        assert_eq!(["SIGKILL", "9", "0", "65", "SIGNOTHING", ""].map(signal_number), [None; 6]);
    }

    #[test]
    fn a_shell_in_front_of_its_command_passes_no_signals() {
        let shell = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
            wrapping_shell(&words).map(String::from)
        };
        for text in ["node app.js", "a && node app.js", "executor --run"] {
            assert_eq!(shell(&["/bin/sh", "-c", text]).as_deref(), Some("sh"), "{text}");
        }
        assert_eq!(shell(&["bash", "-e", "-uc", "x"]).as_deref(), Some("bash"));
        for text in ["exec node app.js", "a && exec node", "trap 'kill 0' TERM; x & wait"] {
            assert_eq!(shell(&["sh", "-c", text]), None, "{text}");
        }
        assert_eq!(shell(&["node", "-c", "x"]), None);
        assert_eq!(shell(&["sh", "/entrypoint.sh", "-c"]), None);
        assert_eq!((shell(&["sh"]), shell(&[])), (None, None));
    }
}
