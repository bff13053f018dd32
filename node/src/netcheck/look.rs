//! Everything is asked at once, and given up soon: a person waits for it.

use std::{
    net::{SocketAddr, SocketAddrV4},
    num::NonZeroU16,
    time::Duration,
};

use remora_proto::{
    id::RelayAddr,
    path::{candidate::Policy, nat::Nat},
};
use tokio::{net::UdpSocket, time::timeout};

use super::report::{Family, Report};
use crate::{
    control::RELAY_UNREACHABLE,
    error::{Exit, Failure},
    homes::Homes,
    node::{Node, Options, addresses},
    path::{
        gather,
        portmap::{self, Gateway, Protocol, Unmapped},
        survey, udp,
    },
};

/// For the relay to take us in.
const CONNECTING: Duration = Duration::from_millis(1500);

/// What there is to see, and what is left to do.
pub(super) struct Looked {
    /// What was found.
    pub(super) report: Report,
    /// Why the relay could not be used.
    failure: Option<Failure>,
    nodes: [Option<Node>; 2],
}

impl Looked {
    /// Takes leave of the relay; over TCP that takes a second, for which nobody has to wait for the report.
    pub(super) async fn close(self) -> Option<Failure> {
        let [one, other] = self.nodes.map(|node| async move {
            if let Some(node) = node {
                node.close().await;
            }
        });
        tokio::join!(one, other);
        self.failure
    }
}

/// Looks, at the nearest of several relays.
pub(super) async fn around(relays: &[RelayAddr]) -> Looked {
    let near = match Homes::find(relays, Options::default()).await {
        Ok(homes) => homes.near().to_vec(),
        Err(_) => Vec::new(),
    };
    let relay = near.first().map_or(&relays[0], |near| &near.relay);
    let mut looked = around_one(relay).await;
    looked.report.near = near;
    looked
}

async fn around_one(relay: &RelayAddr) -> Looked {
    // Where there are no names, there may be a proxy that knows them.
    let addresses = addresses(relay).await.unwrap_or_default();
    let [v4, v6] = [true, false].map(|is_v4| {
        let of_family = |address: &SocketAddr| address.is_ipv4() == is_v4;
        addresses.iter().copied().find(of_family)
    });
    let (node, tcp, seen_v4, seen_v6, mapped) = tokio::join!(
        connect(relay, Options::default()),
        connect(relay, Options::tcp_only()),
        seen(v4),
        seen(v6),
        port_mapping(&addresses)
    );
    let has_tcp = tcp.is_ok();
    let is_by_udp = node.as_ref().is_ok_and(|node| !node.is_by_tcp());
    // Where UDP does not go, it may have taken longer to find that out than anybody waits here. And of two that went wrong, what
    // is said is about the one that is tried first.
    let (node, spare) = match (node, tcp) {
        (Ok(node), tcp) => (Ok(node), tcp.ok()),
        (Err(_), Ok(tcp)) => (Ok(tcp), None),
        (Err(failure), Err(_)) => (Err(failure), None),
    };
    let mut report = match &node {
        Ok(node) => {
            let nat = if is_by_udp {
                survey::nat(&survey::observers(node.control())).await.nat()
            } else {
                Nat::default()
            };
            Report::of(relay, node.control(), nat)
        }
        Err(failure) => Report::nothing(relay, failure),
    };
    report.has_udp = is_by_udp || seen_v4.is_some() || seen_v6.is_some();
    report.has_tcp = has_tcp;
    report.v4 = family(true, v4, seen_v4);
    report.v6 = family(false, v6, seen_v6);
    report.port_mapping = mapped;
    let (node, failure) = match node {
        Ok(node) => (Some(node), None),
        Err(failure) => (None, Some(failure)),
    };
    Looked {
        report,
        failure,
        nodes: [node, spare],
    }
}

async fn connect(relay: &RelayAddr, options: Options) -> Result<Node, Failure> {
    timeout(CONNECTING, Node::connect(relay, options))
        .await
        .unwrap_or_else(|_| Err(too_slow(relay)))
}

fn too_slow(relay: &RelayAddr) -> Failure {
    let at = &relay.host_port;
    let seconds = CONNECTING.as_secs_f64();
    Failure::new(
        Exit::Offline,
        RELAY_UNREACHABLE,
        format!(
            "no answer from the relay at {at} within {seconds} s: is it running, is the address right, and does your network let UDP through?"
        ),
    )
}

fn family(is_v4: bool, relay: Option<SocketAddr>, seen: Option<SocketAddr>) -> Family {
    let hosts = gather::hosts(&[udp::any(is_v4)]);
    Family {
        is_asked: relay.is_some(),
        seen,
        is_local: seen.is_some_and(|seen| {
            let mut own = hosts.iter().map(|host| host.candidate.address.ip());
            seen.ip().is_loopback() || own.any(|own| own == seen.ip())
        }),
        has_support: !hosts.is_empty(),
    }
}

/// From where the relay sees a fresh socket.
async fn seen(relay: Option<SocketAddr>) -> Option<SocketAddr> {
    let relay = relay?;
    survey::run(&[relay], relay.is_ipv4()).await?.reflexive()
}

/// By what the gateway gives a port, and which: one that leads to nobody, and is given back at once.
async fn port_mapping(relay: &[SocketAddr]) -> Result<(Protocol, SocketAddrV4), Unmapped> {
    if !relay.is_empty() && relay.iter().all(|relay| relay.ip().is_loopback()) {
        return Err(Unmapped::NotAsked);
    }
    let at = Gateway::of_system().ok_or(Unmapped::NoGateway)?;
    let socket = UdpSocket::bind((at.own, 0)).await;
    let port = socket.as_ref().ok().and_then(|socket| {
        let local = socket.local_addr().ok()?;
        NonZeroU16::new(local.port())
    });
    let port = port.ok_or(Unmapped::NoGateway)?;
    let mapping = portmap::map(at, port, &Policy::default()).await?;
    let given = (mapping.protocol, mapping.external);
    mapping.delete().await;
    Ok(given)
}
