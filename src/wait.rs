//! The only loop that sleeps, and what can cut it short.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Set by the first SIGINT or SIGTERM; every wait and every step looks at it. What a signal does depends on the phase.
#[derive(Clone, Default)]
pub struct StopSignal {
    signal: Arc<AtomicUsize>,
    phase: Arc<AtomicUsize>,
    /// A signal in the last phase has been told, and a second one has come.
    last: Arc<(AtomicBool, AtomicBool)>,
    bell: Arc<Wakeup>,
    told: Option<Arc<dyn Fn(SignalEffect) + Send + Sync>>,
}

/// A phase of a run, by what a signal does in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPhase {
    /// It goes back; a second one ends the process.
    Heeds,
    /// All requests go to the new release, so the run is finished; a second signal ends what is waited for.
    Finishes,
    /// What served before comes back; a second signal ends the process.
    GoesBack,
}

/// What becomes of a signal, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalEffect {
    Finishes,
    Hurries,
    Leaves,
}

/// Ends the pause between two polls: something has happened that a poll may find.
#[derive(Default)]
pub struct Wakeup {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Wakeup {
    pub fn ring(&self) {
        *self.rings.lock().expect("nobody panicked") += 1;
        self.rung.notify_all();
    }

    fn rings(&self) -> u64 {
        *self.rings.lock().expect("nobody panicked")
    }

    /// Pauses for this long, or until there were more rings than these.
    fn pause(&self, heard: u64, time: Duration) {
        let rings = self.rings.lock().expect("nobody panicked");
        drop(self.rung.wait_timeout_while(rings, time, |rings| *rings == heard));
    }
}

impl StopSignal {
    /// Listens for SIGINT and SIGTERM, and keeps a rollout alive through SIGHUP (a dropped ssh, the end of a hook). The
    /// signal that ends the process does so after `told` has said so.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen(told: impl Fn(SignalEffect) + Send + Sync + 'static) -> std::io::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let stop = StopSignal { told: Some(Arc::new(told)), ..StopSignal::default() };
        signal_hook::flag::register(SIGHUP, Arc::default())?;
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let asked = stop.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if asked.record(signal) == Some(SignalEffect::Leaves) {
                    std::process::exit(128 + signal);
                }
                asked.bell.ring();
            }
        });
        Ok(stop)
    }

    /// One that has got a signal, for tests of what heeds it.
    #[cfg(test)]
    pub fn after(signal: i32) -> StopSignal {
        StopSignal { signal: Arc::new(AtomicUsize::new(signal as usize)), ..StopSignal::default() }
    }

    /// Takes a signal in, and says what becomes of it.
    fn record(&self, signal: i32) -> Option<SignalEffect> {
        let is_first = self.signal.swap(signal as usize, Ordering::SeqCst) == 0;
        let finishes = self.phase.load(Ordering::SeqCst) == RunPhase::Finishes as usize;
        let (told, hurried) = &*self.last;
        let asked = match (finishes, is_first) {
            (true, _) if !told.swap(true, Ordering::SeqCst) => SignalEffect::Finishes,
            (true, _) if !hurried.swap(true, Ordering::SeqCst) => SignalEffect::Hurries,
            (false, true) => return None,
            _ => SignalEffect::Leaves,
        };
        self.report(asked);
        Some(asked)
    }

    fn report(&self, asked: SignalEffect) {
        if let Some(told) = &self.told {
            told(asked);
        }
    }

    /// Enters a phase; a signal that came too late for the one before is told.
    pub fn enter(&self, phase: RunPhase) {
        let before = self.phase.swap(phase as usize, Ordering::SeqCst);
        let has_come = self.signal.load(Ordering::SeqCst) != 0;
        let is_new = before == RunPhase::Heeds as usize && phase == RunPhase::Finishes;
        if is_new && has_come && !self.last.0.swap(true, Ordering::SeqCst) {
            self.report(SignalEffect::Finishes);
        }
    }

    /// The signal that asked to stop, in a phase that heeds it.
    pub fn signal(&self) -> Option<i32> {
        let heeds = self.phase.load(Ordering::SeqCst) == RunPhase::Heeds as usize;
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => heeds.then_some(signal as i32),
        }
    }

    /// A second signal has come while it finishes: nothing is waited for that can be left.
    pub fn is_hurried(&self) -> bool {
        self.last.1.load(Ordering::SeqCst)
    }

    /// Cuts the pauses of every wait short that this can stop.
    pub fn bell(&self) -> Arc<Wakeup> {
        Arc::clone(&self.bell)
    }

    /// A stop that no signal sets, with the same bell: for what has to be finished.
    pub fn unheeded(&self) -> StopSignal {
        StopSignal { bell: self.bell(), ..StopSignal::default() }
    }
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum WaitResult<T> {
    Done(T),
    TimedOut,
    Interrupted(i32),
}

/// The shortest pause between two polls, as a part of the longest.
const FIRST: u32 = 20;

/// How long to pause after so much of the wait: what takes no time is found at once, and what takes long is not asked for
/// all the time.
fn pause(every: Duration, waited: Duration) -> Duration {
    (waited / 4).clamp(every / FIRST, every)
}

/// Polls at once, then soon, and less and less often down to every `every`, until it gives a value, the limit passes, or a
/// signal comes. A ring of the stop's bell has it poll at once.
///
/// The poll always gets its turn after the limit has passed, so that a limit of zero asks once.
///
/// # Errors
/// The first error of `poll`.
pub fn until<T, E>(
    every: Duration,
    limit: Duration,
    stop: &StopSignal,
    mut poll: impl FnMut() -> Result<Option<T>, E>,
) -> Result<WaitResult<T>, E> {
    let start = Instant::now();
    loop {
        let heard = stop.bell.rings();
        let late = start.elapsed() >= limit;
        if let Some(value) = poll()? {
            return Ok(WaitResult::Done(value));
        }
        if let Some(signal) = stop.signal() {
            return Ok(WaitResult::Interrupted(signal));
        }
        if late {
            return Ok(WaitResult::TimedOut);
        }
        let left = limit.saturating_sub(start.elapsed());
        stop.bell.pause(heard, pause(every, start.elapsed()).min(left));
    }
}

/// A steady beat that can be ended at any moment.
#[derive(Default)]
pub struct Ticker {
    ended: Mutex<bool>,
    bell: Condvar,
}

impl Ticker {
    /// Acts at once and then every `every`, until it is ended. A beat that comes late is not made up for.
    pub fn each(&self, every: Duration, mut act: impl FnMut()) {
        let mut next = Instant::now();
        while !self.has_ended() {
            act();
            next = (next + every).max(Instant::now());
            let left = next.saturating_duration_since(Instant::now());
            let ended = self.ended.lock().expect("nobody panicked");
            drop(self.bell.wait_timeout_while(ended, left, |ended| !*ended));
        }
    }

    pub fn end(&self) {
        *self.ended.lock().expect("nobody panicked") = true;
        self.bell.notify_all();
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.lock().expect("nobody panicked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_wait_ends_with_the_first_value() {
        let mut polls = 0;
        let waited: Result<_, ()> = until(MS, MS * 1000, &StopSignal::default(), || {
            polls += 1;
            Ok((polls == 3).then_some(polls))
        });
        assert_eq!(waited, Ok(WaitResult::Done(3)));
    }

    #[test]
    fn polls_come_soon_and_get_rare() {
        let pauses = [0, 20, 40, 400, 800, 60_000].map(|ms| pause(MS * 200, MS * ms));
        assert_eq!(pauses, [10, 10, 10, 100, 200, 200].map(|ms| MS * ms));
    }

    #[test]
    fn a_limit_of_zero_asks_once() {
        let mut polls = 0;
        let waited: Result<WaitResult<()>, ()> = until(MS, Duration::ZERO, &StopSignal::default(), || {
            polls += 1;
            Ok(None)
        });
        assert_eq!((waited, polls), (Ok(WaitResult::TimedOut), 1));
    }

    #[test]
    fn a_signal_ends_a_wait() {
        let stop = StopSignal::after(15);
        let waited: Result<WaitResult<()>, ()> = until(MS, MS * 1000, &stop, || Ok(None));
        assert_eq!(waited, Ok(WaitResult::Interrupted(15)));
    }

    #[test]
    fn a_signal_is_told_once_it_is_too_late_to_go_back_and_a_second_one_ends_the_waits() {
        let heard: Arc<Mutex<Vec<SignalEffect>>> = Arc::default();
        let listening = || {
            let told = Arc::clone(&heard);
            StopSignal {
                told: Some(Arc::new(move |asked| told.lock().unwrap().push(asked))),
                ..StopSignal::default()
            }
        };
        let stop = listening();
        stop.enter(RunPhase::Finishes);
        assert_eq!(
            (stop.record(15), stop.signal(), stop.is_hurried()),
            (Some(SignalEffect::Finishes), None, false)
        );
        assert_eq!((stop.record(15), stop.is_hurried()), (Some(SignalEffect::Hurries), true));
        assert_eq!(stop.record(15), Some(SignalEffect::Leaves));
        assert_eq!(
            std::mem::take(&mut *heard.lock().unwrap()),
            [SignalEffect::Finishes, SignalEffect::Hurries, SignalEffect::Leaves]
        );

        let late = listening();
        assert_eq!((late.record(2), late.signal()), (None, Some(2)));
        late.enter(RunPhase::Finishes);
        assert_eq!(*heard.lock().unwrap(), [SignalEffect::Finishes], "it came just before the last switch");
        assert_eq!(late.record(2), Some(SignalEffect::Hurries));
        late.enter(RunPhase::Heeds);
        assert_eq!(late.signal(), Some(2), "the next service is not begun");

        let back = listening();
        assert_eq!(back.record(15), None);
        back.enter(RunPhase::GoesBack);
        assert_eq!((back.signal(), back.record(15)), (None, Some(SignalEffect::Leaves)));
    }

    #[test]
    fn a_ring_ends_a_pause_also_one_that_comes_while_it_polls() {
        let stop = StopSignal::default();
        let bell = stop.bell();
        let mut polls = 0;
        let waited: Result<WaitResult<()>, ()> = until(MS * 3_600_000, MS * 3_600_000, &stop, || {
            polls += 1;
            bell.ring();
            Ok((polls == 3).then_some(()))
        });
        assert_eq!((waited, polls), (Ok(WaitResult::Done(())), 3));
        let stop = StopSignal::default();
        let bell = stop.bell();
        let (started, starts) = std::sync::mpsc::channel();
        let ringer = std::thread::spawn(move || {
            starts.recv().unwrap();
            bell.ring();
        });
        let mut polls = 0;
        let waited: Result<_, ()> = until(MS * 3_600_000, MS * 3_600_000, &stop, || {
            polls += 1;
            started.send(()).ok();
            Ok((polls == 2).then_some(polls))
        });
        ringer.join().unwrap();
        assert_eq!(waited, Ok(WaitResult::Done(2)));
    }

    #[test]
    fn a_beat_goes_on_until_it_is_ended_even_in_the_middle_of_a_long_one() {
        let beat = Arc::new(Ticker::default());
        let mut beats = 0;
        beat.each(MS, || {
            beats += 1;
            if beats == 3 {
                beat.end();
            }
        });
        assert_eq!(beats, 3);
        let beat = Arc::new(Ticker::default());
        let (told, hears) = std::sync::mpsc::channel();
        let other = Arc::clone(&beat);
        let beats = std::thread::spawn(move || other.each(MS * 3_600_000, || told.send(()).unwrap()));
        hears.recv().unwrap();
        beat.end();
        beats.join().unwrap();
        assert!(hears.try_recv().is_err(), "there was only one");
    }

    #[test]
    fn an_error_of_the_poll_ends_a_wait() {
        let waited: Result<WaitResult<()>, _> = until(MS, MS, &StopSignal::default(), || Err("no"));
        assert_eq!(waited, Err("no"));
    }
}
