//! Rejoins: two nodes whose session another relay carried meet here by a key that only they know.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::{ExchangeId, SessionId, Side},
    wire::message::control::{Allocated, Rejoin},
};

use super::{ConnectionNumber, Due, Party, Registry};
use crate::control::message::{Answer, Reason, Refusal, Reply, done};

/// Length of a key.
const KEY_LEN: usize = 32;
/// How long a node waits for the other. One may notice some seconds before the other that their relay is gone.
pub(super) const WAIT: Duration = Duration::from_secs(10);
/// Keys of one node at once: one for each of its sessions, as many as those may be.
pub(super) const MAX_PER_NODE: usize = super::allocation::MAX_PER_NODE;

/// What two nodes present.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RejoinKey([u8; KEY_LEN]);

/// Whoever has it is one of the two: it is in no log.
impl std::fmt::Debug for RejoinKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RejoinKey(…)")
    }
}

impl RejoinKey {
    /// Key and side of a request.
    ///
    /// # Errors
    /// When it cannot be one.
    pub fn parse(rejoin: &Rejoin) -> Result<(Self, Side), Refusal> {
        let side = match rejoin.side {
            0 => Side::Host,
            1 => Side::Joiner,
            _ => return Err(Refusal::new(Reason::Malformed, "there are two sides")),
        };
        let key = rejoin.key[..].try_into();
        let key = key.map_err(|_| Refusal::new(Reason::Malformed, "such a key has 32 bytes"))?;
        Ok((Self(key), side))
    }

    fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

#[derive(Debug)]
struct Waiting {
    node: ConnectionNumber,
    side: Side,
    until: Instant,
}

/// Who waits for whom, and what came of it; at most so many of each node, so there is no cap of its own.
#[derive(Debug, Default)]
pub(super) struct Rejoins {
    waiting: BTreeMap<RejoinKey, Waiting>,
    /// One allocation a key: whoever asks again is given the same.
    sessions: BTreeMap<RejoinKey, SessionId>,
}

impl Rejoins {
    /// The session of that key has ended.
    pub(super) fn end(&mut self, key: RejoinKey) {
        self.sessions.remove(&key);
    }
}

impl Registry {
    pub(super) fn rejoin(
        &mut self,
        number: ConnectionNumber,
        key: RejoinKey,
        side: Side,
        now: Instant,
    ) -> Answer {
        if let Some(&session) = self.rejoins.sessions.get(&key) {
            return self.rejoin_again(number, session, side, key);
        }
        self.check_serving()?;
        match self.rejoins.waiting.get(&key) {
            Some(other) if other.node != number && other.side == side.peer() => {
                self.join_again(number, key, side, now)
            }
            Some(other) if other.node != number => Err(Refusal::new(
                Reason::BadState,
                "both say that they are the same side",
            )),
            _ => self.wait_for_other(number, key, side, now),
        }
    }

    /// The two have met; one of them has not heard so, or somebody else has the key.
    fn rejoin_again(
        &self,
        number: ConnectionNumber,
        session: SessionId,
        side: Side,
        key: RejoinKey,
    ) -> Answer {
        let allocation = self.allocations.get(&session);
        let is_theirs = allocation.is_some_and(|one| one.side(Party::Here(number)) == Some(side));
        if !is_theirs {
            return Err(Refusal::new(
                Reason::BadState,
                "the two who have this key have met",
            ));
        }
        Ok(self.rejoined(session, side, key))
    }

    /// The other has been waiting.
    fn join_again(
        &mut self,
        number: ConnectionNumber,
        key: RejoinKey,
        side: Side,
        now: Instant,
    ) -> Answer {
        let Some(other) = self.forget_rejoin(key) else {
            return Ok(done());
        };
        let mut nodes = [number; 2];
        nodes[side.peer() as usize] = other;
        let session = self.allocate(ExchangeId(0), nodes.map(Party::Here), None, now)?;
        if let Some(allocation) = self.allocations.get_mut(&session) {
            allocation.rejoin = Some(key);
            self.rejoins.sessions.insert(key, session);
        }
        let [answer, notice] = [side, side.peer()].map(|side| self.rejoined(session, side, key));
        self.notices.push_back((other, notice));
        Ok(answer)
    }

    fn rejoined(&self, session: SessionId, side: Side, key: RejoinKey) -> Reply {
        Reply::Allocated(Allocated {
            session: session.0,
            side: side as u32,
            rate_bytes_per_s: self.limits.session_rate_bytes_per_s,
            rejoin: key.to_bytes(),
            ..Allocated::default()
        })
    }

    fn wait_for_other(
        &mut self,
        number: ConnectionNumber,
        key: RejoinKey,
        side: Side,
        now: Instant,
    ) -> Answer {
        self.forget_rejoin(key);
        let Some(node) = self.nodes.get_mut(&number) else {
            return Err(super::CONNECTION_OVER);
        };
        if node.rejoins.len() >= MAX_PER_NODE {
            return Err(Refusal::new(Reason::Full, "too many sessions at once"));
        }
        node.rejoins.insert(key);
        let until = now + WAIT;
        let waiting = Waiting {
            node: number,
            side,
            until,
        };
        self.rejoins.waiting.insert(key, waiting);
        self.deadlines.insert((until, Due::Rejoin(key)));
        Ok(done())
    }

    /// Nobody waits under that key any more; who did.
    pub(super) fn forget_rejoin(&mut self, key: RejoinKey) -> Option<ConnectionNumber> {
        let Waiting { node, until, .. } = self.rejoins.waiting.remove(&key)?;
        self.deadlines.remove(&(until, Due::Rejoin(key)));
        if let Some(node) = self.nodes.get_mut(&node) {
            node.rejoins.remove(&key);
        }
        Some(node)
    }
}
