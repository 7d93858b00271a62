//! Parser of nginx's configuration: the output of `nginx -T`, or files.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use crate::docker::inspect::Container;
use crate::proxy::FileLookup;
use crate::proxy::kit::directive::{Directive, Files, absolute, matches, paths_of};

/// Deepest include and deepest block that are read.
const MAX_DEPTH: usize = 20;

/// Most directives of a configuration that are read: a file may include itself.
const MAX_DIRECTIVES: usize = 100_000;

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    End,
    Open,
    Close,
}

struct Tokens<'t>(Peekable<Chars<'t>>);

impl Tokens<'_> {
    /// Skips spaces and comments. Source: nginx's `ngx_conf_read_token`.
    fn skip_blank(&mut self) {
        while let Some(c) = self.0.peek() {
            if *c == '#' {
                self.0.by_ref().find(|c| *c == '\n');
            } else if c.is_whitespace() {
                self.0.next();
            } else {
                return;
            }
        }
    }

    fn quoted(&mut self, quote: char) -> String {
        let mut word = String::new();
        while let Some(c) = self.0.next() {
            match c {
                '\\' => word.extend(self.0.next()),
                c if c == quote => break,
                c => word.push(c),
            }
        }
        word
    }

    /// Word without quotes. It ends before a space, `;` or `{`, unless this belongs to a variable such as `${name}`.
    fn plain(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.0.peek().copied() {
            let is_variable = c == '{' && word.ends_with('$');
            if c.is_whitespace() || c == ';' || (c == '{' && !is_variable) {
                break;
            }
            self.0.next();
            if c == '\\' {
                word.push(c);
                word.extend(self.0.next());
            } else {
                word.push(c);
            }
        }
        word
    }

    /// Skips a block in another language, such as Lua, whose `{` has been read.
    fn skip_foreign_block(&mut self) {
        let mut depth = 1;
        for c in self.0.by_ref() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let token = match *self.0.peek()? {
            ';' => Token::End,
            '{' => Token::Open,
            '}' => Token::Close,
            quote @ ('"' | '\'') => {
                self.0.next();
                return Some(Token::Word(self.quoted(quote)));
            }
            _ => return Some(Token::Word(self.plain())),
        };
        self.0.next();
        Some(token)
    }
}

/// Directives of a text. A text that is cut off has those before its end.
pub fn parse(text: &str) -> Vec<Directive> {
    block(&mut Tokens(text.chars().peekable()), 0)
}

fn block(tokens: &mut Tokens, depth: usize) -> Vec<Directive> {
    let mut all = Vec::new();
    let mut words: Vec<String> = Vec::new();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) => words.push(word),
            Token::Close => break,
            Token::End | Token::Open => {
                let is_foreign = words.first().is_some_and(|name| name.ends_with("_by_lua_block"));
                let block = match token {
                    Token::Open if is_foreign || depth == MAX_DEPTH => {
                        tokens.skip_foreign_block();
                        Vec::new()
                    }
                    Token::Open => block(tokens, depth + 1),
                    _ => Vec::new(),
                };
                let mut words = std::mem::take(&mut words).into_iter();
                if let Some(name) = words.next() {
                    all.push(Directive { name, args: words.collect(), block });
                }
            }
        }
    }
    all
}

/// Directives of the main file, with those of the included files in place of each `include`.
pub fn expand(files: &Files) -> Vec<Directive> {
    let Some((main, _)) = files.first() else { return Vec::new() };
    let parsed: BTreeMap<&str, Vec<Directive>> =
        files.iter().map(|(path, text)| (path.as_str(), parse(text))).collect();
    let folder = main.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut left = MAX_DIRECTIVES;
    expanded(&parsed[main.as_str()], &parsed, folder, 0, &mut left)
}

fn expanded(
    directives: &[Directive],
    files: &BTreeMap<&str, Vec<Directive>>,
    folder: &str,
    depth: usize,
    left: &mut usize,
) -> Vec<Directive> {
    let mut all = Vec::new();
    for directive in directives {
        if *left == 0 || depth > MAX_DEPTH {
            break;
        }
        *left -= 1;
        if directive.name == "include" {
            let pattern = absolute(directive.arg(0), folder);
            let included = files.iter().filter(|(path, _)| matches(&pattern, path));
            all.extend(included.flat_map(|(_, inner)| expanded(inner, files, folder, depth + 1, left)));
        } else {
            let block = expanded(&directive.block, files, folder, depth + 1, left);
            all.push(Directive { block, ..directive.clone() });
        }
    }
    all
}

/// Main file of the official image, as far as routes depend on it.
pub const DEFAULT_MAIN: &str = "http { include /etc/nginx/conf.d/*.conf; }";

/// Most files that are read of a container that does not run yet.
const MAX_FILES: usize = 200;

/// Files that a container will have as mounts, the main one first, with those that it includes. The official image makes
/// the files of `conf.d` of templates.
pub fn mounted(files: FileLookup, container: &Container) -> Files {
    let flag = container.args.windows(2).find(|words| words[0] == "-c").map(|words| words[1].clone());
    let main = flag.unwrap_or_else(|| "/etc/nginx/nginx.conf".into());
    let text = |path: &str| files(path).map(|file| file.text).filter(|text| !text.is_empty());
    let folder = main.rsplit_once('/').map_or("", |(folder, _)| folder).to_string();
    let mut all: Files = vec![(main.clone(), text(&main).unwrap_or_else(|| DEFAULT_MAIN.into()))];
    for name in text("/etc/nginx/templates").iter().flat_map(|names| names.lines()) {
        let Some(stem) = name.strip_suffix(".template") else { continue };
        let template = text(&format!("/etc/nginx/templates/{name}")).unwrap_or_default();
        all.push((format!("/etc/nginx/conf.d/{stem}"), with_environment(&template, container)));
    }
    let mut n = 0;
    while n < all.len() && all.len() < MAX_FILES {
        for pattern in includes(&parse(&all[n].1)) {
            let pattern = absolute(&pattern, &folder);
            for path in paths_of(&pattern, &text) {
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
        "include" => vec![d.arg(0).to_string()],
        _ => includes(&d.block),
    };
    directives.iter().flat_map(of).collect()
}

/// Text with the values of the container's environment, as `envsubst` writes it.
fn with_environment(template: &str, container: &Container) -> String {
    let pairs = container.config.env.iter().filter_map(|pair| pair.split_once('='));
    pairs.fold(template.to_string(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::kit::directive::files;

    /// Directives as text, each block in brackets.
    fn shown(directives: &[Directive]) -> String {
        let one = |d: &Directive| {
            let block = if d.block.is_empty() { String::new() } else { format!(" [{}]", shown(&d.block)) };
            format!("{} {}{block}", d.name, d.args.join("|"))
        };
        directives.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn words_blocks_quotes_and_comments_are_parsed() {
        let table = [
            ("a b c;", "a b|c"),
            ("a {b c;d e;}f g;", "a  [b c, d e], f g"),
            ("# a b;\na 'x; y' \"{\\\"}\"; # c d;", "a x; y|{\"}"),
            ("proxy_pass http://${up}:3000;set $a#b c;", "proxy_pass http://${up}:3000, set $a#b|c"),
            ("location ~ \\.php$ {a b;}", "location ~|\\.php$ [a b]"),
            ("access_by_lua_block { if x then y = {1} end } a b;", "access_by_lua_block , a b"),
            ("a b", ""),
            ("a { b c;", "a  [b c]"),
            ("} a b;", ""),
            ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!(shown(&parse(text)), expected, "{text}");
        }
    }

    #[test]
    fn files_of_a_dump_replace_their_includes() {
        let dump = "nginx: the configuration file /etc/nginx/nginx.conf syntax is ok\n\
            # configuration file /etc/nginx/nginx.conf:\nuser x;\nhttp { include mime.types; include /etc/nginx/conf.d/*.conf; }\n\
            \n# configuration file /etc/nginx/mime.types:\ntypes {}\n\
            # configuration file /etc/nginx/conf.d/a.conf:\nserver { include /etc/nginx/none; listen 80; }\n";
        assert_eq!(shown(&expand(&files(dump))), "user x, http  [types , server  [listen 80]]");
        assert_eq!(expand(&files("nginx: [emerg] no")), []);
        let itself = vec![("/a".to_string(), "include /a; include /a; b c;".to_string())];
        assert!(expand(&itself).len() <= MAX_DIRECTIVES);
    }
}
