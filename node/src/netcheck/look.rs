//! Everything is asked at once, and given up soon: a person waits for it.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};

use remora_proto::{
    id::RelayAddr,
    path::{
        candidate::Policy,
        nat::Nat,
        survey::Survey,
        way::{Base, SocketChange},
    },
    random::Random,
    wire::reflect,
};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::timeout};

use super::report::{Family, Report};
use crate::{
    control::Control,
    deadline::until,
    error::{Exit, Failure},
    node::{Node, Options, addresses, observers},
    path::{
        gather,
        portmap::{self, Gateway, Protocol, Unmapped},
    },
};

/// For the relay to take us in.
const CONNECTING: Duration = Duration::from_millis(1500);
/// For what can be asked only of a relay that has.
const SURVEYING: Duration = Duration::from_millis(800);
/// Answers of observers that wait to be looked at: each of eight questions, asked four times.
const QUEUE_ANSWERS: usize = 32;

/// Looks; a failure is why the relay could not be used.
pub(super) async fn around(relay: &RelayAddr) -> (Report, Option<Failure>) {
    let addresses = match addresses(relay).await {
        Ok(addresses) => addresses,
        Err(failure) => return (Report::nothing(relay, &failure), Some(failure)),
    };
    let [v4, v6] = [true, false].map(|is_v4| {
        let of_family = |address: &SocketAddr| address.is_ipv4() == is_v4;
        addresses.iter().copied().find(of_family)
    });
    let connecting = async {
        let connected = timeout(CONNECTING, Node::connect(relay, Options::default())).await;
        connected.unwrap_or_else(|_| Err(too_slow(relay)))
    };
    let (node, seen_v4, seen_v6, mapped) =
        tokio::join!(connecting, seen(v4), seen(v6), port_mapping(&addresses));
    let mut report = match &node {
        Ok(node) => Report::of(relay, node.control(), nat(node.control()).await),
        Err(failure) => Report::nothing(relay, failure),
    };
    report.has_udp = node.is_ok() || seen_v4.is_some() || seen_v6.is_some();
    report.v4 = family(true, v4, seen_v4);
    report.v6 = family(false, v6, seen_v6);
    report.port_mapping = mapped;
    let failure = match node {
        Ok(node) => {
            node.close().await;
            None
        }
        Err(failure) => Some(failure),
    };
    (report, failure)
}

fn too_slow(relay: &RelayAddr) -> Failure {
    let at = &relay.host_port;
    let seconds = CONNECTING.as_secs_f64();
    Failure::new(
        Exit::Offline,
        "RELAY_UNREACHABLE",
        format!(
            "no answer from the relay at {at} within {seconds} s: is it running, is the address right, and does your network let UDP through?"
        ),
    )
}

fn family(is_v4: bool, relay: Option<SocketAddr>, seen: Option<SocketAddr>) -> Family {
    let any: SocketAddr = if is_v4 {
        (Ipv4Addr::UNSPECIFIED, 1).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 1).into()
    };
    let hosts = gather::hosts(&[any]);
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
    let survey = survey(&[relay], relay.is_ipv4()).await;
    log(survey)?.reflexive()
}

/// What the NAT does that packets to the relay go through.
pub(crate) async fn nat(control: &Control) -> Nat {
    let is_v4 = control.relay.is_ipv4();
    let mut observers = observers(control);
    observers.retain(|observer| observer.is_ipv4() == is_v4);
    let surveying = survey(&observers, is_v4);
    let survey = timeout(SURVEYING, surveying).await.ok();
    survey
        .and_then(log)
        .map(|survey| survey.nat())
        .unwrap_or_default()
}

fn log(survey: io::Result<Survey>) -> Option<Survey> {
    if let Err(error) = &survey {
        tracing::debug!(%error, "survey");
    }
    survey.ok()
}

/// By what the gateway gives a port, and which: one that leads to nobody, and is given back at once.
async fn port_mapping(relay: &[SocketAddr]) -> Result<(Protocol, SocketAddrV4), Unmapped> {
    if relay.iter().all(|relay| relay.ip().is_loopback()) {
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

/// Drives a survey with sockets of its own until it is over.
async fn survey(observers: &[SocketAddr], is_v4: bool) -> io::Result<Survey> {
    let mut survey = Survey::new(observers, &mut Random::system(), Instant::now());
    let mut sockets = Sockets::new(is_v4);
    sockets.open(Base::MAIN).await?;
    while !survey.is_over() {
        while let Some(change) = survey.poll_socket() {
            match change {
                SocketChange::Open(base) => sockets.open(base).await?,
                // With all of them, in a moment.
                SocketChange::Close(_) => {}
            }
        }
        while let Some((base, to, question)) = survey.poll_transmit() {
            sockets.send(base, to, &question).await;
        }
        tokio::select! { biased;
            Some((base, from, transaction, seen)) = sockets.answers.recv() => {
                survey.handle_response(base, from, transaction, seen, Instant::now());
            }
            () = until(survey.poll_timeout()) => {}
        }
        survey.handle_timeout(Instant::now());
    }
    Ok(survey)
}

/// Whom a socket was answered by, to which question, and how it was seen.
type Answer = (Base, SocketAddr, u64, SocketAddr);

struct Sockets {
    is_v4: bool,
    by_base: BTreeMap<Base, Arc<UdpSocket>>,
    receiving: JoinSet<()>,
    tell: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
}

impl Sockets {
    fn new(is_v4: bool) -> Self {
        let (tell, answers) = mpsc::channel(QUEUE_ANSWERS);
        Self {
            is_v4,
            by_base: BTreeMap::new(),
            receiving: JoinSet::new(),
            tell,
            answers,
        }
    }

    async fn open(&mut self, base: Base) -> io::Result<()> {
        let any: SocketAddr = if self.is_v4 {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = Arc::new(UdpSocket::bind(any).await?);
        self.by_base.insert(base, Arc::clone(&socket));
        let tell = self.tell.clone();
        self.receiving.spawn(async move {
            let mut answer = [0; reflect::LEN + 1];
            while let Ok((length, from)) = socket.recv_from(&mut answer).await {
                if let Some((transaction, seen)) = reflect::decode_response(&answer[..length])
                    && tell.send((base, from, transaction, seen)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(())
    }

    async fn send(&self, base: Base, to: SocketAddr, question: &[u8]) {
        let Some(socket) = self.by_base.get(&base) else {
            return;
        };
        if let Err(error) = socket.send_to(question, to).await {
            tracing::debug!(%error, %to, "a question was not sent");
        }
    }
}
