//! What an operator sees of the sessions, and does to them.

use std::time::Instant;

use remora_proto::{id::SessionId, line::Why};

use super::{Party, Registry};
use crate::{
    admin::metrics::SessionEnd,
    control::{
        message::ReleaseCause,
        orders::{Facts, Listing, NotOne, Prefix, SideFacts, Way},
    },
};

impl Registry {
    /// At most so many sessions after an id.
    pub fn list(&self, after: SessionId, most: usize, now: Instant) -> Listing {
        let later = self.allocations.range(after..);
        let later = later.filter(|(id, _)| **id > after).take(most);
        let sessions = later.map(|(&session, allocation)| {
            let carried = self.table.carried(session, now).unwrap_or_default();
            let way = |party| match party {
                Party::At(_) => Way::Relay,
                Party::Here(number) => self
                    .nodes
                    .get(&number)
                    .map_or(Way::Relay, |node| Way::At(node.leg.remote)),
            };
            let [host, joiner] = allocation.parties.map(way);
            let [of_host, of_joiner] = carried.sent;
            Facts {
                session,
                age: now.saturating_duration_since(allocation.since),
                sides: [(host, of_host), (joiner, of_joiner)]
                    .map(|(way, sent)| SideFacts { way, sent }),
                is_held_back: carried.is_held_back,
            }
        });
        Listing {
            total: self.allocations.len(),
            sessions: sessions.collect(),
        }
    }

    /// Ends the one session whose id begins so; its two nodes are told why.
    ///
    /// # Errors
    /// [`NotOne`].
    pub fn end_by_operator(&mut self, prefix: Prefix, why: &Why) -> Result<SessionId, NotOne> {
        let mut named = self.allocations.range(prefix.first..=prefix.last);
        let (&session, _) = named.next().ok_or(NotOne::None)?;
        if named.next().is_some() {
            return Err(NotOne::Several);
        }
        self.end_for_both(
            session,
            SessionEnd::Operator,
            ReleaseCause::OperatorEnded,
            why.as_str(),
        );
        Ok(session)
    }
}
