//! A helper, a sharer and whatever lies between them, in virtual time: the whole protocol without a single socket.
#![allow(dead_code, reason = "each test takes what it needs")]
#![expect(
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "one clock is read, one event looked for"
)]

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{StreamId, TransportConfig};
use remora_proto::{
    code::Code,
    id::{ExchangeId, Side},
    identity::{Introduction, Profile, Role},
    noise::{
        ClientConfig, PeerInfo, Profile as Noise, Psk, PskId, PskStore, ServerConfig, StaticKey,
        endpoint_config,
    },
    org::verdict::Verdict,
    path::candidate::Named,
    random::Random,
    record::HostRole,
    rendezvous::{
        CodeEnd, Host, HostEvent, HostTransmit, InnerKeys, JoinFailure, Joiner, JoinerEvent,
        JoinerTransmit, LIFETIME,
    },
    sas::Nonce,
    session::{Event, Receipt, Session, Setup, Terms, Transmit},
    sim::{End, Network},
    wire::message::{
        Inbox, MAX_CHAT_BYTES, MAX_CONTROL_BYTES, encode,
        session::{Chat, Control, StreamHeader, StreamKind},
    },
};

/// By everybody's wall clock, when virtual time begins.
pub(crate) const UNIX_MS: u64 = 1_800_000_000_000;
pub(crate) const REALM: &str = "default";
pub(crate) const EXCHANGE: ExchangeId = ExchangeId(7);
const ALPN: &[u8] = b"remora-session/1";

/// The one moment that is read from a clock.
pub(crate) fn epoch() -> Instant {
    Instant::now()
}

// ---- rendezvous ----------------------------------------------------------------------------------

pub(crate) fn host(seed: u64, now: Instant) -> Host {
    Host::new(
        REALM,
        HostRole::Helper,
        LIFETIME,
        now,
        UNIX_MS,
        Random::seeded(seed),
    )
}

pub(crate) fn joiner(code: Code, seed: u64, now: Instant) -> Joiner {
    Joiner::new(
        code,
        REALM,
        HostRole::Helper,
        now,
        UNIX_MS,
        Random::seeded(seed),
    )
}

/// A message between host and joiner, as the relay holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Record(Vec<u8>),
    /// The relay says that the exchange has begun, whether or not the host knows.
    Started(Vec<u8>),
    Join(Vec<u8>),
    SignalToJoiner(Vec<u8>),
    SignalToHost(Vec<u8>),
    Admit(Vec<u8>),
    Dismiss(Vec<u8>),
}

impl Held {
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Record(bytes)
            | Self::Started(bytes)
            | Self::Join(bytes)
            | Self::SignalToJoiner(bytes)
            | Self::SignalToHost(bytes)
            | Self::Admit(bytes)
            | Self::Dismiss(bytes) => bytes,
        }
    }
}

/// How a meeting ended at each side.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) host_keys: Option<InnerKeys>,
    pub(crate) joiner_keys: Option<InnerKeys>,
    pub(crate) failure: Option<JoinFailure>,
    pub(crate) wrong_codes: u32,
    pub(crate) code_end: Option<CodeEnd>,
}

/// Lets the two exchange messages through `relay`, which may change, hold back (empty) or add messages.
pub(crate) fn meet(
    host: &mut Host,
    joiner: &mut Joiner,
    now: Instant,
    mut relay: impl FnMut(Held) -> Vec<Held>,
) -> Met {
    let mut met = Met::default();
    let mut queue: VecDeque<Held> = VecDeque::new();
    // Both answer at once; a round in which nothing happens is the last.
    for _ in 0..64 {
        let mut said = Vec::new();
        while let Some(transmit) = joiner.poll_transmit() {
            said.push(match transmit {
                JoinerTransmit::Lookup(_) => Held::Record(host.signed_record().to_vec()),
                JoinerTransmit::Join(_, payload) => Held::Join(payload.to_vec()),
                JoinerTransmit::Signal(_, payload) => Held::SignalToHost(payload.to_vec()),
            });
        }
        while let Some(transmit) = host.poll_transmit() {
            said.push(match transmit {
                HostTransmit::Signal(_, payload) => Held::SignalToJoiner(payload.to_vec()),
                HostTransmit::Admit(_, payload) => Held::Admit(payload.to_vec()),
                HostTransmit::Dismiss { payload, .. } => Held::Dismiss(payload.to_vec()),
                HostTransmit::Withdraw(..) => continue,
            });
        }
        queue.extend(said.into_iter().flat_map(&mut relay));
        note(&mut met, host, joiner);
        let Some(held) = queue.pop_front() else { break };
        deliver(held, host, joiner, now);
        note(&mut met, host, joiner);
    }
    met
}

fn deliver(held: Held, host: &mut Host, joiner: &mut Joiner, now: Instant) {
    match held {
        Held::Record(bytes) => joiner.handle_found(&bytes, UNIX_MS),
        Held::Started(_) => joiner.handle_started(EXCHANGE),
        Held::Join(bytes) => {
            joiner.handle_started(EXCHANGE);
            host.handle_offer(EXCHANGE, &bytes, now);
        }
        Held::SignalToHost(bytes) => host.handle_signal(EXCHANGE, &bytes, now),
        Held::SignalToJoiner(bytes) => joiner.handle_signal(EXCHANGE, &bytes),
        Held::Admit(bytes) => joiner.handle_allocated(EXCHANGE, &bytes),
        Held::Dismiss(bytes) => joiner.handle_dismissed(EXCHANGE, &bytes),
    }
}

fn note(met: &mut Met, host: &mut Host, joiner: &mut Joiner) {
    while let Some(event) = host.poll_event() {
        match event {
            HostEvent::WrongCode { .. } => met.wrong_codes += 1,
            HostEvent::Joined(_, keys) => {
                assert!(met.host_keys.replace(keys).is_none(), "one peer per code")
            }
            HostEvent::Ended(end) => {
                assert!(met.code_end.replace(end).is_none(), "one end per code")
            }
        }
    }
    while let Some(event) = joiner.poll_event() {
        assert!(
            met.joiner_keys.is_none() && met.failure.is_none(),
            "one outcome per try"
        );
        match event {
            JoinerEvent::Joined(keys) => met.joiner_keys = Some(keys),
            JoinerEvent::Failed(failure) => met.failure = Some(failure),
        }
    }
}

// ---- inner connection and session ----------------------------------------------------------------

struct OneKey(PskId, Psk);

impl PskStore for OneKey {
    fn get(&self, id: &PskId) -> Option<Psk> {
        (*id == self.0).then(|| self.1.clone())
    }
    fn burn(&self, _: &PskId) {}
}

pub(crate) fn profile(role: Role) -> Profile {
    let name = match role {
        Role::Helper => "Sam Okafor",
        Role::Sharer => "Maria Lopez",
    };
    Profile::new(name, "", "Contoso", "contoso.com").expect("valid")
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(Duration::from_secs(2)))
        .max_idle_timeout(Some(Duration::from_secs(7).try_into().expect("valid")))
        .mtu_discovery_config(None);
    Arc::new(transport)
}

/// What one side brings to an inner connection.
pub(crate) struct Party {
    pub(crate) role: Role,
    pub(crate) nonce: Nonce,
    pub(crate) key: StaticKey,
}

impl Party {
    pub(crate) fn new(role: Role, seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        Self {
            role,
            nonce: Nonce::generate(&mut random),
            key: StaticKey::from_bytes(random.bytes()),
        }
    }

    fn introduction(&self) -> Vec<u8> {
        let commitment = self.nonce.commitment();
        Introduction {
            papers: None,
            role: self.role,
            profile: profile(self.role),
            commitment,
            named: Named::default(),
        }
        .encode()
    }

    pub(crate) fn server(&self, keys: &InnerKeys) -> quinn_proto::ServerConfig {
        let mut config = ServerConfig::new(&[Noise::E2e, Noise::E2ePq], self.key.clone(), ALPN);
        config.psks = Some(Arc::new(OneKey(keys.psk_id, keys.psk.clone())));
        config.context.clone_from(&keys.context);
        config.payload = self.introduction();
        let mut config = quinn_proto::ServerConfig::with_crypto(Arc::new(config));
        config.transport_config(transport());
        config
    }

    pub(crate) fn client(&self, keys: &InnerKeys, noise: Noise) -> quinn_proto::ClientConfig {
        let mut config = ClientConfig::new(noise, self.key.clone(), ALPN);
        config.psk = Some((keys.psk_id, keys.psk.clone()));
        config.context.clone_from(&keys.context);
        config.payload = self.introduction();
        let mut config = config.into_quinn();
        config.transport_config(transport());
        config
    }
}

/// A joiner's and a host's end of one inner connection.
pub(crate) fn network(seed: u64, epoch: Instant, host: &Party, host_keys: &InnerKeys) -> Network {
    let endpoint = || endpoint_config(&[Noise::E2e, Noise::E2ePq]);
    Network::new(epoch, seed, endpoint(), endpoint(), host.server(host_keys))
}

/// What the peer proved and said in the handshake, once there is one.
pub(crate) fn peer_of(end: &mut End) -> Option<PeerInfo> {
    let identity = end.connection()?.crypto_session().peer_identity()?;
    identity.downcast::<PeerInfo>().ok().map(|peer| *peer)
}

/// One side's session on its end of the network; what `node::session` does, without tasks.
pub(crate) struct Person {
    pub(crate) session: Session,
    pub(crate) events: Vec<Event>,
    streams: Option<[Stream; 2]>,
    side: Side,
    lost: bool,
}

struct Stream {
    id: StreamId,
    inbox: Inbox,
    unsent: Vec<u8>,
    header_due: bool,
    over: bool,
}

impl Stream {
    fn new(id: StreamId, max: usize, header_due: bool) -> Self {
        Self {
            id,
            inbox: Inbox::new(max),
            unsent: Vec::new(),
            header_due,
            over: false,
        }
    }

    fn flush(&mut self, end: &mut End) {
        let written = end.write(self.id, &self.unsent);
        self.unsent.drain(..written);
    }
}

impl Person {
    /// A session on a connection whose handshake is done.
    pub(crate) fn new(party: &Party, side: Side, end: &mut End, now: Instant) -> Option<Self> {
        let peer = peer_of(end)?;
        let introduction = Introduction::decode(&peer.payload, party.role.peer()).ok()?;
        let setup = Setup {
            role: party.role,
            side,
            nonce: party.nonce.clone(),
            verdict: Ok(Verdict::unmanaged()),
            peer: introduction,
            handshake_hash: peer.handshake_hash,
            terms: Terms::default(),
        };
        let session = Session::new(setup, now);
        Some(Self {
            session,
            events: Vec::new(),
            streams: None,
            side,
            lost: false,
        })
    }

    pub(crate) fn receipt(&self) -> Option<&Receipt> {
        self.events.iter().find_map(|event| match event {
            Event::Ended(receipt) => Some(receipt),
            _ => None,
        })
    }

    pub(crate) fn chat(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Chat { text, .. } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    fn open_streams(&mut self, end: &mut End) {
        if self.streams.is_some() {
            return;
        }
        let pair = match self.side {
            Side::Joiner => (end.open(), end.open()),
            Side::Host => (end.accept(), end.accept()),
        };
        if let (Some(control), Some(chat)) = pair {
            let joins = self.side == Side::Joiner;
            let mut streams = [
                Stream::new(control, MAX_CONTROL_BYTES, !joins),
                Stream::new(chat, MAX_CHAT_BYTES, !joins),
            ];
            if joins {
                for (stream, kind) in streams
                    .iter_mut()
                    .zip([StreamKind::Control, StreamKind::Chat])
                {
                    stream.unsent = encode(&StreamHeader { kind: kind.into() }).to_vec();
                }
            }
            self.streams = Some(streams);
        }
    }

    /// One turn: what arrived goes in, what comes out is written.
    pub(crate) fn turn(&mut self, end: &mut End, now: Instant) {
        self.open_streams(end);
        // The connection finds out for itself when it is silent.
        if end.lost().is_none() {
            self.session.handle_heard(now).ok();
        }
        if self
            .session
            .poll_timeout()
            .is_some_and(|deadline| now >= deadline)
        {
            self.session.handle_timeout(now);
        }
        if let Some([control, chat]) = &mut self.streams {
            read(control, end, |message: Control| {
                self.session.handle_control(message, now).is_ok()
            });
            if self.session.accepts_chat() {
                read(chat, end, |message: Chat| {
                    self.session.handle_chat(message, now).is_ok()
                });
            }
            while let Some(transmit) = self.session.poll_transmit() {
                match transmit {
                    Transmit::Control(body) => {
                        control.unsent.extend(encode(&Control { body: Some(body) }));
                    }
                    Transmit::Chat(message) => chat.unsent.extend(encode(&message)),
                }
            }
            control.flush(end);
            chat.flush(end);
        }
        if end.lost().is_some() && !self.lost {
            self.lost = true;
            self.session.handle_connection_lost(now).ok();
        }
        while let Some(event) = self.session.poll_event() {
            assert!(self.receipt().is_none(), "nothing comes after the end");
            self.events.push(event);
        }
    }
}

fn read<M: prost::Message + Default>(
    stream: &mut Stream,
    end: &mut End,
    mut handle: impl FnMut(M) -> bool,
) {
    if stream.over {
        return;
    }
    stream.inbox.push(&end.read(stream.id).data);
    if stream.header_due {
        match stream.inbox.next::<StreamHeader>() {
            Ok(Some(_)) => stream.header_due = false,
            Ok(None) => return,
            Err(_) => return stream.over = true,
        }
    }
    loop {
        match stream.inbox.next::<M>() {
            Ok(Some(message)) => {
                handle(message);
            }
            Ok(None) => return,
            Err(_) => return stream.over = true,
        }
    }
}

/// Something both a closure and the test look at.
pub(crate) fn shared<T>(value: T) -> Rc<RefCell<T>> {
    Rc::new(RefCell::new(value))
}
