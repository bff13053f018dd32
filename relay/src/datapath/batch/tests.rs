//! Both ways to do a batch, on loopback.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use quinn_udp::{EcnCodepoint, Transmit, UdpSocketState};

use super::{Meta, Piece, Sent};
use crate::datapath::leg::{FarEnd, Leg};

const PATIENCE: Duration = Duration::from_secs(10);

/// A socket with what quinn-udp sets on it.
struct Peer {
    io: UdpSocket,
    state: UdpSocketState,
}

impl Peer {
    fn new(ip: impl Into<std::net::IpAddr>) -> Self {
        let io = UdpSocket::bind(SocketAddr::from((ip.into(), 0))).expect("bound");
        let state = UdpSocketState::new((&io).into()).expect("offloads");
        io.set_nonblocking(true).expect("nonblocking");
        Self { io, state }
    }

    fn address(&self) -> SocketAddr {
        self.io.local_addr().expect("bound")
    }

    fn say(&self, to: SocketAddr, contents: &[u8], segment_size: Option<usize>) {
        let transmit = Transmit {
            destination: to,
            ecn: Some(EcnCodepoint::Ect0),
            contents,
            segment_size,
            src_ip: None,
        };
        self.state
            .try_send((&self.io).into(), &transmit)
            .expect("sent");
    }

    /// Each datagram by itself.
    fn hear(&self, datagrams: usize) -> Vec<(Vec<u8>, SocketAddr)> {
        let plain = self.io.try_clone().expect("cloned");
        plain.set_nonblocking(false).expect("blocking");
        plain.set_read_timeout(Some(PATIENCE)).expect("a time");
        let mut heard = Vec::new();
        while heard.len() < datagrams {
            let mut buffer = vec![0; 65_535];
            let mut meta = [quinn_udp::RecvMeta::default()];
            let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
            self.state
                .recv((&plain).into(), &mut slices, &mut meta)
                .expect("in time");
            let [meta] = meta;
            let run = buffer[..meta.len].chunks(meta.stride.max(1));
            heard.extend(run.map(|datagram| (datagram.to_vec(), meta.addr)));
        }
        plain.set_nonblocking(true).expect("nonblocking");
        heard
    }
}

macro_rules! batches {
    ($name:ident) => {
        mod $name {
            use super::{
                super::$name::{Plan, Received, prepare, send_now},
                *,
            };

            /// What has arrived, once it has.
            fn receive(
                relay: &Peer,
                received: &mut Received,
                datagrams: usize,
            ) -> Vec<(Piece, Meta)> {
                prepare(&relay.io).expect("prepared");
                let until = Instant::now() + PATIENCE;
                loop {
                    match received.fill(&relay.io, &relay.state) {
                        Ok(()) => break,
                        Err(error)
                            if error.kind() == ErrorKind::WouldBlock && Instant::now() < until =>
                        {
                            std::thread::yield_now();
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                let mut found = Vec::new();
                for slot in received.slots() {
                    let (message, meta) = received.message(slot).expect("a message");
                    let segment = meta.segment.min(message.len());
                    let length = message.len();
                    found.push((
                        Piece {
                            slot,
                            start: 0,
                            length,
                            segment,
                            datagrams: length.div_ceil(segment),
                        },
                        meta,
                    ));
                }
                let heard: usize = found
                    .iter()
                    .map(|(piece, _)| piece.length.div_ceil(piece.segment))
                    .sum();
                assert_eq!(heard, datagrams);
                found
            }

            fn forwarded(
                relay: &Peer,
                to: &Peer,
                received: &Received,
                found: &[(Piece, Meta)],
            ) -> Sent {
                let mut plan = Plan::default();
                for (piece, meta) in found {
                    assert_eq!(meta.ecn, Some(EcnCodepoint::Ect0));
                    let leg = Leg {
                        end: FarEnd::Node,
                        remote: to.address(),
                        local: meta.local,
                    };
                    plan.add(7, leg.into(), meta.ecn, *piece);
                }
                let sent = plan.send(&relay.io, &relay.state, received);
                assert_eq!(
                    plan.send(&relay.io, &relay.state, received),
                    Sent::default(),
                    "it is empty"
                );
                sent
            }

            #[test]
            fn what_is_received_is_sent_on() {
                for ip in [
                    Ipv4Addr::LOCALHOST.into(),
                    std::net::IpAddr::from(Ipv6Addr::LOCALHOST),
                ] {
                    let [from, relay, to] = std::array::from_fn(|_| Peer::new(ip));
                    let datagrams: Vec<Vec<u8>> = (1..=16u8).map(|n| vec![n; 1200]).collect();
                    let whole = [&datagrams.concat()[..], &[17; 100]].concat();
                    from.say(relay.address(), &whole, Some(1200));
                    let mut received = Received::default();
                    let found = receive(&relay, &mut received, 17);
                    assert_eq!(found[0].1.source, from.address().into());
                    let sent = forwarded(&relay, &to, &received, &found);
                    let runs = sent.runs;
                    assert!(runs <= 1, "{sent:?}");
                    assert_eq!(
                        sent,
                        Sent {
                            datagrams: 17,
                            bytes: whole.len(),
                            runs,
                            ..Sent::default()
                        }
                    );
                    let heard = to.hear(17);
                    assert!(heard.iter().all(|(_, source)| *source == relay.address()));
                    let heard: Vec<_> = heard.into_iter().map(|(datagram, _)| datagram).collect();
                    assert_eq!((heard[16].len(), heard.concat() == whole), (100, true));
                }
            }

            #[test]
            fn what_is_as_long_as_a_datagram_can_be_is_sent_on() {
                let [from, relay, to] = std::array::from_fn(|_| Peer::new(Ipv4Addr::LOCALHOST));
                let datagram = vec![5; 65_507];
                // Not allowed to be cut into pieces on the way; loopback need not.
                from.say(relay.address(), &datagram, None);
                let mut received = Received::default();
                let found = receive(&relay, &mut received, 1);
                let sent = forwarded(&relay, &to, &received, &found);
                assert_eq!((sent.datagrams, sent.bytes), (1, 65_507));
                assert_eq!(to.hear(1)[0].0, datagram);
            }

            #[test]
            fn what_is_sent_now_arrives() {
                for ip in [
                    Ipv4Addr::LOCALHOST.into(),
                    std::net::IpAddr::from(Ipv6Addr::LOCALHOST),
                ] {
                    let [from, to] = std::array::from_fn(|_| Peer::new(ip));
                    prepare(&from.io).expect("prepared");
                    let contents = [&[1; 900][..], &[2; 900], &[3; 7]].concat();
                    let transmit = Transmit {
                        destination: to.address(),
                        ecn: Some(EcnCodepoint::Ect0),
                        contents: &contents,
                        segment_size: Some(900),
                        src_ip: Some(ip),
                    };
                    send_now(&from.io, &from.state, &transmit).expect("sent");
                    let heard = to.hear(3);
                    assert!(heard.iter().all(|(_, source)| *source == from.address()));
                    let heard: Vec<_> = heard.into_iter().map(|(datagram, _)| datagram).collect();
                    assert_eq!((heard[2].len(), heard.concat() == contents), (7, true));
                }
            }

            #[test]
            fn nothing_is_nothing_and_nowhere_is_refused() {
                let [from, relay] = std::array::from_fn(|_| Peer::new(Ipv4Addr::LOCALHOST));
                let mut received = Received::default();
                let nothing = received
                    .fill(&relay.io, &relay.state)
                    .expect_err("nothing is there");
                assert_eq!(
                    (nothing.kind(), received.slots()),
                    (ErrorKind::WouldBlock, 0..0)
                );
                from.say(relay.address(), &[1; 2400], Some(1200));
                let found = receive(&relay, &mut received, 2);
                let mut plan = Plan::default();
                // An IPv6 address on an IPv4 socket.
                let remote = SocketAddr::from((Ipv6Addr::LOCALHOST, 9));
                for (piece, meta) in found {
                    plan.add(
                        1,
                        Leg {
                            end: FarEnd::Node,
                            remote,
                            local: None,
                        }
                        .into(),
                        meta.ecn,
                        piece,
                    );
                }
                let sent = plan.send(&relay.io, &relay.state, &received);
                assert_eq!((sent.datagrams, sent.refused), (0, 2));
            }
        }
    };
}

#[cfg(target_os = "linux")]
batches!(linux);
batches!(portable);
