//! Out of networks whose only way out is an HTTP proxy: CONNECT (RFC 9110 §9.3.6), as the environment says.

use std::{env, fmt, io, net::IpAddr};

use data_encoding::BASE64;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::host;

/// Longest answer of a proxy that is read: some have a lot to say.
const MAX_ANSWER_BYTES: usize = 16 << 10;
/// Where proxies are when their address does not say.
const DEFAULT_PORT: u16 = 8080;

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host_port: String,
    /// Value of Proxy-Authorization (RFC 7617).
    authorization: Option<String>,
}

/// Who it is, and not the password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.host_port)
    }
}

/// Why a proxy is of no help.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It is not reached, or breaks off.
    #[error("the proxy at {at} is not reached: {source}")]
    Unreachable {
        /// Which.
        at: String,
        /// What the system said.
        source: io::Error,
    },
    /// 407.
    #[error(
        "the proxy at {0} wants a name and a password, or others: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT"
    )]
    Unauthorized(String),
    /// Any other answer but yes.
    #[error("the proxy at {at} does not let us through: {status}")]
    Refused {
        /// Which.
        at: String,
        /// Its status.
        status: u16,
    },
    /// What it says is not HTTP.
    #[error("what answers at {0} is no HTTP proxy")]
    NotHttp(String),
}

impl Proxy {
    /// The one that the environment names for `host_port`: `HTTPS_PROXY`, unless `NO_PROXY` excepts the host; in small letters, too.
    pub fn from_environment(host_port: &str) -> Option<Self> {
        let variable = |name: &str| {
            [name.to_owned(), name.to_lowercase()]
                .iter()
                .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
        };
        let excepted = variable("NO_PROXY").unwrap_or_default();
        if is_excepted(&excepted, host(host_port)) {
            return None;
        }
        let url = variable("HTTPS_PROXY")?;
        let proxy = Self::parse(&url);
        if proxy.is_none() {
            // It may have a password in it.
            tracing::warn!("HTTPS_PROXY is not http://HOST:PORT, and is not used");
        }
        proxy
    }

    /// `[http://][NAME:PASSWORD@]HOST[:PORT][/]`; `None` when it is something else.
    pub fn parse(url: &str) -> Option<Self> {
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return None,
            None => url,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, beyond) = rest.split_at(end);
        // Part of a password, maybe, that would be looked up as a host.
        if beyond.contains('@') {
            return None;
        }
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let has_port = place
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let is_host = |host: &str| {
            let is_v6 = host.starts_with('[') && host.ends_with(']');
            !host.is_empty() && (is_v6 || !host.contains(':'))
        };
        let host_port = if has_port {
            place.to_owned()
        } else if is_host(place) {
            format!("{place}:{DEFAULT_PORT}")
        } else {
            return None;
        };
        let is_plain = |c: char| c.is_ascii_graphic();
        if !host_port.chars().all(is_plain) {
            return None;
        }
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let pair = [&percent_decoded(name)[..], b":", &percent_decoded(password)].concat();
            format!("Basic {}", BASE64.encode(&pair))
        });
        Some(Self {
            host_port,
            authorization,
        })
    }

    /// A connection through it to `target`, `HOST:PORT`, whose name it resolves.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self, target: &str) -> Result<TcpStream, ProxyError> {
        let lost = |source| ProxyError::Unreachable {
            at: self.host_port.clone(),
            source,
        };
        let mut tcp = TcpStream::connect(&self.host_port).await.map_err(lost)?;
        let authorization = match &self.authorization {
            Some(value) => format!("Proxy-Authorization: {value}\r\n"),
            None => String::new(),
        };
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
        tcp.write_all(request.as_bytes()).await.map_err(lost)?;
        let answer = read_head(&mut tcp).await.map_err(lost)?;
        let at = || self.host_port.clone();
        match status(&answer) {
            Some(200..=299) => Ok(tcp),
            Some(407) => Err(ProxyError::Unauthorized(at())),
            Some(status) => Err(ProxyError::Refused { at: at(), status }),
            None => Err(ProxyError::NotHttp(at())),
        }
    }
}

/// An answer up to its empty line, and not a byte of what follows.
async fn read_head(tcp: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_ANSWER_BYTES {
        head.push(tcp.read_u8().await?);
        // Whoever does not speak HTTP need not come to an empty line.
        if head.len() == 5 && head != b"HTTP/" {
            break;
        }
    }
    Ok(head)
}

/// The status of an answer (RFC 9112 §4).
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = str::from_utf8(line).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let status = rest.split(' ').next()?;
    let is_http = version.starts_with("HTTP/1.") && status.len() == 3;
    is_http.then(|| status.parse().ok())?
}

/// Whether `NO_PROXY` says so of `host`: a comma between names, `*` for all; a name stands for those below it, too, and an
/// address for itself or, with a length, for its network.
fn is_excepted(list: &str, host: &str) -> bool {
    let address = host.parse::<IpAddr>().ok();
    list.split(',').map(str::trim).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some(address) = address {
            return is_in(entry, address);
        }
        let name = entry.trim_start_matches('.');
        let tail = host.len().checked_sub(name.len());
        !name.is_empty()
            && tail.is_some_and(|tail| {
                host.is_char_boundary(tail)
                    && host[tail..].eq_ignore_ascii_case(name)
                    && (tail == 0 || host[..tail].ends_with('.'))
            })
    })
}

/// Whether `address` is `entry`, or in the network that it names.
fn is_in(entry: &str, address: IpAddr) -> bool {
    let (network, length) = match entry.split_once('/') {
        Some((network, length)) => match length.parse::<u32>() {
            Ok(length) => (network, Some(length)),
            Err(_) => return false,
        },
        None => (entry, None),
    };
    let network = network.trim_start_matches('[').trim_end_matches(']');
    let same = |one: u128, other: u128, bits: u32| {
        let length = length.unwrap_or(bits).min(bits);
        length == 0 || (one ^ other) >> (bits - length) == 0
    };
    match (network.parse(), address) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) => {
            same(network.to_bits().into(), address.to_bits().into(), 32)
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) => {
            same(network.to_bits(), address.to_bits(), 128)
        }
        _ => false,
    }
}

/// `%40` is `@` (RFC 3986 §2.1); what is not hexadecimal stays.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => {
                let hex = [*high, *low];
                str::from_utf8(&hex)
                    .ok()
                    .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        if let Some(byte) = escaped {
            decoded.push(byte);
            rest = &after[2..];
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_proxys_address_is_understood_as_people_write_it() {
        for (url, host_port, authorization) in [
            ("http://proxy.example:3128", "proxy.example:3128", None),
            ("HTTP://proxy.example:3128/", "proxy.example:3128", None),
            ("proxy.example", "proxy.example:8080", None),
            ("http://[2001:db8::1]", "[2001:db8::1]:8080", None),
            ("http://[2001:db8::1]:80/", "[2001:db8::1]:80", None),
            ("http://maria:s%40f:e@p:1", "p:1", Some("maria:s@f:e")),
            ("http://maria@p:1", "p:1", Some("maria:")),
            ("http://100%:%zz@p:1", "p:1", Some("100%:%zz")),
        ] {
            let proxy = Proxy::parse(url).expect("understood");
            let expected =
                authorization.map(|pair| format!("Basic {}", BASE64.encode(pair.as_bytes())));
            assert_eq!(proxy.host_port, host_port);
            assert_eq!(proxy.authorization, expected, "{url}");
            assert!(!format!("{proxy:?}").contains("maria"));
        }
        for url in [
            "https://p:1",
            "socks5://p:1",
            "",
            "http://",
            "http://:1",
            "a b:1",
            "2001:db8::1x",
        ] {
            assert_eq!(Proxy::parse(url), None, "{url}");
        }
    }

    #[test]
    fn hosts_are_excepted_as_the_others_do_it() {
        for (list, host, expected) in [
            ("", "relay.example", false),
            ("*", "relay.example", true),
            ("other.example, relay.example", "Relay.Example", true),
            ("example", "relay.example", true),
            (".example", "relay.example", true),
            ("lay.example", "relay.example", false),
            ("relay.example", "example", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.0/24", "192.0.2.1", true),
            ("192.0.2.0/24", "192.0.3.1", false),
            ("0.0.0.0/0", "192.0.3.1", true),
            ("2", "192.0.2.2", false),
            ("[2001:db8::7]", "2001:db8::7", true),
            ("2001:db8::/32", "2001:db8::7", true),
            ("2001:db8::/x", "2001:db8::7", false),
        ] {
            assert_eq!(is_excepted(list, host), expected, "{list} {host}");
        }
    }

    #[test]
    fn answers_are_of_http_or_of_nobody() {
        for (head, expected) in [
            (
                "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n",
                Some(200),
            ),
            ("HTTP/1.0 407\r\n\r\n", Some(407)),
            ("HTTP/1.1 2000 what\r\n\r\n", None),
            ("HTTP/2 200\r\n\r\n", None),
            ("SSH-2.0-x\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(head.as_bytes()), expected, "{head}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_environment_or_a_proxy_says_is_survived(
            url: String, list: String, host: String, head: Vec<u8>,
        ) {
            if let Some(proxy) = Proxy::parse(&url) {
                prop_assert!(!proxy.host_port.contains(['\r', '\n', ' ']));
            }
            is_excepted(&list, &host);
            status(&head);
        }
    }
}
