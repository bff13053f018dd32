//! A node: builds the parts, owns their tasks, runs one session.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the reasons that need a line of their own, among many"
)]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    code::Code,
    id::{RelayAddr, RelayId, SessionId},
    identity::{Introduction, Role},
    line::Why,
    org::membership::Papers,
    path::candidate::{Hindrance, Named, Policy},
    random::Random,
    rendezvous::{CodeEnd, Host},
    sas::Nonce,
    session::{Durations, EndReason, Kind, Platform, Receipt, Resumed, Setup, Terms},
    wire::message::control::{Release, node_to_relay::Body as Request},
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    control::{Control, PARK_AFTER},
    error::{Exit, Failure, exit_of},
    event::{Asked, Event, Input, PathSnapshot},
    exchange::Folder,
    homes::{
        Homes, Near,
        attached::{Attached, FAREWELL},
        keep::{self, Keeping},
    },
    identity::{Identity, Member},
    invitation::{
        Call,
        calling::{Calling, Over},
    },
    path::{
        portmap::{self, Gateway, PortMap},
        route::why_at_first,
        stream::proxy::Proxy,
        survey::{self, Surveyed},
    },
    rendezvous::{self, Introduced, Tried, Waited},
    session::{
        self, Channels, Judge, Picture,
        backends::{BROKER_SOCKET, Backends, is_nobody_signed_in},
        inner::{self, Inner, Peer},
        resume::{self, Keep, Place, Returning, Waiting},
    },
    share::{desktop::Desktop, sharing::Sharing},
};

/// Events waiting for the person's program: when it is that far behind, the session waits for it.
const QUEUE_EVENTS: usize = 256;
/// Wishes waiting for the session: lines somebody typed.
const QUEUE_INPUT: usize = 64;
/// Who wants to be answered; others wait.
const QUEUE_ASKED: usize = 4;
/// Frames waiting for the page: when it is behind, the sharer sends no more.
const QUEUE_FRAMES: usize = 8;
/// A name that takes longer is none: somebody waits.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);
/// Relays that are asked for a code at once, when the one that the node is at does not have it.
const MAX_ASKED_AT_ONCE: usize = 4;
/// Between two tries to reach a relay with which a code waited, and up to twice that. A relay takes some seconds to start again.
const COME_BACK: Duration = Duration::from_secs(1);
/// Nobody has ever waited with the code there.
const UNKNOWN_CODE: &str = "UNKNOWN_CODE";
/// For each of them. A person has typed a code and waits.
const ELSEWHERE: Duration = Duration::from_secs(4);

/// Helper: waits for a sharer whose computer restarts.
mod returning;

/// How a session ended, or why there was none.
pub type Outcome = Result<Receipt, Failure>;

/// A connected node, before its session.
#[derive(Debug)]
pub struct Node {
    homes: Homes,
    /// The relay it is at.
    home: Attached,
    policy: Policy,
    durations: Durations,
    elevated_before: bool,
    folder: Folder,
    display: Option<String>,
    kind: Kind,
    broker: PathBuf,
    place: Option<Place>,
    /// What the NAT does, once it is known.
    surveyed: watch::Receiver<Surveyed>,
    _surveying: JoinSet<()>,
    /// The gateway's port.
    port_map: PortMap,
    /// The gateway, which keeps the port for as long as it is wanted and then has it back, and relays that it takes leave of.
    leaving: JoinSet<()>,
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
    /// As the sharer: after how long somebody has to say that a session is to go on.
    pub durations: Durations,
    /// As the sharer: an earlier helper, who has handed over, had an administrator's rights.
    pub elevated_before: bool,
    /// As the sharer: where the broker listens, if there is one.
    pub broker: PathBuf,
    /// As the sharer: where is kept how to come back after a restart; `None`: it does not restart.
    pub place: Option<Place>,
    /// It goes to no relay that was not named, although one of its fleet may have less to do, or be there when it is gone.
    pub only_named: bool,
    /// Whose policy is kept up to date.
    pub member: Option<Arc<Member>>,
    /// Where files come to that the other person sends.
    pub folder: Folder,
    /// As the helper: the X11 display whose clipboard may take part; `None`: that of `DISPLAY`.
    pub display: Option<String>,
    /// Whether somebody attends its sessions.
    pub kind: Kind,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            park_after: PARK_AFTER,
            policy: Policy::default(),
            tcp_only: false,
            proxy: None,
            durations: Durations::default(),
            elevated_before: false,
            broker: PathBuf::from(BROKER_SOCKET),
            place: None,
            only_named: false,
            member: None,
            folder: Folder::default(),
            display: None,
            kind: Kind::default(),
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
    /// How packets go, renewed every second and with each move once connected.
    pub path: watch::Receiver<PathSnapshot>,
    /// For whoever wants an answer, once connected.
    pub asked: mpsc::Sender<Asked>,
    /// Helper: frames and cursor shapes for the page.
    pub frames: mpsc::Receiver<Bytes>,
    /// Helper who invites a device: whatever is sent here has the invitation sent again.
    pub retry: Option<mpsc::Sender<()>>,
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
        Self::at_nearest(slice::from_ref(relay), options).await
    }

    /// Connects to the nearest of several relays that takes it.
    ///
    /// # Errors
    /// None does: what is wrong with the nearest, and what to do about it.
    pub async fn at_nearest(relays: &[RelayAddr], options: Options) -> Result<Self, Failure> {
        let (mut policy, durations) = (options.policy.clone(), options.durations.clone());
        let elevated_before = options.elevated_before;
        let (folder, display) = (options.folder.clone(), options.display.clone());
        let kind = options.kind;
        let (broker, place) = (options.broker.clone(), options.place.clone());
        let mut homes = Homes::find(relays, options).await?;
        let home = homes.settle(&BTreeSet::new()).await?;
        let home = homes.learn(home).await;
        // No other node is at a relay's address.
        policy
            .forbidden
            .extend(homes.all().filter_map(|near| near.address));
        let (found, surveyed) = watch::channel(Surveyed::default());
        let mut surveying = JoinSet::new();
        if !policy.relay_only && !home.socket.is_by_stream() {
            // Not the handle: as long as there is one, the connection is.
            let observers = survey::observers(&home.control);
            surveying.spawn(async move {
                found.send_replace(survey::nat(&observers).await);
            });
        }
        let (port_map, keep_port) = portmap::port_map(policy.clone(), Gateway::of_system);
        let mut leaving = JoinSet::new();
        leaving.spawn(keep_port);
        Ok(Self {
            homes,
            home,
            policy,
            durations,
            elevated_before,
            folder,
            display,
            kind,
            broker,
            place,
            surveyed,
            _surveying: surveying,
            port_map,
            leaving,
        })
    }

    /// Whether the relay is reached by TCP, because UDP does not go or is not wanted.
    pub fn is_by_tcp(&self) -> bool {
        self.home.socket.is_by_stream()
    }

    /// The relay's handle: what it said of us, how far away it is.
    pub fn control(&self) -> &Control {
        &self.home.control
    }

    /// The relay that it is at.
    pub fn relay(&self) -> &RelayAddr {
        &self.home.relay
    }

    /// All relays that it knows, and how far away they are, nearest first.
    pub fn near(&self) -> Vec<Near> {
        self.homes.near()
    }

    /// Shows codes, each for `lifetime`, and waits for the one who has it; the node is the helper.
    pub fn invite(self, identity: impl Into<Identity>, lifetime: Duration) -> Running {
        self.want_port();
        self.run(identity.into(), Begin::Wait(lifetime, None))
    }

    /// Invites a device: a code, good for `lifetime`, that goes there and is shown to nobody here; the node is the helper.
    pub fn call(
        mut self,
        identity: impl Into<Identity>,
        lifetime: Duration,
        call: Call,
    ) -> Running {
        self.want_port();
        self.kind = call.kind;
        self.run(identity.into(), Begin::Wait(lifetime, Some(call)))
    }

    /// Tries a code, at the other relays, too, when nobody waits with it at the one it is at. On failure the node can try another.
    ///
    /// # Errors
    /// Why the code did not work.
    pub async fn try_code(&mut self, code: Code) -> Result<Introduced, Failure> {
        self.want_port();
        let (home, tried) = (&mut self.home, Arc::new(Tried::default()));
        let joined = rendezvous::join(&home.control, &mut home.notices, code.clone(), &tried).await;
        match joined {
            Err(failure) if self.homes.are_several() && may_be_elsewhere(&failure) => {
                self.try_elsewhere(&code, tried, failure).await
            }
            joined => joined,
        }
    }

    /// Where the code is found the node stays. All others are asked at once, a few at a time, and none is waited for longer than a
    /// person would.
    async fn try_elsewhere(
        &mut self,
        code: &Code,
        tried: Arc<Tried>,
        mut said: Failure,
    ) -> Result<Introduced, Failure> {
        let others = self.homes.others(self.home.id());
        for others in others.chunks(MAX_ASKED_AT_ONCE) {
            let mut asking = JoinSet::new();
            for &relay in others {
                let (homes, code, tried) = (self.homes.clone(), code.clone(), Arc::clone(&tried));
                asking.spawn(timeout(ELSEWHERE, async move {
                    let mut other = homes.attach(relay).await?;
                    let (control, notices) = (&other.control, &mut other.notices);
                    let joined = rendezvous::join(control, notices, code, &tried).await;
                    Ok::<_, Failure>((joined?, other))
                }));
            }
            while let Some(asked) = asking.join_next().await {
                match asked {
                    Ok(Ok(Ok((introduced, other)))) => {
                        self.be_at(other);
                        return Ok(introduced);
                    }
                    Ok(Ok(Err(failure))) => {
                        tracing::debug!(%failure, "not there either");
                        // Where it is known, one learns more.
                        if said.code == UNKNOWN_CODE && rendezvous::may_retry(&failure) {
                            said = failure;
                        }
                    }
                    Ok(Err(_)) => tracing::debug!("a relay does not answer"),
                    Err(error) => return Err(Failure::internal("a look-up's task", error)),
                }
            }
        }
        Err(said)
    }

    /// Holds the session a code has led to; the node is the sharer, and shows `desktop`.
    pub fn join(
        self,
        introduced: Introduced,
        identity: impl Into<Identity>,
        desktop: Desktop,
    ) -> Running {
        self.run(
            identity.into(),
            Begin::Introduced(Box::new(introduced), desktop),
        )
    }

    /// Goes on with a session that a restart of this computer has interrupted, and whose code ([`Resumption::code`]) has led to its
    /// helper; the node is the sharer, and shows `desktop`.
    ///
    /// [`Resumption::code`]: remora_proto::resumption::Resumption::code
    pub fn resume(
        mut self,
        introduced: Introduced,
        identity: impl Into<Identity>,
        desktop: Desktop,
        returning: Returning,
    ) -> Running {
        self.kind = returning.token.kind;
        let introduced = Introduced {
            keys: returning.token.resumption.bind(introduced.keys),
            entry: returning.token.entry,
            ..introduced
        };
        let begin = Begin::Returning(Box::new(introduced), desktop, Box::new(returning));
        self.run(identity.into(), begin)
    }

    /// While the two are introduced, the gateway answers. Whoever only looks at the relay asks for none; for a socket that is not there
    /// yet, the session does.
    fn want_port(&self) {
        let socket = &self.home.socket;
        if !socket.is_by_stream() {
            self.port_map.want(socket.v4_port());
        }
    }

    fn run(mut self, identity: Identity, begin: Begin) -> Running {
        let (events, events_rx) = mpsc::channel(QUEUE_EVENTS);
        let (input_tx, mut input) = mpsc::channel(QUEUE_INPUT);
        let (path, path_rx) = watch::channel(PathSnapshot::default());
        let (asked_tx, asked) = mpsc::channel(QUEUE_ASKED);
        let (frames_tx, frames) = mpsc::channel(QUEUE_FRAMES);
        let (role, picture, desktop) = match &begin {
            Begin::Wait(..) => (
                Role::Helper,
                Picture::Viewer(frames_tx),
                Desktop::X11(self.display.clone()),
            ),
            Begin::Introduced(_, desktop) | Begin::Returning(_, desktop, _) => (
                Role::Sharer,
                Picture::Screen(Box::new(Sharing::new(desktop.clone()))),
                desktop.clone(),
            ),
        };
        let calling = match &begin {
            Begin::Wait(_, Some(call)) => {
                let (homes, input) = (self.homes.clone(), input_tx.downgrade());
                Some(Calling::begin(
                    homes,
                    call.clone(),
                    &identity,
                    events.clone(),
                    input,
                ))
            }
            Begin::Wait(_, None) | Begin::Introduced(..) | Begin::Returning(..) => None,
        };
        let retry = calling.as_ref().map(Calling::retry);
        let shown = match &begin {
            Begin::Wait(..) => Desktop::None,
            Begin::Introduced(_, desktop) | Begin::Returning(_, desktop, _) => desktop.clone(),
        };
        let outcome = tokio::spawn(async move {
            let mut returning = None;
            let introduced = match begin {
                Begin::Introduced(introduced, _) => Ok(*introduced),
                Begin::Returning(introduced, _, token) => {
                    returning = Some(*token);
                    Ok(*introduced)
                }
                Begin::Wait(lifetime, _) => {
                    let front = Front {
                        events: &events,
                        calling: calling.as_ref(),
                    };
                    let waited = self.wait(&mut input, &front, lifetime).await;
                    self.call_over(calling, waited).await
                }
            };
            match introduced {
                Ok(introduced) => {
                    // Asks the display and the system's bus.
                    let broker = self.broker.clone();
                    let is_unattended = self.kind == Kind::Unattended;
                    let find = move || {
                        let mut backends = Backends::of_system(&shown, broker);
                        backends.nobody_there = is_unattended && is_nobody_signed_in();
                        backends
                    };
                    let backends = tokio::task::spawn_blocking(find).await;
                    let keep = self.place.clone().map(|place| Keep {
                        place,
                        relays: self.relays(),
                        kind: self.kind,
                        entry: introduced.entry,
                        profile: identity.profile.clone(),
                    });
                    let channels = Channels {
                        input,
                        events,
                        path,
                        asked,
                        backends: backends.unwrap_or_default(),
                        keep,
                        folder: self.folder.clone(),
                        desktop,
                    };
                    let who = (role, identity);
                    self.session(introduced, returning, who, channels, picture)
                        .await
                }
                Err(failure) => {
                    self.close().await;
                    Err(failure)
                }
            }
        });
        Running {
            events: events_rx,
            input: input_tx,
            path: path_rx,
            asked: asked_tx,
            frames,
            retry,
            outcome,
        }
    }

    /// The invited device hears how it ended, and the person what the device said.
    async fn call_over(
        &mut self,
        calling: Option<Calling>,
        waited: Result<Introduced, Failure>,
    ) -> Result<Introduced, Failure> {
        let Some(calling) = calling else {
            return waited;
        };
        let entry = calling.entry();
        match waited {
            Ok(introduced) => {
                self.leaving.spawn(async move {
                    calling.finish(Over::Joined).await;
                });
                Ok(Introduced {
                    entry,
                    ..introduced
                })
            }
            Err(failure) => {
                let end = match failure.code {
                    "CODE_EXPIRED" => CodeEnd::Expired,
                    "CODE_BURNED" => CodeEnd::Burned,
                    _ => CodeEnd::Cancelled,
                };
                let said = calling.finish(Over::Code(end)).await;
                Err(said.unwrap_or(failure))
            }
        }
    }

    async fn wait(
        &mut self,
        input: &mut mpsc::Receiver<Input>,
        front: &Front<'_>,
        lifetime: Duration,
    ) -> Result<Introduced, Failure> {
        let events = front.events;
        self.tell_home(events).await;
        let mut host = front.publish(&self.home.control, lifetime).await?;
        let mut can_move = self.homes.are_several();
        loop {
            let Attached {
                control, notices, ..
            } = &mut self.home;
            let waiting = rendezvous::wait(&mut host, control, notices, events, input, can_move);
            match waiting.await? {
                Waited::Introduced(introduced) => return Ok(introduced),
                Waited::NewCode => {
                    host = front.publish(&self.home.control, lifetime).await?;
                }
                Waited::Draining(within) => {
                    if !self.go_elsewhere().await {
                        // It is good for as long as it is there.
                        tell(events, Event::RelayDraining(within)).await;
                        can_move = false;
                        continue;
                    }
                    match self.publish_again(&mut host, lifetime, front).await {
                        Ok(_) => self.tell_home(events).await,
                        Err(failure) => {
                            tracing::info!(%failure, "the other relay does not take the code");
                            self.come_back(&mut host, lifetime, front, input).await?;
                        }
                    }
                }
                Waited::Lost => {
                    self.come_back(&mut host, lifetime, front, input).await?;
                    can_move = self.homes.are_several();
                }
                Waited::Ended(end) => return Err(front.ended(end).await),
            }
        }
    }

    /// At another relay, or one that has come back; whether the code is the same. When it is another's there, the person has to read
    /// out a new one.
    async fn publish_again(
        &self,
        host: &mut Host,
        lifetime: Duration,
        front: &Front<'_>,
    ) -> Result<bool, Failure> {
        let control = &self.home.control;
        host.handle_moved();
        let is_same = rendezvous::try_publish(control, host).await?;
        if !is_same {
            *host = front.publish(control, lifetime).await?;
        }
        Ok(is_same)
    }

    /// The relay is gone: to any that takes the code, as soon as there is one.
    ///
    /// # Errors
    /// The code has ended before.
    async fn come_back(
        &mut self,
        host: &mut Host,
        lifetime: Duration,
        front: &Front<'_>,
        input: &mut mpsc::Receiver<Input>,
    ) -> Result<(), Failure> {
        let events = front.events;
        tell(events, Event::RelayLost).await;
        // Another one first.
        let mut avoided = BTreeSet::from([self.home.id()]);
        loop {
            let place = tokio::select! { biased;
                end = rendezvous::wait_without_relay(host, events, input) => {
                    return Err(front.ended(end).await);
                }
                place = find_place(&self.homes, &mut avoided) => place,
            };
            avoided.insert(place.id());
            self.be_at(place);
            match self.publish_again(host, lifetime, front).await {
                Ok(same_code) => {
                    let relay = self.home.control.welcome.relay_name.clone();
                    tell(events, Event::RelayBack { relay, same_code }).await;
                    self.tell_home(events).await;
                    return Ok(());
                }
                Err(failure) => tracing::info!(%failure, "the relay does not take the code"),
            }
        }
    }

    /// From a relay that is about to stop to the nearest other one that is not; whether there is one.
    async fn go_elsewhere(&mut self) -> bool {
        let here = BTreeSet::from([self.home.id()]);
        match self.homes.settle(&here).await {
            Ok(other) if other.is_leaving() => {
                other.close().await;
                false
            }
            Ok(other) => {
                self.be_at(other);
                true
            }
            Err(failure) => {
                tracing::info!(%failure, "no other relay");
                false
            }
        }
    }

    fn be_at(&mut self, other: Attached) {
        let left = std::mem::replace(&mut self.home, other);
        self.leaving.spawn(left.close());
        self.want_port();
    }

    /// Where there is a choice, a person or a script may want to know.
    async fn tell_home(&self, events: &mpsc::Sender<Event>) {
        if self.homes.are_several() {
            let home = Event::Home {
                relay: self.home.control.welcome.relay_name.clone(),
                address: self.home.relay.host_port.clone(),
                rtt: self.home.control.rtt(),
            };
            tell(events, home).await;
        }
    }

    /// Where to look for each other after a restart: here first.
    fn relays(&self) -> Vec<RelayAddr> {
        let here = &self.home.relay;
        let others = self.homes.near().into_iter().map(|near| near.relay);
        let others = others.filter(|relay| relay.id != here.id);
        std::iter::once(here.clone()).chain(others).collect()
    }

    async fn session(
        self,
        introduced: Introduced,
        returning: Option<Returning>,
        (role, identity): (Role, Identity),
        mut channels: Channels,
        mut picture: Picture,
    ) -> Outcome {
        let platform = channels.backends.platform();
        let terms = Terms {
            platform: Platform {
                restarts: platform.restarts && channels.keep.is_some(),
                ..platform
            },
            multi_user: channels.backends.multi_user,
            nobody_there: channels.backends.nobody_there,
            durations: self.durations,
            elevated_before: self.elevated_before,
            entry: introduced.entry,
            kind: self.kind,
            ..Terms::default()
        };
        let base = Base {
            homes: self.homes,
            role,
            identity,
            policy: self.policy,
            surveyed: self.surveyed,
            port_map: self.port_map,
            terms,
        };
        let opened = base.open(self.home, introduced).await;
        let outcome = match opened.and_then(|stands| proven(stands, returning)) {
            Err(reason) => Err(not_connected(reason)),
            Ok((mut stands, mut resumed)) => {
                let path = stands.path(&base.policy);
                tell(&channels.events, Event::Connected(path)).await;
                // A viewer's next connection has the same page.
                let viewer = match &picture {
                    Picture::Viewer(frames) => Some(frames.clone()),
                    Picture::Screen(_) => None,
                };
                loop {
                    let over = base.hold(stands, resumed, &mut channels, picture).await;
                    let waiting = match over {
                        session::Over::Ended(receipt) => break Ok(receipt),
                        session::Over::Restarting(waiting) => *waiting,
                    };
                    let Some(frames) = &viewer else {
                        break Err(restarting());
                    };
                    picture = Picture::Viewer(frames.clone());
                    match base.meet_again(waiting, &mut channels).await {
                        Ok((again, before)) => (stands, resumed) = (again, Some(before)),
                        Err(receipt) => break Ok(receipt),
                    }
                }
            }
        };
        drop(base);
        take_leave(self.leaving).await;
        outcome
    }

    /// Says the last words to the relay and ends every task.
    pub async fn close(self) {
        let Self {
            homes: _,
            home,
            policy: _,
            durations: _,
            elevated_before: _,
            folder: _,
            display: _,
            kind: _,
            broker: _,
            place: _,
            surveyed: _,
            _surveying: _,
            port_map,
            leaving,
        } = self;
        drop(port_map);
        home.close().await;
        take_leave(leaving).await;
    }
}

/// What each connection of a session is made from.
struct Base {
    homes: Homes,
    role: Role,
    identity: Identity,
    policy: Policy,
    surveyed: watch::Receiver<Surveyed>,
    port_map: PortMap,
    terms: Terms,
}

/// A connection that stands, and the relay that it began at.
struct Stands {
    home: Attached,
    id: SessionId,
    inner: Inner,
    peer: Peer,
    /// What the other knows of this side.
    shown: Option<Papers>,
    setup: Setup,
}

impl Stands {
    fn path(&self, policy: &Policy) -> PathSnapshot {
        PathSnapshot {
            relay: self.home.control.welcome.relay_name.clone(),
            rtt: self.inner.connection.rtt(),
            why_relayed: Some(why_at_first(policy)),
            ..PathSnapshot::default()
        }
        .reached(self.home.socket.is_by_stream())
    }
}

/// The same helper as before the restart, where there was one; the token has done what it is for.
fn proven(
    stands: Stands,
    returning: Option<Returning>,
) -> Result<(Stands, Option<Resumed>), EndReason> {
    let Some(Returning { token, place }) = returning else {
        return Ok((stands, None));
    };
    place.erase();
    match resume::peer(&stands.peer) == token.peer {
        true => Ok((stands, Some(token.resumed))),
        false => Err(EndReason::AuthFailed),
    }
}

impl Base {
    /// Connects the two who were introduced.
    ///
    /// # Errors
    /// The reason with which the session ends before it began; the relay has been told, and left.
    async fn open(&self, home: Attached, introduced: Introduced) -> Result<Stands, EndReason> {
        let Introduced {
            allocation, keys, ..
        } = introduced;
        let (id, side) = (allocation.session, allocation.side);
        let nonce = Nonce::generate(&mut Random::system());
        let (control, socket) = (&home.control, Arc::clone(&home.socket));
        let introduction = Introduction {
            role: self.role,
            profile: self.identity.profile.clone(),
            papers: self.identity.member.as_deref().map(Member::papers),
            commitment: nonce.commitment(),
            named: Named {
                nat: self.surveyed.borrow().nat(),
                hindrance: self.hindrance(socket.is_by_stream()),
                ..Named::default()
            },
        };
        let shown = introduction.papers.clone();
        let start = inner::Start {
            allocation,
            relay_name: control.welcome.relay_name.clone(),
            keys,
            introduction,
            key: self.identity.key(),
            // Whatever it says, it is only tried; of a stream it says nothing of use.
            observed: match socket.is_by_stream() {
                true => None,
                false => control.welcome.observed_address.parse().ok(),
            },
            observers: survey::observers(control),
            policy: self.policy.clone(),
        };
        let opened = inner::open(start, Arc::clone(&socket), self.port_map.clone()).await;
        let (inner, peer) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                socket.close_route(id);
                let release = Request::Release(Release { session: id.0 });
                if timeout(FAREWELL, control.tell(release)).await.is_err() {
                    tracing::debug!("the relay was not told of the end");
                }
                home.close().await;
                return Err(reason);
            }
        };
        let setup = Setup {
            role: self.role,
            side,
            nonce,
            verdict: self.identity.judge(&peer.introduction, peer.node),
            peer: peer.introduction.clone(),
            handshake_hash: peer.handshake_hash,
            terms: self.terms.clone(),
        };
        if let Err(refusal) = &setup.verdict {
            tracing::warn!(%refusal, "no session");
        }
        Ok(Stands {
            home,
            id,
            inner,
            peer,
            shown,
            setup,
        })
    }

    /// Until the session is over in this connection.
    async fn hold(
        &self,
        stands: Stands,
        resumed: Option<Resumed>,
        channels: &mut Channels,
        picture: Picture,
    ) -> session::Over {
        let Stands {
            home,
            id,
            inner,
            peer,
            shown,
            setup,
        } = stands;
        let kept = keep::Session {
            id,
            side: setup.side,
            connection: inner.connection.clone(),
            carrier: Arc::clone(&inner.mover.carrier),
            route: Arc::clone(&inner.mover.route),
            inlet: inner.inlet.clone(),
            events: channels.events.clone(),
        };
        let judge = Judge {
            identity: self.identity.clone(),
            shown,
            peer,
        };
        let policy = self.policy.clone();
        let (mut keeping, relays) = Keeping::new(self.homes.clone(), home, kept);
        let over = tokio::select! { biased;
            over = session::run(inner, (setup, resumed), judge, policy, (channels, picture), relays) => over,
            never = keeping.run() => match never {},
        };
        keeping.close().await;
        over
    }

    /// Helper: until the sharer's computer is there again, and has shown that it is the same.
    ///
    /// # Errors
    /// The session is over.
    async fn meet_again(
        &self,
        mut waiting: Waiting,
        channels: &mut Channels,
    ) -> Result<(Stands, Resumed), Receipt> {
        let mut number = 0;
        loop {
            let met = returning::meet(&mut waiting, &self.homes, channels, &mut number).await;
            let (home, introduced) = met?;
            if let Some(why) = self.ending(&waiting) {
                home.close().await;
                return Err(returning::end(&mut waiting, why, channels).await);
            }
            let keys = waiting.resumption.bind(introduced.keys);
            let opened = self.open(home, Introduced { keys, ..introduced }).await;
            let stands = match opened {
                Ok(stands) => stands,
                Err(reason) => {
                    tracing::info!(?reason, "whoever came is not the sharer");
                    continue;
                }
            };
            let before = waiting.session.before_restart(Instant::now());
            match before.filter(|_| resume::peer(&stands.peer) == waiting.peer) {
                Some(resumed) => return Ok((stands, resumed)),
                None => stands.home.close().await,
            }
        }
    }

    /// Why an administrator has ended it, while nobody was there.
    fn ending(&self, waiting: &Waiting) -> Option<Why> {
        let member = self.identity.member.as_ref()?;
        Some(member.ending(&waiting.session.name())?.why)
    }

    /// What keeps this node off direct paths, for the other to know.
    fn hindrance(&self, is_by_tcp: bool) -> Option<Hindrance> {
        if self.policy.relay_only {
            Some(Hindrance::RelayOnly)
        } else {
            is_by_tcp.then_some(Hindrance::UdpBlocked)
        }
    }
}

/// A place at a relay that stays, and is none of `avoided` unless there is nothing else; however long it takes.
pub(crate) async fn find_place(homes: &Homes, avoided: &mut BTreeSet<RelayId>) -> Attached {
    loop {
        match homes.settle(avoided).await {
            Ok(place) if place.is_leaving() => place.close().await,
            Ok(place) => return place,
            Err(failure) => tracing::debug!(%failure, "no relay yet"),
        }
        avoided.clear();
        // All who have waited there come back, and not in one moment.
        let [share] = Random::system().bytes();
        sleep(COME_BACK + COME_BACK * u32::from(share) / 255).await;
    }
}

/// Who is told of the code, and the invited device, which has it instead.
struct Front<'a> {
    events: &'a mpsc::Sender<Event>,
    calling: Option<&'a Calling>,
}

impl Front<'_> {
    async fn publish(&self, control: &Control, lifetime: Duration) -> Result<Host, Failure> {
        let Some(calling) = self.calling else {
            return rendezvous::publish(control, lifetime, self.events).await;
        };
        let host = rendezvous::draw(control, lifetime).await?;
        calling.code(host.code().clone()).await;
        Ok(host)
    }

    async fn ended(&self, end: CodeEnd) -> Failure {
        // Of an invitation that has ended by itself, its end is said.
        if !self.calling.is_some_and(Calling::has_ended) {
            tell(self.events, Event::CodeEnded(end)).await;
        }
        rendezvous::code_ended(end)
    }
}

/// How a session begins.
enum Begin {
    Wait(Duration, Option<Call>),
    Introduced(Box<Introduced>, Desktop),
    Returning(Box<Introduced>, Desktop, Box<Returning>),
}

/// Whether the code may work at another relay: nobody waits with it here, or another one's holder does.
fn may_be_elsewhere(failure: &Failure) -> bool {
    rendezvous::may_retry(failure)
        || ["PEER_GONE", "RELAY_LOST", "DRAINING", "FULL"].contains(&failure.code)
}

/// Nobody waits for a gateway, or a relay, that does not acknowledge the end.
async fn take_leave(mut leaving: JoinSet<()>) {
    let ended = async { while leaving.join_next().await.is_some() {} };
    if timeout(FAREWELL, ended).await.is_err() {
        tracing::debug!("a relay or the gateway did not acknowledge the end");
    }
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    // Nobody listens: the input is closed, too, which is leaving.
    if events.send(event).await.is_err() {
        tracing::debug!("nobody listens");
    }
}

/// Nothing is wrong, and there is nothing more to do here.
fn restarting() -> Failure {
    let line = "this computer restarts; `remora join --resume`, or `remora agent`, goes on with the session within ten minutes";
    Failure::new(Exit::Ok, "RESTARTING", line)
}

fn not_connected(reason: EndReason) -> Failure {
    let line = match reason {
        EndReason::AuthFailed => {
            "the other computer could not prove that it has your code, or shows papers that are not in order: something in between \
             interferes, or it is not who it should be; do not go on"
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
