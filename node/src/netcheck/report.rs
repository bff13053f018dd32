//! What has been found, for people and for scripts.

use std::net::{SocketAddr, SocketAddrV4};

use remora_proto::{
    id::Side,
    path::{
        nat::{Allocation, Mapping as NatMapping, Nat},
        plan::{Choice, Plan},
    },
};
use serde_json::{Value, json};

use super::near::Listed;
use crate::{
    doctor::{Found, Verdict},
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

/// Whether datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Udp {
    /// Something came back.
    Goes,
    /// Nothing did, while the relay answers over TCP.
    Blocked,
    /// Nothing did, and over TCP neither: nobody may be there.
    Unknown,
    /// It was not wanted.
    NotAsked,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Report {
    /// The one that was looked at.
    pub(super) relay: Listed,
    /// Those that there were to choose from.
    pub(super) near: Vec<Near>,
    /// What stands before this computer.
    pub(super) nat: Nat,
    /// Whether UDP goes.
    pub(super) udp: Udp,
    /// Why the relay is not reached over TCP, if it is not.
    pub(super) tcp_error: Option<String>,
    /// IPv4.
    pub(super) v4: Family,
    /// IPv6.
    pub(super) v6: Family,
    /// Whether the gateway gives ports.
    pub(super) port_mapping: Result<(Protocol, SocketAddrV4), Unmapped>,
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
    /// One object.
    pub(super) fn json(&self) -> Value {
        let (direct, relayed) = self.prediction();
        let udp = match self.udp {
            Udp::Goes => Some(true),
            Udp::Blocked => Some(false),
            Udp::Unknown | Udp::NotAsked => None,
        };
        let relays: Vec<_> = self.relays().iter().map(Listed::json).collect();
        json!({
            "v": 1, "udp": udp, "ipv4": self.v4.json(), "ipv6": self.v6.json(),
            "tcp": self.tcp_error.is_none(), "tcp_error": self.tcp_error,
            "nat": nat_json(&self.nat), "port_mapping": self.port_mapping_json(), "relays": relays,
            "direct_likely_with": direct, "relay_needed_with": relayed,
        })
    }

    /// What a person may want to do something about.
    pub(super) fn findings(&self) -> Vec<Found> {
        let udp = match self.udp {
            Udp::Goes => Found::new("udp", Verdict::Fine, "UDP goes"),
            Udp::NotAsked => Found::new("udp", Verdict::Fine, "UDP was not asked for"),
            Udp::Blocked => Found::new(
                "udp",
                Verdict::Warning,
                "this network lets no UDP out: sessions go by TCP and the relay; let UDP out to the relay's port",
            ),
            Udp::Unknown => Found::new(
                "udp",
                Verdict::Warning,
                "nothing answers at the relay's address; look at the address, and at the firewall",
            ),
        };
        let tcp = match &self.tcp_error {
            None => Found::new("tcp", Verdict::Fine, "TCP goes, should UDP not"),
            Some(why) => Found::new("tcp", Verdict::Warning, why.clone()),
        };
        let (direct, _) = self.prediction();
        let nat = match direct.is_empty() && self.udp == Udp::Goes {
            false => Found::new("nat", Verdict::Fine, self.nat_words()),
            true => Found::new(
                "nat",
                Verdict::Warning,
                format!(
                    "{}: sessions go through the relay; a port mapping (UPnP, PCP) or a public address would help",
                    self.nat_words()
                ),
            ),
        };
        vec![udp, tcp, nat]
    }

    fn relays(&self) -> Vec<Listed> {
        Listed::all(&self.near, &self.relay, self.udp == Udp::Goes)
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
        match self.udp {
            Udp::Goes => {}
            Udp::Blocked | Udp::NotAsked => return Some(Choice::Hopeless),
            Udp::Unknown => return None,
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
            format!("UDP           {}", self.udp_words()),
            format!(
                "TCP           {}",
                self.tcp_error
                    .as_ref()
                    .map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"))
            ),
            format!("IPv4          {}", self.family_words(self.v4)),
            format!("IPv6          {}", self.family_words(self.v6)),
            format!("NAT           {}", self.nat_words()),
            format!("port mapping  {}", self.port_mapping_words()),
            format!("relay         {}", self.relay.words()),
        ];
        lines.extend(Listed::lines(&self.relays()));
        if !(direct.is_empty() && relayed.is_empty()) {
            lines.push(format!(
                "Direct likely with others behind: {}.  Relay needed with: {}.",
                list(&direct),
                list(&relayed)
            ));
        }
        lines
    }

    fn family_words(&self, family: Family) -> String {
        match self.udp {
            Udp::NotAsked => "not asked".into(),
            Udp::Goes | Udp::Blocked | Udp::Unknown => family.words(),
        }
    }

    fn udp_words(&self) -> &'static str {
        match self.udp {
            Udp::Goes => "yes",
            Udp::Blocked => "no: nothing came back",
            Udp::Unknown => "not known: nothing answers at the relay's address, over TCP neither",
            Udp::NotAsked => "not asked",
        }
    }

    fn nat_words(&self) -> String {
        let is_local = self.v4.is_local || (self.v4.seen.is_none() && self.v6.is_local);
        match self.nat.mapping {
            NatMapping::Unknown => match self.udp {
                Udp::Goes => "not known: the relay sees this computer from one place only",
                Udp::Blocked => "not known: UDP does not go",
                Udp::Unknown => "not known: no relay answers",
                Udp::NotAsked => "not asked",
            }
            .into(),
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
            Err(error @ Unmapped::NotAsked) => error.to_string(),
            Err(error) => format!("none: {error}"),
        }
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

/// The stable name of what a NAT does, for `remora status`; none stands before whoever is seen at their own address.
pub(crate) fn nat_name(nat: &Nat, is_own: bool) -> &'static str {
    match nat.mapping {
        NatMapping::Unknown => "unknown",
        NatMapping::Independent if is_own => "none",
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
    use remora_proto::id::{RelayAddr, RelayId};

    use super::*;
    use crate::error::{Exit, Failure};

    fn report(mapping: NatMapping) -> Report {
        let relay = RelayAddr {
            host_port: "relay.example:4433".into(),
            id: RelayId([7; 32]),
            tls: None,
        };
        let failure = Failure::new(Exit::Offline, "RELAY_FULL", "it is full");
        Report {
            relay: Listed::unusable(&relay, &failure),
            near: Vec::new(),
            nat: Nat { mapping },
            udp: Udp::Goes,
            tcp_error: Some("the proxy at 192.0.2.1:8080 does not let us through: 403".into()),
            v4: Family::default(),
            v6: Family::default(),
            port_mapping: Err(Unmapped::NoGateway),
        }
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
        mapped.udp = Udp::Blocked;
        assert_eq!(mapped.prediction().0, [""; 0], "nothing gets through");
        assert_eq!(mapped.prediction().1.len(), OTHERS.len());
    }

    #[test]
    fn where_nobody_answers_nothing_is_said_of_the_network() {
        let mut report = report(NatMapping::Unknown);
        for (udp, json, words) in [
            (Udp::Goes, json!(true), "yes"),
            (Udp::Blocked, json!(false), "no: nothing came back"),
            (Udp::Unknown, Value::Null, "not known: nothing answers"),
            (Udp::NotAsked, Value::Null, "not asked"),
        ] {
            report.udp = udp;
            assert_eq!(report.json()["udp"], json);
            let line = &report.lines()[0];
            assert!(line.contains(words), "{line}");
        }
        report.udp = Udp::Unknown;
        assert_eq!(report.prediction(), (vec![], vec![]));
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
            "UDP           yes\nTCP           no: the proxy at 192.0.2.1:8080 does not let us through",
            "IPv4          yes, seen as 198.51.100.4:41641",
            "IPv6          not known",
            "from 65024 to 65535 (block)",
            "port mapping  none: no gateway is known",
            "relay         – at relay.example:4433  –  RELAY_FULL",
            "Direct likely with others behind: independent.  Relay needed with: sequential, block, random.",
        ] {
            assert!(lines.contains(part), "{part}: {lines}");
        }
        report.port_mapping = Err(Unmapped::NotAsked);
        let line = "port mapping  not asked: nobody needs one to this computer alone, or by TCP";
        assert!(report.lines().contains(&line.to_owned()));
    }
}
