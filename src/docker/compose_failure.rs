//! Failures of Compose in its own words, without its progress, and hints for what a person can do.

/// Kinds of objects in Compose's lines of progress.
const OBJECTS: [&str; 6] = ["Container", "Network", "Volume", "Image", "Config", "Secret"];

/// Third words of these lines.
const STATES: [&str; 14] = [
    "Creating",
    "Created",
    "Recreate",
    "Recreated",
    "Starting",
    "Started",
    "Running",
    "Waiting",
    "Healthy",
    "Exited",
    "Stopping",
    "Stopped",
    "Removing",
    "Removed",
];

/// Compose's output without progress and warnings; all of it if nothing else is left.
pub fn message(text: &str) -> String {
    let lines: Vec<&str> =
        text.lines().filter(|line| !is_progress(line) && !line.contains("level=warning msg=")).collect();
    if lines.is_empty() { text.into() } else { lines.join("\n") }
}

/// True for ` Container shop-app-1  Creating`, and for an error that Compose prints again at its end.
fn is_progress(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_state = |word: &str| word == "Error" || STATES.contains(&word);
    matches!(words[..], [object, _, state, ..] if OBJECTS.contains(&object) && is_state(state))
}

/// Compose's warnings in its log lines: `time="…" level=warning msg="…"`.
pub fn warnings(stderr: &str) -> Vec<String> {
    let message = |line: &str| {
        let (_, rest) = line.split_once("level=warning msg=\"")?;
        Some(rest.trim_end_matches('"').replace("\\\"", "`"))
    };
    stderr.lines().filter_map(message).collect()
}

/// Hint for a command that changes containers.
pub fn run_hint(text: &str) -> Option<String> {
    let is_taken =
        ["port is already allocated", "address already in use"].iter().any(|taken| text.contains(taken));
    is_taken.then(|| {
        let port = taken_port(text).map(|port| format!(" {port}")).unwrap_or_default();
        format!(
            "`docker ps` or `ss -ltnp` shows what has the port{port} of this machine; stop it, or publish another port under \
             `ports`"
        )
    })
}

/// Port of `Bind for 0.0.0.0:8080 failed` and of `listen tcp4 0.0.0.0:8080: bind`.
fn taken_port(text: &str) -> Option<u16> {
    let address = |start: &str| {
        let (_, rest) = text.split_once(start)?;
        let (_, port) = rest.split_whitespace().next()?.trim_end_matches(':').rsplit_once(':')?;
        port.parse().ok()
    };
    ["Bind for ", "listen tcp4 ", "listen tcp "].into_iter().find_map(address)
}

/// Hint for a refused project. `text` is all that Compose printed.
pub fn config_hint(text: &str) -> String {
    let unset: Vec<String> = warnings(text).iter().filter_map(|warning| unset_variable(warning)).collect();
    if text.contains("found character that cannot start any token") {
        return "YAML allows no tab at the start of a line: indent with spaces".into();
    }
    match unset.as_slice() {
        [] => "correct the file, or name another with `--file`".into(),
        names => format!(
            "set {} in `.env` beside the file, in the environment, or with `--env-file`",
            names.join(", ")
        ),
    }
}

/// Variable of `The "IMAGE" variable is not set. Defaulting to a blank string.`
fn unset_variable(warning: &str) -> Option<String> {
    let (name, _) = warning.strip_prefix("The ")?.split_once(" variable is not set")?;
    Some(format!("`{}`", name.trim_matches(['"', '`', '\\'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN: &str = "Network p_default  Creating\n Container p-app-1  Error response from daemon: twice\n\
                         Error response from daemon: driver failed: Bind for 0.0.0.0:8080 failed: port is already allocated\n";

    #[test]
    fn progress_is_left_out() {
        let last = "Error response from daemon: driver failed: Bind for 0.0.0.0:8080 failed: port is already allocated";
        assert_eq!(message(TAKEN), last);
        assert_eq!(message(" Container p-app-1  Error\n"), " Container p-app-1  Error\n");
        assert_eq!(message("time=\"x\" level=warning msg=\"A\"\nno file .env"), "no file .env");
        assert_eq!(message("services:\n Container: x"), "services:\n Container: x");
    }

    #[test]
    fn a_taken_port_is_named() {
        assert!(run_hint(TAKEN).unwrap().contains("the port 8080 of this machine"));
        let program = "listen tcp4 0.0.0.0:80: bind: address already in use";
        assert!(run_hint(program).unwrap().contains("the port 80 of"));
        assert_eq!(run_hint("no such image"), None);
    }

    #[test]
    fn unset_variables_and_tabs_explain_a_refusal() {
        let unset = "time=\"x\" level=warning msg=\"The \\\"IMAGE\\\" variable is not set. Defaulting to a blank string.\"\n\
                     service \"app\" has neither an image nor a build context specified";
        assert!(config_hint(unset).starts_with("set `IMAGE` in `.env`"), "{}", config_hint(unset));
        assert!(config_hint("yaml: line 2: found character that cannot start any token").contains("no tab"));
        assert!(config_hint("no file").contains("`--file`"));
    }
}
