//! What this node's NAT does, found out with sockets of its own: before a session, or without one.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use remora_proto::{
    path::{
        candidate::{Policy, Subnet},
        nat::Nat,
        survey::Survey,
        way::{Base, SocketChange},
    },
    random::Random,
    wire::reflect,
};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::timeout};

use super::{gather, udp};
use crate::{control::Control, deadline::until};

/// For all of it: whoever waits for it has waited for a relay already.
const SURVEYING: Duration = Duration::from_millis(800);
/// Answers of observers that wait to be looked at: each of eight questions, asked four times.
const QUEUE_ANSWERS: usize = 32;

/// What was found, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surveyed {
    nat: Nat,
    networks: Vec<Subnet>,
}

impl Surveyed {
    /// What the NAT does, if this computer is where it was.
    pub(crate) fn nat(&self) -> Nat {
        if self.networks == networks() {
            self.nat
        } else {
            Nat::default()
        }
    }
}

/// What the NAT does that packets to the relay, the first of these, go through.
pub(crate) async fn nat(observers: &[SocketAddr]) -> Surveyed {
    let networks = networks();
    let is_v4 = observers.first().is_some_and(SocketAddr::is_ipv4);
    let surveying = run(observers, is_v4);
    let survey = timeout(SURVEYING, surveying).await.ok().flatten();
    Surveyed {
        nat: survey.map(|survey| survey.nat()).unwrap_or_default(),
        networks,
    }
}

fn networks() -> Vec<Subnet> {
    let hosts = gather::hosts(&[true, false].map(udp::any)).into_iter();
    hosts.map(|host| host.subnet).collect()
}

/// The relay, and where else it says that it can be asked: of its own addresses and of others that anybody may have.
pub(crate) fn observers(control: &Control) -> Vec<SocketAddr> {
    let relay = control.relay;
    let others = control.welcome.observers.iter().filter_map(|other| {
        let other = match other.strip_prefix(':') {
            Some(port) => SocketAddr::new(relay.ip(), port.parse().ok()?),
            None => other.parse().ok()?,
        };
        let is_fit = other.ip() == relay.ip() || Policy::default().allows(other, &[]);
        (is_fit && other.is_ipv4() == relay.is_ipv4()).then_some(other)
    });
    [relay].into_iter().chain(others).collect()
}

/// Asks `observers` until all is known; `None` when this computer has no sockets for it.
pub(crate) async fn run(observers: &[SocketAddr], is_v4: bool) -> Option<Survey> {
    let survey = drive(observers, is_v4).await;
    survey
        .inspect_err(|error| tracing::debug!(%error, "survey"))
        .ok()
}

async fn drive(observers: &[SocketAddr], is_v4: bool) -> io::Result<Survey> {
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
        let socket = Arc::new(UdpSocket::bind(udp::any(self.is_v4)).await?);
        self.by_base.insert(base, Arc::clone(&socket));
        let tell = self.tell.clone();
        self.receiving.spawn(async move {
            let mut answer = [0; reflect::LEN + 1];
            while let Ok((length, from)) = socket.recv_from(&mut answer).await {
                if let Some(answer) = reflect::decode_response(&answer[..length])
                    && let told = (base, from, answer.transaction, answer.seen)
                    && tell.send(told).await.is_err()
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
