//! When the next frames are due. Pure.

/// A sender that was kept from running for longer does not make up for it: that would be a burst nobody asked for.
const MAX_LATE_NS: u64 = 20_000_000;

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as frames come back, with at most so many on their way: nobody drowns, nothing is lost.
    Window(u64),
    /// So many frames per second, whatever comes back.
    Rate(u64),
}

/// The state of a [`Pace`].
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    unit_frames: u64,
    start_ns: u64,
    units: u64,
}

impl Pacer {
    /// Units of `unit_frames`, from `now_ns` on.
    pub fn new(pace: Pace, unit_frames: u64, now_ns: u64) -> Self {
        Self {
            pace,
            unit_frames,
            start_ns: now_ns,
            units: 0,
        }
    }

    /// Takes the next unit, if it is due.
    pub fn take(&mut self, now_ns: u64, on_their_way: u64) -> bool {
        match self.pace {
            Pace::Window(window) => on_their_way + self.unit_frames <= window,
            Pace::Rate(frames_per_s) => {
                let due_ns = self.due_ns(frames_per_s);
                if due_ns > now_ns {
                    return false;
                }
                self.start_ns += (now_ns - due_ns).saturating_sub(MAX_LATE_NS);
                self.units += 1;
                true
            }
        }
    }

    fn due_ns(&self, frames_per_s: u64) -> u64 {
        let frames = u128::from(self.units) * u128::from(self.unit_frames);
        let since_ns = frames * 1_000_000_000 / u128::from(frames_per_s.max(1));
        self.start_ns
            .saturating_add(u64::try_from(since_ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_rate_is_kept_without_drift() {
        let mut pacer = Pacer::new(Pace::Rate(3000), 1, 5 * MS);
        let taken = (0..=10_000)
            .filter(|step| pacer.take(5 * MS + step * MS / 10, u64::MAX))
            .count();
        assert_eq!(taken, 3001, "one at once, then 3000 in a second");
    }

    #[test]
    fn bursts_come_as_rarely_as_they_are_long() {
        let mut pacer = Pacer::new(Pace::Rate(16_000), 16, 0);
        let taken = (0..10_000)
            .filter(|step| pacer.take(step * MS / 10, 0))
            .count();
        assert_eq!(taken, 1000);
    }

    #[test]
    fn a_late_sender_does_not_flood() {
        let mut pacer = Pacer::new(Pace::Rate(1000), 1, 0);
        let at_once = (0..1000).filter(|_| pacer.take(1000 * MS, 0)).count();
        assert_eq!(at_once, 21, "20 ms of it");
    }

    #[test]
    fn a_window_waits_for_what_comes_back() {
        let mut pacer = Pacer::new(Pace::Window(40), 16, 0);
        assert!(pacer.take(0, 0) && pacer.take(0, 24));
        assert!(!pacer.take(1000 * MS, 25));
    }
}
