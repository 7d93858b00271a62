//! Property tests over many inputs. Every test run tries a few hundred inputs from a fixed seed; `scripts/fuzz` tries random
//! seeds for a given time. A failure can be repeated by its seed.

use std::cell::Cell;
use std::fmt::Debug;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};
use serde_json::{Value, json};

/// Seconds to try each property.
const SECONDS: &str = "COMPOSE_ZD_FUZZ_SECONDS";

/// Seed of a failure to repeat.
const SEED: &str = "COMPOSE_ZD_FUZZ_SEED";

/// Number of inputs per seed.
const INPUTS_PER_SEED: u32 = 192;

/// Tries a property; a panic is a failure too.
pub fn holds<S: Strategy>(inputs: S, property: impl Fn(S::Value) -> TestCaseResult) {
    let name = std::thread::current().name().unwrap_or("property").replace("::", ".");
    let set = |key: &str| std::env::var(key).ok();
    match (set(SEED), set(SECONDS).and_then(|s| s.parse().ok())) {
        (Some(seed), _) => {
            let seed = u64::from_str_radix(seed.trim_start_matches("0x"), 16).expect("a seed in hex");
            try_seed(&name, seed, &inputs, &property, None);
        }
        (None, Some(seconds)) => try_for(&name, Duration::from_secs(seconds), &inputs, &property),
        (None, None) => _ = try_seed(&name, 7, &inputs, &property, None),
    }
}

fn try_for<S: Strategy>(
    name: &str,
    time: Duration,
    inputs: &S,
    property: &impl Fn(S::Value) -> TestCaseResult,
) {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time {
        let seed = RandomState::new().build_hasher().finish();
        // A stack overflow ends the process; this file then keeps the seed.
        let note = result_file(name, "seed");
        fs::write(&note, format!("{seed:#018x}\n")).expect("the folder of failures can be written");
        count += try_seed(name, seed, inputs, property, Some(start + time));
        fs::remove_file(note).expect("it was just written");
    }
    println!("fuzz: {name}: {count} inputs in {:.1} s", start.elapsed().as_secs_f64());
}

/// Tries the inputs of one seed until the time is up, and returns their number.
fn try_seed<S: Strategy>(
    name: &str,
    seed: u64,
    inputs: &S,
    property: &impl Fn(S::Value) -> TestCaseResult,
    until: Option<Instant>,
) -> u32 {
    let tried = Cell::new(0);
    let in_time = |input| {
        if until.is_some_and(|end| Instant::now() > end) {
            return Ok(());
        }
        tried.set(tried.get() + 1);
        property(input)
    };
    let bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases: INPUTS_PER_SEED, failure_persistence: None, ..Config::default() };
    if let Err(error) = TestRunner::new_with_rng(config, rng).run(inputs, in_time) {
        let found = match error {
            TestError::Fail(why, input) => format!("{why}\n{input:#?}"),
            TestError::Abort(why) => format!("{why}"),
        };
        let file = result_file(name, &format!("{seed:016x}.txt"));
        fs::write(&file, &found).expect("the folder of failures can be written");
        let test = name.replace('.', "::");
        panic!(
            "{found}\nsaved: {}\nrepeat: {SEED}={seed:#018x} cargo test --bin compose-zd {test} -- --exact",
            file.display()
        );
    }
    tried.get()
}

fn result_file(name: &str, ending: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    fs::create_dir_all(&folder).expect("the folder of failures can be created");
    folder.join(format!("{name}.{ending}"))
}

/// Real samples of the input of a reader.
pub fn corpus(reader: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/corpus").join(reader);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|f| f.expect("a file of the corpus").path()).collect();
    paths.sort();
    paths.iter().map(|p| fs::read_to_string(p).expect("a sample is text")).collect()
}

/// Texts to insert in wrong positions.
const ODD_TEXTS: [&str; 48] = [
    "",
    " ",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\"",
    "'",
    "`",
    "\\",
    "#",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    ";",
    "=",
    "-",
    "/",
    "@",
    "$",
    "$$",
    "{{",
    "}}",
    "!",
    "|",
    "&",
    "*",
    "%",
    "null",
    "true",
    "~",
    "é",
    "µ",
    "\u{feff}",
    "\u{202e}",
    "𝟘",
    "\u{1b}[31m",
    "@end\n",
    "[0]",
    "down",
    "::1",
    "0.0.0.0",
    "-- ",
];

/// Texts to replace numbers with.
const ODD_NUMBERS: [&str; 26] = [
    "",
    "0",
    "-0",
    "-1",
    "1",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "1e400",
    "-1e400",
    "NaN",
    "inf",
    "1.5",
    "00",
    "0x10",
    "+1",
];

/// One change of a text.
#[derive(Debug, Clone)]
enum Damage {
    Cut(Index, usize),
    Repeat(Index, usize),
    Insert(Index, &'static str),
    Number(Index, &'static str),
    Any(Index, char),
    DropLine(Index),
    RepeatLine(Index),
    SwapLines(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        1 => (at(), 0usize..40).prop_map(|(a, n)| Damage::Cut(a, n)),
        1 => (at(), 0usize..40).prop_map(|(a, n)| Damage::Repeat(a, n)),
        1 => (at(), prop::sample::select(&ODD_TEXTS[..])).prop_map(|(a, w)| Damage::Insert(a, w)),
        4 => (at(), prop::sample::select(&ODD_NUMBERS[..])).prop_map(|(a, w)| Damage::Number(a, w)),
        1 => (at(), any::<char>()).prop_map(|(a, c)| Damage::Any(a, c)),
        1 => at().prop_map(Damage::DropLine),
        1 => at().prop_map(Damage::RepeatLine),
        1 => (at(), at()).prop_map(|(a, b)| Damage::SwapLines(a, b)),
    ]
}

impl Damage {
    fn apply(&self, text: &str) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        let position = |at: &Index, more: usize| at.index(chars.len() + more);
        match self {
            _ if chars.is_empty() => return text.into(),
            Damage::Cut(at, length) => {
                let (from, to) = span(position(at, 0), *length, chars.len());
                chars.drain(from..to);
            }
            Damage::Repeat(at, length) => {
                let (from, to) = span(position(at, 0), *length, chars.len());
                let again = chars[from..to].to_vec();
                chars.splice(from..from, again);
            }
            Damage::Insert(at, word) => {
                let at = position(at, 1);
                chars.splice(at..at, word.chars());
            }
            Damage::Any(at, char) => {
                let at = position(at, 0);
                chars[at] = *char;
            }
            Damage::Number(nth, word) => return with_number(text, nth, word),
            Damage::DropLine(_) | Damage::RepeatLine(_) | Damage::SwapLines(..) => {
                return self.apply_to_lines(text);
            }
        }
        chars.into_iter().collect()
    }

    fn apply_to_lines(&self, text: &str) -> String {
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        let count = lines.len();
        match self {
            Damage::DropLine(at) => drop(lines.remove(at.index(count))),
            Damage::RepeatLine(at) => lines.insert(at.index(count), lines[at.index(count)]),
            Damage::SwapLines(one, other) => lines.swap(one.index(count), other.index(count)),
            _ => {}
        }
        lines.concat()
    }
}

fn span(from: usize, length: usize, all: usize) -> (usize, usize) {
    (from, (from + length).min(all))
}

/// Replaces a run of digits by a text.
fn with_number(text: &str, nth: &Index, word: &str) -> String {
    let is_digit = |at: usize| text.as_bytes()[at].is_ascii_digit();
    let starts: Vec<usize> =
        (0..text.len()).filter(|n| is_digit(*n) && (*n == 0 || !is_digit(n - 1))).collect();
    if starts.is_empty() {
        return text.into();
    }
    let from = starts[nth.index(starts.len())];
    let to = (from..text.len()).find(|n| !is_digit(*n)).unwrap_or(text.len());
    format!("{}{word}{}", &text[..from], &text[to..])
}

/// Random text, or one of these samples with some damage.
pub fn damaged(samples: Vec<String>) -> impl Strategy<Value = String> {
    let some = (prop::sample::select(samples), prop::collection::vec(damage(), 0..6))
        .prop_map(|(text, all)| all.iter().fold(text, |text, one| one.apply(&text)));
    prop_oneof![9 => some, 1 => prop::collection::vec(any::<char>(), 0..200).prop_map(String::from_iter)]
}

/// A random JSON value.
pub fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&ODD_TEXTS[..]).prop_map(Value::from),
        prop::sample::select(&ODD_NUMBERS[..]).prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..3)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// One of these samples with some values replaced or removed: still JSON.
pub fn damaged_json(samples: Vec<String>) -> impl Strategy<Value = Value> {
    let samples: Vec<Value> =
        samples.iter().map(|s| serde_json::from_str(s).expect("a sample is JSON")).collect();
    let change = (any::<Index>(), json_value(), any::<bool>());
    (prop::sample::select(samples), prop::collection::vec(change, 0..4)).prop_map(|(mut json, changes)| {
        for (at, value, goes) in changes {
            let mut places = Vec::new();
            paths_in(&json, String::new(), &mut places);
            if let Some(place) = json.pointer_mut(&places[at.index(places.len())]) {
                *place = value;
            }
            if goes {
                remove_key(&mut json, &at);
            }
        }
        json
    })
}

fn paths_in(value: &Value, path: String, found: &mut Vec<String>) {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(k, v)| paths_in(v, format!("{path}/{}", escaped(k)), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, v)| paths_in(v, format!("{path}/{n}"), found));
        }
        _ => {}
    }
    found.push(path);
}

/// Removes a key.
fn remove_key(json: &mut Value, at: &Index) {
    let mut places = Vec::new();
    paths_in(json, String::new(), &mut places);
    let place = places[at.index(places.len())].clone();
    if let Some((parent, key)) = place.rsplit_once('/')
        && let Some(Value::Object(map)) = json.pointer_mut(parent)
    {
        map.remove(&key.replace("~1", "/").replace("~0", "~"));
    }
}

/// Fails if a value that was read is not the expected one.
pub fn same<T: PartialEq + Debug>(read: &T, expected: &T) -> TestCaseResult {
    if read == expected {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("read {read:#?}\nexpected {expected:#?}")))
}

/// An address as the kernel prints it in /proc/net/tcp, or (IPv6, and IPv4 where `mapped`) in /proc/net/tcp6.
pub fn kernel_address(address: std::net::IpAddr, mapped: bool) -> String {
    let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_le_bytes(bytes));
    let six = |ip: std::net::Ipv6Addr| -> String {
        ip.octets().chunks(4).map(|w| word(w.try_into().expect("four bytes"))).collect()
    };
    match address {
        std::net::IpAddr::V4(ip) if mapped => six(ip.to_ipv6_mapped()),
        std::net::IpAddr::V4(ip) => word(ip.octets()),
        std::net::IpAddr::V6(ip) => six(ip),
    }
}
