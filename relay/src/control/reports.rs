//! What nodes say of how their sessions' paths have gone, for the operator to count. Nobody's address is in it, and it is the word of a
//! node: it counts, and nothing follows from it.

use remora_proto::wire::message::control::{
    MoveCause as Cause, PathKnown, PathMoved, PathOutcome as Known, PathReport, PathWay as Way,
    RelayMoved, path_report::Body,
};

use super::message::{Reason, Refusal};
use crate::admin::metrics::{Metrics, MoveCause, MoveResult, PathOutcome, PathWay};

const MALFORMED: Refusal = Refusal::new(Reason::Malformed, "no report that this relay knows");

/// A report that makes sense.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Report {
    /// Whether frames go without a relay, and since how many seconds after the first.
    Known(PathOutcome, f64),
    /// They go another way, and for so many seconds nothing was heard before.
    Moved([PathWay; 2], f64),
    /// They came to this relay, and for so many seconds nothing was heard before.
    RelayMoved(MoveCause, f64),
}

impl Report {
    /// What a node says.
    ///
    /// # Errors
    /// When it makes no sense here.
    pub fn parse(report: PathReport) -> Result<Self, Refusal> {
        match report.body.ok_or(MALFORMED)? {
            Body::Known(known) => {
                let outcome = outcome(&known).ok_or(MALFORMED)?;
                Ok(Self::Known(outcome, seconds(known.after_ms)))
            }
            Body::Moved(moved) => {
                let ways = ways(&moved).filter(|[from, to]| from != to);
                Ok(Self::Moved(ways.ok_or(MALFORMED)?, seconds(moved.gap_ms)))
            }
            Body::RelayMoved(moved) => {
                let cause = cause(&moved).ok_or(MALFORMED)?;
                Ok(Self::RelayMoved(cause, seconds(moved.gap_ms)))
            }
        }
    }

    /// Counts it.
    pub fn count(self, metrics: &Metrics) {
        match self {
            Self::Known(outcome, seconds) => metrics.path(outcome, seconds),
            Self::Moved([from, to], gap) => {
                metrics.path_moved(from, to);
                metrics.gap(gap);
            }
            Self::RelayMoved(cause, gap) => {
                metrics.session_moved(cause, MoveResult::Ok);
                metrics.gap(gap);
            }
        }
    }
}

fn outcome(known: &PathKnown) -> Option<PathOutcome> {
    match known.outcome() {
        Known::Unspecified => None,
        Known::Direct => Some(PathOutcome::Direct),
        Known::NoAnswer => Some(PathOutcome::NoAnswer),
        Known::HardNats => Some(PathOutcome::HardNats),
        Known::UdpBlocked => Some(PathOutcome::UdpBlocked),
        Known::RelayOnly => Some(PathOutcome::RelayOnly),
    }
}

fn ways(moved: &PathMoved) -> Option<[PathWay; 2]> {
    let way = |way| match way {
        Way::Unspecified => None,
        Way::Direct => Some(PathWay::Direct),
        Way::Relay => Some(PathWay::Relay),
        Way::Stream => Some(PathWay::Stream),
    };
    Some([way(moved.from())?, way(moved.to())?])
}

fn cause(moved: &RelayMoved) -> Option<MoveCause> {
    match moved.why() {
        Cause::Unspecified => None,
        Cause::Draining => Some(MoveCause::Draining),
        Cause::Lost => Some(MoveCause::Lost),
        Cause::Nearer => Some(MoveCause::Nearer),
        Cause::Peer => Some(MoveCause::Peer),
    }
}

fn seconds(ms: u32) -> f64 {
    f64::from(ms) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: Body) -> Option<Report> {
        Report::parse(PathReport { body: Some(body) }).ok()
    }

    #[test]
    fn what_makes_no_sense_is_not_counted() {
        let moved = |from, to| {
            parsed(Body::Moved(PathMoved {
                from,
                to,
                gap_ms: 250,
            }))
        };
        let ways = [PathWay::Direct, PathWay::Relay];
        assert_eq!(moved(1, 2), Some(Report::Moved(ways, 0.25)));
        for (from, to) in [(0, 1), (1, 1), (1, 77), (-1, 2)] {
            assert_eq!(moved(from, to), None);
        }
        for outcome in [0, 99] {
            let after_ms = 5;
            assert_eq!(parsed(Body::Known(PathKnown { outcome, after_ms })), None);
        }
        let why = Cause::Nearer.into();
        let moved = Body::RelayMoved(RelayMoved { why, gap_ms: 0 });
        assert_eq!(
            parsed(moved),
            Some(Report::RelayMoved(MoveCause::Nearer, 0.0))
        );
        assert_eq!(Report::parse(PathReport { body: None }), Err(MALFORMED));
    }
}
