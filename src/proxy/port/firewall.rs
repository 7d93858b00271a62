//! Rules of the machine's firewall that send the requests of a published port to a stand-in. They stand in front of
//! those of the engine, and only turn new connections: the kernel keeps the target of an open one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::proxy::effects::Action;
use crate::proxy::{Change, Endpoint};

/// Seconds to wait for another program that changes the rules.
const LOCK_WAIT: &str = "10";

/// Loopback addresses.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// Programs that change the rules, of the kind that the engine uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {
    /// Such as `iptables-nft`.
    pub v4: String,
    /// None if the machine has no address translation for IPv6.
    pub v6: Option<String>,
}

/// Fixed port of the host, and the port of the container that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Address of the host; `None` for all.
    pub ip: Option<IpAddr>,
    pub published: u16,
    pub target: u16,
}

/// Version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Rule for new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    chain: &'static str,
    words: Vec<String>,
}

/// Rule that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Existing {
    comment: String,
    /// Words that delete the rule, from the chain on.
    words: Vec<String>,
}

/// Existing rules of both protocols, as the programs list them.
pub struct Listings<'a> {
    pub v4: &'a str,
    pub v6: &'a str,
}

impl Firewall {
    fn programs(&self) -> impl Iterator<Item = (Family, &str)> {
        let v6 = self.v6.as_deref().map(|program| (Family::V6, program));
        [(Family::V4, self.v4.as_str())].into_iter().chain(v6)
    }

    /// Commands that list the rules, IPv4 first.
    pub fn list_commands(&self) -> Vec<Vec<String>> {
        self.programs().map(|(_, program)| command(program, &["-S"])).collect()
    }

    /// Comments of the rules that a stand-in needs, in front of those of `owner`.
    fn wanted(&self, listings: &Listings, forwards: &[Forward], to: &Endpoint) -> Vec<(Family, Rule)> {
        let of_family = |(family, _): (Family, &str)| {
            let view = EngineView { family, listing: listings.of(family) };
            forwards
                .iter()
                .flat_map(move |f| view.rules(f, to))
                .map(move |rule| (family, rule))
                .collect::<Vec<_>>()
        };
        self.programs().flat_map(of_family).collect()
    }

    /// True if all rules exist that send the requests to a stand-in.
    pub fn leads_to(&self, listings: &Listings, forwards: &[Forward], owner: &str, to: &Endpoint) -> bool {
        let wanted = self.wanted(listings, forwards, to);
        let exists = |(family, rule): &(Family, Rule)| {
            let comment = rule.comment(owner, to);
            existing(listings.of(*family), owner).iter().any(|e| e.comment == comment)
        };
        !wanted.is_empty() && wanted.iter().all(exists)
    }

    /// True if a rule exists that has this owner.
    pub fn has_rules(listings: &Listings, owner: &str) -> bool {
        [listings.v4, listings.v6].iter().any(|listing| !existing(listing, owner).is_empty())
    }

    /// Changes to the rules for this stand-in, or to none: first the missing ones, then the removal of all others of
    /// the owner.
    pub fn changes(
        &self,
        listings: &Listings,
        (owner, forwards): (&str, &[Forward]),
        to: Option<&Endpoint>,
    ) -> Vec<Change> {
        let wanted = to.map(|to| self.wanted(listings, forwards, to)).unwrap_or_default();
        let (mut inserts, mut deletes) = (Vec::new(), Vec::new());
        for (family, program) in self.programs() {
            let existing = existing(listings.of(family), owner);
            let rules = wanted.iter().filter(|(of, _)| *of == family);
            let rules =
                rules.map(|(_, rule)| (rule, to.map(|to| rule.comment(owner, to)).unwrap_or_default()));
            let rules: Vec<(&Rule, String)> = rules.collect();
            for (rule, comment) in &rules {
                if !existing.iter().any(|e| e.comment == *comment) {
                    inserts.push(Action::Host(command(program, &rule.insertion(comment))).into());
                }
            }
            let surplus = existing.iter().filter(|e| !rules.iter().any(|(_, comment)| e.comment == *comment));
            deletes.extend(surplus.map(|e| Action::Host(deletion(program, e)).into()));
        }
        inserts.into_iter().chain(deletes).collect()
    }

    /// Commands that delete the rules of an owner.
    pub fn deletions(&self, listings: &Listings, owner: &str) -> Vec<Vec<String>> {
        let of_family = |(family, program): (Family, &str)| {
            let existing = existing(listings.of(family), owner);
            existing.iter().map(|e| deletion(program, e)).collect::<Vec<_>>()
        };
        self.programs().flat_map(of_family).collect()
    }
}

impl<'a> Listings<'a> {
    /// Listings by the answers to [`Firewall::list_commands`].
    pub fn new(answers: &[&'a str]) -> Listings<'a> {
        let answer = |n: usize| answers.get(n).copied().unwrap_or_default();
        Listings { v4: answer(0), v6: answer(1) }
    }

    fn of(&self, family: Family) -> &'a str {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// Command of a program for the table of address translation.
fn command(program: &str, words: &[impl AsRef<str>]) -> Vec<String> {
    let fixed = [program, "-w", LOCK_WAIT, "-t", "nat"].into_iter();
    fixed.chain(words.iter().map(AsRef::as_ref)).map(String::from).collect()
}

fn deletion(program: &str, rule: &Existing) -> Vec<String> {
    let words: Vec<&str> = ["-D"].into_iter().chain(rule.words.iter().map(String::as_str)).collect();
    command(program, &words)
}

/// Rules with the comment of an owner, or of one whose name begins with it and a space.
fn existing(listing: &str, owner: &str) -> Vec<Existing> {
    let rule = |line: &str| {
        let words = shlex::split(line.strip_prefix("-A ")?)?;
        let at = words.iter().position(|word| word == "--comment")?;
        let comment = words.get(at + 1)?.clone();
        let is_own = comment.strip_prefix(owner).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        is_own.then_some(Existing { comment, words })
    };
    listing.lines().filter(|line| line.contains(owner)).filter_map(rule).collect()
}

impl Rule {
    /// Comment of the rule, which differs if the rule does.
    fn comment(&self, owner: &str, to: &Endpoint) -> String {
        let mut hash = DefaultHasher::new();
        (self.chain, &self.words).hash(&mut hash);
        format!("{} {:08x}", owner_of(owner, to), hash.finish() as u32)
    }

    /// Words that insert the rule in front of all others.
    fn insertion(&self, comment: &str) -> Vec<String> {
        let mut words = vec!["-I".to_string(), self.chain.into()];
        words.extend(["-m", "comment", "--comment", comment].map(String::from));
        words.extend(self.words.iter().cloned());
        words
    }
}

/// Owner of the rules that lead to this stand-in.
pub fn owner_of(owner: &str, to: &Endpoint) -> String {
    format!("{owner} {}", to.id.get(..12).unwrap_or(&to.id))
}

/// Rules of the engine, from which those for the stand-in follow.
struct EngineView<'a> {
    family: Family,
    listing: &'a str,
}

/// Rule of the engine that leads to a container.
struct EngineRule {
    /// Bridge whose own containers reach the port by the engine's program instead.
    bridge: Option<String>,
    /// Address and port of the container.
    to: String,
}

impl EngineView<'_> {
    fn loopback(&self) -> &'static str {
        LOOPBACK[usize::from(self.family == Family::V6)]
    }

    /// True if the engine's program (`docker-proxy`) listens at published ports.
    fn has_proxy(&self) -> bool {
        let is_jump = |line: &&str| line.starts_with("-A OUTPUT ") && line.ends_with(" -j DOCKER");
        let mut jumps = self.listing.lines().filter(is_jump);
        jumps.next().is_none_or(|line| line.contains("! -d "))
    }

    fn engine_rule(&self, port: u16) -> Option<EngineRule> {
        let words = self.listing.lines().filter(|l| l.starts_with("-A DOCKER ")).filter_map(shlex::split);
        words.into_iter().find_map(|words| {
            let after = |flag: &str| words.iter().position(|w| w == flag).and_then(|at| words.get(at + 1));
            let is_its = after("--dport").is_some_and(|p| *p == port.to_string());
            let to = after("--to-destination").filter(|_| is_its)?;
            Some(EngineRule { bridge: after("-i").cloned(), to: to.clone() })
        })
    }

    /// Port at which the engine itself publishes a port of the stand-in.
    fn published(&self, target: u16, to: &Endpoint) -> Option<u16> {
        let is_of_family = |address: &SocketAddr| address.is_ipv4() == (self.family == Family::V4);
        let mut own = to.published.iter().filter(|(port, address)| *port == target && is_of_family(address));
        own.next().map(|(_, address)| address.port())
    }

    fn rules(&self, forward: &Forward, to: &Endpoint) -> Vec<Rule> {
        let is_of_family = forward.ip.is_none_or(|ip| ip.is_ipv4() == (self.family == Family::V4));
        match self.published(forward.target, to) {
            Some(port) if is_of_family => self.rules_to(forward, port),
            _ => Vec::new(),
        }
    }

    /// Rules that lead to the stand-in as the engine leads to its own published port: by the engine's program from
    /// loopback and from the containers of the same bridge, else by translation. No two rules
    /// match the same request, so that their order does not matter.
    fn rules_to(&self, forward: &Forward, port: u16) -> Vec<Rule> {
        let engine = self.engine_rule(port);
        let by_proxy = vec!["-j".into(), "REDIRECT".into(), "--to-ports".into(), port.to_string()];
        let translate = |to: &String| ["-j", "DNAT", "--to-destination", to].map(String::from).to_vec();
        let direct = engine.as_ref().map_or_else(|| by_proxy.clone(), |rule| translate(&rule.to));
        let rule = |chain, from: &[&str], target: &[String]| {
            let matched =
                ["-p", "tcp", "--dport"].map(String::from).into_iter().chain([forward.published.to_string()]);
            let words = from.iter().map(ToString::to_string).chain(matched).chain(target.iter().cloned());
            Rule { chain, words: words.collect() }
        };
        let ip = forward.ip.map(|ip| ip.to_string());
        let mut rules = Vec::new();
        if !forward.ip.is_some_and(|ip| is_loopback(&ip)) {
            // A translated request from loopback would have an address that the kernel drops.
            let elsewhere = ["!", "-d", self.loopback(), "-m", "addrtype", "--dst-type", "LOCAL"];
            let to_host = ip.as_ref().map_or(elsewhere.to_vec(), |ip| vec!["-d", ip]);
            let bridge = engine.as_ref().and_then(|rule| rule.bridge.as_deref());
            let from = |words: &[&'static str]| {
                bridge.map_or(Vec::new(), |b| [words, &["-i"]].concat().into_iter().chain([b]).collect())
            };
            rules.push(rule("OUTPUT", &to_host, &direct));
            rules.push(rule("PREROUTING", &[from(&["!"]), to_host.clone()].concat(), &direct));
            if bridge.is_some() {
                rules.push(rule("PREROUTING", &[from(&[]), to_host].concat(), &by_proxy));
            }
        }
        let here = if self.has_proxy() { &by_proxy } else { &direct };
        match forward.ip.filter(is_loopback) {
            Some(ip) => rules.push(rule("OUTPUT", &["-d", &ip.to_string()], here)),
            None if forward.ip.is_none() => rules.push(rule("OUTPUT", &["-d", self.loopback()], here)),
            None => {}
        }
        rules
    }
}

fn is_loopback(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => *ip == Ipv6Addr::LOCALHOST,
    }
}

impl Forward {
    /// Address at which this machine reaches the port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), self.published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "compose-zd p/app";

    /// Rules of the engine: 8080 leads to the owner, and 32768 to the stand-in.
    const ENGINE: &str = "-P OUTPUT ACCEPT\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER -i br-1 -j RETURN\n\
        -A DOCKER ! -i br-1 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.18.0.2:3000\n\
        -A DOCKER ! -i br-1 -p tcp -m tcp --dport 32768 -j DNAT --to-destination 172.18.0.3:3000\n";

    fn stand_in() -> Endpoint {
        let at = |text: &str| (3000, text.parse().unwrap());
        let published = vec![at("0.0.0.0:32768"), at("[::]:32769")];
        Endpoint { id: "0123456789abcdef".into(), published, ..Endpoint::default() }
    }

    fn firewall() -> Firewall {
        Firewall { v4: "iptables".into(), v6: Some("ip6tables".into()) }
    }

    fn forward(ip: Option<&str>) -> Forward {
        Forward { ip: ip.map(|ip| ip.parse().unwrap()), published: 8080, target: 3000 }
    }

    /// Rules without their comments.
    fn rules(v4: &str, ip: Option<&str>) -> Vec<String> {
        let listings = Listings { v4, v6: "" };
        let wanted = firewall().wanted(&listings, &[forward(ip)], &stand_in());
        wanted.into_iter().map(|(f, r)| format!("{f:?} {} {}", r.chain, r.words.join(" "))).collect()
    }

    #[test]
    fn every_client_of_the_port_is_led_as_the_engine_leads_it() {
        let to_port = "-m addrtype --dst-type LOCAL -p tcp --dport 8080 -j";
        let (v4, v6) = (format!("! -d 127.0.0.0/8 {to_port}"), format!("! -d ::1/128 {to_port}"));
        assert_eq!(
            rules(ENGINE, None),
            [
                &format!("V4 OUTPUT {v4} DNAT --to-destination 172.18.0.3:3000"),
                &format!("V4 PREROUTING ! -i br-1 {v4} DNAT --to-destination 172.18.0.3:3000"),
                &format!("V4 PREROUTING -i br-1 {v4} REDIRECT --to-ports 32768"),
                "V4 OUTPUT -d 127.0.0.0/8 -p tcp --dport 8080 -j REDIRECT --to-ports 32768",
                &format!("V6 OUTPUT {v6} REDIRECT --to-ports 32769"),
                &format!("V6 PREROUTING {v6} REDIRECT --to-ports 32769"),
                "V6 OUTPUT -d ::1/128 -p tcp --dport 8080 -j REDIRECT --to-ports 32769",
            ]
        );
    }

    #[test]
    fn an_address_of_the_host_limits_the_rules() {
        let loopback = ["V4 OUTPUT -d 127.0.0.1 -p tcp --dport 8080 -j REDIRECT --to-ports 32768"];
        assert_eq!(rules(ENGINE, Some("127.0.0.1")), loopback);
        let own = rules(ENGINE, Some("192.0.2.2"));
        assert!(own.len() == 3 && own.iter().all(|r| r.contains("-d 192.0.2.2 -p tcp")), "{own:?}");
        assert_eq!(rules(ENGINE, Some("::1")).len(), 1);
    }

    #[test]
    fn without_the_engines_program_loopback_is_translated_too() {
        let engine = ENGINE.replace("! -d 127.0.0.0/8 ", "").replace("! -i br-1 ", "");
        let rules = rules(&engine, None);
        assert_eq!(
            rules[2],
            "V4 OUTPUT -d 127.0.0.0/8 -p tcp --dport 8080 -j DNAT --to-destination 172.18.0.3:3000"
        );
    }

    #[test]
    fn missing_rules_are_inserted_before_those_of_others_of_the_owner_are_deleted() {
        let (forwards, to) = ([forward(Some("127.0.0.1"))], stand_in());
        let of_another =
            "-A OUTPUT -p tcp -m comment --comment \"compose-zd p/app2 a b\" -j REDIRECT --to-ports 1\n";
        let stale = "-A OUTPUT -d 127.0.0.1/32 -p tcp -m comment --comment \"compose-zd p/app 000 b\" -m tcp --dport 8080 \
                     -j REDIRECT --to-ports 9\n";
        let listing = [ENGINE, of_another, stale].concat();
        let listings = Listings { v4: &listing, v6: "" };
        let words = |changes: Vec<Change>| {
            let words = |change: Change| match change.action {
                Action::Host(words) => words.join(" "),
                other => panic!("{other:?}"),
            };
            changes.into_iter().map(words).collect::<Vec<_>>()
        };
        let changes = words(firewall().changes(&listings, (OWNER, &forwards), Some(&to)));
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert!(changes[0].starts_with(
            "iptables -w 10 -t nat -I OUTPUT -m comment --comment compose-zd p/app 0123456789ab "
        ));
        assert!(changes[1].starts_with("iptables -w 10 -t nat -D OUTPUT -d 127.0.0.1/32 "), "{changes:?}");
        assert!(!firewall().leads_to(&listings, &forwards, OWNER, &to));
        let comment = changes[0].split("--comment ").nth(1).unwrap().split(" -d").next().unwrap();
        let inserted =
            format!("{ENGINE}-A OUTPUT -m comment --comment \"{comment}\" -d 127.0.0.1/32 -j REDIRECT\n");
        let listings = Listings { v4: &inserted, v6: "" };
        assert!(firewall().leads_to(&listings, &forwards, OWNER, &to));
        assert!(firewall().changes(&listings, (OWNER, &forwards), Some(&to)).is_empty());
        assert_eq!(firewall().deletions(&listings, &owner_of(OWNER, &to)).len(), 1);
        assert_eq!(words(firewall().changes(&listings, (OWNER, &forwards), None)).len(), 1);
        assert!(Firewall::has_rules(&listings, OWNER) && !Firewall::has_rules(&listings, "compose-zd p/ap"));
    }
}
