//! The only printer: progress goes to stderr, results go to stdout. A run reports events; the output format decides how
//! they look: a live display on a terminal, plain lines elsewhere, or JSON.

pub mod changes;
mod durations;
pub mod event;
pub mod history;
pub mod messages;
pub mod plan;
pub mod probes;
pub mod progress;
pub mod record;
pub mod status;
mod terminal;
pub mod text;
pub mod timeline;
pub mod timeline_model;
mod warning;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::Term;
use serde::Serialize;

use crate::error::Error;
use crate::plugin::{program, with_program};
use crate::wait::SignalEffect;
pub use event::{Event, ImageChange, InitialInstance, StepEvent};
use plan::PlannedStep;
use probes::LossCount;
use record::{EventRecord, SCHEMA};
use terminal::ProgressDisplay;
use text::printable;
pub use warning::Warning;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Prints no event at all.
    Silent,
    Quiet,
    #[default]
    Normal,
    /// Prints every docker command as well.
    Verbose,
}

/// Options of the output, from the command line.
#[derive(Debug, Clone, Default)]
pub struct ReportOptions {
    pub verbosity: Verbosity,
    /// JSON lines instead of text.
    pub json: bool,
    /// The command is a rollout, which has events and a summary.
    pub rollout: bool,
    /// File for the timeline.
    pub timeline: Option<PathBuf>,
}

/// Handle of the printer. Nothing here fails: a closed stream is no reason to stop a rollout.
#[derive(Clone, Copy)]
pub struct Report(&'static Printer);

struct Printer {
    options: ReportOptions,
    start: Instant,
    display: Option<ProgressDisplay>,
    log: Mutex<EventLog>,
}

/// A JSON document that is a result.
#[derive(Serialize)]
struct Document<'d, T> {
    v: u32,
    document: &'static str,
    #[serde(flatten)]
    contents: &'d T,
}

/// Events so far.
#[derive(Default)]
struct EventLog {
    records: Vec<EventRecord>,
    /// File that receives each event at once.
    journal: Option<std::fs::File>,
}

impl Report {
    /// Creates the printer of the process, which lives until the process ends.
    pub fn new(options: ReportOptions) -> Self {
        let start = Instant::now();
        let has_display = options.rollout && !options.json && options.verbosity != Verbosity::Quiet;
        let display = has_display.then(|| ProgressDisplay::on_stderr(start)).flatten();
        let printer: &'static Printer =
            Box::leak(Box::new(Printer { options, start, display, log: Mutex::default() }));
        printer.display.iter().for_each(ProgressDisplay::open);
        Report(printer)
    }

    fn log(&self) -> MutexGuard<'static, EventLog> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// Columns of the terminal on stdout; none if stdout is no terminal.
    pub fn width(&self) -> Option<usize> {
        Term::stdout().size_checked().map(|(_, columns)| usize::from(columns))
    }

    pub fn is_json(&self) -> bool {
        self.0.options.json
    }

    /// Output of child processes has to be reported as events, because it would corrupt the JSON or the display.
    pub fn captures_output(&self) -> bool {
        self.is_json() || self.0.display.as_ref().is_some_and(ProgressDisplay::is_on)
    }

    /// A child process is about to write; true if its output is to be reported as events instead.
    pub fn takes_output(&self) -> bool {
        self.0.display.iter().for_each(ProgressDisplay::end_preparation);
        self.captures_output()
    }

    pub fn event(&self, event: Event) {
        let record = EventRecord::now(self.elapsed(), event);
        if self.is_shown(&record.event) {
            self.write_record(&record);
        }
        if let Some(display) = &self.0.display {
            display.apply(record.at, &record.event);
        }
        self.record(record);
    }

    /// Reports a warning once: several services of a rollout may be behind one proxy.
    pub fn warn(&self, warning: &Warning) {
        let event = Event::Warning { kind: <&str>::from(warning).into(), message: warning.to_string() };
        let is_reported = self.0.options.rollout && self.log().records.iter().any(|e| e.event == event);
        if !is_reported {
            self.event(event);
        }
    }

    /// Shows the requests of the witness, which `count` returns, on the display.
    pub fn show_probes(&self, count: impl Fn() -> LossCount + Send + Sync + 'static) {
        if let Some(display) = &self.0.display {
            display.show_probes(count);
        }
    }

    pub fn command(&self, arguments: &str, took: Duration) {
        if self.0.options.verbosity == Verbosity::Verbose {
            self.event(Event::Command { arguments: arguments.into(), seconds: took });
        }
    }

    /// The options select this event.
    fn is_shown(&self, event: &Event) -> bool {
        let important = matches!(event, Event::Warning { .. } | Event::Error { .. });
        match self.0.options.verbosity {
            Verbosity::Silent => false,
            Verbosity::Quiet => important,
            _ if self.is_json() => true,
            Verbosity::Normal => !matches!(event, Event::Step(_)),
            Verbosity::Verbose => true,
        }
    }

    fn write_record(&self, record: &EventRecord) {
        match &record.event {
            _ if self.is_json() => write_err(&record.line()),
            Event::Error { .. } => self.print_above(&record.event.to_string()),
            // The result or a warning reports these.
            Event::Deployed { .. } | Event::Exited(_) => {}
            event if self.is_on_display(event) => {}
            event => {
                let text = event.to_string().replace('\n', " ");
                self.print_above(&self.with_clock(record.at, &text));
                if let (Verbosity::Verbose, Event::Witness(report)) = (self.0.options.verbosity, event) {
                    self.print_above(&self.with_clock(record.at, &report.summary.details()));
                }
            }
        }
    }

    /// The display shows the event, so that no line is needed.
    fn is_on_display(&self, event: &Event) -> bool {
        let normal = self.0.options.verbosity == Verbosity::Normal;
        normal && self.0.display.as_ref().is_some_and(ProgressDisplay::is_on) && progress::is_displayed(event)
    }

    /// A line of a rollout begins with the time since the start.
    fn with_clock(&self, at: Duration, text: &str) -> String {
        if self.0.options.rollout { format!("{:>6.1}s  {text}", at.as_secs_f64()) } else { text.into() }
    }

    fn print_above(&self, text: &str) {
        let text = with_program(&printable(text), program());
        let drawn = self.0.display.as_ref().is_some_and(|display| display.print(&text));
        if !drawn {
            write_err(&text);
        }
    }

    fn record(&self, record: EventRecord) {
        let mut log = self.log();
        if let Some(journal) = &mut log.journal {
            // A write error only loses history.
            let _ = writeln!(journal, "{}", record.line());
        }
        log.records.push(record);
    }

    /// Writes all events of the run to a file, past and future ones.
    pub fn write_journal_to(&self, mut file: std::fs::File) {
        let mut log = self.log();
        let lines: String = log.records.iter().map(|e| e.line() + "\n").collect();
        let _ = file.write_all(lines.as_bytes());
        log.journal = Some(file);
    }

    /// Prints the plan of a dry run.
    pub fn plan(&self, target: &str, steps: Vec<PlannedStep>) {
        let verbose = self.0.options.verbosity == Verbosity::Verbose;
        let lines = plan::lines(&steps, verbose);
        if self.is_json() {
            self.event(Event::Plan { target: target.into(), steps });
        }
        self.result(&format!("plan for `{target}`:\n{}", lines.join("\n")));
    }

    /// Prints the plan for a stack, one line for each service.
    pub fn stack_plan(&self, stack: &str, lines: &[String]) {
        if self.is_json() {
            let step = |line: &String| PlannedStep { text: line.clone(), ..PlannedStep::default() };
            self.event(Event::Plan { target: stack.into(), steps: lines.iter().map(step).collect() });
        }
        self.result(&format!("plan for stack `{stack}`:\n  {}", lines.join("\n  ")));
    }

    /// Prints a line of a result.
    pub fn print_line(&self, text: &str) {
        self.result(text);
    }

    /// Prints a result as one JSON document, with the version of the schema and the kind of the document.
    pub fn print_document(&self, kind: &'static str, contents: &impl Serialize) {
        let document = Document { v: SCHEMA, document: kind, contents };
        let text = serde_json::to_string(&document).expect("only names are keys");
        write_out(&text);
    }

    /// Prints a page, such as HTML, as it is.
    pub fn print_page(&self, page: &str) {
        let _ = write!(std::io::stdout(), "{page}");
    }

    /// Prints a table that fits the terminal.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        let lines = text::table(head, rows, self.width().unwrap_or(usize::MAX));
        lines.iter().for_each(|line| self.result(line));
    }

    /// Prints a table without those optional columns that have no room on the terminal.
    pub fn table_without(&self, optional: &[&str], head: &[&str], rows: &[Vec<String>]) {
        let width = self.width().unwrap_or(usize::MAX);
        let (head, rows) = text::without_optional(head, rows, optional, width);
        self.table(&head, &rows);
    }

    /// Clears the terminal for the next output; prints an empty line if stdout is no terminal.
    pub fn next_screen(&self) {
        let term = Term::stdout();
        let cleared = term.features().is_attended() && term.clear_screen().is_ok();
        if !cleared && !self.is_json() {
            write_out("");
        }
    }

    pub fn swarm_rolled_back(&self, stack: &str, services: &[String]) {
        self.result(&format!("stack `{stack}`: {} is rolled back", messages::quoted(services)));
    }

    /// Prints the time of each activity.
    pub fn print_durations(&self) {
        let is_wanted = !self.is_json() && self.0.options.verbosity != Verbosity::Quiet;
        let durations = durations::by_activity(&self.log().records).filter(|_| is_wanted);
        if let Some(durations) = durations {
            self.close_display();
            self.print_above(&self.with_clock(self.elapsed(), &durations.to_string()));
        }
    }

    pub fn deployed(&self, event: Event) {
        let text = event.to_string();
        self.event(event);
        self.result(&text);
    }

    /// Reports the effect of a signal.
    pub fn stop_requested(&self, effect: SignalEffect) {
        match effect {
            SignalEffect::Finish => self.warn(&Warning::FinishingAfterSignal),
            SignalEffect::Hurry => self.warn(&Warning::DrainCutShort),
            SignalEffect::Exit => {
                self.close_display();
                write_err(
                    "ending at once; the service keeps running as it is, and the next `compose-zd deploy`, `rollback` \
                     or `recover` finishes the rollout",
                );
            }
        }
    }

    pub fn superseded(&self, project: &str) {
        self.result(&format!("`{project}`: superseded by a newer run, which deploys instead"));
    }

    pub fn nothing_to_recover(&self, project: &str, release: Option<u32>) {
        match release {
            Some(number) => {
                self.result(&format!("`{project}`: nothing to recover; release {number} is complete"))
            }
            None => self.result(&format!("`{project}`: nothing to recover; no release yet")),
        }
    }

    /// Prints a line of the result; in JSON the summary replaces it.
    fn result(&self, text: &str) {
        if !self.is_json() {
            self.close_display();
            write_out(&with_program(&printable(text), program()));
        }
    }

    /// Removes the live display.
    fn close_display(&self) {
        if let Some(display) = &self.0.display {
            display.close();
        }
    }

    pub fn error(&self, error: &Error) {
        self.close_display();
        self.event(Event::Error {
            exit: error.exit.code(),
            message: error.message.clone(),
            details: error.details.clone(),
            hint: error.hint.clone(),
        });
    }

    /// Summary of the run so far, in JSON.
    pub fn summary(&self, exit: u8) -> serde_json::Value {
        record::summary(&self.log().records, exit, self.elapsed())
    }

    /// Ends the report of a rollout: writes the timeline, and prints the summary in JSON. A timeline that cannot be written
    /// is a warning.
    pub fn end(&self, exit: u8) {
        self.close_display();
        if let Some(path) = &self.0.options.timeline {
            let page = timeline::page(&self.log().records);
            if let Err(error) = std::fs::write(path, page) {
                self.warn(&Warning::TimelineNotWritten(format!(
                    "cannot write the timeline to `{}`: {error}",
                    path.display()
                )));
            }
        }
        if self.is_json() && self.0.options.rollout {
            write_out(&self.summary(exit).to_string());
        }
    }
}

impl Report {
    /// Asks a question at the terminal: true for yes, none if stdin or stderr is no terminal.
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
