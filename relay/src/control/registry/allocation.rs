//! Allocations: two nodes whose frames are forwarded. Each has its twin in the session table.

use std::time::{Duration, Instant};

use bytes::Bytes;
use remora_proto::{
    id::{ExchangeId, RelayId, SessionId, Side},
    wire::message::control::{Allocated, Released},
};

use tracing::Span;

use super::{ConnectionNumber, Due, Party, Registry, RejoinKey};
use crate::{
    admin::metrics::{MoveCause, MoveResult, SessionEnd},
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
    pub(super) parties: [Party; 2],
    /// What other relays hear of it comes after what they heard of this.
    pub(super) exchange: ExchangeId,
    /// What the two have met again by.
    pub(super) rejoin: Option<RejoinKey>,
    /// The process of the other relay, where one of the two is: the next one will not know of it.
    pub(super) run: u64,
    pub(super) since: Instant,
    check_at: Instant,
    /// All that is said of it.
    span: Span,
}

impl Allocation {
    pub(super) fn side(&self, party: Party) -> Option<Side> {
        [Side::Host, Side::Joiner]
            .into_iter()
            .find(|&side| self.parties[side as usize] == party)
    }

    fn is_bridged(&self) -> bool {
        let is_elsewhere = |party: &Party| matches!(party, Party::At(_));
        self.parties.iter().any(is_elsewhere)
    }
}

impl Registry {
    /// Allocates a session for `parties` (host, joiner), under `session` if another relay has chosen it.
    pub(super) fn allocate(
        &mut self,
        exchange: ExchangeId,
        parties: [Party; 2],
        session: Option<SessionId>,
        now: Instant,
    ) -> Result<SessionId, Refusal> {
        let legs = self.legs(parties)?;
        let session = match session {
            None => self.new_session(legs, now),
            Some(session) => {
                if session.0 == 0 || !self.table.insert(session, legs, now) {
                    return Err(Refusal::new(Reason::Full, "the session's id is taken"));
                }
                session
            }
        };
        let check_at = now + IDLE;
        let span = tracing::info_span!("session", id = %session);
        let allocation = Allocation {
            parties,
            exchange,
            rejoin: None,
            run: self.run_of(parties),
            since: now,
            check_at,
            span: span.clone(),
        };
        if allocation.is_bridged() {
            self.metrics.bridged_sessions.inc();
        }
        self.allocations.insert(session, allocation);
        self.deadlines.insert((check_at, Due::Allocation(session)));
        for party in parties {
            if let Some(node) = self.node_mut(party) {
                node.sessions.insert(session);
            }
        }
        let _said_of_it = span.entered();
        tracing::info!(%session, host = self.who(parties[0]), joiner = self.who(parties[1]), "session allocated");
        Ok(session)
    }

    fn run_of(&self, parties: [Party; 2]) -> u64 {
        let run = |party| match party {
            Party::Here(_) => None,
            Party::At(relay) => Some(self.neighbours.0.get(&relay)?.run),
        };
        parties.into_iter().find_map(run).unwrap_or_default()
    }

    /// For the log.
    fn who(&self, party: Party) -> String {
        match party {
            Party::Here(number) => {
                let node = self.nodes.get(&number);
                node.map_or_else(|| "gone".to_owned(), |node| node.id.short())
            }
            Party::At(relay) => format!("relay {}", relay.short()),
        }
    }

    /// The notice, or the answer, that `side` has a session.
    pub(super) fn allocated(
        &self,
        exchange: ExchangeId,
        session: SessionId,
        side: Side,
        payload: Bytes,
    ) -> Reply {
        Reply::Allocated(Allocated {
            exchange: exchange.0,
            payload,
            session: session.0,
            side: side as u32,
            rate_bytes_per_s: self.limits.session_rate_bytes_per_s,
            rejoin: Bytes::new(),
        })
    }

    /// Where the two are, if there is room for their session.
    fn legs(&self, parties: [Party; 2]) -> Result<[Leg; 2], Refusal> {
        if self.allocations.len() >= self.limits.max_sessions {
            return Err(Refusal::new(
                Reason::Full,
                "this relay has as many sessions as it may; try another",
            ));
        }
        let leg = |party| match party {
            Party::Here(number) => {
                let node = self.nodes.get(&number).ok_or(super::PEER_GONE)?;
                if node.sessions.len() >= MAX_PER_NODE {
                    return Err(Refusal::new(
                        Reason::Full,
                        "one of the two has too many sessions",
                    ));
                }
                Ok(node.leg)
            }
            Party::At(relay) => self.leg_to(relay),
        };
        Ok([leg(parties[0])?, leg(parties[1])?])
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
                .and_then(|allocation| allocation.side(Party::Here(number)))
            {
                self.table.update_leg(*session, side, leg);
            }
        }
    }

    /// The same of all nodes of another relay.
    pub(super) fn move_party(&self, party: Party, leg: Leg) {
        for (&session, allocation) in &self.allocations {
            if let Some(side) = allocation.side(party) {
                self.table.update_leg(session, side, leg);
            }
        }
    }

    /// A relay is another process than before: of that one's sessions it knows nothing, and their nodes go elsewhere at once.
    pub(super) fn lose_sessions_of(&mut self, relay: RelayId, run: u64) {
        let party = Party::At(relay);
        let of_another = self.allocations.iter();
        let lost: Vec<_> = of_another
            .filter(|(_, allocation)| allocation.side(party).is_some() && allocation.run != run)
            .map(|(&session, _)| session)
            .collect();
        for session in lost {
            self.end_for_peer(party, session, SessionEnd::Lost, ReleaseCause::PeerLost, "");
        }
    }

    /// Whether it is the host of a session.
    pub fn is_host(&self, number: ConnectionNumber) -> bool {
        let sessions = self.nodes.get(&number).map(|node| &node.sessions);
        let mut allocations = sessions
            .into_iter()
            .flatten()
            .filter_map(|session| self.allocations.get(session));
        allocations.any(|one| one.side(Party::Here(number)) == Some(Side::Host))
    }

    pub(super) fn release(&mut self, number: ConnectionNumber, session: SessionId) -> Answer {
        self.end_for_peer(
            Party::Here(number),
            session,
            SessionEnd::Released,
            ReleaseCause::PeerReleased,
            "",
        )
        .then(done)
        .ok_or(Refusal::new(Reason::BadState, "you have no such session"))
    }

    pub(super) fn lose_session(&mut self, gone: ConnectionNumber, session: SessionId) {
        self.end_for_peer(
            Party::Here(gone),
            session,
            SessionEnd::Lost,
            ReleaseCause::PeerLost,
            "",
        );
    }

    /// Ends a session of `party` and tells the other, with an operator's words where there are some; false when it is not one of its sessions.
    pub(super) fn end_for_peer(
        &mut self,
        party: Party,
        session: SessionId,
        end: SessionEnd,
        cause: ReleaseCause,
        why: &str,
    ) -> bool {
        let side = self
            .allocations
            .get(&session)
            .and_then(|allocation| allocation.side(party));
        let Some(side) = side else { return false };
        if let Some(ended) = self.end_session(session, end) {
            let peer = ended.parties[side.peer() as usize];
            self.tell_released(peer, &ended, session, cause, why);
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
            self.end_for_both(session, SessionEnd::Idle, ReleaseCause::Idle, "");
        }
    }

    pub(super) fn end_all_sessions(&mut self) {
        let sessions: Vec<_> = self.allocations.keys().copied().collect();
        for session in sessions {
            self.metrics
                .session_moved(MoveCause::Draining, MoveResult::CutOff);
            self.end_for_both(session, SessionEnd::Drained, ReleaseCause::RelayDrained, "");
        }
    }

    pub(super) fn end_for_both(
        &mut self,
        session: SessionId,
        end: SessionEnd,
        cause: ReleaseCause,
        why: &str,
    ) {
        if let Some(ended) = self.end_session(session, end) {
            for party in ended.parties {
                self.tell_released(party, &ended, session, cause, why);
            }
        }
    }

    fn tell_released(
        &mut self,
        party: Party,
        ended: &Allocation,
        session: SessionId,
        cause: ReleaseCause,
        why: &str,
    ) {
        match party {
            Party::Here(number) => {
                let released = released(session, cause, why);
                self.notices.push_back((number, released));
            }
            Party::At(relay) => self.call_release(relay, ended.exchange, session, cause, why),
        }
    }

    pub(super) fn end_session(
        &mut self,
        session: SessionId,
        end: SessionEnd,
    ) -> Option<Allocation> {
        let ended = self.allocations.remove(&session)?;
        let said_of_it = ended.span.enter();
        self.deadlines
            .remove(&(ended.check_at, Due::Allocation(session)));
        for party in ended.parties {
            if let Some(node) = self.node_mut(party) {
                node.sessions.remove(&session);
            }
        }
        if ended.is_bridged() {
            self.metrics.bridged_sessions.dec();
        }
        if let Some(key) = ended.rejoin {
            self.rejoins.end(key);
        }
        let [host, joiner] = self.table.remove(session).unwrap_or_default();
        tracing::info!(
            %session, ?end, host_bytes = host.bytes, joiner_bytes = joiner.bytes,
            frames = host.frames + joiner.frames, "session ended"
        );
        self.metrics.session_end(end);
        drop(said_of_it);
        self.drain.handle_remaining(self.remaining());
        Some(ended)
    }
}

fn released(session: SessionId, cause: ReleaseCause, why: &str) -> Reply {
    Reply::Released(Released {
        session: session.0,
        cause: cause.into(),
        why: why.to_owned(),
    })
}
