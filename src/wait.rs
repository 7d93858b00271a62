//! The only loop that sleeps, and the signals that cut it short.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// SIGINT or SIGTERM to this run. Every wait and every step checks it; its effect depends on the phase.
#[derive(Clone, Default)]
pub struct StopSignal {
    signal: Arc<AtomicUsize>,
    phase: Arc<AtomicUsize>,
    /// In the finishing phase: a first signal was reported, and a second one has come.
    last_phase: Arc<(AtomicBool, AtomicBool)>,
    wakeup: Arc<Wakeup>,
    on_effect: Option<Arc<dyn Fn(SignalEffect) + Send + Sync>>,
}

/// Phase of a run, which decides the effect of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPhase {
    /// A signal starts an undo; a second one ends the process.
    Interruptible,
    /// All requests go to the new release, so the run is finished; a second signal ends the waits.
    Finishing,
    /// An undo runs; a second signal ends the process.
    GoingBack,
}

/// Effect of a signal, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalEffect {
    Finish,
    Hurry,
    Exit,
}

/// Ends the pause between two polls, because a poll may find something new.
#[derive(Default)]
pub struct Wakeup {
    count: Mutex<u64>,
    condvar: Condvar,
}

impl Wakeup {
    pub fn wake(&self) {
        *self.count.lock().expect("no panic under the lock") += 1;
        self.condvar.notify_all();
    }

    fn count(&self) -> u64 {
        *self.count.lock().expect("no panic under the lock")
    }

    /// Pauses for this long, or until the count changes.
    fn pause(&self, count_before: u64, time: Duration) {
        let count = self.count.lock().expect("no panic under the lock");
        drop(self.condvar.wait_timeout_while(count, time, |count| *count == count_before));
    }
}

impl StopSignal {
    /// Listens for SIGINT and SIGTERM. SIGHUP (a dropped ssh, the end of a hook) does not end the run. `on_effect`
    /// reports the effect of each signal, also of the one that ends the process.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn listen(on_effect: impl Fn(SignalEffect) + Send + Sync + 'static) -> std::io::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let stop = StopSignal { on_effect: Some(Arc::new(on_effect)), ..StopSignal::default() };
        signal_hook::flag::register(SIGHUP, Arc::default())?;
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let listener = stop.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if listener.record(signal) == Some(SignalEffect::Exit) {
                    std::process::exit(128 + signal);
                }
                listener.wakeup.wake();
            }
        });
        Ok(stop)
    }

    /// After a signal, for tests.
    #[cfg(test)]
    pub fn after(signal: i32) -> StopSignal {
        StopSignal { signal: Arc::new(AtomicUsize::new(signal as usize)), ..StopSignal::default() }
    }

    /// Records a signal and returns its effect.
    fn record(&self, signal: i32) -> Option<SignalEffect> {
        let is_first = self.signal.swap(signal as usize, Ordering::SeqCst) == 0;
        let is_finishing = self.phase.load(Ordering::SeqCst) == RunPhase::Finishing as usize;
        let (reported, hurried) = &*self.last_phase;
        let effect = match (is_finishing, is_first) {
            (true, _) if !reported.swap(true, Ordering::SeqCst) => SignalEffect::Finish,
            (true, _) if !hurried.swap(true, Ordering::SeqCst) => SignalEffect::Hurry,
            (false, true) => return None,
            _ => SignalEffect::Exit,
        };
        self.report(effect);
        Some(effect)
    }

    fn report(&self, effect: SignalEffect) {
        if let Some(on_effect) = &self.on_effect {
            on_effect(effect);
        }
    }

    /// Enters a phase, and reports a signal that came too late for the phase before.
    pub fn enter(&self, phase: RunPhase) {
        let before = self.phase.swap(phase as usize, Ordering::SeqCst);
        let has_come = self.signal.load(Ordering::SeqCst) != 0;
        let is_new = before == RunPhase::Interruptible as usize && phase == RunPhase::Finishing;
        if is_new && has_come && !self.last_phase.0.swap(true, Ordering::SeqCst) {
            self.report(SignalEffect::Finish);
        }
    }

    /// Signal that stops the run, in a phase that it interrupts.
    pub fn signal(&self) -> Option<i32> {
        let heeds = self.phase.load(Ordering::SeqCst) == RunPhase::Interruptible as usize;
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => heeds.then_some(signal as i32),
        }
    }

    /// A second signal came in the finishing phase, so optional waits are skipped.
    pub fn is_hurried(&self) -> bool {
        self.last_phase.1.load(Ordering::SeqCst)
    }

    /// Wakes every wait that this signal can stop.
    pub fn wakeup(&self) -> Arc<Wakeup> {
        Arc::clone(&self.wakeup)
    }

    /// Stop signal that no signal sets, with the same wakeup: for work that has to finish.
    pub fn without_signals(&self) -> StopSignal {
        StopSignal { wakeup: self.wakeup(), ..StopSignal::default() }
    }
}

/// Result of a wait.
#[derive(Debug, PartialEq, Eq)]
pub enum WaitResult<T> {
    Done(T),
    TimedOut,
    Interrupted(i32),
}

/// Shortest pause between two polls, as a fraction of the longest.
const SHORTEST_PAUSE: u32 = 20;

/// Pause between two polls: short at first, so that fast work is found at once, then longer.
fn pause(every: Duration, waited: Duration) -> Duration {
    (waited / 4).clamp(every / SHORTEST_PAUSE, every)
}

/// Polls at once and then at growing intervals up to `every`, until `poll` returns a value, the timeout passes, or
/// a signal comes. The stop signal's wakeup triggers a poll at once.
///
/// The last poll is after the timeout, so a timeout of zero polls once.
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
        let count_before = stop.wakeup.count();
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
        stop.wakeup.pause(count_before, pause(every, start.elapsed()).min(left));
    }
}

/// Steady ticker that can be ended at any moment.
#[derive(Default)]
pub struct Ticker {
    ended: Mutex<bool>,
    condvar: Condvar,
}

impl Ticker {
    /// Acts at once and then every `every`, until it is ended. A late tick is not made up for.
    pub fn each(&self, every: Duration, mut act: impl FnMut()) {
        let mut next = Instant::now();
        while !self.has_ended() {
            act();
            next = (next + every).max(Instant::now());
            let left = next.saturating_duration_since(Instant::now());
            let ended = self.ended.lock().expect("no panic under the lock");
            drop(self.condvar.wait_timeout_while(ended, left, |ended| !*ended));
        }
    }

    pub fn end(&self) {
        *self.ended.lock().expect("no panic under the lock") = true;
        self.condvar.notify_all();
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.lock().expect("no panic under the lock")
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
    fn a_timeout_of_zero_polls_once() {
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
    fn a_signal_is_reported_once_it_is_too_late_for_an_undo_and_a_second_one_ends_the_waits() {
        let effects: Arc<Mutex<Vec<SignalEffect>>> = Arc::default();
        let listening = || {
            let reported = Arc::clone(&effects);
            StopSignal {
                on_effect: Some(Arc::new(move |effect| reported.lock().unwrap().push(effect))),
                ..StopSignal::default()
            }
        };
        let stop = listening();
        stop.enter(RunPhase::Finishing);
        assert_eq!(
            (stop.record(15), stop.signal(), stop.is_hurried()),
            (Some(SignalEffect::Finish), None, false)
        );
        assert_eq!((stop.record(15), stop.is_hurried()), (Some(SignalEffect::Hurry), true));
        assert_eq!(stop.record(15), Some(SignalEffect::Exit));
        assert_eq!(
            std::mem::take(&mut *effects.lock().unwrap()),
            [SignalEffect::Finish, SignalEffect::Hurry, SignalEffect::Exit]
        );

        let late = listening();
        assert_eq!((late.record(2), late.signal()), (None, Some(2)));
        late.enter(RunPhase::Finishing);
        assert_eq!(
            *effects.lock().unwrap(),
            [SignalEffect::Finish],
            "the signal came just before the last switch"
        );
        assert_eq!(late.record(2), Some(SignalEffect::Hurry));
        late.enter(RunPhase::Interruptible);
        assert_eq!(late.signal(), Some(2), "the next service does not begin");

        let going_back = listening();
        assert_eq!(going_back.record(15), None);
        going_back.enter(RunPhase::GoingBack);
        assert_eq!((going_back.signal(), going_back.record(15)), (None, Some(SignalEffect::Exit)));
    }

    #[test]
    fn a_wakeup_ends_a_pause_also_during_a_poll() {
        let stop = StopSignal::default();
        let wakeup = stop.wakeup();
        let mut polls = 0;
        let waited: Result<WaitResult<()>, ()> = until(MS * 3_600_000, MS * 3_600_000, &stop, || {
            polls += 1;
            wakeup.wake();
            Ok((polls == 3).then_some(()))
        });
        assert_eq!((waited, polls), (Ok(WaitResult::Done(())), 3));
        let stop = StopSignal::default();
        let wakeup = stop.wakeup();
        let (started, starts) = std::sync::mpsc::channel();
        let waker = std::thread::spawn(move || {
            starts.recv().unwrap();
            wakeup.wake();
        });
        let mut polls = 0;
        let waited: Result<_, ()> = until(MS * 3_600_000, MS * 3_600_000, &stop, || {
            polls += 1;
            started.send(()).ok();
            Ok((polls == 2).then_some(polls))
        });
        waker.join().unwrap();
        assert_eq!(waited, Ok(WaitResult::Done(2)));
    }

    #[test]
    fn a_ticker_can_be_ended_even_during_a_long_pause() {
        let ticker = Arc::new(Ticker::default());
        let mut ticks = 0;
        ticker.each(MS, || {
            ticks += 1;
            if ticks == 3 {
                ticker.end();
            }
        });
        assert_eq!(ticks, 3);
        let ticker = Arc::new(Ticker::default());
        let (sender, received) = std::sync::mpsc::channel();
        let other = Arc::clone(&ticker);
        let ticks = std::thread::spawn(move || other.each(MS * 3_600_000, || sender.send(()).unwrap()));
        received.recv().unwrap();
        ticker.end();
        ticks.join().unwrap();
        assert!(received.try_recv().is_err(), "there was only one");
    }

    #[test]
    fn an_error_of_the_poll_ends_a_wait() {
        let waited: Result<WaitResult<()>, _> = until(MS, MS, &StopSignal::default(), || Err("no"));
        assert_eq!(waited, Err("no"));
    }
}
