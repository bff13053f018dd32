//! Who may come in. Any page in the person's browser can send requests here, and any program on this computer can open
//! the port: neither must get an answer worth having.
//!
//! | from | proof |
//! |---|---|
//! | anybody | `Host` names the loopback address: a foreign name made to point here (DNS rebinding) is turned away |
//! | who opens the address | the token, once |
//! | who has been in | the cookie (`HttpOnly`), and the key, which the browser keeps for this very port: cookies go to every port of a host, so a cookie alone could be picked up by another program's page on this computer |
//! | `POST`, WebSocket | `Origin` is this page's own |

use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{HeaderMap, HeaderValue, header};
use data_encoding::BASE64URL_NOPAD;
use remora_proto::random::Random;
use subtle::ConstantTimeEq;

/// Of every secret here.
const SECRET_BYTES: usize = 16;
/// The WebSocket's protocol. The key stands beside it in `Sec-WebSocket-Protocol`, because a page can set no other header,
/// and addresses end up in logs.
pub(super) const PROTOCOL: &str = "remora.1";
/// The key, in a request that can carry a header of ours; no foreign page's can (Fetch §3.3.1).
const KEY_HEADER: &str = "x-remora-key";
/// Before the key, in `Sec-WebSocket-Protocol`.
const KEY_PREFIX: &str = "key.";

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenRefused {
    /// It is not the one.
    Unknown,
    /// It has been used.
    Used,
}

/// The secrets of one server.
pub(super) struct Door {
    port: u16,
    token: String,
    used: AtomicBool,
    cookie: String,
    key: String,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

impl Door {
    pub(super) fn new(port: u16) -> Self {
        let mut random = Random::system();
        let mut secret = || BASE64URL_NOPAD.encode(&random.bytes::<SECRET_BYTES>());
        let (token, cookie, key) = (secret(), secret(), secret());
        Self {
            port,
            token,
            used: AtomicBool::new(false),
            cookie,
            key,
        }
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// The `Host` of a request, if it is ours.
    pub(super) fn host<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let host = text(headers, header::HOST)?;
        let (name, port) = host.rsplit_once(':')?;
        let ours = matches!(name, "127.0.0.1" | "localhost") && port.parse() == Ok(self.port);
        ours.then_some(host)
    }

    /// Whether a request comes from our own page.
    pub(super) fn same_origin(&self, headers: &HeaderMap) -> bool {
        match (self.host(headers), text(headers, header::ORIGIN)) {
            (Some(host), Some(origin)) => origin.strip_prefix("http://") == Some(host),
            _ => false,
        }
    }

    /// Takes the token, once.
    pub(super) fn enter(&self, token: &str) -> Result<(), TokenRefused> {
        if !same(token, &self.token) {
            return Err(TokenRefused::Unknown);
        }
        if self.used.swap(true, Ordering::SeqCst) {
            Err(TokenRefused::Used)
        } else {
            Ok(())
        }
    }

    /// What the page keeps beside the cookie.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// `Set-Cookie` for who came in. The name has the port, so that two sessions on one computer do not replace each
    /// other's.
    pub(super) fn set_cookie(&self) -> HeaderValue {
        let cookie = format!(
            "{}={}; Path=/live; HttpOnly; SameSite=Strict",
            self.cookie_name(),
            self.cookie
        );
        HeaderValue::from_str(&cookie).expect("base64 and digits")
    }

    fn cookie_name(&self) -> String {
        format!("remora_{}", self.port)
    }

    /// Whether a request is from somebody who has been let in.
    pub(super) fn knows(&self, headers: &HeaderMap) -> bool {
        self.has_cookie(headers) && self.has_key(headers)
    }

    /// The same of a request that is no WebSocket.
    pub(super) fn knows_sender(&self, headers: &HeaderMap) -> bool {
        let key = headers.get(KEY_HEADER).and_then(|key| key.to_str().ok());
        self.has_cookie(headers) && key.is_some_and(|key| same(key, &self.key))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie_name();
        let cookies = text(headers, header::COOKIE).unwrap_or_default();
        let pairs = cookies
            .split(';')
            .filter_map(|pair| pair.trim().split_once('='));
        pairs
            .into_iter()
            .any(|(key, value)| key == name && same(value, &self.cookie))
    }

    fn has_key(&self, headers: &HeaderMap) -> bool {
        let protocols = text(headers, header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
        let mut keys = protocols
            .split(',')
            .filter_map(|protocol| protocol.trim().strip_prefix(KEY_PREFIX));
        keys.any(|key| same(key, &self.key))
    }
}
