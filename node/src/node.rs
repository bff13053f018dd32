//! A node: builds the parts, owns their tasks, runs one session.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the reasons that need a line of their own, among many"
)]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use remora_proto::{
    code::Code,
    id::RelayAddr,
    identity::{Introduction, Profile, Role},
    path::candidate::{Named, Policy},
    random::Random,
    sas::Nonce,
    session::{EndReason, Receipt},
    wire::message::control::{Here, Release, node_to_relay::Body as Request},
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::{
    control::{Control, Notice, PARK_AFTER, RELAY_UNREACHABLE, Started},
    error::{Exit, Failure, exit_of},
    event::{Event, Input, PathSnapshot},
    path::{
        keeper::Keeper,
        portmap::{self, Gateway, PortMap},
        route::why_at_first,
        socket::MagicSocket,
        stream::{Dialer, proxy::Proxy},
        survey::{self, Surveyed},
    },
    rendezvous::{self, Introduced, Waited},
    session::{self, Channels, Picture, inner},
    share::{desktop::Desktop, sharing::Sharing},
};

/// Events waiting for the person's program: when it is that far behind, the session waits for it.
const QUEUE_EVENTS: usize = 256;
/// Wishes waiting for the session: lines somebody typed.
const QUEUE_INPUT: usize = 64;
/// Frames waiting for the page: when it is behind, the sharer sends no more.
const QUEUE_FRAMES: usize = 8;
/// For the last words to the relay.
const FAREWELL: Duration = Duration::from_secs(1);
/// A name that takes longer is none: somebody waits.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);
/// Where a relay is whose name only the proxy knows: nowhere (192.0.2.0/24, RFC 5737). What is asked there by UDP is lost.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 1);
/// How often a session's node looks whether it is heard.
const LISTEN: Duration = Duration::from_millis(100);

/// How a session ended, or why there was none.
pub type Outcome = Result<Receipt, Failure>;

/// A connected node, before its session.
#[derive(Debug)]
pub struct Node {
    control: Control,
    notices: mpsc::Receiver<Notice>,
    socket: Arc<MagicSocket>,
    /// The socket's task; aborted when the node is dropped.
    receiving: JoinSet<()>,
    /// The control stream's task; ends by itself once no handle is left.
    talking: JoinSet<()>,
    policy: Policy,
    /// What the NAT does, once it is known.
    surveyed: watch::Receiver<Surveyed>,
    /// The gateway's port.
    port_map: PortMap,
    /// Keeps it for as long as it is wanted, and then gives it back.
    keeping: JoinSet<()>,
}

/// How a node behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Parked after so long without a word to its relay.
    pub park_after: Duration,
    /// Which paths its sessions may take.
    pub policy: Policy,
    /// UDP is not used, whether it goes or not.
    pub tcp_only: bool,
    /// Where TCP needs one: instead of the proxy that the environment names.
    pub proxy: Option<Proxy>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            park_after: PARK_AFTER,
            policy: Policy::default(),
            tcp_only: false,
            proxy: None,
        }
    }
}

impl Options {
    /// Sessions go through the relay, whatever else would be possible.
    pub fn relay_only() -> Self {
        let policy = Policy {
            relay_only: true,
            ..Policy::default()
        };
        Self {
            policy,
            ..Self::default()
        }
    }

    /// Everything goes by TCP, and so through the relay.
    pub fn tcp_only() -> Self {
        Self {
            tcp_only: true,
            ..Self::relay_only()
        }
    }
}

/// A session on its way, from the outside.
#[derive(Debug)]
pub struct Running {
    /// What happens; closed after the last event.
    pub events: mpsc::Receiver<Event>,
    /// What the person wants. Dropping it is leaving.
    pub input: mpsc::Sender<Input>,
    /// How packets go, renewed every second once connected.
    pub path: watch::Receiver<PathSnapshot>,
    /// Helper: frames and cursor shapes for the page.
    pub frames: mpsc::Receiver<Bytes>,
    /// The end.
    pub outcome: JoinHandle<Outcome>,
}

/// The addresses of `HOST:PORT`: at least one, IPv4 before IPv6, for on dual-stack names both work, and more networks carry v4.
pub(crate) async fn addresses(relay: &RelayAddr) -> Result<Vec<SocketAddr>, Failure> {
    let host_port = &relay.host_port;
    let unknown = |why: String| {
        let line = format!(
            "the relay's name in `{host_port}` cannot be resolved ({why}); check the name and your DNS"
        );
        Failure::new(Exit::Offline, "RELAY_UNKNOWN", line)
    };
    let addresses = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(host_port))
        .await
        .map_err(|_| unknown("no answer".into()))?
        .map_err(|error| unknown(error.to_string()))?;
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_by_key(|address| !address.is_ipv4());
    if addresses.is_empty() {
        return Err(unknown("no address".into()));
    }
    Ok(addresses)
}

impl Node {
    /// Connects to the relay.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub async fn connect(relay: &RelayAddr, options: Options) -> Result<Self, Failure> {
        let Options {
            park_after,
            policy,
            tcp_only,
            proxy,
        } = options;
        let proxy = proxy.or_else(|| Proxy::from_environment(&relay.host_port));
        let (address, tcp_only) = match addresses(relay).await {
            Ok(addresses) => (addresses[0], tcp_only),
            // Behind some proxies there are no names.
            Err(failure) if proxy.is_none() => return Err(failure),
            Err(_) => (NOWHERE, true),
        };
        let bind = if tcp_only {
            MagicSocket::bind_tcp_only
        } else {
            MagicSocket::bind
        };
        let (socket, incoming) =
            bind(address).map_err(|error| Failure::internal("cannot open a UDP socket", error))?;
        let mut receiving = JoinSet::new();
        receiving.spawn(receive(socket.clone()));
        let known = (address != NOWHERE).then_some(address);
        let dialer = Dialer::new(relay, known, proxy);
        let (keeper, trouble) = Keeper::new(socket.clone(), dialer, tcp_only);
        receiving.spawn(keeper.run());
        let connecting = Control::connect(relay, address, socket.clone(), incoming, park_after);
        let Started {
            control,
            notices,
            task,
        } = connecting
            .await
            .map_err(|failure| unreached(failure, relay, tcp_only, trouble.borrow().as_deref()))?;
        let mut talking = JoinSet::new();
        talking.spawn(task);
        let (found, surveyed) = watch::channel(Surveyed::default());
        if !policy.relay_only && !socket.is_by_stream() {
            // Not the handle: as long as there is one, the connection is.
            let observers = survey::observers(&control);
            receiving.spawn(async move {
                found.send_replace(survey::nat(&observers).await);
            });
        }
        let (port_map, keep_port) = portmap::port_map(policy.clone(), Gateway::of_system);
        let mut keeping = JoinSet::new();
        keeping.spawn(keep_port);
        Ok(Self {
            control,
            notices,
            socket,
            receiving,
            talking,
            policy,
            surveyed,
            port_map,
            keeping,
        })
    }

    /// Whether the relay is reached by TCP, because UDP does not go or is not wanted.
    pub fn is_by_tcp(&self) -> bool {
        self.socket.is_by_stream()
    }

    /// The relay's handle: what it said of us, how far away it is.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Shows codes, each for `lifetime`, and waits for the one who has it; the node is the helper.
    pub fn invite(self, profile: Profile, lifetime: Duration) -> Running {
        self.want_port();
        self.run(profile, Begin::Wait(lifetime))
    }

    /// Tries a code. On failure the node can try another.
    ///
    /// # Errors
    /// Why the code did not work.
    pub async fn try_code(&mut self, code: Code) -> Result<Introduced, Failure> {
        self.want_port();
        rendezvous::join(&self.control, &mut self.notices, code).await
    }

    /// Holds the session a code has led to; the node is the sharer, and shows `desktop`.
    pub fn join(self, introduced: Introduced, profile: Profile, desktop: Desktop) -> Running {
        self.run(profile, Begin::Introduced(Box::new(introduced), desktop))
    }

    /// While the two are introduced, the gateway answers. Whoever only looks at the relay asks for none; for a socket that is not there
    /// yet, the session does.
    fn want_port(&self) {
        if !self.socket.is_by_stream() {
            self.port_map.want(self.socket.v4_port());
        }
    }

    fn run(mut self, profile: Profile, begin: Begin) -> Running {
        let (events, events_rx) = mpsc::channel(QUEUE_EVENTS);
        let (input_tx, mut input) = mpsc::channel(QUEUE_INPUT);
        let (path, path_rx) = watch::channel(PathSnapshot::default());
        let (frames_tx, frames) = mpsc::channel(QUEUE_FRAMES);
        let (role, picture) = match &begin {
            Begin::Wait(_) => (Role::Helper, Picture::Viewer(frames_tx)),
            Begin::Introduced(_, desktop) => (
                Role::Sharer,
                Picture::Screen(Box::new(Sharing::new(desktop.clone()))),
            ),
        };
        let outcome = tokio::spawn(async move {
            let introduced = match begin {
                Begin::Introduced(introduced, _) => Ok(*introduced),
                Begin::Wait(lifetime) => self.wait(&mut input, &events, lifetime).await,
            };
            let outcome = match introduced {
                Ok(introduced) => {
                    let channels = Channels {
                        input,
                        events,
                        path,
                        picture,
                    };
                    self.session(introduced, role, profile, channels).await
                }
                Err(failure) => Err(failure),
            };
            self.close().await;
            outcome
        });
        Running {
            events: events_rx,
            input: input_tx,
            path: path_rx,
            frames,
            outcome,
        }
    }

    async fn wait(
        &mut self,
        input: &mut mpsc::Receiver<Input>,
        events: &mpsc::Sender<Event>,
        lifetime: Duration,
    ) -> Result<Introduced, Failure> {
        loop {
            let waited = rendezvous::wait_with_code(
                &self.control,
                &mut self.notices,
                events,
                input,
                lifetime,
            );
            match waited.await? {
                Waited::Introduced(introduced) => return Ok(introduced),
                Waited::NewCode => {}
                Waited::Ended(end) => {
                    tell(events, Event::CodeEnded(end)).await;
                    return Err(rendezvous::code_ended(end));
                }
            }
        }
    }

    async fn session(
        &mut self,
        introduced: Introduced,
        role: Role,
        profile: Profile,
        channels: Channels,
    ) -> Outcome {
        let Introduced { allocation, keys } = introduced;
        let session = allocation.session;
        let nonce = Nonce::generate(&mut Random::system());
        let introduction = Introduction {
            role,
            profile,
            commitment: nonce.commitment(),
            named: Named {
                nat: self.surveyed.borrow().nat(),
                ..Named::default()
            },
        };
        let start = inner::Start {
            allocation,
            keys,
            introduction,
            // Whatever it says, it is only tried; of a stream it says nothing of use.
            observed: match self.socket.is_by_stream() {
                true => None,
                false => self.control.welcome.observed_address.parse().ok(),
            },
            observers: survey::observers(&self.control),
            policy: self.policy.clone(),
        };
        let (socket, port_map) = (self.socket.clone(), self.port_map.clone());
        let opened = inner::open(start, nonce, socket, port_map, self.control.relay).await;
        let outcome = match opened {
            Ok((inner, setup)) => {
                let relay = self.control.welcome.relay_name.clone();
                let rtt = inner.connection.rtt();
                tell(
                    &channels.events,
                    Event::Connected(
                        PathSnapshot {
                            relay: relay.clone(),
                            rtt,
                            why_relayed: Some(why_at_first(&self.policy)),
                            ..PathSnapshot::default()
                        }
                        .reached(self.socket.is_by_stream()),
                    ),
                )
                .await;
                let events = channels.events.clone();
                let policy = self.policy.clone();
                let running = session::run(inner, setup, relay, policy, channels);
                tokio::pin!(running);
                let mut listening = tokio::time::interval(LISTEN);
                Ok(loop {
                    tokio::select! { biased;
                        receipt = &mut running => break receipt,
                        _ = listening.tick() => if self.socket.is_unheard(session) {
                            self.control.try_tell(Request::Here(Here {}));
                        },
                        notice = self.notices.recv() => match notice {
                            Some(Notice::Draining(within)) => tell(&events, Event::RelayDraining(within)).await,
                            Some(_) => {}
                            // The session lives on its own connection and ends when that does.
                            None => break running.await,
                        }
                    }
                })
            }
            Err(reason) => Err(not_connected(reason)),
        };
        self.socket.close_route(session);
        let release = Request::Release(Release { session: session.0 });
        if timeout(FAREWELL, self.control.tell(release)).await.is_err() {
            tracing::debug!("the relay was not told of the end");
        }
        outcome
    }

    /// Says the last words to the relay and ends every task.
    pub async fn close(self) {
        let Self {
            control,
            notices,
            mut talking,
            receiving,
            socket,
            policy: _,
            surveyed: _,
            port_map,
            mut keeping,
        } = self;
        drop((control, notices, port_map));
        let ended = async {
            while talking.join_next().await.is_some() {}
            while keeping.join_next().await.is_some() {}
        };
        if timeout(FAREWELL, ended).await.is_err() {
            tracing::debug!("the relay or the gateway did not acknowledge the end");
        }
        drop((receiving, socket));
    }
}

/// How a session begins.
enum Begin {
    Wait(Duration),
    Introduced(Box<Introduced>, Desktop),
}

/// What was wrong with either way to the relay.
fn unreached(
    failure: Failure,
    relay: &RelayAddr,
    tcp_only: bool,
    trouble: Option<&str>,
) -> Failure {
    if failure.code != RELAY_UNREACHABLE {
        return failure;
    }
    let trouble = trouble.unwrap_or("no answer");
    let line = if tcp_only {
        let at = &relay.host_port;
        format!("cannot reach the relay at {at} by TCP: {trouble}")
    } else {
        format!("{}; nor by TCP: {trouble}", failure.line)
    };
    Failure { line, ..failure }
}

async fn receive(socket: Arc<MagicSocket>) {
    if let Err(error) = socket.receive().await {
        tracing::error!(%error, "the UDP socket failed");
    }
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    // Nobody listens: the input is closed, too, which is leaving.
    if events.send(event).await.is_err() {
        tracing::debug!("nobody listens");
    }
}

fn not_connected(reason: EndReason) -> Failure {
    let line = match reason {
        EndReason::AuthFailed => {
            "the other computer could not prove that it has your code: something in between interferes; do not go on"
        }
        EndReason::VersionTooOld => {
            "the other computer runs another version of remora; both should update"
        }
        EndReason::JoinTimeout | EndReason::ConnectionLost => {
            "the other computer did not answer in time; ask for a new code and try again"
        }
        _ => "the connection to the other computer failed; ask for a new code and try again",
    };
    Failure::new(exit_of(reason), reason.name(), line)
}
