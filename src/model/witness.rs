//! Settings of the witness, from `x-zd.witness` and its flags.

use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use serde_yaml::Value;

use super::settings::{
    ConfigError, InvalidSetting, StatusRanges, TOO_LONG, duration, is_host, is_too_long, read_zd,
    text_or_number, unescape_dollars,
};

/// Default number of probes a second.
const DEFAULT_RATE: u32 = 10;

/// Maximum number of probes a second; more would be load.
const MAX_RATE: u32 = 100;

/// Default header with the version of the answering instance.
const VERSION_HEADER: &str = "x-version";

/// Settings of the command line, which override the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WitnessFlags {
    pub off: bool,
    pub url: Option<String>,
    pub rate: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
struct WitnessLayer {
    url: Option<String>,
    path: Option<String>,
    host: Option<String>,
    rate: Option<u32>,
    #[serde(default, deserialize_with = "text_or_number")]
    expect: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    timeout: Option<Duration>,
    version_header: Option<String>,
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
        WitnessSettings {
            on: true,
            url: None,
            path: None,
            host: None,
            rate: DEFAULT_RATE,
            expect: None,
            timeout: Duration::from_secs(5),
            version_header: VERSION_HEADER.into(),
        }
    }
}

impl WitnessSettings {
    /// Parses `x-zd.witness`: a map, or a boolean that switches the witness.
    ///
    /// # Errors
    /// A key that is unknown, of the wrong type or invalid.
    pub fn read(
        value: Option<&Value>,
        flags: &WitnessFlags,
        source: &str,
    ) -> Result<WitnessSettings, ConfigError> {
        let (on, map) = match value {
            Some(Value::Bool(on)) => (*on, None),
            other => (true, other),
        };
        let zd: WitnessLayer = read_zd(map, source, "x-zd.witness")?;
        let on = (on || flags.url.is_some()) && !flags.off;
        resolve(zd, flags, on).map_err(|(key, hint)| {
            let flag = if ["url", "rate"].contains(&key.as_str()) {
                format!(" (or `--witness-{key}`)")
            } else {
                String::new()
            };
            ConfigError {
                message: format!("{source}: `x-zd.witness.{key}`{flag} is invalid"),
                hint: hint.into(),
            }
        })
    }
}

fn resolve(zd: WitnessLayer, flags: &WitnessFlags, on: bool) -> Result<WitnessSettings, InvalidSetting> {
    let invalid = |key: &str, hint| (key.to_string(), hint);
    if zd.url.is_some() && zd.path.is_some() {
        return Err(invalid("path", "add the path to `x-zd.witness.url` instead"));
    }
    let is_path = |p: &String| p.starts_with('/') && !p.contains(|c: char| c.is_control() || c == ' ');
    if zd.path.as_ref().is_some_and(|p| !is_path(p)) {
        return Err(invalid("path", "begin it with `/`, without spaces"));
    }
    if zd.host.as_ref().is_some_and(|h| !is_host(h)) {
        return Err(invalid("host", "set it to a host name, such as `app.example`"));
    }
    let rate = flags.rate.or(zd.rate).unwrap_or(DEFAULT_RATE);
    if !(1..=MAX_RATE).contains(&rate) {
        return Err(invalid("rate", "set it to a number of probes a second from 1 to 100"));
    }
    if zd.timeout.is_some_and(|t| t.is_zero()) {
        return Err(invalid("timeout", "set it to a duration longer than 0, such as `500ms`"));
    }
    if zd.timeout.as_ref().is_some_and(is_too_long) {
        return Err(invalid("timeout", TOO_LONG));
    }
    let header = zd.version_header.unwrap_or_else(|| VERSION_HEADER.into());
    if !is_header(&header) {
        return Err(invalid("version_header", "set it to the name of a header, such as `X-Version`"));
    }
    let expect = zd.expect.map(|text| {
        StatusRanges::parse(&text)
            .ok_or_else(|| invalid("expect", "set it to codes and ranges, such as `200-399` or `200,204`"))
    });
    Ok(WitnessSettings {
        on,
        url: flags.url.as_ref().or(zd.url.as_ref()).map(|text| url(text)).transpose()?,
        path: zd.path.as_deref().map(unescape_dollars),
        host: zd.host,
        rate,
        expect: expect.transpose()?,
        timeout: zd.timeout.unwrap_or(WitnessSettings::default().timeout),
        version_header: header.to_lowercase(),
    })
}

/// Parses a public URL. A URL with a password is refused, because reports show the URL.
fn url(text: &str) -> Result<Url, InvalidSetting> {
    let invalid = |hint| ("url".to_string(), hint);
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

    fn read(yaml: &str, flags: &WitnessFlags) -> Result<WitnessSettings, ConfigError> {
        WitnessSettings::read(serde_yaml::from_str(yaml).ok().as_ref(), flags, "compose.yaml")
    }

    fn of(yaml: &str) -> WitnessSettings {
        read(yaml, &WitnessFlags::default()).unwrap()
    }

    #[test]
    fn a_witness_is_on_unless_the_file_or_a_flag_switches_it_off() {
        let off = WitnessFlags { off: true, ..WitnessFlags::default() };
        let url = WitnessFlags { url: Some("http://a.example".into()), ..WitnessFlags::default() };
        assert!(of("~").on && of("true").on && of("{rate: 5}").on);
        assert!(!of("false").on);
        assert!(!read("{rate: 5}", &off).unwrap().on);
        assert!(read("false", &url).unwrap().on, "a URL switches the witness on");
    }

    #[test]
    fn a_flag_overrides_the_file_and_the_file_overrides_the_default() {
        let flags = WitnessFlags {
            url: Some("http://b.example/x".into()),
            rate: Some(50),
            ..WitnessFlags::default()
        };
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
            let wrong = read(yaml, &WitnessFlags::default()).unwrap_err();
            assert!(wrong.message.starts_with("compose.yaml: "), "{yaml}: {}", wrong.message);
            assert!(wrong.message.contains(key) && !wrong.hint.is_empty(), "{yaml}: {}", wrong.message);
            assert!(!wrong.message.contains("secret") && !wrong.hint.contains("secret"), "{yaml}");
        }
    }
}
