//! A project for Swarm: what Swarm itself loses, and what it does not obey.

use anyhow::Result;

use crate::check::service::{self, Front, Subject};
use crate::check::{About, Finding, Row, Sheet, Verdict, version};
use crate::cli::CheckArgs;
use crate::deploy::definition::Definition;
use crate::deploy::stack;
use crate::docker::inspect::Image;
use crate::fault::Fault;
use crate::model::Service;
use crate::swarm::file::{Asks, StackFile};

/// Rules that hold under Swarm, too. It restarts tasks unless it is told otherwise, and has orders of its own.
const HOLD: [&str; 4] = ["ignores-stop-signal", "short-grace", "shared-volume", "moving-image"];

pub fn judge(definition: &Definition, args: &CheckArgs, engine: bool, sheet: &mut Sheet) -> Result<()> {
    let (docker, project) = (&definition.docker, &definition.project);
    let folder = tempfile::tempdir()?;
    let asks = Asks { services: args.services.clone(), ..Asks::default() };
    let text = definition.snapshot.text();
    let file = StackFile::of(&text, &definition.source, &asks, folder.path()).map_err(Fault::from)?;
    let image = |reference: &str| -> Result<Option<Image>> {
        if engine { docker.image(reference) } else { Ok(None) }
    };
    for (name, loss) in stack::losses(&project.name, &text, &file, &image)? {
        sheet.findings.push(Finding::lost(About::service(&name), loss));
    }
    sheet.findings.extend(file.notes.iter().map(|note| ignored(&file.services, note)));
    for name in &file.services {
        let service = &project.services[name];
        let found = service::findings(&subject(service, image(&service.image)?.as_ref()));
        sheet.findings.extend(found.into_iter().filter(|f| HOLD.contains(&f.rule)));
        sheet.services.push(row(service));
        if image(&service.image)?.is_none() {
            let why = "its image is not here, and may bring a health check and a command along";
            sheet.unjudged.push(format!("`{name}` by its image: {why}"));
        }
    }
    if engine && docker.cluster().is_err() {
        sheet.unjudged.push("what runs: this engine is no manager of a Swarm".into());
    }
    sheet.findings.extend(version::findings(docker.compose_version()?.as_deref(), None));
    Ok(())
}

/// Swarm takes a task out of its DNS, and stops it 2 s later, whatever it still answers.
fn subject<'a>(service: &'a Service, image: Option<&'a Image>) -> Subject<'a> {
    Subject {
        service,
        image,
        front: Front::Nobody,
        asks_for_route: false,
        is_asked: false,
        listens: false,
        is_sure: false,
        instances: service.replicas.unwrap_or(1) as usize,
        signals: None,
        state_in_image: None,
    }
}

fn ignored(services: &[String], note: &str) -> Finding {
    let named = services
        .iter()
        .find(|s| note.contains(&format!("services.{s}.")) || note.contains(&format!("`{s}`")));
    let about = named.map_or_else(About::default, |s| About::service(s));
    Finding::note("swarm-ignores", about, note, "")
}

fn row(service: &Service) -> Row {
    let says = match service.replicas {
        Some(1) | None => "1 task, replaced by Swarm".to_string(),
        Some(n) => format!("{n} tasks, replaced by Swarm"),
    };
    Row {
        name: service.name.clone(),
        services: vec![service.name.clone()],
        verdict: Verdict::Yes,
        says,
        proxies: Vec::new(),
    }
}
