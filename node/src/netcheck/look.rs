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

use super::{
    near::Listed,
    report::{Family, Report, Udp},
};
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
pub(super) async fn around(relays: &[RelayAddr], tcp_only: bool) -> Looked {
    let near = match Homes::find(relays, options(tcp_only)).await {
        Ok(homes) => homes.near(),
        Err(_) => Vec::new(),
    };
    let relay = near.first().map_or(&relays[0], |near| &near.relay);
    // One name may be that of several.
    let namesakes = relays
        .iter()
        .filter(|other| other.host_port == relay.host_port);
    let namesakes: Vec<_> = namesakes.cloned().collect();
    let mut looked = around_one(&namesakes, tcp_only).await;
    looked.report.near = near;
    looked
}

fn options(tcp_only: bool) -> Options {
    match tcp_only {
        true => Options::tcp_only(),
        false => Options::default(),
    }
}

/// At one, which has the key of any of these.
async fn around_one(namesakes: &[RelayAddr], tcp_only: bool) -> Looked {
    let relay = &namesakes[0];
    let mut addresses = Vec::new();
    if !tcp_only {
        // Where there are no names, there may be a proxy that knows them.
        addresses = self::addresses(relay).await.unwrap_or_default();
    }
    let [v4, v6] = [true, false].map(|is_v4| {
        let of_family = |address: &SocketAddr| address.is_ipv4() == is_v4;
        addresses.iter().copied().find(of_family)
    });
    let by_any = async {
        match tcp_only {
            true => None,
            false => Some(connect(namesakes, tcp_only).await),
        }
    };
    let (node, tcp, seen_v4, seen_v6, mapped) = tokio::join!(
        by_any,
        connect(namesakes, true),
        seen(v4),
        seen(v6),
        async {
            match tcp_only {
                true => Err(Unmapped::NotAsked),
                false => port_mapping(&addresses).await,
            }
        }
    );
    let tcp_error = tcp.as_ref().err().map(|failure| failure.line.clone());
    let is_by_udp = matches!(&node, Some(Ok(node)) if !node.is_by_tcp());
    let udp = match (tcp_only, is_by_udp, seen_v4.or(seen_v6), &tcp_error) {
        (true, ..) => Udp::NotAsked,
        (_, true, ..) | (_, _, Some(_), _) => Udp::Goes,
        (.., None) => Udp::Blocked,
        (.., Some(_)) => Udp::Unknown,
    };
    // Where UDP does not go, it may have taken longer to find that out than anybody waits here. And of two that went wrong, what
    // is said is about the one that is tried first.
    let (node, spare) = match (node, tcp) {
        (Some(Ok(node)), tcp) => (Ok(node), tcp.ok()),
        (Some(Err(_)) | None, Ok(tcp)) => (Ok(tcp), None),
        (Some(Err(failure)), Err(_)) | (None, Err(failure)) => (Err(failure), None),
    };
    let nat = match &node {
        Ok(node) if is_by_udp => {
            let observers = survey::observers(node.control());
            survey::nat(&observers).await.nat()
        }
        Ok(_) | Err(_) => Nat::default(),
    };
    let (looked, node, failure) = match node {
        Ok(node) => (Listed::home(node.relay(), node.control()), Some(node), None),
        Err(failure) => (Listed::unusable(relay, &failure), None, Some(failure)),
    };
    Looked {
        report: Report {
            relay: looked,
            near: Vec::new(),
            nat,
            udp,
            tcp_error,
            v4: family(true, v4, seen_v4),
            v6: family(false, v6, seen_v6),
            port_mapping: mapped,
        },
        failure,
        nodes: [node, spare],
    }
}

async fn connect(namesakes: &[RelayAddr], tcp_only: bool) -> Result<Node, Failure> {
    timeout(CONNECTING, Node::at_nearest(namesakes, options(tcp_only)))
        .await
        .unwrap_or_else(|_| Err(too_slow(&namesakes[0], tcp_only)))
}

fn too_slow(relay: &RelayAddr, tcp_only: bool) -> Failure {
    let (at, seconds) = (&relay.host_port, CONNECTING.as_secs_f64());
    let line = match tcp_only {
        true => format!("no answer from the relay at {at} by TCP within {seconds} s"),
        false => format!(
            "no answer from the relay at {at} within {seconds} s: is it running, is the address right, and does your network let UDP through?"
        ),
    };
    Failure::new(Exit::Offline, RELAY_UNREACHABLE, line)
}

fn family(is_v4: bool, relay: Option<SocketAddr>, seen: Option<SocketAddr>) -> Family {
    Family {
        is_asked: relay.is_some(),
        seen,
        is_local: seen.is_some_and(is_own),
        has_support: !gather::hosts(&[udp::any(is_v4)]).is_empty(),
    }
}

/// Whether it is this computer's own address, so that no NAT stands before it.
pub(crate) fn is_own(seen: SocketAddr) -> bool {
    let hosts = gather::hosts(&[udp::any(seen.is_ipv4())]);
    let mut own = hosts.iter().map(|host| host.candidate.address.ip());
    seen.ip().is_loopback() || own.any(|own| own == seen.ip())
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
