//! Patch of nginx-proxy's Go template that adds the marker test: the template leaves out an instance whose
//! marker file exists. Without any marker the rendered text stays the same to the byte, so the patch costs no
//! reload.

/// Folder of the marker files in docker-gen's container, with one file per container id.
pub const MARKERS: &str = "/tmp/compose-zd-down";

/// Result of patching a template.
#[derive(Debug, PartialEq, Eq)]
pub enum PatchResult {
    /// The template has a marker test already, ours or the user's own.
    AlreadyPatched,
    /// The whole template with the marker test.
    Patched(String),
    /// The template has no place that we know how to patch.
    Unsupported,
}

/// Adds the marker test.
///
/// A template that renders a `down` entry for an upstream without servers can leave marked instances out
/// altogether. Starting and stopping a marked instance then changes nothing in the rendered text, which saves
/// two of three reloads.
/// Older templates (before 1.2) need at least one server in every upstream, so there a marked instance is
/// rendered `down`.
pub fn patch(template: &str) -> PatchResult {
    if template.contains(MARKERS) {
        return PatchResult::AlreadyPatched;
    }
    let has_fallback = template.contains("server 127.0.0.1 down;");
    let patched = if has_fallback { omit_marked(template) } else { None };
    match patched.or_else(|| mark_down(template)) {
        Some(text) => PatchResult::Patched(text),
        None => PatchResult::Unsupported,
    }
}

/// Wraps the body of the loop over an upstream's containers in the marker test.
fn omit_marked(template: &str) -> Option<String> {
    let actions = actions(template);
    let loops = actions.iter().enumerate().filter(|(_, a)| ranges_over_container(a.words(template)));
    let bodies = loops.filter_map(|(n, a)| Some((a.end, body_end(&actions[n + 1..], template)?)));
    let mut bodies: Vec<(usize, usize)> =
        bodies.filter(|(from, to)| template[*from..*to].lines().any(is_server_line)).collect();
    let all = bodies.clone();
    let is_innermost = |(from, to): &(usize, usize)| !all.iter().any(|(f, t)| f > from && t < to);
    bodies.retain(is_innermost);
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
    let mut is_patched = false;
    let patch = |line: &str| match is_server_line(line).then(|| line.rsplit_once(';')).flatten() {
        None => line.to_string(),
        Some((before, after)) => {
            is_patched = true;
            let is_oldest = before.contains("server {{ .");
            let id = if is_oldest { ".Container.ID" } else { "$container.ID" };
            format!("{before}{{{{ if exists (printf \"{MARKERS}/%s\" {id}) }}}} down{{{{ end }}}};{after}")
        }
    };
    let lines: Vec<String> = template.split('\n').map(patch).collect();
    is_patched.then(|| lines.join("\n"))
}

/// `server {{ ADDRESS }}:{{ PORT }};`, the line that every release renders for an instance.
fn is_server_line(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("server {{") && line.contains("}}:{{") && line.ends_with("}};")
}

/// `range $container := …` or `range $index, $container := …`.
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
    /// Text of the action, without braces, trim marks and outer space.
    fn words<'a>(&self, template: &'a str) -> &'a str {
        let inner = &template[self.start + 2..self.end - 2];
        let inner = inner.strip_prefix("- ").unwrap_or(inner);
        inner.strip_suffix(" -").unwrap_or(inner).trim()
    }
}

/// Start of the `end` or `else` that closes the block around these actions.
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

/// All actions of a template; braces in comments and quotes do not count.
fn actions(template: &str) -> Vec<TemplateAction> {
    let mut actions = Vec::new();
    let mut from = 0;
    while let Some(start) = template[from..].find("{{").map(|n| from + n) {
        let Some(end) = action_end(template, start) else {
            break;
        };
        actions.push(TemplateAction { start, end });
        from = end;
    }
    actions
}

/// Position after the `}}` that closes the action at `start`.
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
    fn a_marked_container_is_omitted_from_its_upstream() {
        let expected = NEW
            .replace("$containers }}\n    # C", &format!("$containers }}}}{TEST}\n    # C"))
            .replace("{{- end }}\n        {{- end }}\n", "{{- end }}\n        {{ end }}{{- end }}\n");
        assert_eq!(patch(NEW), PatchResult::Patched(expected));
    }

    #[test]
    fn a_patched_template_is_not_patched_again() {
        let PatchResult::Patched(patched) = patch(NEW) else {
            panic!("not patched");
        };
        assert_eq!(patch(&patched), PatchResult::AlreadyPatched);
    }

    #[test]
    fn an_old_template_renders_a_marked_container_down() {
        let old = "{{ define \"upstream\" }}\n\t\tserver {{ .Address.IP }}:{{ .Address.Port }};\n{{ end }}";
        let expected = "{{ define \"upstream\" }}\n\t\tserver {{ .Address.IP }}:{{ .Address.Port }}\
            {{ if exists (printf \"/tmp/compose-zd-down/%s\" .Container.ID) }} down{{ end }};\n{{ end }}";
        assert_eq!(patch(old), PatchResult::Patched(expected.into()));
        let middle = "server {{ $network.IP }}:{{ $port }};";
        let PatchResult::Patched(text) = patch(middle) else {
            panic!("not patched");
        };
        assert!(text.contains("$container.ID"), "{text}");
    }

    #[test]
    fn a_template_without_a_server_line_is_not_patched() {
        assert_eq!(patch("server_name {{ .Host }};"), PatchResult::Unsupported);
        assert_eq!(patch(""), PatchResult::Unsupported);
        assert_eq!(patch("{{ range $container := "), PatchResult::Unsupported);
    }
}
