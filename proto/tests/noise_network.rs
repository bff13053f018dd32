//! Noise under quinn on hostile networks, in virtual time.
#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionError, StreamId, TransportConfig, TransportErrorCode};
use remora_proto::{
    noise::{
        ClientConfig, PeerInfo, Profile, Psk, PskId, PskStore, ServerConfig, StaticKey,
        endpoint_config,
    },
    sim::{Admission, Direction, End, Mistreatment, Network, Verdict},
};

const PROFILES: [Profile; 3] = [Profile::Hop, Profile::E2e, Profile::E2ePq];
const PSK_ID: PskId = [1; 16];
const PSK: [u8; 32] = [2; 32];
/// Virtual, so it costs nothing; a connection that needs longer has stalled.
const LONG: Duration = Duration::from_secs(600);

/// Gives [`PSK`] out until it is burned.
#[derive(Default)]
struct OnePsk {
    burned: AtomicU32,
}

impl PskStore for OnePsk {
    fn get(&self, id: &PskId) -> Option<Psk> {
        (*id == PSK_ID && self.burned.load(Ordering::Relaxed) == 0).then(|| Psk::new(PSK))
    }

    fn burn(&self, _: &PskId) {
        self.burned.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two who would understand each other.
struct Pair {
    client: ClientConfig,
    server: ServerConfig,
    psks: Arc<OnePsk>,
}

impl Pair {
    fn new(profile: Profile) -> Self {
        let psks = Arc::new(OnePsk::default());
        let mut server = ServerConfig::new(&[profile], StaticKey::generate(), b"test");
        server.psks = Some(psks.clone());
        let mut client = ClientConfig::new(profile, StaticKey::generate(), b"test");
        if profile.has_psk() {
            client.psk = Some((PSK_ID, Psk::new(PSK)));
        } else {
            client.server_key = Some(server.key.public());
        }
        Self {
            client,
            server,
            psks,
        }
    }

    /// A network on which the client has begun to connect.
    fn connect(self, seed: u64) -> Network {
        let mut network = network(seed, self.server);
        network.connect(quinn(self.client)).unwrap();
        network
    }
}

#[expect(clippy::disallowed_methods, reason = "the one moment a test reads")]
fn epoch() -> Instant {
    Instant::now()
}

/// Never idle: how long a handshake may take is up to the test.
fn patient() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(None);
    Arc::new(transport)
}

fn network(seed: u64, server: ServerConfig) -> Network {
    let client_endpoint = endpoint_config(&PROFILES);
    let server_endpoint = endpoint_config(&server.profiles);
    let mut server = quinn_proto::ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(patient());
    Network::new(epoch(), seed, client_endpoint, server_endpoint, server)
}

fn quinn(client: ClientConfig) -> quinn_proto::ClientConfig {
    let mut client = client.into_quinn();
    client.transport_config(patient());
    client
}

/// The client writes on a stream of its own, the server sends back what it reads, the client reads.
struct Echo {
    data: Vec<u8>,
    written: usize,
    stream: Option<StreamId>,
    received: Vec<u8>,
    served: Option<StreamId>,
    to_return: Vec<u8>,
    all_read: bool,
    served_all: bool,
}

impl Echo {
    fn new(length: usize) -> Self {
        Self {
            data: (0..length)
                .map(|at| (at * 31 + at / 251).to_le_bytes()[0])
                .collect(),
            written: 0,
            stream: None,
            received: Vec::new(),
            served: None,
            to_return: Vec::new(),
            all_read: false,
            served_all: false,
        }
    }

    /// One more turn; true once everything has come back.
    fn turn(&mut self, network: &mut Network) -> bool {
        self.serve(&mut network.server);
        if !network.client.is_connected() {
            return false;
        }
        let client = &mut network.client;
        let stream = *self.stream.get_or_insert_with(|| client.open().unwrap());
        if self.written < self.data.len() {
            self.written += client.write(stream, &self.data[self.written..]);
            if self.written == self.data.len() {
                assert!(client.finish(stream));
            }
        }
        let read = client.read(stream);
        self.received.extend(read.data);
        if read.finished {
            assert!(
                self.received == self.data,
                "what came back is what was sent"
            );
        }
        read.finished
    }

    fn serve(&mut self, server: &mut End) {
        self.served = self.served.or_else(|| server.accept());
        let Some(stream) = self.served.filter(|_| !self.served_all) else {
            return;
        };
        if !self.all_read {
            let read = server.read(stream);
            self.to_return.extend(read.data);
            self.all_read = read.finished;
        }
        let written = server.write(stream, &self.to_return);
        self.to_return.drain(..written);
        if self.all_read && self.to_return.is_empty() {
            self.served_all = server.finish(stream);
        }
    }
}

fn echo(network: &mut Network, length: usize) -> bool {
    let mut echo = Echo::new(length);
    network.run_until(LONG, |network| echo.turn(network))
}

fn peer(end: &mut End) -> PeerInfo {
    *end.connection()
        .unwrap()
        .crypto_session()
        .peer_identity()
        .unwrap()
        .downcast()
        .unwrap()
}

fn exported(end: &mut End) -> [u8; 48] {
    let mut out = [0; 48];
    end.connection()
        .unwrap()
        .crypto_session()
        .export_keying_material(&mut out, b"test", b"context")
        .unwrap();
    out
}

fn assert_alert(error: Option<&ConnectionError>, alert: u8) {
    let code = TransportErrorCode::crypto(alert);
    match error {
        Some(ConnectionError::ConnectionClosed(close)) => assert_eq!(close.error_code, code),
        Some(ConnectionError::TransportError(error)) => assert_eq!(error.code, code),
        other => panic!("{other:?}"),
    }
}

// --- hostile networks ---

fn survives(profile: Profile) {
    let mistreatment = Mistreatment {
        replay: 0.02,
        ..Mistreatment::all(0.1)
    };
    for seed in 0..200 {
        let mut pair = Pair::new(profile);
        // Two datagrams for the server's flight, and all that fits one for the client's.
        pair.server.payload = vec![1; 1500];
        pair.client.payload = vec![2; 1000];
        let psks = pair.psks.clone();
        let mut network = pair.connect(seed);
        network.mistreat(mistreatment);
        assert!(echo(&mut network, 100_000), "seed {seed}: {network:?}");

        assert_eq!(
            exported(&mut network.client),
            exported(&mut network.server),
            "seed {seed}"
        );
        let (server, client) = (peer(&mut network.client), peer(&mut network.server));
        assert_eq!(server.handshake_hash, client.handshake_hash);
        assert_eq!((server.payload.len(), client.payload.len()), (1500, 1000));
        assert_eq!(
            psks.burned.load(Ordering::Relaxed),
            u32::from(profile.has_psk()),
            "seed {seed}"
        );
    }
}

#[test]
fn the_hop_survives_a_hostile_network() {
    survives(Profile::Hop);
}

#[test]
fn end_to_end_survives_a_hostile_network() {
    survives(Profile::E2e);
}

#[test]
fn the_hybrid_survives_a_hostile_network() {
    survives(Profile::E2ePq);
}

/// The worst that a handshake can meet and still finish.
///
/// Without MTU discovery: a client whose window has shrunk to two packets sends its MTU probe first, which
/// cannot be acknowledged before M3, for which there is then no room, so quinn 0.11.19 stalls (hybrid, seed 2).
#[test]
fn handshakes_finish_when_half_is_lost() {
    for profile in PROFILES {
        for seed in 0..100 {
            let pair = Pair::new(profile);
            let mut network = network(seed, pair.server);
            let mut transport = TransportConfig::default();
            transport.max_idle_timeout(None).mtu_discovery_config(None);
            let mut client = pair.client.into_quinn();
            client.transport_config(Arc::new(transport));
            network.connect(client).unwrap();
            network.mistreat(Mistreatment {
                loss: 0.5,
                ..Mistreatment::default()
            });
            let done = network.run_until(LONG * 10, |network| {
                network.client.is_connected() && network.server.is_connected()
            });
            assert!(done, "{profile:?} seed {seed}: {network:?}");
        }
    }
}

/// Content differs from run to run (ephemeral keys, connection ids); what the network sees of it does not.
#[test]
fn a_seed_repeats_a_run() {
    let run = |seed| {
        let trace = Rc::new(RefCell::new(Vec::new()));
        let mut network = Pair::new(Profile::E2ePq).connect(seed);
        network.mistreat(Mistreatment::all(0.1));
        let mut echo = Echo::new(20_000);
        let seen = trace.clone();
        assert!(network.run_until(LONG, move |network| {
            let state = [Direction::ToServer, Direction::ToClient].map(|way| network.traffic(way));
            seen.borrow_mut().push((network.elapsed(), state));
            echo.turn(network)
        }));
        trace.take()
    };
    assert!(run(7) == run(7), "the same events at the same times");
    assert!(run(7) != run(8));
}

// --- addresses, versions, memory ---

/// One Initial from an address that never answers gets at most three times its size back (RFC 9000 §8.1),
/// even though the server's flight has 10 kB.
#[test]
fn amplification_is_at_most_threefold() {
    for profile in PROFILES {
        let mut pair = Pair::new(profile);
        pair.server.payload = vec![1; 10_000];
        let mut network = pair.connect(1);
        let mut first = true;
        network.tamper(move |direction, _| match direction {
            Direction::ToServer if std::mem::take(&mut first) => Verdict::Deliver,
            Direction::ToServer | Direction::ToClient => Verdict::Drop,
        });
        network.run_for(LONG);
        let (received, answered) = (
            network.traffic(Direction::ToServer).delivered_bytes,
            network.traffic(Direction::ToClient).sent_bytes,
        );
        assert!(
            received >= 1200 && answered > 0 && answered <= 3 * received,
            "{answered} for {received}"
        );
    }
}

/// The server's flight is larger than that allowance: the client's answers must keep it going.
#[test]
fn a_flight_beyond_the_allowance_does_not_deadlock() {
    for profile in PROFILES {
        let mut pair = Pair::new(profile);
        pair.server.payload = vec![1; 10_000];
        let mut network = pair.connect(1);
        network.mistreat(Mistreatment {
            loss: 0.2,
            ..Mistreatment::default()
        });
        assert!(echo(&mut network, 1000), "{profile:?} {network:?}");
        assert_eq!(peer(&mut network.client).payload.len(), 10_000);
    }
}

#[test]
fn a_retry_validates_the_address() {
    for profile in PROFILES {
        let mut network = Pair::new(profile).connect(1);
        network.server.admission = Admission::Retry;
        let retries = Rc::new(Cell::new(0));
        let seen = retries.clone();
        network.tamper(move |direction, datagram| {
            if direction == Direction::ToClient && datagram[0] & 0xf0 == RETRY {
                seen.set(seen.get() + 1);
            }
            Verdict::Deliver
        });
        assert!(echo(&mut network, 10_000), "{profile:?} {network:?}");
        assert!(retries.get() >= 1, "{retries:?}");
    }
}

/// Long header of type 3 (RFC 9000 §17.2.5).
const RETRY: u8 = 0xf0;

/// Somebody who saw the Initial may answer it, and the tag is wrong.
///
/// After such a forgery quinn 0.11.19 follows no real Retry either (it counts every Retry as an
/// authenticated packet before it looks at the tag): the attempt of a server that insists on one fails.
#[test]
fn a_forged_retry_is_not_followed() {
    for profile in PROFILES {
        let mut network = Pair::new(profile).connect(1);
        let initial = Rc::new(RefCell::new(Vec::new()));
        let seen = initial.clone();
        network.tamper(move |direction, datagram| {
            if direction == Direction::ToServer && seen.borrow().is_empty() {
                seen.replace(datagram.clone());
            }
            Verdict::Deliver
        });
        network.run_for(Duration::ZERO);
        let initial = initial.take();
        let dcid_length = usize::from(initial[5]);
        let (scid_length, rest) = initial[6 + dcid_length..].split_first().unwrap();
        let scid = &rest[..usize::from(*scid_length)];
        let retry = [
            &[RETRY],
            &initial[1..5],
            &[*scid_length],
            scid,
            &[8],
            &[7; 8],
            b"token",
            &[0; 16],
        ]
        .concat();
        network.inject(Direction::ToClient, retry);
        assert!(echo(&mut network, 10_000), "{profile:?} {network:?}");
    }
}

#[test]
fn a_version_mismatch_is_told() {
    let mut network = network(1, Pair::new(Profile::Hop).server);
    network
        .connect(quinn(Pair::new(Profile::E2e).client))
        .unwrap();
    assert!(network.run_until(LONG, |network| network.client.lost().is_some()));
    assert!(
        matches!(
            network.client.lost(),
            Some(ConnectionError::VersionMismatch)
        ),
        "{network:?}"
    );
    assert!(network.server.connection().is_none());
}

/// QUIC version 1 reaches nobody: not the session, and not even an attempt.
#[test]
fn tls_and_noise_never_meet() {
    let mut network = network(1, Pair::new(Profile::Hop).server);
    // What any client of version 1 sends first, as far as a server of ours can read it.
    let mut initial = vec![
        0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0xb0,
    ];
    initial.resize(1200, 0x55);
    network.inject(Direction::ToServer, initial);
    let answer = Rc::new(RefCell::new(Vec::new()));
    let seen = answer.clone();
    network.tamper(move |_, datagram| {
        seen.borrow_mut().push(datagram.clone());
        Verdict::Drop
    });
    network.run_for(LONG);
    let answers = answer.take();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0][1..5], [0; 4], "version negotiation");
    assert!(network.server.connection().is_none() && network.server.refused().is_empty());
}

/// Who lost its memory answers with the token that it once gave (RFC 9000 §10.3).
#[test]
fn a_forgotten_connection_is_reset() {
    for profile in PROFILES {
        let mut network = Pair::new(profile).connect(1);
        assert!(echo(&mut network, 1000));
        // Anybody may send something that looks like a reset; only the token makes it one.
        network.inject(Direction::ToClient, vec![0x55; 40]);
        network.run_for(Duration::from_secs(1));
        assert!(network.client.is_connected());

        network.server.forget();
        let stream = network.client.open().unwrap();
        assert!(network.client.write(stream, &[7; 500]) > 0);
        assert!(
            network.run_until(LONG, |network| network.client.lost().is_some()),
            "{network:?}"
        );
        assert!(
            matches!(network.client.lost(), Some(ConnectionError::Reset)),
            "{network:?}"
        );
    }
}

/// A reply to somebody who knows nothing: never larger than what was asked, so no loop of resets.
#[test]
fn a_reset_is_smaller_than_what_asked_for_it() {
    let mut network = Pair::new(Profile::Hop).connect(1);
    assert!(echo(&mut network, 1000));
    network.server.forget();
    let sizes = Rc::new(RefCell::new(Vec::new()));
    let seen = sizes.clone();
    network.tamper(move |direction, datagram| {
        seen.borrow_mut().push((direction, datagram.len()));
        Verdict::Deliver
    });
    let stream = network.client.open().unwrap();
    assert!(network.client.write(stream, &[7; 100]) > 0);
    network.run_until(LONG, |network| network.client.lost().is_some());
    network.run_for(LONG);
    let sizes = sizes.take();
    let of = |way: Direction| {
        sizes
            .iter()
            .filter(move |(direction, _)| *direction == way)
            .map(|(_, size)| *size)
    };
    assert!(
        of(Direction::ToClient).max() < of(Direction::ToServer).max(),
        "{sizes:?}"
    );
}

// --- keys ---

/// quinn updates keys by itself: once after 10 to 999 packets, then near the AEAD's limit, at most once in
/// three PTOs. The small limit here makes it do so all the time.
#[test]
fn keys_keep_updating() {
    for profile in PROFILES {
        let mut pair = Pair::new(profile);
        (
            pair.client.hooks.packet_limit,
            pair.server.hooks.packet_limit,
        ) = (Some(64), Some(64));
        let generations = count_generations(&mut pair);
        let mut network = pair.connect(1);
        for _ in 0..20 {
            assert!(echo(&mut network, 50_000), "{profile:?}: {network:?}");
            network.run_for(Duration::from_secs(1));
        }
        for generations in generations {
            let generations = generations.load(Ordering::Relaxed);
            assert!(generations >= 10, "{profile:?}: {generations} generations");
        }
    }
}

/// Both ends in turn, each once the other is known to have followed.
///
/// Not as often as above: quinn 0.11.19 begins its next update three PTOs after it followed the other's, also
/// when none of its packets under the new keys has arrived yet (RFC 9001 §6.1 forbids it). The other then
/// reads everything with the keys before, and both talk past each other for good.
#[test]
fn either_end_may_update_keys_on_a_hostile_network() {
    for profile in PROFILES {
        for seed in 0..20 {
            let mut pair = Pair::new(profile);
            let generations = count_generations(&mut pair);
            let mut network = pair.connect(seed);
            network.mistreat(Mistreatment::all(0.1));
            for round in 0..10 {
                assert!(
                    echo(&mut network, 20_000),
                    "{profile:?} seed {seed} round {round}: {network:?}"
                );
                network.run_for(Duration::from_secs(10));
                let end = if round % 2 == 0 {
                    &mut network.client
                } else {
                    &mut network.server
                };
                end.connection().unwrap().force_key_update();
            }
            for generations in generations {
                let generations = generations.load(Ordering::Relaxed);
                assert!(
                    generations >= 10,
                    "{profile:?} seed {seed}: {generations} generations"
                );
            }
        }
    }
}

fn count_generations(pair: &mut Pair) -> [Arc<AtomicU32>; 2] {
    let generations = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))];
    pair.client.hooks.key_updates = Some(generations[0].clone());
    pair.server.hooks.key_updates = Some(generations[1].clone());
    generations
}

#[test]
fn a_psk_is_burned_once_and_a_wrong_one_burns_nothing() {
    for profile in [Profile::E2e, Profile::E2ePq] {
        let good = Pair::new(profile);
        let psks = good.psks.clone();
        let mut network = network(1, good.server);
        // Who saw the public name, and does not know the key.
        let mut guess = Pair::new(profile).client;
        guess.psk = Some((PSK_ID, Psk::new([9; 32])));
        network.connect(quinn(guess)).unwrap();
        assert!(network.run_until(LONG, |network| network.client.lost().is_some()));
        assert_alert(network.client.lost(), 40);
        assert_eq!(psks.burned.load(Ordering::Relaxed), 0);

        network.connect(quinn(good.client)).unwrap();
        assert!(echo(&mut network, 1000), "{network:?}");
        assert_eq!(psks.burned.load(Ordering::Relaxed), 1);

        network.connect(quinn(Pair::new(profile).client)).unwrap();
        assert!(network.run_until(LONG, |network| network.client.lost().is_some()));
        assert_alert(network.client.lost(), 40);
        assert_eq!(psks.burned.load(Ordering::Relaxed), 1);
    }
}

/// The client may think itself connected for a moment: nothing may depend on that alone.
#[test]
fn a_refusal_reaches_the_client() {
    struct Nobody;
    impl remora_proto::noise::Access for Nobody {
        fn check(&self, _: &PeerInfo) -> Result<(), remora_proto::noise::Reject> {
            Err(remora_proto::noise::Reject("nobody is let in"))
        }
    }
    for profile in PROFILES {
        let mut pair = Pair::new(profile);
        pair.server.access = Arc::new(Nobody);
        let mut network = pair.connect(1);
        network.mistreat(Mistreatment {
            loss: 0.2,
            ..Mistreatment::default()
        });
        assert!(
            network.run_until(LONG, |network| network.client.lost().is_some()),
            "{network:?}"
        );
        assert_alert(network.client.lost(), 49);
        assert!(!network.server.is_connected());
    }
}

#[test]
fn a_server_may_refuse_or_be_silent() {
    let mut network = Pair::new(Profile::Hop).connect(1);
    network.server.admission = Admission::Refuse;
    assert!(network.run_until(LONG, |network| network.client.lost().is_some()));
    assert!(matches!(
        network.client.lost(),
        Some(ConnectionError::ConnectionClosed(close)) if close.error_code == TransportErrorCode::CONNECTION_REFUSED
    ));

    let mut network = Pair::new(Profile::Hop).connect(1);
    network.server.admission = Admission::Ignore;
    network.run_for(LONG);
    assert_eq!(network.traffic(Direction::ToClient).sent, 0);
}
