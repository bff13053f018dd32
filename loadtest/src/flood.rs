//! What somebody sends who wants a relay to fail: made beforehand, sent from many addresses, as many a second as asked.

use std::{
    collections::BTreeSet,
    io::IoSlice,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsFd as _,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use quinn::Endpoint;
use rand::{RngExt as _, rngs::StdRng};
use remora::control::client_config;
use remora_proto::{
    id::{RelayAddr, SessionId, Side},
    noise::{self, Profile},
    wire::frame::Header,
};
use tokio::time::timeout;

use crate::{
    mmsg::{Address, MAX_BATCH, Message, Outbox},
    traffic::{Beside, Pace, Pacer},
};

/// Datagrams of each kind, all different; after these it starts over.
const DIFFERENT: usize = 2048;
/// First packets cost a key each; more than the 1024 handshakes that a relay has at a time before it asks for a proof.
const FIRST_PACKETS: usize = 1280;
/// Addresses it comes from.
const SOURCES: usize = 64;
/// As large as first packets are.
const LARGE_BYTES: usize = 1200;
/// A short packet that is longer than the reset that answers it.
const SHORT_BYTES: usize = 64;
/// For our own first packets to come round.
const CAPTURE: Duration = Duration::from_secs(20);

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Random bytes of random length
    Garbage,
    /// First packets of real handshakes that nobody goes on with
    Initials,
    /// Frames of live sessions from elsewhere, and of sessions that there are not
    Forged,
    /// Packets of connections that there are not, which a relay answers with resets
    Resets,
    /// All of these in turns
    All,
}

impl Kind {
    /// Each by itself.
    fn parts(self) -> Vec<Self> {
        match self {
            Self::All => vec![Self::Garbage, Self::Initials, Self::Forged, Self::Resets],
            Self::Garbage | Self::Initials | Self::Forged | Self::Resets => vec![self],
        }
    }
}

/// A flood that is ready.
#[derive(Debug)]
pub struct Flood {
    datagrams: Vec<Vec<u8>>,
    sources: Vec<UdpSocket>,
    at: Address,
    pacer: Pacer,
    outbox: Outbox,
    /// Batches begun.
    batches: usize,
    /// What the system took.
    sent: u64,
}

impl Flood {
    /// Prepares `rate` datagrams a second of `kind` for the relay at `at`, whose live sessions are `sessions`.
    ///
    /// # Errors
    /// When the relay is not on this machine's IPv4, or the system has no sockets.
    pub fn new(
        kind: Kind,
        rate: u64,
        relay: &RelayAddr,
        at: SocketAddr,
        sessions: &[SessionId],
        random: &mut StdRng,
    ) -> anyhow::Result<Self> {
        let SocketAddr::V4(at) = at else {
            bail!("a flood goes to an IPv4 address");
        };
        let mut by_kind = Vec::new();
        for kind in kind.parts() {
            by_kind.push(datagrams(kind, relay, sessions, random)?);
        }
        // In turns.
        let datagrams = (0..DIFFERENT).flat_map(|number| {
            by_kind
                .iter()
                .map(move |all| all[number % all.len()].clone())
        });
        Ok(Self {
            datagrams: datagrams.collect(),
            sources: (0..SOURCES)
                .map(|_| source(at, random))
                .collect::<Result<_, _>>()
                .context("no UDP socket")?,
            at: at.into(),
            pacer: Pacer::new(Pace::Rate(rate), MAX_BATCH as u64, 0),
            outbox: Outbox::new(MAX_BATCH),
            batches: 0,
            sent: 0,
        })
    }

    fn send_batch(&mut self) {
        let first = self.batches * MAX_BATCH;
        let all = self.datagrams.len();
        let mut parts = [IoSlice::new(&[]); MAX_BATCH];
        for (number, part) in (first..).zip(&mut parts) {
            *part = IoSlice::new(&self.datagrams[number % all]);
        }
        let messages = parts.chunks(1).map(|parts| Message {
            parts,
            to: Some(&self.at),
            segment: None,
        });
        let source = &self.sources[self.batches % self.sources.len()];
        self.sent += self.outbox.send(source.as_fd(), messages) as u64;
        self.batches += 1;
    }

    /// Datagrams that the system took.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

impl Beside for Flood {
    /// Sends a batch when one is due.
    fn between(&mut self, counted_ns: u64) {
        if self.pacer.take(counted_ns, 0) {
            self.send_batch();
        }
    }
}

/// A socket somewhere in 127.0.0.0/8, which is all this machine, or on whatever address reaches a relay that is elsewhere.
fn source(at: SocketAddrV4, random: &mut StdRng) -> std::io::Result<UdpSocket> {
    let from = if at.ip().is_loopback() {
        let [b, c, d] = [(); 3].map(|()| random.random_range(1..=254));
        Ipv4Addr::new(127, b, c, d)
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    UdpSocket::bind((from, 0))
}

fn datagrams(
    kind: Kind,
    relay: &RelayAddr,
    sessions: &[SessionId],
    random: &mut StdRng,
) -> anyhow::Result<Vec<Vec<u8>>> {
    if kind == Kind::Initials {
        return first_packets(relay);
    }
    Ok((0..DIFFERENT)
        .map(|number| match kind {
            Kind::Garbage => {
                let length = random.random_range(1..=LARGE_BYTES);
                bytes(length, random)
            }
            Kind::Forged => forged(number, sessions, random),
            Kind::Resets | Kind::Initials | Kind::All => {
                let mut packet = bytes(SHORT_BYTES, random);
                // A short header (RFC 9000 §17.3).
                packet[0] = 0x40 | packet[0] & 0x3f;
                packet
            }
        })
        .collect())
}

fn bytes(length: usize, random: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes[..]);
    bytes
}

/// Every other one is of a live session.
fn forged(number: usize, sessions: &[SessionId], random: &mut StdRng) -> Vec<u8> {
    let live = sessions.get(number / 2 % sessions.len().max(1));
    let session = live.filter(|_| number.is_multiple_of(2)).copied();
    let header = Header {
        side: [Side::Host, Side::Joiner][number / 2 % 2],
        session: session.unwrap_or_else(|| SessionId(random.random())),
    };
    let mut frame = bytes(LARGE_BYTES, random);
    let header = header.encode();
    frame[..header.len()].copy_from_slice(&header);
    frame
}

/// What clients of this relay send first, caught on its way to a port of our own.
fn first_packets(relay: &RelayAddr) -> anyhow::Result<Vec<Vec<u8>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let caught = async { timeout(CAPTURE, catch_first_packets(relay)).await };
    runtime
        .block_on(caught)
        .context("making first packets takes too long on this machine")?
}

async fn catch_first_packets(relay: &RelayAddr) -> anyhow::Result<Vec<Vec<u8>>> {
    let sink = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let to = sink.local_addr()?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let config = noise::endpoint_config(&[Profile::Hop]);
    let endpoint = Endpoint::new(config, None, socket, Arc::new(quinn::TokioRuntime))?;
    let mut seen = BTreeSet::new();
    let mut packets = Vec::with_capacity(FIRST_PACKETS);
    // Kept: one that is dropped says goodbye.
    let mut connecting = Vec::with_capacity(FIRST_PACKETS);
    while packets.len() < FIRST_PACKETS {
        connecting.push(endpoint.connect_with(client_config(relay), to, "relay")?);
        loop {
            let mut packet = [0; 2 * LARGE_BYTES];
            let length = sink.recv(&mut packet).await?;
            // One that is sent again is for a connection that we have (RFC 9000 §17.2: its id is behind flags, version, length).
            let id_bytes = usize::from(packet[5]);
            if seen.insert(packet[6..6 + id_bytes].to_vec()) {
                packets.push(packet[..length].to_vec());
                break;
            }
        }
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use remora_proto::{
        id::RelayId,
        wire::{self, Kind as Wire},
    };

    use super::*;

    #[test]
    fn each_kind_is_what_it_says() {
        let relay = RelayAddr {
            host_port: "127.0.0.1:1".to_owned(),
            id: RelayId(noise::StaticKey::generate().public()),
            tls: None,
        };
        let sessions = [SessionId(7), SessionId(8)];
        let mut random = StdRng::seed_from_u64(1);
        let mut made = |kind| datagrams(kind, &relay, &sessions, &mut random).expect("made");
        let resets = made(Kind::Resets);
        assert!(resets.iter().all(|packet| packet[0] & 0xc0 == 0x40));
        let forged = made(Kind::Forged);
        let live = forged.iter().filter(|frame| {
            assert_eq!(wire::kind(frame), Wire::Frame);
            let (header, _) = Header::decode(frame).expect("a frame");
            sessions.contains(&header.session)
        });
        assert_eq!(live.count(), DIFFERENT / 2);
        let garbage = made(Kind::Garbage);
        assert!(
            garbage
                .iter()
                .any(|bytes| wire::kind(bytes) == Wire::Unknown)
        );
    }

    #[test]
    fn first_packets_are_whole_and_different() {
        let relay = RelayAddr {
            host_port: "127.0.0.1:1".to_owned(),
            id: RelayId(noise::StaticKey::generate().public()),
            tls: None,
        };
        let packets = first_packets(&relay).expect("caught");
        assert_eq!(packets.len(), FIRST_PACKETS);
        // Long header, Initial (RFC 9000 §17.2.2), padded.
        assert!(
            packets
                .iter()
                .all(|packet| packet[0] & 0xf0 == 0xc0 && packet.len() >= LARGE_BYTES)
        );
        assert_ne!(packets[0], packets[1]);
    }
}
