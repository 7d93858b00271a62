//! Parser of Apache's configuration: the output of `mod_info`, or files.

use std::collections::BTreeMap;

use crate::docker::inspect::Container;
use crate::proxy::FileLookup;
use crate::proxy::kit::directive::{Directive, Files, absolute, paths_of};

/// Deepest section and deepest include that are read.
const MAX_DEPTH: usize = 20;

/// Most directives of a configuration that are read: a file may include itself.
const MAX_DIRECTIVES: usize = 100_000;

/// Most files that are read of a container that does not run yet.
const MAX_FILES: usize = 200;

/// Sections that depend on modules and flags. Their directives count without them.
const CONDITIONS: [&str; 4] = ["ifmodule", "ifdefine", "ifversion", "iffile"];

/// Directives of a text, with their names in lower case. A text that is cut off has those before its end.
pub fn parse(text: &str) -> Vec<Directive> {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    section(&mut joined.lines(), 0)
}

fn section(lines: &mut std::str::Lines, depth: usize) -> Vec<Directive> {
    let mut all = Vec::new();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with("</") {
            break;
        }
        let opened = line.strip_prefix('<').map(|rest| rest.strip_suffix('>').unwrap_or(rest));
        let mut words = words(opened.unwrap_or(line)).into_iter();
        let Some(name) = words.next().map(|name| name.to_ascii_lowercase()) else { continue };
        let args: Vec<String> = words.collect();
        let block = match opened {
            Some(_) if depth < MAX_DEPTH => section(lines, depth + 1),
            _ => Vec::new(),
        };
        let is_negated = args.first().is_some_and(|arg| arg.starts_with('!'));
        match CONDITIONS.contains(&name.as_str()) {
            true if is_negated => {}
            true => all.extend(block),
            false => all.push(Directive { name, args, block }),
        }
    }
    all
}

/// Words of a line. Source: httpd's `ap_getword_conf`.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(first) = chars.peek().copied() else { return words };
        let mut word = String::new();
        if first == '"' || first == '\'' {
            chars.next();
            while let Some(c) = chars.next() {
                match c {
                    '\\' if chars.peek() == Some(&first) => word.extend(chars.next()),
                    c if c == first => break,
                    c => word.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
        }
        words.push(word);
    }
}

/// Directives of the main file, with those of the included files in place of each `Include`, and with the values of
/// defined variables.
pub fn expand(files: &Files, environment: &[String]) -> Vec<Directive> {
    let Some((main, text)) = files.first() else { return Vec::new() };
    let parsed: BTreeMap<&str, Vec<Directive>> =
        files.iter().map(|(path, text)| (path.as_str(), parse(text))).collect();
    let root = server_root(main, text);
    let pairs = environment.iter().filter_map(|pair| pair.split_once('='));
    let variables = pairs.map(|(name, value)| (name.into(), value.into())).collect();
    let mut expansion = Expansion { files: &parsed, root, variables, left: MAX_DIRECTIVES };
    expansion.expand(&parsed[main.as_str()], 0)
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Folder to which paths are relative. The official image has `conf` below it.
fn server_root(main: &str, text: &str) -> String {
    let directives = parse(text);
    let root = directives.iter().find(|d| d.name == "serverroot").map(|d| d.arg(0).trim_end_matches('/'));
    let own = root.filter(|root| root.starts_with('/'));
    own.unwrap_or_else(|| folder_of(main).trim_end_matches("/conf")).into()
}

struct Expansion<'f> {
    files: &'f BTreeMap<&'f str, Vec<Directive>>,
    root: String,
    variables: BTreeMap<String, String>,
    /// Number of directives that are still read.
    left: usize,
}

impl Expansion<'_> {
    fn expand(&mut self, directives: &[Directive], depth: usize) -> Vec<Directive> {
        let mut all = Vec::new();
        for directive in directives {
            if self.left == 0 || depth > MAX_DEPTH {
                break;
            }
            self.left -= 1;
            let args: Vec<String> = directive.args.iter().map(|arg| self.resolve(arg)).collect();
            match directive.name.as_str() {
                "include" | "includeoptional" => {
                    let pattern = absolute(args.first().map_or("", String::as_str), &self.root);
                    let files = self.files;
                    let included = files.iter().filter(|(path, _)| is_included(&pattern, path));
                    all.extend(included.flat_map(|(_, inner)| self.expand(inner, depth + 1)));
                }
                "define" if args.len() == 2 => {
                    self.variables.insert(args[0].clone(), args[1].clone());
                }
                _ => {
                    let block = self.expand(&directive.block, depth + 1);
                    all.push(Directive { name: directive.name.clone(), args, block });
                }
            }
        }
        all
    }

    /// Text with the values of its variables, such as `${backend}`.
    fn resolve(&self, text: &str) -> String {
        let mut done = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            done += before;
            let Some((name, after)) = after.split_once('}') else { return done + "${" + after };
            done += self.variables.get(name).map_or("", String::as_str);
            rest = after;
        }
        done + rest
    }
}

/// True if an `Include` of a file, a pattern or a folder includes the file.
fn is_included(pattern: &str, path: &str) -> bool {
    let is_inside = || path.strip_prefix(pattern.trim_end_matches('/')).is_some_and(|p| p.starts_with('/'));
    crate::proxy::kit::directive::matches(pattern, path) || is_inside()
}

/// Main files of the official image, and of Debian's package.
const MAIN: [&str; 3] = [
    "/usr/local/apache2/conf/httpd.conf",
    "/etc/apache2/apache2.conf",
    "/opt/bitnami/apache/conf/httpd.conf",
];

/// Main file of images whose own one is unknown, as far as routes depend on it.
pub const DEFAULT_MAIN: &str = "Include /etc/apache2/sites-available/000-default.conf\n\
    Include /etc/apache2/conf-enabled/*.conf\nInclude /etc/apache2/sites-enabled/*.conf\n\
    Include /vhosts/*.conf\nInclude /opt/bitnami/apache/conf/vhosts/*.conf\n";

/// Files that a container will have as mounts, the main one first, with those that it includes.
pub fn mounted(files: FileLookup, container: &Container) -> Files {
    let text = |path: &str| files(path).map(|file| file.text).filter(|text| !text.is_empty());
    let flag = |name: &str| container.args.windows(2).find(|w| w[0] == name).map(|w| w[1].clone());
    let main = flag("-f").or_else(|| MAIN.iter().find(|path| text(path).is_some()).map(ToString::to_string));
    let main = main.unwrap_or_else(|| MAIN[0].into());
    let extra = flag("-c").filter(|line| line.to_ascii_lowercase().starts_with("include"));
    let own = text(&main).unwrap_or_else(|| DEFAULT_MAIN.into());
    let mut all: Files = vec![(main.clone(), format!("{own}\n{}\n", extra.unwrap_or_default()))];
    let root = server_root(&main, &all[0].1);
    let mut n = 0;
    while n < all.len() && all.len() < MAX_FILES {
        for pattern in includes(&parse(&all[n].1)) {
            for path in paths_of(&absolute(&pattern, &root), &text) {
                let is_new = !all.iter().any(|(known, _)| *known == path);
                all.extend(text(&path).filter(|_| is_new).map(|text| (path, text)));
            }
        }
        n += 1;
    }
    all
}

fn includes(directives: &[Directive]) -> Vec<String> {
    let of = |d: &Directive| match d.name.as_str() {
        "include" | "includeoptional" => vec![d.arg(0).to_string()],
        _ => includes(&d.block),
    };
    directives.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directives as text, each section in brackets.
    fn shown(directives: &[Directive]) -> String {
        let one = |d: &Directive| {
            let block = if d.block.is_empty() { String::new() } else { format!(" [{}]", shown(&d.block)) };
            format!("{} {}{block}", d.name, d.args.join("|"))
        };
        directives.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn words_sections_quotes_and_comments_are_parsed() {
        let table = [
            ("ProxyPass \"/\" 'http://app/' \\\n  timeout=60", "proxypass /|http://app/|timeout=60"),
            ("# A b\nA \"x \\\"y\\\" #z\" c#d\n", "a x \"y\" #z|c#d"),
            ("<VirtualHost *:80>\nServerName a\n</VirtualHost>\nB c", "virtualhost *:80 [servername a], b c"),
            ("<IfModule proxy>\nA b\n<IfDefine !X>\nC d\n</IfDefine>\n</IfModule>", "a b"),
            ("<Location />\nA b", "location / [a b]"),
            ("</X>\nA b", ""),
            ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!(shown(&parse(text)), expected, "{text}");
        }
    }

    #[test]
    fn files_replace_their_includes_and_variables_have_their_values() {
        let files: Files = [
            (
                "/a/httpd.conf",
                "ServerRoot /a\nDefine up http://${HOST}\nInclude conf.d/*.conf\nIncludeOptional sites\n",
            ),
            ("/a/conf.d/x.conf", "ProxyPass / ${up}/${none}\nInclude conf.d/x.conf"),
            ("/a/sites/y.conf", "A ${open"),
            ("/b/z.conf", "B c"),
        ]
        .map(|(path, text)| (path.to_string(), text.to_string()))
        .into();
        let directives = expand(&files, &["HOST=app".into()]);
        assert_eq!(
            directives[..2].iter().map(|d| d.args.join(" ")).collect::<Vec<_>>(),
            ["/a", "/ http://app/"]
        );
        assert!(directives.len() <= MAX_DIRECTIVES);
        assert_eq!(directives.last().map(|d| d.args.join(" ")).as_deref(), Some("${open"));
    }
}
