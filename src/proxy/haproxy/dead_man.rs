//! Watch in HAProxy's container for the case that compose-zd is killed. A killed run leaves drained slots and added
//! servers, and the next `docker compose up` gives instances other addresses. While compose-zd runs, the watch does
//! nothing. Afterwards it repairs the servers of a service as soon as none of them, or not each ready one, is an
//! instance by Docker's DNS.

use std::collections::BTreeSet;

use super::added_servers::ADDED;
use super::config::ServerLine;
use super::{Haproxy, socket};
use crate::docker::Exec;
use crate::proxy::Endpoint;
use crate::shell;

/// Prefix of the mark's name. The watch ends with its mark.
const MARK: &str = ".compose-zd-";

/// Shell variable with the folder of the marks.
const FOLDER: &str = "d=/tmp; [ -w $d ] || d=/dev/shm\n";

/// Lines that print the marks, for the state script.
pub const MARKS_SCRIPT: &str = "d=/tmp; [ -w $d ] || d=/dev/shm
for f in $d/.compose-zd-*; do [ ! -e \"$f\" ] || echo \"@mark ${f##*/}\"; done
";

/// Loop of the watch. It ends 15 minutes after compose-zd. A repair needs two looks in a row: an instance may be
/// about to start.
const LOOP: &str = r#"echo $$ 2>/dev/null >"$m" || exit 0
parent=$PPID
look() {
  c='show servers state'; s=$(send) || return
  set -- $(for h in $hosts; do getent ahosts "$h" || nslookup "$h"; done); live=" $* "
  one=; for w in $live; do case $w in [0-9]*.*.*.*|*:*:*) one=$w; break ;; esac; done
  c=; serves=; dead=; out=
  [ "$one" ] || return
  while read -r _ b _ n a _ f _; do
    kind "$b/$n"
    [ "$k" ] || continue
    on=; [ $((f & 9)) != 0 ] || on=1
    case $live in *" $a "*) l=1 ;; *) l= ;; esac
    [ ! "$l" ] || [ ! "$on" ] || serves=1
    [ "$on" ] || out="$out $b/$n"
    case $k$l in
      added) c="$c; set server $b/$n state maint; del server $b/$n" ;;
      fixed) dead="$dead $b/$n $on," ;;
    esac
  done <<END
$s
END
  while [ "$dead" ]; do
    set -- ${dead%%,*}; dead=${dead#*,}
    [ ! "$2" ] && [ "$serves" ] || c="$c; set server $1 addr $one; set server $1 health up"
  done
  [ "$serves" ] || for x in $out; do c="$c; set server $x state ready"; done
  c=${c#; }
}
{
  rest=900; broken=0
  while [ "$(cat "$m")" = $$ ] && [ $rest -gt 0 ]; do
    sleep 1
    [ "$parent" -gt 1 ] && kill -0 "$parent" && continue
    rest=$((rest-1)); look
    [ "$c" ] && [ "$c" != 'show servers state' ] || { broken=0; continue; }
    broken=$((broken+1)); [ $broken -lt 2 ] || send
  done
  [ "$(cat "$m")" != $$ ] || rm -f "$m"
} </dev/null >/dev/null 2>&1 &
"#;

impl Haproxy {
    /// Command that starts the watch for services of a project with these DNS names, in place of an earlier one.
    pub fn watch(&self, project: &str, names: &[String]) -> Option<Exec> {
        let lines: Vec<&ServerLine> = self.lines_of(names).collect();
        let backends = self.backends_of(names);
        // An added server of another service in the same backend is alive, too.
        let all = self.config.lines.iter().filter(|line| backends.contains(line.backend.as_str()));
        let hosts: BTreeSet<&str> = all.map(|line| line.host.as_str()).collect();
        let added = backends
            .iter()
            .map(|backend| format!("{}*) k=added ;;", shell::word(&format!("{backend}/{ADDED}"))));
        let cases: Vec<String> = added.chain(lines.iter().map(|line| case_of(line))).collect();
        let head = format!(
            "# watch for the end of compose-zd\n{FOLDER}m=$d/{}\nhosts={}\nkind() {{ case $1 in {} *) k= ;; esac; }}\n",
            shell::word(&mark_of(project, &backends)),
            shell::word(&hosts.into_iter().collect::<Vec<_>>().join(" ")),
            cases.join(" ")
        );
        let functions = socket::functions(self.socket()?);
        (!lines.is_empty()).then(|| self.place.sh(format!("{head}{functions}{LOOP}")))
    }

    /// Command that ends the watch, if the state script has printed its mark.
    pub fn end_of_watch(&self, state: &str, endpoints: &[Endpoint]) -> Option<Exec> {
        let names: Vec<String> = endpoints.iter().flat_map(|e| e.names.clone()).collect();
        let mark = mark_of(project_of(endpoints), &self.backends_of(&names));
        let script = format!("# end the watch\n{FOLDER}rm -f $d/{}", shell::word(&mark));
        has_mark(state, &mark).then(|| self.place.sh(script))
    }

    /// True if the state script has printed the mark of a watch for these services.
    pub fn is_watched(&self, state: &str, project: &str, names: &[String]) -> bool {
        has_mark(state, &mark_of(project, &self.backends_of(names)))
    }
}

fn has_mark(state: &str, mark: &str) -> bool {
    state.lines().any(|line| line.strip_prefix("@mark ") == Some(mark))
}

/// Project of a rollout; empty where no instance has the label.
pub fn project_of(endpoints: &[Endpoint]) -> &str {
    endpoints.iter().find_map(|e| e.labels.get("com.docker.compose.project")).map_or("", String::as_str)
}

/// Pattern of the servers of a line, for the shell's `case`.
fn case_of(line: &ServerLine) -> String {
    let kind = if line.has("resolvers") { "dns" } else { "fixed" };
    let number = if line.numbers.is_some() { "[0-9]*" } else { "" };
    format!("{}{number}) k={kind} ;;", shell::word(&format!("{}/{}", line.backend, line.name)))
}

/// Name of the mark, with the project and its backends.
fn mark_of(project: &str, backends: &BTreeSet<&str>) -> String {
    format!("{MARK}{project}.{}", backends.iter().copied().collect::<Vec<_>>().join("+"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::CommandResult;
    use crate::docker::inspect::Container;
    use crate::proxy::Proxy;
    use crate::shell::tests::run;

    const STATE: &str = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state";

    /// Commands of one look, with these servers and these addresses of the name `app`.
    fn look(servers: &[&str], addresses: &str) -> String {
        let text = "global\n stats socket /s level admin\nbackend web\n server one app:80\n\
                    \u{20}server-template app 2 app:80 resolvers d\nbackend other\n server two app2:80\n";
        let mut haproxy = Haproxy::new(&Container::default());
        haproxy.learn(&CommandResult { stdout: text.into(), ..CommandResult::default() });
        let script = haproxy.watch("p", &["app".into()]).unwrap().argv[2].clone();
        let (head, rest) = script.split_once("echo $$").unwrap();
        let (functions, _) = rest.split_once("parent=$PPID\n").unwrap().1.split_once("\n{\n").unwrap();
        let rows: String = servers.iter().map(|row| format!("3 {row}\n")).collect();
        let fakes = format!(
            "send() {{ printf '%s\\n' '{STATE}' '{}'; }}\ngetent() {{ printf '%s STREAM\\n' {addresses}; }}\n",
            rows.trim_end()
        );
        run(&format!("{head}{functions}\n{fakes}look; printf %s \"$c\""))
    }

    #[test]
    fn servers_with_live_addresses_are_left_alone() {
        assert_eq!(look(&["web 1 one 10.0.0.2 2 0", "web 2 app1 - 0 40"], "10.0.0.2"), "");
        assert_eq!(
            look(&["web 1 one 10.0.0.2 2 8", "web 2 compose-zd-a 10.0.0.3 2 0"], "10.0.0.2 10.0.0.3"),
            ""
        );
        assert_eq!(look(&["other 1 two 10.0.0.9 2 0", "web 1 one 10.0.0.2 2 0"], "10.0.0.2"), "");
    }

    #[test]
    fn a_line_and_an_added_server_without_their_instance_are_repaired() {
        let moved = "set server web/one addr 10.0.0.2; set server web/one health up";
        assert_eq!(
            look(&["web 1 one 10.0.0.9 2 0"], "10.0.0.2"),
            moved,
            "the instance has another address now"
        );
        assert_eq!(
            look(&["web 1 one 10.0.0.2 2 8", "web 2 compose-zd-a 10.0.0.9 2 0"], "10.0.0.2"),
            "set server web/compose-zd-a state maint; del server web/compose-zd-a; set server web/one state ready"
        );
        assert_eq!(
            look(&["web 1 one 10.0.0.9 2 8", "web 2 compose-zd-a 10.0.0.2 2 8"], "10.0.0.2"),
            format!("{moved}; set server web/one state ready; set server web/compose-zd-a state ready")
        );
        assert_eq!(
            look(&["web 1 app1 10.0.0.2 2 8", "web 2 app2 - 0 40"], "10.0.0.2"),
            "set server web/app1 state ready; set server web/app2 state ready"
        );
    }
}
