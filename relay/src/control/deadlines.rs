//! Who is due when, pure.
//!
//! A node's deadline moves with nearly every packet, almost always further away. So a node has at most one entry here, and the
//! entry is only replaced by an earlier one: who is asked too early says when it really wants to be asked.

use std::{collections::BTreeSet, time::Instant};

/// Entries of nodes, by their keys.
#[derive(Debug, Default)]
pub struct Deadlines(BTreeSet<(Instant, usize)>);

/// A node's own half: when it will be asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Armed(Option<Instant>);

impl Deadlines {
    /// `key` wants to be asked at `wanted` or before.
    pub fn arm(&mut self, key: usize, armed: &mut Armed, wanted: Option<Instant>) {
        let Some(wanted) = wanted else { return };
        if armed.0.is_some_and(|armed| armed <= wanted) {
            return;
        }
        self.disarm(key, armed);
        armed.0 = Some(wanted);
        self.0.insert((wanted, key));
    }

    /// `key` is gone.
    pub fn disarm(&mut self, key: usize, armed: &mut Armed) {
        if let Some(armed) = armed.0.take() {
            self.0.remove(&(armed, key));
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Who is due now. Its [`Armed`] is to be [`fired`](Armed::fired).
    pub fn pop_due(&mut self, now: Instant) -> Option<usize> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop_first().map(|(_, key)| key)
    }
}

impl Armed {
    /// The entry has been taken out.
    pub fn fired(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_an_earlier_deadline_replaces_one() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let (mut deadlines, mut one, mut two) =
            (Deadlines::default(), Armed::default(), Armed::default());
        deadlines.arm(1, &mut one, Some(at(5)));
        deadlines.arm(1, &mut one, Some(at(9)));
        deadlines.arm(1, &mut one, None);
        deadlines.arm(2, &mut two, Some(at(7)));
        assert_eq!(deadlines.next(), Some(at(5)));
        deadlines.arm(2, &mut two, Some(at(3)));
        assert_eq!((deadlines.next(), deadlines.0.len()), (Some(at(3)), 2));
        assert_eq!(deadlines.pop_due(at(2)), None);
        assert_eq!(deadlines.pop_due(at(9)), Some(2));
        two.fired();
        deadlines.arm(2, &mut two, Some(at(4)));
        deadlines.disarm(1, &mut one);
        assert_eq!(deadlines.pop_due(at(9)), Some(2));
        assert_eq!(deadlines.pop_due(at(9)), None);
    }
}
