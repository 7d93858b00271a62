//! Short ids of containers in commands that are shown, with the names that the engine listed.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Length of an id, and of its short form in docker's own output.
const LENGTH: usize = 64;
const SHORT: usize = 12;

/// Names of containers by id.
#[derive(Default)]
pub struct ShortIds(Mutex<BTreeMap<String, String>>);

impl ShortIds {
    pub fn learn<'c>(&self, containers: impl Iterator<Item = (&'c str, &'c str)>) {
        let mut names = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        names.extend(containers.map(|(id, name)| (id.to_string(), name.to_string())));
    }

    /// The text with each id cut to its short form, and followed by the name if it is known.
    pub fn shorten(&self, text: &str) -> String {
        let names = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (mut short, mut rest) = (String::new(), text);
        while !rest.is_empty() {
            let length = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
            let (word, after) = rest.split_at(length);
            let is_id = length == LENGTH && word.bytes().all(|b| b.is_ascii_hexdigit());
            short.push_str(if is_id { &word[..SHORT] } else { word });
            if let Some(name) = names.get(word).filter(|_| is_id) {
                short.push_str(&format!(" ({name})"));
            }
            let next = after.chars().next().map_or(0, char::len_utf8);
            short.push_str(&after[..next]);
            rest = &after[next..];
        }
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_cut_and_named() {
        let (app, other) = ("a1".repeat(32), "b2".repeat(32));
        let ids = ShortIds::default();
        ids.learn([(app.as_str(), "shop-app-1")].into_iter());
        assert_eq!(ids.shorten(&format!("exec {app} sh -c 'é'")), "exec a1a1a1a1a1a1 (shop-app-1) sh -c 'é'");
        let path = ids.shorten(&format!("GET /containers/{other}/json"));
        assert_eq!(path, "GET /containers/b2b2b2b2b2b2/json");
        for text in ["", "stop app-1", "compose config --hash *", &"c".repeat(63), &"x".repeat(64)] {
            assert_eq!(ids.shorten(text), text);
        }
    }
}
