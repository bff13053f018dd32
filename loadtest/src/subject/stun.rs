//! STUN and TURN, as much of it as a session through coturn needs (RFC 8489, RFC 8656).
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | method and class |
//! | 2 | 2 | length of what follows the header |
//! | 4 | 4 | magic cookie |
//! | 8 | 12 | transaction |
//! | 20 | … | attributes: type (2), length (2), value, padded to four bytes |

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::interrupt;

const BINDING: u16 = 0x0001;
const ALLOCATE: u16 = 0x0003;
const CHANNEL_BIND: u16 = 0x0009;
const SUCCESS: u16 = 0x0100;
const CHANNEL_NUMBER: u16 = 0x000c;
const LIFETIME: u16 = 0x000d;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const XOR_RELAYED_ADDRESS: u16 = 0x0016;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const MAGIC: u32 = 0x2112_a442;
const HEADER_BYTES: usize = 20;
/// As long as coturn allows, and longer than any load.
const LIFETIME_S: u32 = 3600;
/// How often a request is sent before there is nobody, and how long each is waited for.
const TRIES: u32 = 5;
const ANSWER_MS: u16 = 500;

/// One client's side of its conversation with the server.
#[derive(Debug)]
pub(super) struct Client {
    socket: UdpSocket,
    server: SocketAddr,
    transaction: u64,
}

impl Client {
    /// Talks to `server` over a node's socket.
    pub(super) fn new(socket: BorrowedFd<'_>, server: SocketAddr) -> std::io::Result<Self> {
        Ok(Self {
            socket: socket.try_clone_to_owned()?.into(),
            server,
            transaction: 0,
        })
    }

    /// Waits until the server answers anything.
    pub(super) fn wait_for_server(&mut self, patience: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < patience {
            if self.ask(BINDING, &[]).is_ok() {
                return Ok(());
            }
            interrupt::check()?;
        }
        bail!("coturn does not answer")
    }

    /// Makes an allocation; its relayed address.
    pub(super) fn allocate(&mut self) -> anyhow::Result<SocketAddrV4> {
        const UDP: [u8; 4] = [17, 0, 0, 0];
        let request = [
            attribute(REQUESTED_TRANSPORT, &UDP),
            attribute(LIFETIME, &LIFETIME_S.to_be_bytes()),
        ];
        let answer = self.ask(ALLOCATE, &request.concat())?;
        attributes(&answer)
            .find(|(kind, _)| *kind == XOR_RELAYED_ADDRESS)
            .and_then(|(_, value)| decode_address(value))
            .context("coturn names no relayed address")
    }

    /// Binds channel `number` to `peer`, or refreshes it and the permission that comes with it.
    pub(super) fn bind_channel(&mut self, number: u16, peer: SocketAddrV4) -> anyhow::Result<()> {
        let [high, low] = number.to_be_bytes();
        let request = [
            attribute(CHANNEL_NUMBER, &[high, low, 0, 0]),
            attribute(XOR_PEER_ADDRESS, &encode_address(peer)),
        ];
        self.ask(CHANNEL_BIND, &request.concat()).map(drop)
    }

    /// The attributes of the answer.
    fn ask(&mut self, method: u16, attributes: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.transaction += 1;
        let mut request = method.to_be_bytes().to_vec();
        request.extend(u16::try_from(attributes.len())?.to_be_bytes());
        request.extend(MAGIC.to_be_bytes());
        request.extend([0; 4]);
        request.extend(self.transaction.to_be_bytes());
        request.extend(attributes);
        for _ in 0..TRIES {
            // Refused as long as the server is not up: the same as no answer.
            if self.socket.send_to(&request, self.server).is_err() {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            if let Some(answer) = self.answer(&request)? {
                let kind = answer.first_chunk().map(|kind| u16::from_be_bytes(*kind));
                if kind != Some(method | SUCCESS) {
                    bail!("coturn refuses (request {method:#06x}, answer {kind:#06x?})");
                }
                return Ok(answer[HEADER_BYTES..].to_vec());
            }
        }
        bail!("coturn does not answer (request {method:#06x})")
    }

    fn answer(&self, request: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        let mut buffer = [0; 2048];
        loop {
            let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if poll(&mut waiting, PollTimeout::from(ANSWER_MS))? == 0 {
                return Ok(None);
            }
            // An error is that of a request before: nobody was there.
            let Ok(length) = self.socket.recv(&mut buffer) else {
                return Ok(None);
            };
            let answer = &buffer[..length];
            if length >= HEADER_BYTES && answer[4..HEADER_BYTES] == request[4..HEADER_BYTES] {
                return Ok(Some(answer.to_vec()));
            }
        }
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(length.to_be_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [k0, k1, l0, l1] = *bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = bytes.get(4..4 + length)?;
        bytes = bytes
            .get(4 + length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((u16::from_be_bytes([k0, k1]), value))
    })
}

/// IPv4, port and address hidden from NATs that rewrite what looks like theirs (RFC 8489 §14.2).
fn encode_address(address: SocketAddrV4) -> [u8; 8] {
    let port = u32::from(address.port()) ^ (MAGIC >> 16);
    let ip = address.ip().to_bits() ^ MAGIC;
    let mut out = [0, 1, 0, 0, 0, 0, 0, 0];
    out[2..4].copy_from_slice(&port.to_be_bytes()[2..]);
    out[4..].copy_from_slice(&ip.to_be_bytes());
    out
}

fn decode_address(value: &[u8]) -> Option<SocketAddrV4> {
    let [_, 1, p0, p1, ip @ ..] = *value.first_chunk::<8>()? else {
        return None;
    };
    let [m0, m1, ..] = MAGIC.to_be_bytes();
    let ip = Ipv4Addr::from_bits(u32::from_be_bytes(ip) ^ MAGIC);
    Some(SocketAddrV4::new(
        ip,
        u16::from_be_bytes([p0 ^ m0, p1 ^ m1]),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_hidden_as_the_specification_shows() {
        // RFC 5769 §2.2: 192.0.2.1, port 32853.
        let address = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 32853);
        let hidden = [0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(encode_address(address), hidden);
        assert_eq!(decode_address(&hidden), Some(address));
        assert_eq!(decode_address(&hidden[..7]), None);
    }

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let bytes = [attribute(1, b"abcde"), attribute(2, b"wxyz")].concat();
        assert_eq!(bytes.len(), 12 + 8);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(1, &b"abcde"[..]), (2, b"wxyz")]);
        assert_eq!(attributes(&bytes[..6]).count(), 0);
    }
}
