//! Allocations: two nodes whose frames are forwarded. Each has its twin in the session table.

use std::time::{Duration, Instant};

use bytes::Bytes;
use remora_proto::{
    id::{ExchangeId, SessionId, Side},
    wire::message::control::{Allocated, Released},
};

use super::{ConnectionNumber, Due, Registry};
use crate::{
    admin::metrics::SessionEnd,
    control::message::{Answer, Reason, Refusal, ReleaseCause, Reply, done},
    datapath::leg::Leg,
};

/// Sessions of one connection at once: a helper with a row of windows; more is a program gone wrong.
pub(super) const MAX_PER_NODE: usize = 16;
/// How long an allocation without a frame is kept. Live inner connections send something every few seconds.
pub(super) const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Allocation {
    /// By [`Side`].
    nodes: [ConnectionNumber; 2],
    check_at: Instant,
}

impl Allocation {
    fn side(&self, number: ConnectionNumber) -> Option<Side> {
        [Side::Host, Side::Joiner]
            .into_iter()
            .find(|&side| self.nodes[side as usize] == number)
    }
}

impl Registry {
    /// Allocates a session for `nodes` (host, joiner): the joiner is told, the host's answer is returned.
    pub(super) fn allocate(
        &mut self,
        exchange: ExchangeId,
        nodes: [ConnectionNumber; 2],
        payload: Bytes,
        now: Instant,
    ) -> Answer {
        let session = self.open_session(nodes, now)?;
        let of = |side, payload| self.allocated(exchange, session, side, payload, Bytes::new());
        let (answer, notice) = (of(Side::Host, Bytes::new()), of(Side::Joiner, payload));
        self.notices.push_back((nodes[1], notice));
        Ok(answer)
    }

    /// Opens a session for `nodes` (host, joiner).
    pub(super) fn open_session(
        &mut self,
        nodes: [ConnectionNumber; 2],
        now: Instant,
    ) -> Result<SessionId, Refusal> {
        let legs = self.legs(nodes)?;
        let session = self.new_session(legs, now);
        let check_at = now + IDLE;
        self.allocations
            .insert(session, Allocation { nodes, check_at });
        self.deadlines.insert((check_at, Due::Allocation(session)));
        for number in nodes {
            if let Some(node) = self.nodes.get_mut(&number) {
                node.sessions.insert(session);
            }
        }
        let [host, joiner] = nodes.map(|number| self.nodes.get(&number).map(|node| node.id));
        tracing::info!(%session, ?host, ?joiner, "session allocated");
        Ok(session)
    }

    /// What one side of a session is told.
    pub(super) fn allocated(
        &self,
        exchange: ExchangeId,
        session: SessionId,
        side: Side,
        payload: Bytes,
        rejoin: Bytes,
    ) -> Reply {
        Reply::Allocated(Allocated {
            exchange: exchange.0,
            payload,
            session: session.0,
            side: side as u32,
            rate_bytes_per_s: self.limits.session_rate_bytes_per_s,
            rejoin,
        })
    }

    /// Where the two are, if there is room for their session.
    fn legs(&self, nodes: [ConnectionNumber; 2]) -> Result<[Leg; 2], Refusal> {
        if self.allocations.len() >= self.limits.max_sessions {
            return Err(Refusal::new(
                Reason::Full,
                "this relay has as many sessions as it may; try another",
            ));
        }
        let leg = |number| {
            let node = self.nodes.get(&number).ok_or(super::PEER_GONE)?;
            if node.sessions.len() >= MAX_PER_NODE {
                return Err(Refusal::new(
                    Reason::Full,
                    "one of the two has too many sessions",
                ));
            }
            Ok(node.leg)
        };
        Ok([leg(nodes[0])?, leg(nodes[1])?])
    }

    fn new_session(&mut self, legs: [Leg; 2], now: Instant) -> SessionId {
        loop {
            let session = SessionId(u64::from_be_bytes(self.random.bytes()));
            if session.0 != 0 && self.table.insert(session, legs, now) {
                return session;
            }
        }
    }

    /// A node's address changed: its legs follow.
    pub fn move_node(&mut self, number: ConnectionNumber, leg: Leg) {
        let Some(node) = self.nodes.get_mut(&number) else {
            return;
        };
        node.leg = leg;
        for session in &node.sessions {
            if let Some(side) = self
                .allocations
                .get(session)
                .and_then(|allocation| allocation.side(number))
            {
                self.table.update_leg(*session, side, leg);
            }
        }
    }

    pub(super) fn release(&mut self, number: ConnectionNumber, session: SessionId) -> Answer {
        self.end_for_peer(
            number,
            session,
            SessionEnd::Released,
            ReleaseCause::PeerReleased,
        )
        .then(done)
        .ok_or(Refusal::new(Reason::BadState, "you have no such session"))
    }

    pub(super) fn lose_session(&mut self, gone: ConnectionNumber, session: SessionId) {
        self.end_for_peer(gone, session, SessionEnd::Lost, ReleaseCause::PeerLost);
    }

    /// Ends a session of `number` and tells the other; false when it is not one of its sessions.
    fn end_for_peer(
        &mut self,
        number: ConnectionNumber,
        session: SessionId,
        end: SessionEnd,
        cause: ReleaseCause,
    ) -> bool {
        let side = self
            .allocations
            .get(&session)
            .and_then(|allocation| allocation.side(number));
        let Some(side) = side else { return false };
        if let Some(ended) = self.end_session(session, end) {
            self.notices
                .push_back((ended.nodes[side.peer() as usize], released(session, cause)));
        }
        true
    }

    pub(super) fn check_idle(&mut self, session: SessionId, now: Instant) {
        let Some(allocation) = self.allocations.get_mut(&session) else {
            return;
        };
        let idle_at = self
            .table
            .last_seen(session)
            .map_or(now, |seen| seen + IDLE);
        if idle_at > now {
            allocation.check_at = idle_at;
            self.deadlines.insert((idle_at, Due::Allocation(session)));
        } else {
            self.end_for_both(session, SessionEnd::Idle, ReleaseCause::Idle);
        }
    }

    pub(super) fn end_all_sessions(&mut self) {
        let sessions: Vec<_> = self.allocations.keys().copied().collect();
        for session in sessions {
            self.end_for_both(session, SessionEnd::Drained, ReleaseCause::RelayDrained);
        }
    }

    fn end_for_both(&mut self, session: SessionId, end: SessionEnd, cause: ReleaseCause) {
        if let Some(ended) = self.end_session(session, end) {
            self.notices
                .extend(ended.nodes.map(|node| (node, released(session, cause))));
        }
    }

    fn end_session(&mut self, session: SessionId, end: SessionEnd) -> Option<Allocation> {
        let ended = self.allocations.remove(&session)?;
        self.deadlines
            .remove(&(ended.check_at, Due::Allocation(session)));
        for number in ended.nodes {
            if let Some(node) = self.nodes.get_mut(&number) {
                node.sessions.remove(&session);
            }
        }
        let [host, joiner] = self.table.remove(session).unwrap_or_default();
        tracing::info!(
            %session, ?end, host_bytes = host.bytes, joiner_bytes = joiner.bytes,
            frames = host.frames + joiner.frames, "session ended"
        );
        self.metrics.session_end(end);
        self.drain.handle_sessions(self.allocations.len());
        Some(ended)
    }
}

fn released(session: SessionId, cause: ReleaseCause) -> Reply {
    Reply::Released(Released {
        session: session.0,
        cause: cause.into(),
    })
}
