//! Who is who. Newtypes, so that no id is taken for another; addresses that carry the key of who answers there.

use std::{fmt, net::IpAddr, str::FromStr};

use aws_lc_rs::digest;
use data_encoding::{BASE32_NOPAD, DecodeError};

/// A public key, or a hash of one, as text: base32 without padding, lower case.
fn key_to_text(key: &[u8]) -> String {
    BASE32_NOPAD.encode(key).to_ascii_lowercase()
}

fn key_from_text<const LEN: usize>(text: &str) -> Result<[u8; LEN], InvalidKey> {
    BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .map_err(InvalidKey::Encoding)?
        .try_into()
        .map_err(|bytes: Vec<u8>| InvalidKey::Length(bytes.len(), LEN))
}

/// Text that is not a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// A character that base32 does not have, or a cut end.
    #[error("the key is not base32 (letters a–z and digits 2–7): {0}")]
    Encoding(DecodeError),
    /// So many bytes, and not as many as it takes.
    #[error("the key has {0} bytes instead of {1}; was it cut when copied?")]
    Length(usize, usize),
}

macro_rules! key_id {
    ($(#[$meta:meta])* $name:ident, $len:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The first eight characters: enough to tell apart in a log.
            pub fn short(&self) -> String {
                let mut text = key_to_text(&self.0);
                text.truncate(8);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&key_to_text(&self.0))
            }
        }

        /// With what it is, and short.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}…)", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = InvalidKey;
            fn from_str(text: &str) -> Result<Self, InvalidKey> {
                key_from_text(text).map(Self)
            }
        }
    };
}

key_id! {
    /// A node: its static X25519 key.
    NodeId, 32
}
key_id! {
    /// A relay: its static X25519 key.
    RelayId, 32
}
key_id! {
    /// An organisation: the Ed25519 key with which its issuer signs.
    OrgId, 32
}
key_id! {
    /// A device: its Ed25519 key, which signs that it is there.
    DeviceId, 32
}
key_id! {
    /// The key of a certificate that nobody vouches for: the first half of SHA-256 over its SubjectPublicKeyInfo (RFC 5280
    /// §4.1.2.7), as RFC 7469 pins them. It tells the relay from who pretends to be it before TLS says anything; who the relay
    /// is, its [`RelayId`] alone proves.
    TlsPin, 16
}

impl TlsPin {
    /// Of a SubjectPublicKeyInfo, DER.
    pub fn of(key: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, key);
        let half = hash.as_ref().first_chunk().copied();
        Self(half.expect("SHA-256 has 32 bytes"))
    }
}

/// A session on a relay: 64 random bits, equal on every leg, in the header of every frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// One joiner's try at one host, while the relay passes their messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

/// Which of the two a frame comes from: bit 0 of its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Side {
    /// Who published the code: server of the inner connection.
    Host = 0,
    /// Who typed it: client of the inner connection.
    Joiner = 1,
}

impl Side {
    /// The other one.
    pub fn peer(self) -> Self {
        match self {
            Self::Host => Self::Joiner,
            Self::Joiner => Self::Host,
        }
    }
}

/// Longest `host:port`: a name of 253 bytes, as DNS has them, and a port.
pub const MAX_HOST_PORT_BYTES: usize = 260;

/// Where a relay answers, by UDP and TCP, and which key it must prove: `host:port/KEY`, or `host:port/KEY/TLS`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayAddr {
    /// `name:port`, `1.2.3.4:port` or `[::1]:port`.
    pub host_port: String,
    /// Pinned: a server with another key is not this relay.
    pub id: RelayId,
    /// Whose certificate it shows at its TCP port; `None`: one that the system's authorities vouch for.
    pub tls: Option<TlsPin>,
}

/// Text that is not a relay's address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRelayAddr {
    /// No `/` between place and key.
    #[error(
        "a relay's address is HOST:PORT/KEY, and here the /KEY is missing; copy the whole line that `remora-relay` printed"
    )]
    NoKey,
    /// Place without a port.
    #[error("`{0}` has no valid port; a relay's address is HOST:PORT/KEY")]
    Port(String),
    /// Something that no name and no number holds; it is not repeated, for it might move the cursor.
    #[error(
        "what stands before the / is no HOST:PORT; copy the whole line that `remora-relay` printed"
    )]
    Host,
    /// What follows the `/`.
    #[error(transparent)]
    Key(#[from] InvalidKey),
}

impl FromStr for RelayAddr {
    type Err = InvalidRelayAddr;

    fn from_str(text: &str) -> Result<Self, InvalidRelayAddr> {
        let (host_port, key) = text.trim().split_once('/').ok_or(InvalidRelayAddr::NoKey)?;
        let is_no_place = |c: char| c.is_control() || c.is_whitespace();
        if host_port.len() > MAX_HOST_PORT_BYTES || host_port.contains(is_no_place) {
            return Err(InvalidRelayAddr::Host);
        }
        let valid = host_port.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        if !valid {
            return Err(InvalidRelayAddr::Port(host_port.to_owned()));
        }
        let (key, tls) = match key.split_once('/') {
            Some((key, tls)) => (key, Some(tls.parse()?)),
            None => (key, None),
        };
        Ok(Self {
            host_port: host_port.to_owned(),
            id: key.parse()?,
            tls,
        })
    }
}

impl fmt::Display for RelayAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host_port, self.id)?;
        match self.tls {
            Some(tls) => write!(f, "/{tls}"),
            None => Ok(()),
        }
    }
}

/// Whether somebody's word that a relay is there is to be believed enough to send a question: not to what is this computer's, its
/// link's or everybody's own (RFC 6890), however it is written. On this computer it may be if the fleet is.
pub fn may_be_relay(ip: IpAddr, is_on_this_computer: bool) -> bool {
    match ip.to_canonical() {
        ip if ip.is_loopback() => is_on_this_computer,
        IpAddr::V4(ip) => {
            !(ip.is_link_local() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0)
        }
        IpAddr::V6(ip) => !(ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_address_survives_copying() {
        for tls in [None, Some(TlsPin([9; 16]))] {
            let addr = RelayAddr {
                host_port: "relay.example:4433".into(),
                id: RelayId([7; 32]),
                tls,
            };
            let text = addr.to_string();
            assert_eq!(text.parse(), Ok(addr.clone()));
            assert_eq!(
                format!(
                    "  {}\n",
                    text.to_uppercase()
                        .replace("RELAY.EXAMPLE", "relay.example")
                )
                .parse(),
                Ok(addr)
            );
        }
    }

    #[test]
    fn a_bad_relay_address_says_what_is_wrong() {
        let key = RelayId([7; 32]).to_string();
        let parse = |text: &str| text.parse::<RelayAddr>();
        assert_eq!(parse("relay.example:4433"), Err(InvalidRelayAddr::NoKey));
        assert!(matches!(
            parse(&format!("relay.example/{key}")),
            Err(InvalidRelayAddr::Port(_))
        ));
        assert!(matches!(
            parse(&format!(":4433/{key}")),
            Err(InvalidRelayAddr::Port(_))
        ));
        for host in ["a\r\nb", "a b", "\u{1b}[2Ja", &"a".repeat(300)] {
            let parsed = parse(&format!("{host}:1/{key}"));
            assert_eq!(parsed, Err(InvalidRelayAddr::Host));
        }
        assert!(matches!(
            parse(&format!("a:0/{key}")),
            Err(InvalidRelayAddr::Port(_))
        ));
        assert!(matches!(
            parse(&format!("a:1/{}", &key[..50])),
            Err(InvalidRelayAddr::Key(_))
        ));
        for tls in ["", "mzxw6", &key, "a/b"] {
            let cut = parse(&format!("a:1/{key}/{tls}"));
            assert!(matches!(cut, Err(InvalidRelayAddr::Key(_))), "{tls}");
        }
        assert!(matches!(
            parse("a:1/has-a-1-and-a-0"),
            Err(InvalidRelayAddr::Key(InvalidKey::Encoding(_)))
        ));
    }

    #[test]
    fn nobody_is_asked_who_cannot_be_a_relay() {
        let may = |ip: &str, here| may_be_relay(ip.parse().expect("an address"), here);
        for ip in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fd00::1"] {
            assert!(may(ip, false), "{ip}");
        }
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(!may(ip, false) && may(ip, true), "{ip}");
        }
        for ip in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "0.1.2.3",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!may(ip, true), "{ip}");
        }
    }

    #[test]
    fn no_question_goes_where_no_relay_can_be() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        for refused in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "ff02::1",
            "fe80::1",
        ] {
            assert!(!may_be_relay(ip(refused), false), "{refused}");
        }
        for taken in ["198.51.100.1", "10.0.0.1", "2001:db8::1"] {
            assert!(may_be_relay(ip(taken), false), "{taken}");
        }
        assert!(may_be_relay(ip("127.0.0.2"), true));
    }
}
