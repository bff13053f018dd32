//! Ends of sessions that another relay has not heard of, because it was cut off: it is told when it is back, or its node would go on
//! sending to somebody who has left.

use std::collections::{BTreeMap, VecDeque};

use remora_proto::{
    id::RelayId,
    wire::message::mesh::{Reason, request::Body as Ask},
};

use super::{Call, Registry};
use crate::mesh::AskError;

/// Of one relay; the oldest falls out: by then its node has found out by itself.
const MAX_PER_RELAY: usize = 1024;

/// See the module. A relay that has begun anew knows nothing of them, and says so by Done.
#[derive(Debug, Default)]
pub(super) struct Unheard(BTreeMap<RelayId, VecDeque<Call>>);

impl Unheard {
    fn add(&mut self, call: Call) {
        let of_relay = self.0.entry(call.relay).or_default();
        if of_relay.len() >= MAX_PER_RELAY {
            of_relay.pop_front();
        }
        of_relay.push_back(call);
    }

    fn take(&mut self, relay: RelayId) -> VecDeque<Call> {
        self.0.remove(&relay).unwrap_or_default()
    }
}

impl Registry {
    /// A relay did not answer that a session is over.
    pub(super) fn handle_unheard(&mut self, call: &Call, error: AskError) {
        let may_hear_later = match error {
            AskError::Unreachable | AskError::Refused(Reason::Busy | Reason::Stranger) => true,
            AskError::Refused(_) => false,
        };
        if may_hear_later && matches!(call.ask, Ask::Release(_)) {
            self.unheard.add(call.clone());
        }
    }

    /// It is back.
    pub(super) fn say_unheard(&mut self, relay: RelayId) {
        let unheard = self.unheard.take(relay);
        self.calls.extend(unheard);
    }
}
