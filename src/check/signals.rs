//! Whether the first process of a container does anything when it is told to stop. The kernel gives a process with the
//! number 1 no signal that it has not asked for: without a handler it goes on, and is killed at the end of its grace.

use std::path::Path;

/// What a process has said that it wants of signals, by `/proc/PID/status`; bit 0 is signal 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SignalMasks {
    ignored: u64,
    caught: u64,
    /// One that is blocked is waited for by other means (`signalfd`, `sigwait`), as inits do.
    blocked: u64,
}

impl SignalMasks {
    /// Reads `/proc/PID/status`; none where it is not of a process with the number 1 in its own container.
    pub fn of_first_process(status: &str) -> Option<SignalMasks> {
        let line = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        // A kernel without PID namespaces does not tell.
        let number = line("NSpid:").or(line("Pid:"))?.split_whitespace().next_back()?;
        let mask = |key: &str| u64::from_str_radix(line(key)?, 16).ok();
        let read =
            SignalMasks { ignored: mask("SigIgn:")?, caught: mask("SigCgt:")?, blocked: mask("SigBlk:")? };
        (number == "1").then_some(read)
    }

    /// Whether this signal does anything.
    pub fn has_effect(&self, number: u32) -> bool {
        let bit = 1u64 << (number - 1);
        self.ignored & bit == 0 && (self.caught | self.blocked) & bit != 0
    }
}

/// The number of a signal by its name or number on Linux, but for those that no process can take.
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

/// The shell that stays as the first process in front of a command, and passes nothing on: `sh -c …` without `exec` and
/// without a trap of its own.
pub fn wrapping_shell(words: &[String]) -> Option<&str> {
    let [shell, rest @ ..] = words else { return None };
    let shell = Path::new(shell).file_name()?.to_str()?;
    let flags = rest.iter().take_while(|w| w.starts_with('-')).count();
    let runs_text = rest[..flags].iter().any(|w| !w.starts_with("--") && w.ends_with('c'));
    let text = rest.get(flags).filter(|_| runs_text)?;
    let mut words = text.split(|c: char| c.is_whitespace() || ";&|(".contains(c));
    let hands_over = words.any(|w| ["exec", "trap"].contains(&w));
    (["sh", "ash", "dash", "bash", "ksh", "zsh"].contains(&shell) && !hands_over).then_some(shell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(own: &str, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nPid:\t4711\nNSpid:\t4711\t{own}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    /// Every way in which the first process may stand to SIGTERM.
    #[test]
    fn a_signal_is_taken_by_who_catches_it_or_waits_for_it_and_does_not_ignore_it() {
        let term = 1 << 14;
        for (blocked, ignored, caught) in (0..8).map(|n| (n & 1, n >> 1 & 1, n >> 2 & 1)) {
            let text = status("1", blocked * term, ignored * term, (caught * term) | 2);
            let takes = SignalMasks::of_first_process(&text).unwrap().has_effect(15);
            assert_eq!(takes, ignored == 0 && (blocked == 1 || caught == 1), "{blocked} {ignored} {caught}");
        }
        let go = SignalMasks::of_first_process(&status("1", 0, 0, 0xffff_ffff_ffff_feff)).unwrap();
        assert!(go.has_effect(15) && go.has_effect(64) && !go.has_effect(9));
    }

    #[test]
    fn another_process_than_the_first_tells_nothing() {
        assert_eq!(SignalMasks::of_first_process(&status("17", 0, 0, 1 << 14)), None);
        assert_eq!(SignalMasks::of_first_process("no such file"), None);
        let inside = status("1", 0, 0, 1 << 14).replace("\t4711", "\t1");
        assert!(
            SignalMasks::of_first_process(&inside).is_some(),
            "as `cat /proc/1/status` in the container has it"
        );
    }

    #[test]
    fn signals_are_named_as_docker_takes_them() {
        let all = ["SIGTERM", "term", "15", "SIGINT", "SIGQUIT", "SIGUSR1", "WINCH"].map(signal_number);
        assert_eq!(all, [15, 15, 15, 2, 3, 10, 28].map(Some));
        assert_eq!(["SIGKILL", "9", "0", "65", "SIGNOTHING", ""].map(signal_number), [None; 6]);
    }

    #[test]
    fn a_shell_in_front_of_its_command_passes_nothing_on() {
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
