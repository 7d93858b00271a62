//! Removes secrets from URLs and flags: more people read messages and records than may use the secrets.

const MASK: &str = "…";

/// Flags whose value is masked as a whole.
const PRIVATE: [&str; 2] = ["--drain-command", "--health-body"];

/// Removes the user, the password and the values of queries from all URLs and paths of a text.
pub fn urls(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace);
    words.map(|word| query(&user(word))).collect()
}

/// A command line for the record.
pub fn command(words: impl Iterator<Item = String>) -> String {
    let mut is_private = false;
    let shown = |word: String| {
        let flag = word.split_once('=').filter(|(flag, _)| PRIVATE.contains(flag));
        let masked = match flag {
            _ if std::mem::take(&mut is_private) => MASK.into(),
            Some((flag, _)) => format!("{flag}={MASK}"),
            None => urls(&word),
        };
        is_private = PRIVATE.contains(&word.as_str());
        masked
    };
    words.map(shown).collect::<Vec<_>>().join(" ")
}

fn user(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.into() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{MASK}{}", &rest[at..]),
        None => word.into(),
    }
}

/// Removes the values of a query and keeps its names.
fn query(word: &str) -> String {
    let Some((before, rest)) = word.split_once('?').filter(|(before, _)| before.contains('/')) else {
        return word.into();
    };
    let is_query_char = |c: char| c.is_ascii_alphanumeric() || "-._~!$'()*+,;:@/?%&=[]".contains(c);
    let end = rest.find(|c| !is_query_char(c)).unwrap_or(rest.len());
    let masked = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if !value.is_empty() => format!("{name}={MASK}"),
        _ => pair.into(),
    };
    let pairs: Vec<String> = rest[..end].split('&').map(masked).collect();
    format!("{before}?{}{}", pairs.join("&"), &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_its_place_and_loses_its_secrets() {
        for (text, masked) in [
            ("http://localhost:8000/", "http://localhost:8000/"),
            ("https://me:hunter2@a.test/x@y", "https://…@a.test/x@y"),
            (
                "GET http://10.0.0.2:80/up?token=hunter2&v=1 → 200",
                "GET http://10.0.0.2:80/up?token=…&v=… → 200",
            ),
            ("`/up?hunter=2#top`: no", "`/up?hunter=…#top`: no"),
            ("what? a=b", "what? a=b"),
            ("/up?full&x=", "/up?full&x="),
        ] {
            assert_eq!(urls(text), masked);
        }
    }

    #[test]
    fn a_command_is_recorded_without_secrets() {
        let line = |text: &str| command(text.split(' ').map(String::from));
        assert_eq!(line("compose-zd deploy app --scale app=2"), "compose-zd deploy app --scale app=2");
        let secret = "deploy --witness-url=https://a.test/?key=hunter2 --drain-command hunter2 --health-body=hunter2 app";
        assert_eq!(
            line(secret),
            "deploy --witness-url=https://a.test/?key=… --drain-command … --health-body=… app"
        );
        assert_eq!(line("-H tcp://me:hunter2@far:2376 deploy"), "-H tcp://…@far:2376 deploy");
    }
}
