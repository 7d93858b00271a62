//! Completions of bash, zsh and fish, by the shells themselves where they are installed.

use std::path::Path;

use super::*;

/// Candidates that a shell shows for a line, one word each, sorted.
fn candidates(fake: &FakeDocker, shell: &str, line: &str) -> Vec<String> {
    let script = match shell {
        "bash" => {
            "source <(compose-zd completions bash); line=$1; read -ra COMP_WORDS <<<\"$line\"; \
             [[ $line == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); \
             compopt() { :; }; _compose_zd compose-zd \"${COMP_WORDS[COMP_CWORD]}\"; printf '%s\\n' \"${COMPREPLY[@]}\""
        }
        // `_describe` only works while zsh completes, so this one prints what zsh would list.
        "zsh" => {
            "compdef() { :; }; _describe() { print -rl -- ${${(P)3}%%:*} }; eval \"$(compose-zd completions zsh)\"; \
             words=(${(z)1}); [[ $1 == *' ' ]] && words+=(''); CURRENT=${#words}; PREFIX=${words[-1]}; _compose_zd"
        }
        _ => {
            "compose-zd completions fish | source; complete -C $argv[1] | string replace -r '\\t.*' ''; true"
        }
    };
    let first = if shell == "bash" { vec!["-c", script, "bash"] } else { vec!["-c", script] };
    let zsh = if shell == "zsh" { vec!["-f", "-c", script, "zsh"] } else { first };
    let run = shell_command(fake, shell).args(zsh).arg(line).assert().success();
    let output = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    let mut words: Vec<String> = output.lines().filter(|l| !l.is_empty()).map(String::from).collect();
    words.sort();
    words
}

#[test]
fn shells_complete_commands_flags_services_and_releases() {
    let fake = FakeDocker::new();
    fake.run("deploy app").success();
    let commands =
        "check completions deploy help history init man plan prune recover rollback schema status up";
    let lines = [
        ("compose-zd ", commands),
        ("compose-zd ro", "rollback"),
        ("compose-zd deploy ", "app"),
        ("compose-zd -f compose.yaml deploy a", "app"),
        ("compose-zd deploy --sca", "--scale"),
        ("compose-zd deploy --scale ", "app="),
        ("compose-zd rollback --to ", "1"),
        ("compose-zd history --timeline ", "1"),
        ("compose-zd status --output ", "json text"),
    ];
    for shell in ["bash", "zsh", "fish"].into_iter().filter(|shell| is_installed(shell)) {
        for (line, words) in lines {
            assert_eq!(candidates(&fake, shell, line).join(" "), words, "{shell}: {line}");
        }
    }
}

/// Types a line, a tab and Ctrl-X into an interactive shell in a terminal; Ctrl-X prints the line that the shell then has.
const TYPED: &str = r#"zmodload zsh/zpty
case $1 in
    zsh) start='zsh -f -i' setup='autoload -U compinit; compinit -u -D; source <(compose-zd completions zsh)
        show() { print -r -- "<$BUFFER>"; }; zle -N show; bindkey "^X" show' ;;
    bash) start='bash --norc --noprofile -i' setup='source <(compose-zd completions bash)
        bind -x "\"\C-x\": printf \"<%s>\n\" \"\$READLINE_LINE\""' ;;
    fish) start='fish --no-config -i' setup='compose-zd completions fish | source
        bind \cx "printf \"<%s>\n\" (commandline)"' ;;
esac
zpty shell "TERM=dumb PS1='' $start"
zpty -w shell "$setup"
zpty -n -w shell "$2"$'\t\C-x'
zpty -r shell output '*<compose-zd*>*'
print -r -- "${${output##*<}%%>*}"
zpty -d shell"#;

#[test]
fn a_tab_in_an_interactive_shell_completes_the_line() {
    let fake = FakeDocker::new();
    fake.run("deploy app").success();
    let lines = [
        ("compose-zd ro", "compose-zd rollback"),
        ("compose-zd deploy ", "compose-zd deploy app"),
        ("compose-zd deploy --sca", "compose-zd deploy --scale"),
        ("compose-zd rollback --to ", "compose-zd rollback --to 1"),
    ];
    if !is_installed("zsh") {
        return;
    }
    for shell in ["bash", "zsh", "fish"].into_iter().filter(|shell| is_installed(shell)) {
        for (line, expected) in lines {
            let run =
                shell_command(&fake, "timeout").args(["60", "zsh", "-f", "-c", TYPED, "zsh", shell, line]);
            let output = run.assert().success().get_output().stdout.clone();
            assert_eq!(String::from_utf8_lossy(&output).trim(), expected, "{shell}");
        }
    }
}

fn shell_command(fake: &FakeDocker, program: &str) -> Command {
    let own = Path::new(snapbox::cmd::cargo_bin!("compose-zd")).parent().unwrap().to_path_buf();
    Command::new(program)
        .current_dir(fake.dir.path())
        .env("PATH", format!("{}:{}:/usr/bin:/bin", own.display(), fake.path("bin").display()))
        .env("FAKE", fake.dir.path())
        .env("HOME", fake.dir.path())
}

/// Shells that are not installed are skipped; `scripts/setup` installs them.
fn is_installed(shell: &str) -> bool {
    ["/usr/bin", "/bin"].iter().any(|folder| Path::new(folder).join(shell).exists())
}

#[test]
fn a_shell_gets_no_text_if_the_project_is_unreadable() {
    let fake = FakeDocker::new();
    fake.no_engine("Cannot connect to the Docker daemon");
    fake.fail("compose config", "no configuration file provided: not found");
    let run = fake.run("__complete fish compose-zd rollback --to ").success();
    assert_eq!((&run.get_output().stdout[..], &run.get_output().stderr[..]), (&b""[..], &b""[..]));
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let fake = FakeDocker::new();
    for flags in ["--build --no-build", "--together --one-by-one", "--quiet --verbose"] {
        says(&fake.run(&format!("deploy {flags}")).code(2), &["cannot be used with"]);
    }
}
