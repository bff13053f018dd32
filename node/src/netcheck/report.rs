//! What has been found, for people and for scripts.

use std::{
    net::{SocketAddr, SocketAddrV4},
    time::Duration,
};

use remora_proto::{
    id::{RelayAddr, Side},
    path::{
        nat::{Allocation, Mapping as NatMapping, Nat},
        plan::{Choice, Plan},
    },
};
use serde_json::{Value, json};

use super::near::{near_lines, relays_json};
use crate::{
    control::{Control, RELAY_UNREACHABLE},
    error::Failure,
    homes::Near,
    path::portmap::{Protocol, Unmapped},
};

/// What others may be behind, with the stable name of each.
const OTHERS: [(&str, NatMapping); 4] = [
    ("independent", NatMapping::Independent),
    (
        "sequential",
        NatMapping::Dependent(Allocation::Sequential { step: 1 }),
    ),
    (
        "block",
        NatMapping::Dependent(Allocation::Block {
            first: 32_768,
            size: 512,
        }),
    ),
    ("random", NatMapping::Dependent(Allocation::Random)),
];

/// See the module.
#[derive(Debug)]
pub(super) struct Report {
    relay: Relay,
    /// Those that there were to choose from.
    pub(super) near: Vec<Near>,
    nat: Nat,
    /// Whether anything came back.
    pub(super) has_udp: bool,
    /// Whether the relay answers over TCP.
    pub(super) has_tcp: bool,
    /// IPv4.
    pub(super) v4: Family,
    /// IPv6.
    pub(super) v6: Family,
    /// Whether the gateway gives ports.
    pub(super) port_mapping: Result<(Protocol, SocketAddrV4), Unmapped>,
}

#[derive(Debug)]
struct Relay {
    address: String,
    name: Option<String>,
    rtt: Option<Duration>,
    /// Why it cannot be used.
    error: Option<&'static str>,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Family {
    /// The relay has an address of it.
    pub(super) is_asked: bool,
    /// From where the relay sees this computer.
    pub(super) seen: Option<SocketAddr>,
    /// That is this computer's own address.
    pub(super) is_local: bool,
    /// An interface of this computer has an address of it.
    pub(super) has_support: bool,
}

impl Report {
    /// Of a relay that has taken us in.
    pub(super) fn of(relay: &RelayAddr, control: &Control, nat: Nat) -> Self {
        let relay = Relay {
            address: relay.host_port.clone(),
            name: Some(control.welcome.relay_name.clone()),
            rtt: Some(control.rtt()),
            error: None,
        };
        Self::new(relay, nat)
    }

    /// Of one that could not be used.
    pub(super) fn nothing(relay: &RelayAddr, failure: &Failure) -> Self {
        let relay = Relay {
            address: relay.host_port.clone(),
            name: None,
            rtt: None,
            error: Some(failure.code),
        };
        Self::new(relay, Nat::default())
    }

    fn new(relay: Relay, nat: Nat) -> Self {
        Self {
            relay,
            near: Vec::new(),
            nat,
            has_udp: false,
            has_tcp: false,
            v4: Family::default(),
            v6: Family::default(),
            port_mapping: Err(Unmapped::NoGateway),
        }
    }

    /// One object.
    pub(super) fn json(&self) -> Value {
        let (direct, relayed) = self.prediction();
        json!({
            "v": 1, "udp": self.has_udp, "ipv4": self.v4.json(), "ipv6": self.v6.json(),
            "tcp": self.has_tcp, "nat": nat_json(&self.nat), "port_mapping": self.port_mapping_json(),
            "relays": self.relays_json(),
            "direct_likely_with": direct, "relay_needed_with": relayed,
        })
    }

    /// The one that was looked at first, with all that is known of it.
    fn relays_json(&self) -> Value {
        let relay = &self.relay;
        let rtt_ms = relay.rtt.map(|rtt| rtt.as_secs_f64() * 1e3);
        let mut relays = vec![json!({
            "name": relay.name, "address": relay.address, "rtt_ms": rtt_ms,
            "state": relay.error.unwrap_or("ok"), "home": relay.error.is_none(),
        })];
        let all = relays_json(&self.near, |_| false);
        let all = all.as_array().cloned().unwrap_or_default();
        let others = all.into_iter().skip(1);
        relays.extend(others.map(|mut other| {
            let has_answered = !other["rtt_ms"].is_null();
            other["state"] = if has_answered {
                "ok"
            } else {
                RELAY_UNREACHABLE
            }
            .into();
            other["name"] = Value::Null;
            other
        }));
        relays.into()
    }

    fn port_mapping_json(&self) -> Value {
        match &self.port_mapping {
            Ok((protocol, external)) => json!({
                "protocol": protocol.name(), "address": external.to_string(), "why_not": null,
            }),
            Err(error) => {
                let why = match error {
                    Unmapped::NotAsked => "NOT_ASKED",
                    Unmapped::NoGateway => "NO_GATEWAY",
                    Unmapped::NotGiven => "NOT_GIVEN",
                    Unmapped::NotPublic(_) => "NOT_PUBLIC",
                };
                json!({"protocol": null, "address": null, "why_not": why})
            }
        }
    }

    /// Behind what others have to be for a direct path to be likely, and behind what for none; nothing of those of which nothing
    /// can be said.
    fn prediction(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let (mut direct, mut relayed) = (Vec::new(), Vec::new());
        for (name, mapping) in OTHERS {
            match self.choice(mapping) {
                Some(Choice::Checks | Choice::Plan(..)) => direct.push(name),
                Some(Choice::Hopeless) => relayed.push(name),
                None => {}
            }
        }
        (direct, relayed)
    }

    fn choice(&self, mapping: NatMapping) -> Option<Choice> {
        if !self.has_udp {
            return Some(Choice::Hopeless);
        }
        // A gateway's port lets in whoever sends to it.
        if self.port_mapping.is_ok() {
            return Some(Choice::Checks);
        }
        let is_known = self.nat.mapping != NatMapping::Unknown;
        is_known.then(|| Plan::choose(&self.nat, &Nat { mapping }, Side::Host))
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let (direct, relayed) = self.prediction();
        let list = |names: &[&str]| match names {
            [] => "nobody".to_owned(),
            names => names.join(", "),
        };
        let mut lines = vec![
            format!(
                "UDP           {}",
                if self.has_udp {
                    "yes"
                } else {
                    "no: nothing came back"
                }
            ),
            format!(
                "TCP           {}",
                if self.has_tcp {
                    "yes"
                } else {
                    "no: the relay does not answer over it"
                }
            ),
            format!("IPv4          {}", self.v4.words()),
            format!("IPv6          {}", self.v6.words()),
            format!("NAT           {}", self.nat_words()),
            format!("port mapping  {}", self.port_mapping_words()),
            format!("relay         {}", self.relay.words()),
        ];
        lines.extend(near_lines(&relays_json(&self.near, |near| {
            near.relay.host_port == self.relay.address
        })));
        if !(direct.is_empty() && relayed.is_empty()) {
            lines.push(format!(
                "Direct likely with others behind: {}.  Relay needed with: {}.",
                list(&direct),
                list(&relayed)
            ));
        }
        lines
    }

    fn nat_words(&self) -> String {
        let is_local = self.v4.is_local || (self.v4.seen.is_none() && self.v6.is_local);
        match self.nat.mapping {
            NatMapping::Unknown if !self.has_udp => "not known: UDP does not go".into(),
            NatMapping::Unknown => {
                "not known: the relay sees this computer from one place only".into()
            }
            NatMapping::Independent if is_local => "none".into(),
            NatMapping::Independent => "the same port for all destinations (independent)".into(),
            NatMapping::Dependent(allocation) => {
                let how = match allocation {
                    Allocation::Sequential { step } => format!("in turn, by {step} (sequential)"),
                    Allocation::Block { first, size } => {
                        let last = u32::from(first) + u32::from(size) - 1;
                        format!("from {first} to {last} (block)")
                    }
                    Allocation::Random => "any (random)".into(),
                };
                format!("another port for each destination: {how}")
            }
        }
    }

    fn port_mapping_words(&self) -> String {
        match &self.port_mapping {
            Ok((protocol, external)) => format!("{} gives {external}", protocol.name()),
            Err(error) => format!("none: {error}"),
        }
    }
}

impl Relay {
    fn words(&self) -> String {
        let ms = |rtt: Duration| format!("{:.1} ms", rtt.as_secs_f64() * 1e3);
        let name = self.name.as_deref().unwrap_or("–");
        let state = self.error.unwrap_or("ok");
        let rtt = self.rtt.map_or_else(|| "–".into(), ms);
        format!("{name} at {}  {rtt}  {state}", self.address)
    }
}

impl Family {
    fn json(&self) -> Value {
        let works = self.is_asked.then_some(self.seen.is_some());
        let address = self.seen.map(|seen| seen.to_string());
        json!({"works": works, "address": address, "has_nat": self.seen.map(|_| !self.is_local), "supported": self.has_support})
    }

    fn words(&self) -> String {
        match (self.seen, self.is_asked, self.has_support) {
            (Some(seen), ..) => format!("yes, seen as {seen}"),
            (None, true, true) => "no answer, but this computer has an address".into(),
            (None, true, false) => "no: this computer has no address".into(),
            (None, false, true) => {
                "not known: the relay has no address of this kind, this computer has".into()
            }
            (None, false, false) => "no: neither this computer nor the relay has an address".into(),
        }
    }
}

/// The stable name of what a NAT does, for `remora status`, too.
pub(crate) fn nat_name(nat: &Nat) -> &'static str {
    match nat.mapping {
        NatMapping::Unknown => "unknown",
        NatMapping::Independent => "independent",
        NatMapping::Dependent(allocation) => allocation_name(allocation),
    }
}

fn allocation_name(allocation: Allocation) -> &'static str {
    match allocation {
        Allocation::Sequential { .. } => "sequential",
        Allocation::Block { .. } => "block",
        Allocation::Random => "random",
    }
}

fn nat_json(nat: &Nat) -> Value {
    let varies = match nat.mapping {
        NatMapping::Unknown => None,
        NatMapping::Independent => Some(false),
        NatMapping::Dependent(_) => Some(true),
    };
    let mut object = json!({
        "mapping_varies_by_destination": varies, "allocation": nat.allocation().map(allocation_name),
    });
    match nat.allocation() {
        Some(Allocation::Sequential { step }) => object["step"] = step.into(),
        Some(Allocation::Block { first, size }) => {
            object["first"] = first.into();
            object["size"] = size.into();
        }
        Some(Allocation::Random) | None => {}
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(mapping: NatMapping) -> Report {
        let relay = Relay {
            address: "relay.example:4433".into(),
            name: Some("fra-1".into()),
            rtt: Some(Duration::from_micros(12_100)),
            error: None,
        };
        let mut report = Report::new(relay, Nat { mapping });
        (report.has_udp, report.has_tcp) = (true, false);
        report
    }

    #[test]
    fn a_prediction_is_of_what_both_nats_do() {
        let dependent = NatMapping::Dependent;
        let sequential = Allocation::Sequential { step: 1 };
        for (mapping, direct, relayed) in [
            (NatMapping::Unknown, vec![], vec![]),
            (
                NatMapping::Independent,
                vec!["independent", "sequential", "block", "random"],
                vec![],
            ),
            (
                dependent(sequential),
                vec!["independent", "sequential"],
                vec!["block", "random"],
            ),
            (
                dependent(Allocation::Random),
                vec!["independent"],
                vec!["sequential", "block", "random"],
            ),
        ] {
            let report = report(mapping);
            assert_eq!(
                report.prediction(),
                (direct.clone(), relayed.clone()),
                "{mapping:?}"
            );
            let json = report.json();
            assert_eq!(json["direct_likely_with"], json!(direct));
            assert_eq!(json["relay_needed_with"], json!(relayed));
        }
        let mut mapped = report(dependent(Allocation::Random));
        let external = SocketAddrV4::new([203, 0, 113, 7].into(), 41_641);
        mapped.port_mapping = Ok((Protocol::Pcp, external));
        assert_eq!(mapped.prediction().1, [""; 0], "strangers get in");
        mapped.has_udp = false;
        assert_eq!(mapped.prediction().0, [""; 0], "nothing gets through");
    }

    #[test]
    fn people_read_what_scripts_do() {
        let block = Allocation::Block {
            first: 65_024,
            size: 512,
        };
        let mut report = report(NatMapping::Dependent(block));
        report.v4.seen = Some(([198, 51, 100, 4], 41_641).into());
        report.v6.has_support = true;
        let lines = report.lines().join("\n");
        for part in [
            "UDP           yes\nTCP           no",
            "IPv4          yes, seen as 198.51.100.4:41641",
            "IPv6          not known",
            "from 65024 to 65535 (block)",
            "port mapping  none: no gateway is known",
            "fra-1 at relay.example:4433  12.1 ms  ok",
            "Direct likely with others behind: independent.  Relay needed with: sequential, block, random.",
        ] {
            assert!(lines.contains(part), "{part}: {lines}");
        }
    }
}
