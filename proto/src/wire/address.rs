//! An address in a datagram of fixed length.
//!
//! | offset | size | |
//! |---|---|---|
//! | 0 | 1 | family: 4 or 6 |
//! | 1 | 16 | address, IPv4 in the first four bytes |
//! | 17 | 2 | port, big endian |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of an address.
pub const LEN: usize = 19;

/// Its bytes; an IPv4 address as such, also on a socket that takes both.
pub fn encode(address: SocketAddr) -> [u8; LEN] {
    let mut out = [0; LEN];
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out[0] = 4;
            out[1..5].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out[0] = 6;
            out[1..17].copy_from_slice(&ip.octets());
        }
    }
    out[17..].copy_from_slice(&address.port().to_be_bytes());
    out
}

/// The address at the start of `bytes`; `None` when there is none.
pub fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let bytes: &[u8; LEN] = bytes.first_chunk()?;
    let ip = match bytes[0] {
        4 => IpAddr::V4(Ipv4Addr::from(*bytes[1..].first_chunk::<4>()?)),
        6 => IpAddr::V6(Ipv6Addr::from(*bytes[1..].first_chunk::<16>()?)),
        _ => return None,
    };
    let port = u16::from_be_bytes([bytes[17], bytes[18]]);
    Some(SocketAddr::new(ip, port))
}
