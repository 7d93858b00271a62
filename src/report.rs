//! The only printer: progress to stderr, the result to stdout. A run tells what happens as events; how they look is the
//! form's: a board on a terminal, lines elsewhere, JSON where that is asked for.

mod durations;
pub mod event;
pub mod history;
pub mod messages;
pub mod plan;
pub mod progress;
pub mod record;
pub mod status;
mod terminal;
pub mod text;
pub mod timeline;
pub mod timeline_model;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::Term;
use serde::Serialize;

use crate::error::Error;
use crate::wait::SignalEffect;
use crate::witness::ProbeCount;
pub use event::{Event, InitialInstance, StepEvent, Warning};
use plan::PlannedStep;
use record::EventRecord;
use terminal::ProgressDisplay;
use text::printable;

/// How much is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verbosity {
    Quiet,
    #[default]
    Normal,
    /// With every docker command.
    Verbose,
}

/// In what form a run is told.
#[derive(Debug, Clone, Default)]
pub struct ReportOptions {
    pub detail: Verbosity,
    /// JSON lines instead of text.
    pub json: bool,
    /// A rollout, which has events and a summary.
    pub rollout: bool,
    /// Where a picture of the run goes.
    pub timeline: Option<PathBuf>,
}

/// Prints. A stream that is closed is no reason to stop a rollout, so nothing here fails.
#[derive(Clone, Copy)]
pub struct Report(&'static Printer);

struct Printer {
    settings: ReportOptions,
    start: Instant,
    screen: Option<ProgressDisplay>,
    log: Mutex<EventLog>,
}

/// What has happened so far.
#[derive(Default)]
struct EventLog {
    entries: Vec<EventRecord>,
    /// Where it is written down as it happens.
    journal: Option<std::fs::File>,
}

impl Report {
    /// There is one for the life of the process.
    pub fn new(settings: ReportOptions) -> Self {
        let start = Instant::now();
        let shows = settings.rollout && !settings.json && settings.detail != Verbosity::Quiet;
        let screen = shows.then(|| ProgressDisplay::on_stderr(start)).flatten();
        Report(Box::leak(Box::new(Printer { settings, start, screen, log: Mutex::default() })))
    }

    fn log(&self) -> MutexGuard<'static, EventLog> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the start, as the last column of the result.
    pub fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// How wide the terminal is that results are printed on; none where it is no terminal.
    pub fn width(&self) -> Option<usize> {
        let terminal = console::Term::stdout();
        let size = terminal.size_checked().filter(|_| terminal.features().is_attended());
        size.map(|(_, columns)| usize::from(columns))
    }

    /// Results are told as JSON.
    pub fn is_json(&self) -> bool {
        self.0.settings.json
    }

    /// What others say has to come as events: it would break into JSON, or into the board.
    pub fn takes_lines(&self) -> bool {
        self.is_json() || self.0.screen.as_ref().is_some_and(ProgressDisplay::is_on)
    }

    pub fn event(&self, event: Event) {
        let entry = EventRecord::now(self.elapsed(), event);
        if self.tells(&entry.event) {
            self.write_record(&entry);
        }
        if let Some(screen) = &self.0.screen {
            screen.apply(entry.at, &entry.event);
        }
        self.keep(entry);
    }

    /// Once each: several services of a rollout may be behind one proxy.
    pub fn warn(&self, warning: &Warning) {
        let event = Event::Warning { kind: warning.kind().into(), message: warning.to_string() };
        let is_told = self.0.settings.rollout && self.log().entries.iter().any(|e| e.event == event);
        if !is_told {
            self.event(event);
        }
    }

    /// What the witness has counted so far.
    pub fn witnessed(&self, count: ProbeCount) {
        if let Some(screen) = &self.0.screen {
            screen.witnessed(count.sent, count.lost);
        }
    }

    pub fn command(&self, words: &str, took: Duration) {
        if self.0.settings.detail == Verbosity::Verbose {
            self.event(Event::Command { arguments: words.into(), seconds: took });
        }
    }

    /// Whether an event is told in the form that was asked for.
    fn tells(&self, event: &Event) -> bool {
        let important = matches!(event, Event::Warning { .. } | Event::Error { .. });
        match self.0.settings.detail {
            Verbosity::Quiet => important,
            _ if self.is_json() => true,
            Verbosity::Normal => !matches!(event, Event::Step(_)),
            Verbosity::Verbose => true,
        }
    }

    fn write_record(&self, entry: &EventRecord) {
        match &entry.event {
            _ if self.is_json() => write_err(&entry.line()),
            Event::Error { .. } => self.above(&entry.event.to_string()),
            // Its own words are the result, or a warning's.
            Event::Deployed { .. } | Event::Exited { .. } => {}
            event if self.is_drawn(event) => {}
            event => {
                let text = event.to_string().replace('\n', " ");
                self.above(&format!("{:>6.1}s  {text}", entry.at.as_secs_f64()));
            }
        }
    }

    /// The board shows it, so that no line has to.
    fn is_drawn(&self, event: &Event) -> bool {
        let normal = self.0.settings.detail == Verbosity::Normal;
        normal && self.0.screen.as_ref().is_some_and(ProgressDisplay::is_on) && progress::shows(event)
    }

    fn above(&self, text: &str) {
        let text = printable(text);
        let drawn = self.0.screen.as_ref().is_some_and(|screen| screen.print(&text));
        if !drawn {
            write_err(&text);
        }
    }

    fn keep(&self, entry: EventRecord) {
        let mut log = self.log();
        if let Some(journal) = &mut log.journal {
            // A journal that cannot be written is history that is missing, and no more.
            let _ = writeln!(journal, "{}", entry.line());
        }
        log.entries.push(entry);
    }

    /// From here on everything is written down there as well, from the start of the run on.
    pub fn journal(&self, mut file: std::fs::File) {
        let mut log = self.log();
        let lines: String = log.entries.iter().map(|e| e.line() + "\n").collect();
        let _ = file.write_all(lines.as_bytes());
        log.journal = Some(file);
    }

    /// Nothing is to be done about a target.
    pub fn up_to_date(&self, target: &str) {
        self.result(&format!("`{target}`: nothing has to change"));
    }

    /// What would be done about a target.
    pub fn plan(&self, target: &str, steps: Vec<PlannedStep>) {
        let whole = self.0.settings.detail == Verbosity::Verbose;
        let lines = plan::lines(&steps, whole);
        if self.is_json() {
            self.event(Event::Plan { target: target.into(), steps });
        }
        self.result(&format!("plan for `{target}`:\n{}", lines.join("\n")));
    }

    /// What would become of a stack, a line each service.
    pub fn stack_plan(&self, stack: &str, lines: &[String]) {
        if self.is_json() {
            let step = |line: &String| PlannedStep { text: line.clone(), ..PlannedStep::default() };
            self.event(Event::Plan { target: stack.into(), steps: lines.iter().map(step).collect() });
        }
        self.result(&format!("plan for stack `{stack}`:\n  {}", lines.join("\n  ")));
    }

    /// Something that was asked for, a line.
    pub fn say(&self, text: &str) {
        self.result(text);
    }

    /// Something that was asked for, as one JSON document.
    pub fn document(&self, document: &impl Serialize) {
        let text = serde_json::to_string(document).expect("only names are keys");
        write_out(&text);
    }

    /// A page that was asked for, as it is.
    pub fn page(&self, page: &str) {
        let _ = write!(std::io::stdout(), "{page}");
    }

    /// Whether results go to a terminal.
    pub fn is_read_at_terminal(&self) -> bool {
        Term::stdout().is_term()
    }

    /// Columns of the terminal that results go to; those of a usual one elsewhere.
    pub fn columns(&self) -> usize {
        Term::stdout().size_checked().map_or(80, |(_, width)| usize::from(width))
    }

    /// Columns as wide as what is in them, on a terminal as wide as that.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        let width = Term::stdout().size_checked().map(|(_, width)| usize::from(width));
        let lines = text::table_within(head, rows, width.unwrap_or(usize::MAX));
        lines.iter().for_each(|line| self.result(line));
    }

    /// Begins a screen that takes the place of the one before; where that cannot be, a line between them.
    pub fn next_screen(&self) {
        let term = Term::stdout();
        let cleared = term.features().is_attended() && term.clear_screen().is_ok();
        if !cleared && !self.is_json() {
            write_out("");
        }
    }

    /// Services of a stack that Swarm itself has put back.
    pub fn put_back(&self, stack: &str, services: &[String]) {
        let names: Vec<String> = services.iter().map(|s| format!("`{s}`")).collect();
        self.result(&format!("stack `{stack}`: {} is what it was before", names.join(", ")));
    }

    /// Where the time went.
    pub fn spent(&self) {
        let told = !self.is_json() && self.0.settings.detail != Verbosity::Quiet;
        let spent = durations::spent(&self.log().entries).filter(|_| told);
        if let Some(spent) = spent {
            self.close();
            self.above(&format!("{:>6.1}s  {spent}", self.elapsed().as_secs_f64()));
        }
    }

    /// A target whose new release serves.
    pub fn deployed(&self, done: Event) {
        let text = done.to_string();
        self.event(done);
        self.result(&text);
    }

    /// What becomes of a signal; where it leaves, what is half done stays so.
    pub fn stop_requested(&self, asked: SignalEffect) {
        match asked {
            SignalEffect::Finishes => self.warn(&Warning::FinishingAfterSignal),
            SignalEffect::Hurries => self.warn(&Warning::DrainCutShort),
            SignalEffect::Leaves => {
                self.close();
                write_err(
                    "leaving at once; the service goes on as it is now, and the next `compose-zd deploy`, `rollback` or \
                     `recover` brings it to one release",
                );
            }
        }
    }

    /// A newer run deploys in this one's place.
    pub fn superseded(&self, project: &str) {
        self.result(&format!("`{project}`: superseded by a newer run, which deploys in its place"));
    }

    /// Nothing was left half done.
    pub fn in_order(&self, project: &str, release: Option<u32>) {
        match release {
            Some(number) => self.result(&format!("`{project}` is in order: release {number}")),
            None => self.result(&format!("`{project}` is in order: no release yet")),
        }
    }

    /// A line of the result; JSON has the summary instead.
    fn result(&self, text: &str) {
        if !self.is_json() {
            self.close();
            write_out(&printable(text));
        }
    }

    /// Takes the board away.
    fn close(&self) {
        if let Some(screen) = &self.0.screen {
            screen.close();
        }
    }

    /// What ended the run.
    pub fn error(&self, error: &Error) {
        self.close();
        self.event(Event::Error {
            exit: error.exit.code(),
            message: error.message.clone(),
            details: error.details.clone(),
            hint: error.hint.clone(),
        });
    }

    /// The end of a rollout: its picture, and its summary where JSON is asked for. What was deployed counts, whatever
    /// becomes of the picture.
    pub fn end(&self, exit: u8) {
        self.close();
        if let Some(path) = &self.0.settings.timeline {
            let page = timeline::page(&self.log().entries);
            if let Err(error) = std::fs::write(path, page) {
                self.warn(&Warning::TimelineNotWritten(format!(
                    "the picture cannot be written to `{}`: {error}",
                    path.display()
                )));
            }
        }
        if self.is_json() && self.0.settings.rollout {
            write_out(&record::summary(&self.log().entries, exit, self.elapsed()).to_string());
        }
    }
}

impl Report {
    /// Asks who sits at the terminal, and whether the answer is yes; none where nobody sits there.
    pub fn confirm(question: &str) -> Option<bool> {
        let mut terminal = std::io::stderr();
        if !(std::io::stdin().is_terminal() && terminal.is_terminal()) {
            return None;
        }
        let _ = write!(terminal, "{} [y/N] ", printable(question));
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).ok()?;
        Some(["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
    }
}

fn write_out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn write_err(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
