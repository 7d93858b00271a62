//! The only loop that sleeps, and what can cut it short.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Set by the first SIGINT or SIGTERM; every wait and every step looks at it. The second ends the process.
#[derive(Clone, Default)]
pub struct Stop {
    signal: Arc<AtomicUsize>,
    bell: Arc<Bell>,
}

/// Ends the pause between two polls: something has happened that a poll may find.
#[derive(Default)]
pub struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
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

impl Stop {
    /// Listens for SIGINT and SIGTERM, and keeps a rollout alive through SIGHUP (a dropped ssh, the end of a hook). The
    /// second signal ends the process, after `leaving` has told so.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen(leaving: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let stop = Stop::default();
        signal_hook::flag::register(SIGHUP, Arc::default())?;
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let asked = stop.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if asked.signal().is_some() {
                    leaving();
                    std::process::exit(128 + signal);
                }
                asked.signal.store(signal as usize, Ordering::Relaxed);
                asked.bell.ring();
            }
        });
        Ok(stop)
    }

    /// The signal that asked to stop.
    pub fn signal(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Cuts the pauses of every wait short that this can stop.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// A stop that no signal sets, with the same bell: for what has to be finished.
    pub fn unheeded(&self) -> Stop {
        Stop { signal: Arc::default(), bell: self.bell() }
    }
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited<T> {
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
    stop: &Stop,
    mut poll: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Waited<T>, E> {
    let start = Instant::now();
    loop {
        let heard = stop.bell.rings();
        let late = start.elapsed() >= limit;
        if let Some(value) = poll()? {
            return Ok(Waited::Done(value));
        }
        if let Some(signal) = stop.signal() {
            return Ok(Waited::Interrupted(signal));
        }
        if late {
            return Ok(Waited::TimedOut);
        }
        let left = limit.saturating_sub(start.elapsed());
        stop.bell.pause(heard, pause(every, start.elapsed()).min(left));
    }
}

/// A steady beat that can be ended at any moment.
#[derive(Default)]
pub struct Beat {
    ended: Mutex<bool>,
    bell: Condvar,
}

impl Beat {
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
        let waited: Result<_, ()> = until(MS, MS * 1000, &Stop::default(), || {
            polls += 1;
            Ok((polls == 3).then_some(polls))
        });
        assert_eq!(waited, Ok(Waited::Done(3)));
    }

    #[test]
    fn polls_come_soon_and_get_rare() {
        let pauses = [0, 20, 40, 400, 800, 60_000].map(|ms| pause(MS * 200, MS * ms));
        assert_eq!(pauses, [10, 10, 10, 100, 200, 200].map(|ms| MS * ms));
    }

    #[test]
    fn a_limit_of_zero_asks_once() {
        let mut polls = 0;
        let waited: Result<Waited<()>, ()> = until(MS, Duration::ZERO, &Stop::default(), || {
            polls += 1;
            Ok(None)
        });
        assert_eq!((waited, polls), (Ok(Waited::TimedOut), 1));
    }

    #[test]
    fn a_signal_ends_a_wait() {
        let stop = Stop { signal: Arc::new(AtomicUsize::new(15)), ..Stop::default() };
        let waited: Result<Waited<()>, ()> = until(MS, MS * 1000, &stop, || Ok(None));
        assert_eq!(waited, Ok(Waited::Interrupted(15)));
    }

    #[test]
    fn a_ring_ends_a_pause_also_one_that_comes_while_it_polls() {
        let stop = Stop::default();
        let bell = stop.bell();
        let mut polls = 0;
        let waited: Result<Waited<()>, ()> = until(MS * 3_600_000, MS * 3_600_000, &stop, || {
            polls += 1;
            bell.ring();
            Ok((polls == 3).then_some(()))
        });
        assert_eq!((waited, polls), (Ok(Waited::Done(())), 3));
        let stop = Stop::default();
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
        assert_eq!(waited, Ok(Waited::Done(2)));
    }

    #[test]
    fn a_beat_goes_on_until_it_is_ended_even_in_the_middle_of_a_long_one() {
        let beat = Arc::new(Beat::default());
        let mut beats = 0;
        beat.each(MS, || {
            beats += 1;
            if beats == 3 {
                beat.end();
            }
        });
        assert_eq!(beats, 3);
        let beat = Arc::new(Beat::default());
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
        let waited: Result<Waited<()>, _> = until(MS, MS, &Stop::default(), || Err("no"));
        assert_eq!(waited, Err("no"));
    }
}
