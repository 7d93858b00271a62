//! Services that are run to their end once a deploy: `x-zd.before` and `x-zd.after`.

use std::collections::BTreeSet;

use super::asked::Target;
use crate::fault::Fault;
use crate::model::{Project, Service};

/// The one-shots of a run, each once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OneShots {
    pub before: BTreeSet<String>,
    pub after: BTreeSet<String>,
}

impl OneShots {
    pub fn of(project: &Project, targets: &[Target]) -> OneShots {
        let services = || targets.iter().flat_map(Target::services).map(|s| &project.services[s].settings);
        OneShots {
            before: services().filter_map(|s| s.before.clone()).collect(),
            after: services().filter_map(|s| s.after.clone()).collect(),
        }
    }

    pub fn all(&self) -> BTreeSet<&str> {
        self.before.iter().chain(&self.after).map(String::as_str).collect()
    }
}

/// One that is no service of the file.
pub fn unknown(source: &str, name: &str, error: anyhow::Error) -> Fault {
    Fault::usage(format!(
        "{source}: `x-zd.before` or `x-zd.after` names `{name}`, which Compose does not know"
    ))
    .seen(&Fault::from_error(error).details.join("\n"))
    .hint("name a service of this file")
}

/// The one-shots that run the image of a service that is given another: by its reference in the file.
pub fn with_same_image<'a>(project: &'a Project, shots: &OneShots, service: &str) -> Vec<&'a Service> {
    let image = &project.services[service].image;
    let same = |s: &&Service| shots.all().contains(s.name.as_str()) && s.image == *image && s.name != service;
    project.services.values().filter(same).collect()
}
