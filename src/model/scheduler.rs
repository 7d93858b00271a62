//! Services that start jobs at set times. Two instances would start each job twice.

use super::{Service, image_name};

/// Commands of schedulers. The words follow each other in the command line, possibly with options between them.
const COMMANDS: [(&[&str], &str); 17] = [
    (&["celery", "beat"], "celery beat"),
    (&["celerybeat"], "celery beat"),
    (&["celery-beat"], "celery beat"),
    (&["celery", "-B"], "celery worker with beat"),
    (&["celery", "--beat"], "celery worker with beat"),
    (&["beat"], "celery beat"),
    (&["cron"], "cron"),
    (&["crond"], "cron"),
    (&["cron.sh"], "cron"),
    (&["go-crond"], "cron"),
    (&["supercronic"], "supercronic"),
    (&["ofelia"], "ofelia"),
    (&["schedule:work"], "schedule:work"),
    (&["schedule:run"], "schedule:run"),
    (&["rqscheduler"], "rqscheduler"),
    (&["clockwork"], "clockwork"),
    (&[SCHEDULER], SCHEDULER),
];

const SCHEDULER: &str = "scheduler";

/// Programs of which several schedulers share their jobs.
const SHARES_JOBS: &str = "airflow";

/// Words in names of services and images.
const NAMES: [&str; 6] = ["cron", "crond", SCHEDULER, "beat", "celerybeat", "ofelia"];

impl Service {
    /// The scheduler that the service is, such as `a scheduler (cron)`: by its command line, else by its name or image.
    pub fn scheduler(&self, command_line: &[String]) -> Option<String> {
        let words: Vec<&str> = command_line
            .iter()
            .flat_map(|w| w.split_whitespace())
            .map(|word| word.rsplit('/').next().unwrap_or(word))
            .collect();
        let runs = |wanted: &[&str]| {
            let mut rest = words.iter();
            wanted.iter().all(|word| rest.any(|other| other == word))
        };
        if self.image.contains(SHARES_JOBS) || words.contains(&SHARES_JOBS) {
            return None;
        }
        let by_command = COMMANDS.iter().find(|(wanted, _)| runs(wanted)).map(|(_, name)| *name);
        let kind = by_command.or_else(|| self.named_scheduler())?;
        Some(if kind == SCHEDULER { "a scheduler".into() } else { format!("a scheduler ({kind})") })
    }

    /// A name such as `app-cron` or `task-scheduler`. A web server may also be called so, and has ports.
    fn named_scheduler(&self) -> Option<&str> {
        let names =
            [self.name.as_str(), image_name(&self.image)].into_iter().filter(|_| self.exposed().is_empty());
        names.flat_map(|name| name.split(['-', '_', '.'])).find(|word| NAMES.contains(word))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{FlagLayers, Project};

    #[test]
    fn a_scheduler_is_known_by_its_command_or_its_name() {
        let scheduler = |name: &str, keys: &str| {
            let yaml = format!("name: p\nservices: {{{name}: {{{keys}}}}}");
            let project = Project::read(&yaml, "f", &FlagLayers::default()).unwrap();
            let service = &project.services[name];
            let words = service.command_line(&[], &[]);
            service.scheduler(&words).unwrap_or("-".into())
        };
        let by_command = |command: &str| scheduler("app", &format!("image: shop, command: {command}"));
        assert_eq!(by_command("[celery, -A, shop, beat, -l, info]"), "a scheduler (celery beat)");
        assert_eq!(
            by_command("[sh, -c, 'exec celery -A shop worker -B']"),
            "a scheduler (celery worker with beat)"
        );
        assert_eq!(by_command("[/app/bootstrap.sh, beat]"), "a scheduler (celery beat)");
        assert_eq!(by_command("[php, artisan, 'schedule:work']"), "a scheduler (schedule:work)");
        assert_eq!(by_command("[/usr/sbin/crond, -f]"), "a scheduler (cron)");
        for other in ["[celery, -A, shop, worker]", "[gunicorn, shop]", "[node, heartbeat.js]", "[]"] {
            assert_eq!(by_command(other), "-", "{other}");
        }
        assert_eq!(scheduler("task-scheduler", "image: shop"), "a scheduler");
        assert_eq!(scheduler("airflow-scheduler", "image: 'apache/airflow:3'"), "-");
        assert_eq!(scheduler("jobs", "image: 'mcuadros/ofelia:1'"), "a scheduler (ofelia)");
        assert_eq!(scheduler("scheduler", "image: shop, expose: ['80']"), "-");
    }
}
