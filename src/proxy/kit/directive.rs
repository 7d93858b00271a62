//! Directives of a configuration that consists of files, and of files that they include.

/// Directive with its arguments, and the directives of its block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    pub args: Vec<String>,
    pub block: Vec<Directive>,
}

impl Directive {
    pub fn arg(&self, n: usize) -> &str {
        self.args.get(n).map_or("", String::as_str)
    }
}

/// Files by path, the main one first.
pub type Files = Vec<(String, String)>;

/// First words of the line before each file in the output of `nginx -T`.
const FILE_MARK: &str = "# configuration file ";

/// Files of a text with a mark before each, as `nginx -T` prints it.
pub fn files(dump: &str) -> Files {
    let mut files: Files = Vec::new();
    for line in dump.lines() {
        let path = line.strip_prefix(FILE_MARK).and_then(|rest| rest.strip_suffix(':'));
        match (path, files.last_mut()) {
            (Some(path), _) => files.push((path.into(), String::new())),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    files
}

/// Paths of a pattern, whose `*` and `?` are in its last part.
pub fn paths_of(pattern: &str, text: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    if !pattern.contains(['*', '?']) {
        return vec![pattern.into()];
    }
    let folder = pattern.rsplit_once('/').map_or("", |(folder, _)| folder);
    let names = text(folder).unwrap_or_default();
    names.lines().map(|name| format!("{folder}/{name}")).filter(|path| matches(pattern, path)).collect()
}

/// Path of an include, which may be relative to the folder of the main file.
pub fn absolute(path: &str, folder: &str) -> String {
    if path.starts_with('/') { path.into() } else { format!("{folder}/{path}") }
}

/// True if a path has the pattern of an `include`: `*` and `?` stand for anything but a slash.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while n < path.len() {
        match pattern.get(p) {
            Some('*') => {
                last_star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == path[n] || (*c == '?' && path[n] != '/') => (p, n) = (p + 1, n + 1),
            _ => match last_star {
                Some((star, from)) if path[from] != '/' => {
                    last_star = Some((star, from + 1));
                    (p, n) = (star + 1, from + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_does_not_cross_a_slash() {
        let table = [
            ("/etc/nginx/conf.d/*.conf", "/etc/nginx/conf.d/a.conf", true),
            ("/etc/nginx/conf.d/*.conf", "/etc/nginx/conf.d/a.conf.old", false),
            ("/etc/nginx/*/*.conf", "/etc/nginx/conf.d/a.conf", true),
            ("/etc/nginx/*.conf", "/etc/nginx/conf.d/a.conf", false),
            ("/a?c", "/abc", true),
            ("/a?c", "/a/c", false),
            ("/a*", "/a", true),
            ("/a", "/ab", false),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}
