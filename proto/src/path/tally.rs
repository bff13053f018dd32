//! What a session's relay is told of how its path has gone, for its operator to count: whether frames go without a relay and since when,
//! each time that they go another way, each relay that has come to carry them. Nobody's address. Pure.
//!
//! Of the two nodes the host says it, so that a session counts once.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::machine::WhyRelayed;
use crate::{
    rate::{Rate, TokenBucket},
    wire::message::control::{
        MoveCause, PathKnown, PathMoved, PathOutcome, PathReport, PathWay, RelayMoved,
        path_report::Body,
    },
};

/// A path that is never the same for long: a relay hears of the first twenty moves, and then of one in ten seconds.
const MOVES: Rate = Rate::new(6, Duration::from_secs(60), 20);

/// A move to another relay that is not confirmed yet.
#[derive(Clone, Copy, Debug)]
struct Moving {
    at: Instant,
    /// For how long nothing had been heard by then.
    silent: Duration,
}

/// The machine.
#[derive(Debug)]
pub struct Tally {
    began: Instant,
    way: PathWay,
    is_known: bool,
    /// For how long nothing has been heard, when one last looked.
    silent: Duration,
    cause: Option<MoveCause>,
    moving: Option<Moving>,
    moves: TokenBucket,
    reports: VecDeque<PathReport>,
}

impl Tally {
    /// For a session whose frames go `way` when it begins, at `now`.
    pub fn new(way: PathWay, now: Instant) -> Self {
        Self {
            began: now,
            way,
            is_known: false,
            silent: Duration::ZERO,
            cause: None,
            moving: None,
            moves: TokenBucket::new(now),
            reports: VecDeque::new(),
        }
    }

    /// How frames go now, why not without a relay, and for how long nothing has been heard of the other although it should have been.
    /// To be said often: times are as precise as that.
    pub fn handle_look(
        &mut self,
        way: PathWay,
        why: Option<WhyRelayed>,
        silent: Duration,
        now: Instant,
    ) {
        if let Some(outcome) = outcome(way, why).filter(|_| !self.is_known) {
            self.is_known = true;
            self.report(Body::Known(PathKnown {
                outcome: outcome.into(),
                after_ms: ms(now.saturating_duration_since(self.began)),
            }));
        }
        let from = std::mem::replace(&mut self.way, way);
        // Of another way the silence of now says nothing.
        let before = std::mem::replace(&mut self.silent, silent).max(silent);
        if from != way && self.moves.take(MOVES, 1, now).is_ok() {
            self.report(Body::Moved(PathMoved {
                from: from.into(),
                to: way.into(),
                gap_ms: ms(before),
            }));
        }
    }

    /// Something for which the session may go to another relay; what was the matter last counts.
    pub fn handle_cause(&mut self, cause: MoveCause) {
        self.cause = Some(cause);
    }

    /// Frames go by another relay from now on.
    pub fn handle_relay_changed(&mut self, now: Instant) {
        self.moving = Some(Moving {
            at: now,
            silent: self.silent,
        });
    }

    /// The other was heard by that relay.
    pub fn handle_heard(&mut self, now: Instant) {
        let Some(Moving { at, silent }) = self.moving.take() else {
            return;
        };
        let cause = self.cause.take().unwrap_or(MoveCause::Peer);
        // Where something was heard until then, it has come by the old relay until it came by the new one.
        let gap = match silent.is_zero() {
            true => Duration::ZERO,
            false => silent + now.saturating_duration_since(at),
        };
        if self.moves.take(MOVES, 1, now).is_ok() {
            self.report(Body::RelayMoved(RelayMoved {
                why: cause.into(),
                gap_ms: ms(gap),
            }));
        }
    }

    /// What the relay is to be told, whichever carries the session; call until `None`.
    pub fn poll_report(&mut self) -> Option<PathReport> {
        self.reports.pop_front()
    }

    fn report(&mut self, body: Body) {
        self.reports.push_back(PathReport { body: Some(body) });
    }
}

/// What has come of looking for a way without a relay; `None` while nobody knows.
fn outcome(way: PathWay, why: Option<WhyRelayed>) -> Option<PathOutcome> {
    if way == PathWay::Direct {
        return Some(PathOutcome::Direct);
    }
    match why? {
        WhyRelayed::PolicyRelayOnly => Some(PathOutcome::RelayOnly),
        _ if way == PathWay::Stream => Some(PathOutcome::UdpBlocked),
        WhyRelayed::Probing => None,
        WhyRelayed::PeerRelayOnly => Some(PathOutcome::RelayOnly),
        WhyRelayed::UdpBlocked | WhyRelayed::PeerUdpBlocked => Some(PathOutcome::UdpBlocked),
        WhyRelayed::BothSymmetric => Some(PathOutcome::HardNats),
        WhyRelayed::Unreachable | WhyRelayed::WentDark | WhyRelayed::SymmetricVsRestricted => {
            Some(PathOutcome::NoAnswer)
        }
    }
}

fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Run {
        tally: Tally,
        start: Instant,
    }

    impl Run {
        #[expect(clippy::disallowed_methods, reason = "any moment is a start")]
        fn new() -> Self {
            let start = Instant::now();
            Self {
                tally: Tally::new(PathWay::Relay, start),
                start,
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn look(&mut self, at: u64, way: PathWay, why: Option<WhyRelayed>, silent: u64) {
            let now = self.at(at);
            let silent = Duration::from_millis(silent);
            self.tally.handle_look(way, why, silent, now);
        }

        fn told(&mut self) -> Vec<Body> {
            std::iter::from_fn(|| self.tally.poll_report()?.body).collect()
        }
    }

    fn known(outcome: PathOutcome, after_ms: u32) -> Body {
        let outcome = outcome.into();
        Body::Known(PathKnown { outcome, after_ms })
    }

    fn moved(from: PathWay, to: PathWay, gap_ms: u32) -> Body {
        let [from, to] = [from, to].map(Into::into);
        Body::Moved(PathMoved { from, to, gap_ms })
    }

    #[test]
    fn what_came_of_looking_for_a_way_is_told_once() {
        let mut run = Run::new();
        run.look(100, PathWay::Relay, Some(WhyRelayed::Probing), 0);
        assert_eq!(run.told(), []);
        run.look(300, PathWay::Direct, None, 0);
        let up = moved(PathWay::Relay, PathWay::Direct, 0);
        assert_eq!(run.told(), [known(PathOutcome::Direct, 300), up]);
        run.look(400, PathWay::Direct, None, 1400);
        run.look(500, PathWay::Relay, Some(WhyRelayed::WentDark), 0);
        assert_eq!(run.told(), [moved(PathWay::Direct, PathWay::Relay, 1400)]);
        for (way, why, outcome) in [
            (
                PathWay::Relay,
                WhyRelayed::BothSymmetric,
                PathOutcome::HardNats,
            ),
            (
                PathWay::Relay,
                WhyRelayed::Unreachable,
                PathOutcome::NoAnswer,
            ),
            (
                PathWay::Relay,
                WhyRelayed::PeerRelayOnly,
                PathOutcome::RelayOnly,
            ),
            (
                PathWay::Stream,
                WhyRelayed::Probing,
                PathOutcome::UdpBlocked,
            ),
            (
                PathWay::Stream,
                WhyRelayed::PolicyRelayOnly,
                PathOutcome::RelayOnly,
            ),
        ] {
            let mut run = Run::new();
            run.tally.way = way;
            run.look(10, way, Some(why), 0);
            run.look(20, way, Some(WhyRelayed::Unreachable), 0);
            assert_eq!(run.told(), [known(outcome, 10)]);
        }
    }

    #[test]
    fn a_move_to_another_relay_is_told_when_the_other_is_heard_there() {
        let mut run = Run::new();
        run.tally.handle_cause(MoveCause::Draining);
        run.tally.handle_relay_changed(run.at(1000));
        assert_eq!(run.told(), []);
        run.tally.handle_heard(run.at(1200));
        let told = |why: MoveCause, gap_ms| {
            let why = why.into();
            Body::RelayMoved(RelayMoved { why, gap_ms })
        };
        assert_eq!(
            run.told(),
            [told(MoveCause::Draining, 0)],
            "nothing was missing"
        );
        run.tally.handle_heard(run.at(1300));
        assert_eq!(run.told(), [], "nothing new");
        run.look(5000, PathWay::Relay, None, 800);
        run.tally.handle_cause(MoveCause::Lost);
        run.tally.handle_relay_changed(run.at(5100));
        run.tally.handle_heard(run.at(5400));
        assert_eq!(run.told(), [told(MoveCause::Lost, 1100)]);
        run.tally.handle_relay_changed(run.at(6000));
        run.tally.handle_heard(run.at(6000));
        let [Body::RelayMoved(by_the_other)] = &run.told()[..] else {
            panic!("something else");
        };
        assert_eq!(by_the_other.why(), MoveCause::Peer);
    }

    #[test]
    fn a_path_that_is_never_the_same_is_not_told_each_time() {
        let mut run = Run::new();
        for n in 0..1000 {
            let way = [PathWay::Direct, PathWay::Relay][usize::from(n % 2 == 1)];
            run.look(n, way, None, 0);
        }
        let moves = run.told();
        assert_eq!(moves.len(), 21, "with what came of it");
        run.look(11_000, PathWay::Direct, None, 0);
        run.look(11_000, PathWay::Relay, None, 0);
        assert_eq!(run.told().len(), 1);
    }
}
