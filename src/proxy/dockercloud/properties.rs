//! Properties of the parser: it reads back generated output of the script, and no output makes it panic.

use proptest::prelude::*;

use super::*;
use crate::fuzz::{corpus, damaged, holds};
use crate::proxy::haproxy::properties::interrogate;

fn dockercloud() -> Dockercloud {
    let container = r#"{"Id": "lb", "Name": "/lb", "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut dockercloud = Dockercloud::new(&serde_json::from_str(container).expect("a container"));
    dockercloud.learn(&CommandResult {
        stdout: "backend web\n server app1 app1:80 check\n".into(),
        ..CommandResult::default()
    });
    dockercloud
}

#[test]
fn no_output_makes_the_adapter_panic() {
    holds((damaged(corpus("dockercloud-answer")), any::<u8>()), |(text, bits)| {
        interrogate(&dockercloud(), &text, bits);
        Ok(())
    });
}
