//! Settings of the witness, from `x-zd.witness` and its flags.

use std::time::Duration;

use clap::Args;
use reqwest::Url;
use serde::Deserialize;
use serde_yaml::Value;

use super::ConfigError;
use super::settings::{
    InvalidKey, Layer, NO_CODES, StatusRanges, TOO_LONG, ZERO, duration, has_space, is_bounded, is_host,
    is_positive, layer, read_zd, require, text_or_number, unescape_dollars,
};

/// Default number of probes a second.
const DEFAULT_RATE: u32 = 10;

/// Default timeout for one answer.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of probes a second; more would be load.
const MAX_RATE: u32 = 100;

/// Default header with the version of the answering instance.
const VERSION_HEADER: &str = "x-version";

layer! {
    /// Probes of the public URL, in the file or by flags.
    #[derive(Args)]
    #[command(next_help_heading = "Witness (x-zd.witness)")]
    #[serde(deny_unknown_fields)]
    pub struct WitnessLayer {
        /// URL to probe during the rollout [default: URL at which the proxy publishes the service]
        #[arg(id = "witness-url", long, env = "COMPOSE_ZD_WITNESS_URL", value_name = "URL")]
        pub url: Option<String>,
        #[arg(skip)]
        pub path: Option<String>,
        #[arg(skip)]
        pub host: Option<String>,
        /// Probes a second, from 1 to 100 [default: 10]
        #[arg(id = "witness-rate", long, env = "COMPOSE_ZD_WITNESS_RATE", value_name = "N")]
        pub rate: Option<u32>,
        #[arg(skip)]
        #[serde(deserialize_with = "text_or_number")]
        pub expect: Option<String>,
        #[arg(skip)]
        #[serde(deserialize_with = "duration")]
        pub timeout: Option<Duration>,
        #[arg(skip)]
        pub version_header: Option<String>,
    }
}

/// Flags of the witness.
#[derive(Args, Debug, Default, Clone, PartialEq)]
#[command(next_help_heading = "Witness (x-zd.witness)")]
pub struct WitnessArgs {
    #[command(flatten)]
    pub layer: WitnessLayer,
    /// Probe no URL
    #[arg(long, env = "COMPOSE_ZD_NO_WITNESS")]
    pub no_witness: bool,
    /// Exit 6 after a lost request, and exit 1 if the URL does not answer before the deploy
    #[arg(long, env = "COMPOSE_ZD_STRICT")]
    pub strict: bool,
}

/// Probes of the public URL during a rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct WitnessSettings {
    pub on: bool,
    /// None: derived from the proxy.
    pub url: Option<Url>,
    /// Replaces the path of the derived URL.
    pub path: Option<String>,
    pub host: Option<String>,
    /// Probes a second.
    pub rate: u32,
    /// Status codes of a good answer; none: compared with the answers before the rollout.
    pub expect: Option<StatusRanges>,
    pub timeout: Duration,
    pub version_header: String,
}

impl Default for WitnessSettings {
    fn default() -> Self {
        resolve(WitnessLayer::default(), false, true).expect("the defaults are valid")
    }
}

impl WitnessSettings {
    /// Parses `x-zd.witness`: a map, or a boolean that switches the witness.
    ///
    /// # Errors
    /// A key that is unknown, of the wrong type or invalid.
    pub fn read(
        value: Option<&Value>,
        flags: &WitnessArgs,
        source: &str,
    ) -> Result<WitnessSettings, ConfigError> {
        let (is_on, map) = match value {
            Some(Value::Bool(is_on)) => (*is_on, None),
            other => (true, other),
        };
        let zd: WitnessLayer = read_zd(map, source, "x-zd.witness")?;
        let on = (is_on || flags.layer.url.is_some()) && !flags.no_witness;
        resolve(flags.layer.over(&zd), zd.url.is_some(), on).map_err(|InvalidKey { key, hint }| {
            let has_flag = ["url", "rate"].contains(&key);
            let flag = if has_flag { format!(" (or `--witness-{key}`)") } else { String::new() };
            ConfigError {
                message: format!("{source}: `x-zd.witness.{key}`{flag} is invalid"),
                hint: hint.into(),
            }
        })
    }
}

fn resolve(zd: WitnessLayer, has_url: bool, on: bool) -> Result<WitnessSettings, InvalidKey> {
    let path = zd.path.as_deref().unwrap_or("/");
    let rate = zd.rate.unwrap_or(DEFAULT_RATE);
    let version_header = zd.version_header.unwrap_or(VERSION_HEADER.into()).to_lowercase();
    let expect = zd.expect.map(|text| StatusRanges::parse(&text));
    require(&[
        ("path", !has_url || zd.path.is_none(), "add the path to `x-zd.witness.url` instead"),
        ("path", path.starts_with('/') && !has_space(path), "begin it with `/`, without spaces"),
        ("host", is_host(zd.host.as_deref()), "set it to a host name, such as `app.example`"),
        ("rate", (1..=MAX_RATE).contains(&rate), "set it to a number of probes a second from 1 to 100"),
        ("timeout", is_positive(zd.timeout), ZERO),
        ("timeout", is_bounded(zd.timeout), TOO_LONG),
        ("version_header", is_header(&version_header), "set it to the name of a header, such as `X-Version`"),
        ("expect", expect != Some(None), NO_CODES),
    ])?;
    Ok(WitnessSettings {
        on,
        url: zd.url.as_deref().map(url).transpose()?,
        path: zd.path.as_deref().map(unescape_dollars),
        host: zd.host,
        rate,
        expect: expect.flatten(),
        timeout: zd.timeout.unwrap_or(DEFAULT_TIMEOUT),
        version_header,
    })
}

/// Parses a public URL. A URL with a password is refused, because reports show the URL.
fn url(text: &str) -> Result<Url, InvalidKey> {
    let invalid = |hint| InvalidKey { key: "url", hint };
    let usable = |url: &Url| ["http", "https"].contains(&url.scheme()) && url.has_host();
    let url = Url::parse(&unescape_dollars(text)).ok().filter(usable);
    let url = url.ok_or_else(|| invalid("set it to a URL such as `http://localhost:8000/`"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("remove user and password, because reports show the URL"));
    }
    if url.scheme() == "https" && !cfg!(feature = "tls") {
        return Err(invalid("this build does not support https; use a build with the feature `tls`"));
    }
    Ok(url)
}

/// A token of RFC 9110.
fn is_header(name: &str) -> bool {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !name.is_empty() && name.chars().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str, flags: &WitnessArgs) -> Result<WitnessSettings, ConfigError> {
        WitnessSettings::read(serde_yaml::from_str(yaml).ok().as_ref(), flags, "compose.yaml")
    }

    fn of(yaml: &str) -> WitnessSettings {
        read(yaml, &WitnessArgs::default()).unwrap()
    }

    #[test]
    fn a_witness_is_on_unless_the_file_or_a_flag_switches_it_off() {
        let off = WitnessArgs { no_witness: true, ..WitnessArgs::default() };
        let layer = WitnessLayer { url: Some("http://a.example".into()), ..WitnessLayer::default() };
        let url = WitnessArgs { layer, ..WitnessArgs::default() };
        assert!(of("~").on && of("true").on && of("{rate: 5}").on);
        assert!(!of("false").on);
        assert!(!read("{rate: 5}", &off).unwrap().on);
        assert!(read("false", &url).unwrap().on, "a URL switches the witness on");
    }

    #[test]
    fn a_flag_overrides_the_file_and_the_file_overrides_the_default() {
        let layer = WitnessLayer {
            url: Some("http://b.example/x".into()),
            rate: Some(50),
            ..WitnessLayer::default()
        };
        let flags = WitnessArgs { layer, ..WitnessArgs::default() };
        let both = read("{url: 'http://a.example:8000/', rate: 5}", &flags).unwrap();
        assert_eq!((both.url.unwrap().as_str(), both.rate), ("http://b.example/x", 50));
        let own = of("{url: 'http://a.example:8000/$$x', expect: 204, timeout: 1s, version_header: X-Rev}");
        assert_eq!(own.url.unwrap().as_str(), "http://a.example:8000/$x");
        assert_eq!((own.rate, own.timeout.as_secs(), own.version_header.as_str()), (10, 1, "x-rev"));
        assert!(own.expect.unwrap().contains(204));
        assert_eq!(of("~"), WitnessSettings::default());
    }

    #[test]
    fn an_invalid_setting_names_file_and_key() {
        let cases = [
            ("{url: localhost}", "`x-zd.witness.url` (or `--witness-url`)"),
            ("{url: 'ftp://a'}", "x-zd.witness.url"),
            ("{url: 'http://me:secret@a'}", "x-zd.witness.url"),
            ("{url: 'http://a', path: /b}", "x-zd.witness.path"),
            ("{path: up}", "x-zd.witness.path"),
            ("{host: 'http://a'}", "x-zd.witness.host"),
            ("{rate: 0}", "`x-zd.witness.rate` (or `--witness-rate`)"),
            ("{rate: 101}", "x-zd.witness.rate"),
            ("{rate: fast}", "x-zd.witness.rate"),
            ("{expect: 2xx}", "x-zd.witness.expect"),
            ("{timeout: 0s}", "x-zd.witness.timeout"),
            ("{timeout: 2y}", "x-zd.witness.timeout"),
            ("{version_header: 'a b'}", "x-zd.witness.version_header"),
            ("{ulr: 'http://a'}", "x-zd.witness.ulr"),
            ("often", "x-zd.witness"),
        ];
        for (yaml, key) in cases {
            let wrong = read(yaml, &WitnessArgs::default()).unwrap_err();
            assert!(wrong.message.starts_with("compose.yaml: "), "{yaml}: {}", wrong.message);
            assert!(wrong.message.contains(key) && !wrong.hint.is_empty(), "{yaml}: {}", wrong.message);
            assert!(!wrong.message.contains("secret") && !wrong.hint.contains("secret"), "{yaml}");
        }
    }
}
