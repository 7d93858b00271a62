//! Number of queries: a run repeats no query whose answer cannot change.

use super::*;

/// Number of docker calls with this text; those about a text that compose-zd sends are others.
fn count(fake: &FakeDocker, text: &str) -> usize {
    let calls = fs::read_to_string(fake.path("calls")).unwrap();
    calls.lines().filter(|call| call.contains(text) && !call.contains("--file -")).count()
}

#[test]
fn hashes_and_the_address_of_the_engine_are_queried_once() {
    for words in ["deploy app --dry-run", "deploy app", "up app", "plan app", "check app", "status app"] {
        let fake = FakeDocker::new();
        fake.run(&format!("--context far {words}"));
        let (hashes, addresses) = (count(&fake, "config --hash *"), count(&fake, "context inspect"));
        assert!(hashes <= 1 && addresses <= 1, "{words}: {hashes} {addresses}");
        assert!(words.contains("check") || words.contains("status") || hashes == 1, "{words}");
    }
}

#[test]
fn a_container_is_inspected_twice_for_a_plan() {
    // Once ahead, to open the shells of the proxies while Compose reads the file, and once with the lock.
    for words in ["deploy app --dry-run", "check app", "status app"] {
        let fake = FakeDocker::new();
        fake.run(words);
        assert!(count(&fake, "container inspect old") <= 2, "{words}");
    }
}
