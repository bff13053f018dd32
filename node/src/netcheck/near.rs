//! The relays that a node chose from: which it is at, how far away the others are.

use std::{collections::BTreeSet, time::Duration};

use remora_proto::id::RelayAddr;
use serde_json::{Value, json};

use crate::{
    control::{Control, RELAY_UNREACHABLE},
    error::Failure,
    event::milliseconds,
    homes::Near,
    node::Node,
};

/// What it says of a relay that was not asked, or by what does not go here.
const NOT_ASKED: &str = "NOT_ASKED";
/// What it says of one that answers.
const OK: &str = "ok";

/// A relay, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    relay: RelayAddr,
    name: Option<String>,
    rtt: Option<Duration>,
    /// [`OK`], [`NOT_ASKED`], or the code of what is wrong.
    state: &'static str,
    /// The node is there.
    is_home: bool,
}

impl Listed {
    /// The one that the node is at.
    pub(super) fn home(relay: &RelayAddr, control: &Control) -> Self {
        Self {
            relay: relay.clone(),
            name: Some(control.welcome.relay_name.clone()),
            rtt: Some(control.rtt()),
            state: OK,
            is_home: true,
        }
    }

    /// The one that it should be at.
    pub(super) fn unusable(relay: &RelayAddr, failure: &Failure) -> Self {
        Self {
            relay: relay.clone(),
            name: None,
            rtt: None,
            state: failure.code,
            is_home: false,
        }
    }

    /// Another one, of which `has_udp` says whether a question could reach it.
    fn other(near: &Near, has_udp: bool) -> Self {
        let state = match near.rtt {
            Some(_) => OK,
            None if near.is_asked && has_udp => RELAY_UNREACHABLE,
            None => NOT_ASKED,
        };
        Self {
            relay: near.relay.clone(),
            name: None,
            rtt: near.rtt,
            state,
            is_home: false,
        }
    }

    /// Each relay once, nearest first; of `looked` all is known.
    pub(super) fn all(near: &[Near], looked: &Self, has_udp: bool) -> Vec<Self> {
        let mut seen = BTreeSet::new();
        let each = near.iter().filter(|near| seen.insert(near.relay.id));
        let mut all: Vec<_> = each
            .map(|near| match near.relay.id == looked.relay.id {
                true => looked.clone(),
                false => Self::other(near, has_udp),
            })
            .collect();
        if !seen.contains(&looked.relay.id) {
            all.insert(0, looked.clone());
        }
        all
    }

    /// All that a node knows.
    pub(crate) fn of(node: &Node) -> Vec<Self> {
        let home = Self::home(node.relay(), node.control());
        Self::all(&node.near(), &home, !node.is_by_tcp())
    }

    /// For scripts.
    pub(crate) fn json(&self) -> Value {
        let rtt_ms = self.rtt.map(milliseconds);
        json!({
            "name": self.name, "address": self.relay.host_port, "rtt_ms": rtt_ms, "state": self.state, "home": self.is_home,
        })
    }

    /// The one that was looked at, for people: `fra-1 at help.example.org:4433  12.1 ms  ok`
    pub(super) fn words(&self) -> String {
        let (name, at) = (self.name.as_deref().unwrap_or("–"), &self.relay.host_port);
        let rtt = self.rtt.map_or_else(|| "–".into(), ms);
        format!("{name} at {at}  {rtt}  {}", self.state)
    }

    /// The same, when there is a choice: `  relay help.example.org:4433  12.1 ms  home`
    pub(crate) fn lines(all: &[Self]) -> Vec<String> {
        if all.len() < 2 {
            return Vec::new();
        }
        let line = |listed: &Self| {
            let rtt = match listed.rtt {
                Some(rtt) => ms(rtt),
                None if listed.state == NOT_ASKED => "not asked".to_owned(),
                None => "no answer".to_owned(),
            };
            let home = if listed.is_home { "  home" } else { "" };
            format!("  relay {}  {rtt}{home}", listed.relay.host_port)
        };
        all.iter().map(line).collect()
    }
}

fn ms(rtt: Duration) -> String {
    format!("{:.1} ms", rtt.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use remora_proto::{id::RelayId, wire::reflect::Load};

    use super::*;
    use crate::error::Exit;

    #[test]
    fn of_a_relay_that_nobody_asked_nothing_is_said() {
        let relay = |n: u8| RelayAddr {
            host_port: format!("relay-{n}.example:4433"),
            id: RelayId([n; 32]),
            tls: None,
        };
        let near = |n, is_asked, rtt_ms: Option<u64>| Near {
            relay: relay(n),
            address: None,
            is_asked,
            rtt: rtt_ms.map(Duration::from_millis),
            load: Load::default(),
        };
        let near = [
            near(1, true, Some(7)),
            near(2, true, Some(9)),
            // Its other address.
            near(2, true, None),
            near(3, true, None),
            near(4, false, None),
        ];
        let failure = Failure::new(Exit::Offline, RELAY_UNREACHABLE, "no answer");
        let looked = Listed::unusable(&relay(1), &failure);
        for (has_udp, third) in [(true, RELAY_UNREACHABLE), (false, NOT_ASKED)] {
            let all = Listed::all(&near, &looked, has_udp);
            let states: Vec<_> = all.iter().map(|listed| listed.state).collect();
            assert_eq!(states, [RELAY_UNREACHABLE, OK, third, NOT_ASKED]);
        }
        let lines = Listed::lines(&Listed::all(&near, &looked, true));
        assert_eq!(
            lines,
            [
                "  relay relay-1.example:4433  no answer",
                "  relay relay-2.example:4433  9.0 ms",
                "  relay relay-3.example:4433  no answer",
                "  relay relay-4.example:4433  not asked",
            ]
        );
        let all = Listed::all(&[], &looked, true);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].json()["state"], RELAY_UNREACHABLE);
    }
}
