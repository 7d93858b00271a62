//! Puts the marker test into nginx-proxy's Go template: an instance whose marker file exists is not rendered.
//! With no marker the text that is rendered stays the same to the byte, so it costs no reload.

/// Folder of the marker files, one a container id, in the container that docker-gen runs in.
pub const MARKERS: &str = "/tmp/compose-zd-down";

/// What became of a template.
#[derive(Debug, PartialEq, Eq)]
pub enum PatchResult {
    /// It has the marker test already, ours or the user's own.
    Already,
    /// The whole template with the test in it.
    Now(String),
    /// There is no place in it that we know how to patch.
    Unknown,
}

/// Adds the marker test.
///
/// A template that renders a `down` entry when no server is left can leave marked instances out altogether: starting
/// and stopping them then changes nothing in the text, and saves two of three reloads. Older ones (before 1.2) need at
/// least one server in every upstream, so there a marked instance is rendered `down`.
pub fn patch(template: &str) -> PatchResult {
    if template.contains(MARKERS) {
        return PatchResult::Already;
    }
    let patched = match template.contains("server 127.0.0.1 down;") {
        true => hide(template),
        false => None,
    };
    match patched.or_else(|| mark_down(template)) {
        Some(text) => PatchResult::Now(text),
        None => PatchResult::Unknown,
    }
}

/// Wraps the body of the loop over an upstream's containers.
fn hide(template: &str) -> Option<String> {
    let actions = actions(template);
    let loops = actions.iter().enumerate().filter(|(_, a)| ranges_over_container(a.words(template)));
    let bodies = loops.filter_map(|(n, a)| Some((a.end, body_end(&actions[n + 1..], template)?)));
    let mut bodies: Vec<(usize, usize)> =
        bodies.filter(|(from, to)| template[*from..*to].lines().any(is_server_line)).collect();
    let all = bodies.clone();
    let inner = |(from, to): &(usize, usize)| !all.iter().any(|(f, t)| f > from && t < to);
    bodies.retain(inner);
    if bodies.is_empty() {
        return None;
    }
    let mut text = template.to_string();
    let test = format!("{{{{ if not (exists (printf \"{MARKERS}/%s\" $container.ID)) }}}}");
    for (from, to) in bodies.into_iter().rev() {
        text.insert_str(to, "{{ end }}");
        text.insert_str(from, &test);
    }
    Some(text)
}

/// Adds ` down` to every server line of a marked instance.
fn mark_down(template: &str) -> Option<String> {
    let mut found = false;
    let patch = |line: &str| match is_server_line(line).then(|| line.rsplit_once(';')).flatten() {
        None => line.to_string(),
        Some((before, after)) => {
            found = true;
            let id = match before.contains("server {{ .") {
                true => ".Container.ID",
                false => "$container.ID",
            };
            format!("{before}{{{{ if exists (printf \"{MARKERS}/%s\" {id}) }}}} down{{{{ end }}}};{after}")
        }
    };
    let lines: Vec<String> = template.split('\n').map(patch).collect();
    found.then(|| lines.join("\n"))
}

/// `server {{ ADDRESS }}:{{ PORT }};`, the line every release renders for an instance.
fn is_server_line(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("server {{") && line.contains("}}:{{") && line.ends_with("}};")
}

/// `range $container := …`, `range $index, $container := …`.
fn ranges_over_container(words: &str) -> bool {
    let Some((variables, _)) = words.strip_prefix("range ").and_then(|r| r.split_once(":=")) else {
        return false;
    };
    variables.split(',').next_back().map(str::trim) == Some("$container")
}

/// One `{{ … }}` of a template, as byte positions.
struct TemplateAction {
    start: usize,
    end: usize,
}

impl TemplateAction {
    /// What it says, without braces, trim marks and outer space.
    fn words<'a>(&self, template: &'a str) -> &'a str {
        let inner = &template[self.start + 2..self.end - 2];
        let inner = inner.strip_prefix("- ").unwrap_or(inner);
        inner.strip_suffix(" -").unwrap_or(inner).trim()
    }
}

/// The start of the `end` (or `else`) that closes the block which these actions are in.
fn body_end(actions: &[TemplateAction], template: &str) -> Option<usize> {
    let mut depth = 0;
    for action in actions {
        let words = action.words(template);
        match words.split_whitespace().next() {
            Some("if" | "range" | "with" | "define" | "block") => depth += 1,
            Some("end" | "else") if depth == 0 => return Some(action.start),
            Some("end") => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Every action of a template; comments and quoted braces are passed over.
fn actions(template: &str) -> Vec<TemplateAction> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = template[from..].find("{{").map(|n| from + n) {
        let Some(end) = action_end(template, start) else {
            break;
        };
        found.push(TemplateAction { start, end });
        from = end;
    }
    found
}

/// The position behind the `}}` that closes the action at `start`.
fn action_end(template: &str, start: usize) -> Option<usize> {
    let inner = template[start + 2..].trim_start_matches('-').trim_start();
    let mut at = template.len() - inner.len();
    if inner.starts_with("/*") {
        at += inner.find("*/")? + 2;
    }
    let bytes = template.as_bytes();
    let mut quote = None;
    while at + 1 < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"'), b'\\') => at += 1,
            (Some(open), byte) if open == byte => quote = None,
            (None, byte @ (b'"' | b'`')) => quote = Some(byte),
            (None, b'}') if bytes[at + 1] == b'}' => return Some(at + 2),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = r#"{{- /* a comment with {{ braces }} and an "open quote */ -}}
{{- define "upstream" }}
upstream {{ .upstream }} {
    {{- range $port, $containers := .ports }}
        {{- range $container := $containers }}
    # Container: {{ $container.Name }}
            {{- if $ip }}
    server {{ $ip }}:{{ $args.port }};
            {{- else }}
    # none {{ printf "}}" }}
            {{- end }}
        {{- end }}
    {{- end }}
    server 127.0.0.1 down;
}
{{- end }}
{{- range $container := $others }}{{ $container.Name }}{{ end }}
"#;

    const TEST: &str = r#"{{ if not (exists (printf "/tmp/compose-zd-down/%s" $container.ID)) }}"#;

    #[test]
    fn a_marked_container_is_left_out_of_its_upstream() {
        let expected = NEW
            .replace("$containers }}\n    # C", &format!("$containers }}}}{TEST}\n    # C"))
            .replace("{{- end }}\n        {{- end }}\n", "{{- end }}\n        {{ end }}{{- end }}\n");
        assert_eq!(patch(NEW), PatchResult::Now(expected));
    }

    #[test]
    fn a_patched_template_is_left_as_it_is() {
        let PatchResult::Now(patched) = patch(NEW) else {
            panic!("not patched");
        };
        assert_eq!(patch(&patched), PatchResult::Already);
    }

    #[test]
    fn an_old_template_renders_a_marked_container_down() {
        let old = "{{ define \"upstream\" }}\n\t\tserver {{ .Address.IP }}:{{ .Address.Port }};\n{{ end }}";
        let expected = "{{ define \"upstream\" }}\n\t\tserver {{ .Address.IP }}:{{ .Address.Port }}\
            {{ if exists (printf \"/tmp/compose-zd-down/%s\" .Container.ID) }} down{{ end }};\n{{ end }}";
        assert_eq!(patch(old), PatchResult::Now(expected.into()));
        let middle = "server {{ $network.IP }}:{{ $port }};";
        let PatchResult::Now(text) = patch(middle) else {
            panic!("not patched");
        };
        assert!(text.contains("$container.ID"), "{text}");
    }

    #[test]
    fn a_template_without_a_server_line_is_unknown() {
        assert_eq!(patch("server_name {{ .Host }};"), PatchResult::Unknown);
        assert_eq!(patch(""), PatchResult::Unknown);
        assert_eq!(patch("{{ range $container := "), PatchResult::Unknown);
    }
}
