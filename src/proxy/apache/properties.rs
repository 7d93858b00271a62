//! Properties of the parsers: they read back generated configurations, and no output makes them panic.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::fuzz::{corpus, damaged, holds, same};
use crate::proxy::haproxy::properties::{endpoints, interrogate};
use crate::proxy::kit::directive::Directive;

fn learned(text: &str) -> Apache {
    let container = r#"{"Id": "p", "Name": "/p", "State": {"Status": "running"}, "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut proxy = Apache::new(&serde_json::from_str(container).expect("a container"));
    proxy.learn(&CommandResult { stdout: text.into(), ..CommandResult::default() });
    proxy
}

#[test]
fn no_output_makes_the_adapter_panic() {
    let inputs = (damaged(corpus("apache-introduction")), damaged(corpus("apache-state")), any::<u8>());
    holds(inputs, |(introduction, state, bits)| {
        let proxy = learned(&introduction);
        interrogate(&proxy, &state, bits);
        let backends: Vec<Backend> = endpoints()
            .iter()
            .map(|e| Backend { names: e.names.clone(), is_running: true, ..Backend::default() })
            .collect();
        backends.iter().for_each(|backend| drop(proxy.route_to(backend)));
        let _ = proxy.check(&RolloutShape { backends, ..RolloutShape::default() });
        Ok(())
    });
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_/:.$^*-]{1,12}",
        "[ -!#-~]{0,12}",
        select(&["app", "http://app:3000/", "<x>", "#", "${x}", "it's", "[P]"][..]).prop_map(String::from),
    ]
}

fn directives() -> impl Strategy<Value = Vec<Directive>> {
    let name = select(&["proxypass", "balancermember", "rewriterule", "sethandler", "listen"][..]);
    let one = (name, prop::collection::vec(word(), 0..4)).prop_map(|(name, args)| Directive {
        name: name.into(),
        args,
        block: Vec::new(),
    });
    let nested = one.prop_recursive(3, 24, 4, |inner| {
        let section = (select(&["virtualhost", "location", "proxy"][..]), word());
        (section, prop::collection::vec(inner, 1..4)).prop_map(|((name, arg), block)| Directive {
            name: name.into(),
            args: vec![arg],
            block,
        })
    });
    prop::collection::vec(nested, 0..6)
}

fn print(directives: &[Directive]) -> String {
    let one = |d: &Directive| {
        let args: String = d.args.iter().map(|arg| format!(" \"{}\"", arg.trim_end_matches('\\'))).collect();
        if d.block.is_empty() {
            format!("{}{args}\n", d.name)
        } else {
            format!("<{}{args}>\n# x\n{}</{}>\n", d.name, print(&d.block), d.name)
        }
    };
    directives.iter().map(one).collect()
}

#[test]
fn directives_are_parsed_as_printed() {
    holds(directives(), |directives| {
        let text = print(&directives);
        same(&print(&config::parse(&text)), &text)
    });
}

#[test]
fn no_text_makes_the_routes_panic() {
    holds(directives(), |directives| {
        drop(routes::routes(&directives));
        Ok(())
    });
}
