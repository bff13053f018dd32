//! What this relay and others have said to each other, connection by connection. Pure.
//!
//! ```text
//!             ┌─ heard: its Hello, and we let it in ──┐
//! opened ─▶ so far                                    ├─▶ met
//!             └─ answered: it has let us in ──────────┘
//!    any ─▶ no: one of the two does not let the other in; nothing that comes by this connection counts any more
//! ```
//!
//! Two that meet have said yes to each other on the same connection, in whatever order that arrives; and a no is the end of its
//! connection on both sides, for whoever hears it knows why. So neither holds it against the other that it is gone.

use std::collections::BTreeMap;

use libp2p::swarm::ConnectionId;
use remora_proto::id::RelayId;

use super::Member;

#[derive(Debug)]
enum Said {
    SoFar {
        heard: Option<Member>,
        is_answered: bool,
    },
    No,
}

const NOTHING: Said = Said::SoFar {
    heard: None,
    is_answered: false,
};

/// By relay and connection; as many as there are connections.
#[derive(Debug, Default)]
pub(super) struct Terms(BTreeMap<RelayId, BTreeMap<ConnectionId, Said>>);

impl Terms {
    pub(super) fn open(&mut self, relay: RelayId, connection: ConnectionId) {
        self.0.entry(relay).or_default().insert(connection, NOTHING);
    }

    pub(super) fn close(&mut self, relay: RelayId, connection: ConnectionId) {
        if let Some(of_it) = self.0.get_mut(&relay) {
            of_it.remove(&connection);
            if of_it.is_empty() {
                self.0.remove(&relay);
            }
        }
    }

    pub(super) fn hear(&mut self, relay: RelayId, connection: ConnectionId, member: Member) {
        if let Some(Said::SoFar { heard, .. }) = self.said(relay, connection) {
            *heard = Some(member);
        }
    }

    pub(super) fn answer(&mut self, relay: RelayId, connection: ConnectionId) {
        if let Some(Said::SoFar { is_answered, .. }) = self.said(relay, connection) {
            *is_answered = true;
        }
    }

    /// What was said on the relay's other connections was said before, and has to be said anew.
    pub(super) fn refuse(&mut self, relay: RelayId, connection: ConnectionId) {
        for (&other, said) in self.0.get_mut(&relay).into_iter().flatten() {
            match said {
                said if other == connection => *said = Said::No,
                Said::SoFar { .. } => *said = NOTHING,
                Said::No => {}
            }
        }
    }

    /// The relay's other connections are another process's, which is gone.
    pub(super) fn only(&mut self, relay: RelayId, connection: ConnectionId) {
        for (&other, said) in self.0.get_mut(&relay).into_iter().flatten() {
            if other != connection {
                *said = Said::No;
            }
        }
    }

    /// Who it is, when both have said yes there.
    pub(super) fn met(&self, relay: RelayId, connection: ConnectionId) -> Option<&Member> {
        match self.0.get(&relay)?.get(&connection)? {
            Said::SoFar {
                heard,
                is_answered: true,
            } => heard.as_ref(),
            Said::SoFar { .. } | Said::No => None,
        }
    }

    /// Whether what is said there counts.
    pub(super) fn counts(&self, relay: RelayId, connection: ConnectionId) -> bool {
        let said = self.0.get(&relay).and_then(|of_it| of_it.get(&connection));
        said.is_some_and(is_open)
    }

    /// Whether it is there.
    pub(super) fn has(&self, relay: RelayId, connection: ConnectionId) -> bool {
        let of_it = self.0.get(&relay);
        of_it.is_some_and(|of_it| of_it.contains_key(&connection))
    }

    /// Whether there is a connection on which something said counts.
    pub(super) fn is_open(&self, relay: RelayId) -> bool {
        let of_it = self.0.get(&relay);
        of_it.is_some_and(|of_it| of_it.values().any(is_open))
    }

    /// Whether we let it in.
    pub(super) fn is_heard(&self, relay: RelayId) -> bool {
        let of_it = self.0.get(&relay);
        of_it.is_some_and(|of_it| of_it.values().any(is_heard))
    }

    /// How many we let in.
    pub(super) fn heard(&self) -> usize {
        let relays = self.0.values();
        relays.filter(|of_it| of_it.values().any(is_heard)).count()
    }

    fn said(&mut self, relay: RelayId, connection: ConnectionId) -> Option<&mut Said> {
        self.0.get_mut(&relay)?.get_mut(&connection)
    }
}

fn is_open(said: &Said) -> bool {
    matches!(said, Said::SoFar { .. })
}

fn is_heard(said: &Said) -> bool {
    matches!(said, Said::SoFar { heard: Some(_), .. })
}

#[cfg(test)]
mod tests;
