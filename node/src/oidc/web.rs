//! One question over HTTP, one answer. TLS with the system's authorities, or with the certificate that a desk has signed for, through the
//! proxy that the environment names; without TLS only to this computer. No redirect is followed: whoever is asked answers.

use std::{
    fmt, io,
    str::FromStr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
    http::uri::Scheme,
};
use remora_proto::id::TlsPin;
use rustls::ClientConfig;
use tokio::{net::TcpStream, sync::OnceCell, time::timeout};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::{
    error::{Exit, Failure},
    http::{Answer, exchange},
    path::stream::{
        proxy::Proxy,
        server_name,
        tls::{self, Trust},
    },
};

/// A round trip or four, and a service that thinks about it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A provider's keys, with their certificates; a policy and a credential.
const MAX_BODY_BYTES: usize = 256 << 10;

/// Of `application/x-www-form-urlencoded`.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
/// Of JSON.
pub(crate) const JSON: &str = "application/json";

/// Whom to ask: `https://HOST[:PORT]/PATH`, or the same with `http` on this computer.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    uri: Uri,
    /// With a port.
    host_port: String,
    is_secure: bool,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What stands behind may be of a person.
        f.write_str(&self.host_port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = self.uri.to_string();
        f.write_str(uri.trim_end_matches('/'))
    }
}

/// Text that is no address here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address to sign in at; it is https://HOST, and http:// on this computer alone"
)]
pub struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.chars().take(200).collect());
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
        let is_plain = uri.scheme() == Some(&Scheme::HTTP);
        let is_here = matches!(authority.host(), "127.0.0.1" | "[::1]" | "localhost");
        let is_known = is_secure || (is_plain && is_here);
        if !is_known || text.contains('#') || authority.as_str().contains('@') {
            return Err(invalid());
        }
        let port = authority
            .port_u16()
            .unwrap_or(if is_secure { 443 } else { 80 });
        Ok(Self {
            host_port: format!("{}:{port}", authority.host()),
            uri,
            is_secure,
        })
    }
}

impl Address {
    /// Another place at the same server.
    pub(crate) fn at(&self, path: &'static str) -> Self {
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(hyper::http::uri::PathAndQuery::from_static(path));
        let uri = Uri::from_parts(parts).expect("scheme and authority are as they were");
        Self {
            uri,
            ..self.clone()
        }
    }
}

/// Nobody, or nobody who can be believed, answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("{0} does not answer")]
    Silence(String),
    #[error("{0} is not reached: {1}")]
    Unreached(String, io::Error),
    #[error("whoever answers at {0} is not taken for it ({1})")]
    Tls(String, io::Error),
    #[error("what answers at {0} is no web server, or says too much")]
    NotHttp(String),
}

impl From<NoAnswer> for Failure {
    fn from(no: NoAnswer) -> Self {
        let exit = match no {
            NoAnswer::Silence(_) | NoAnswer::Unreached(..) => Exit::Offline,
            NoAnswer::Tls(..) => Exit::Verification,
            NoAnswer::NotHttp(_) => Exit::Error,
        };
        Self::new(exit, "SIGN_IN_OFFLINE", format!("{no}; try again later"))
    }
}

/// Who asks.
#[derive(Default)]
pub(crate) struct Web {
    /// The system's authorities are some hundred files.
    tls: OnceCell<Arc<ClientConfig>>,
    /// Whose certificate is known otherwise, with its port.
    known: OnceLock<(String, TlsPin)>,
}

impl Web {
    /// Asks for what is there.
    pub(crate) async fn get(&self, at: &Address) -> Result<Answer, NoAnswer> {
        let answer = self.ask(
            at,
            self.trust(at),
            Request::get(at.uri.clone()),
            Bytes::new(),
        );
        Ok(answer.await?.0)
    }

    /// The same with a token of the person's (RFC 6750 §2.1).
    pub(crate) async fn get_with(&self, at: &Address, token: &str) -> Result<Answer, NoAnswer> {
        let bearer = Zeroizing::new(format!("Bearer {token}"));
        let request = Request::get(at.uri.clone()).header(AUTHORIZATION, bearer.as_str());
        Ok(self.ask(at, self.trust(at), request, Bytes::new()).await?.0)
    }

    /// The same of whoever is there, who has to prove otherwise who it is; and the key of the certificate that it has shown.
    pub(crate) async fn get_of_anybody(
        &self,
        at: &Address,
    ) -> Result<(Answer, Option<TlsPin>), NoAnswer> {
        let request = Request::get(at.uri.clone());
        self.ask(at, Trust::Nobody, request, Bytes::new()).await
    }

    /// From now on the certificate with that key is the right one there, and no other; said once.
    pub(crate) fn believe(&self, at: &Address, pin: TlsPin) {
        self.known.get_or_init(|| (at.host_port.clone(), pin));
    }

    fn trust(&self, at: &Address) -> Trust {
        match self.known.get() {
            Some((host_port, pin)) if *host_port == at.host_port => Trust::Pinned(*pin),
            Some(_) | None => Trust::Authorities,
        }
    }

    /// Brings something of that kind.
    pub(crate) async fn post(
        &self,
        at: &Address,
        kind: &'static str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, NoAnswer> {
        let request = Request::post(at.uri.clone()).header(CONTENT_TYPE, kind);
        Ok(self.ask(at, self.trust(at), request, body.into()).await?.0)
    }

    async fn ask(
        &self,
        at: &Address,
        trust: Trust,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<(Answer, Option<TlsPin>), NoAnswer> {
        let path = at.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = at
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let request = request
            .uri(path)
            .header(HOST, authority)
            .header(ACCEPT, JSON)
            .header(USER_AGENT, "remora")
            .body(Full::new(body))
            .map_err(|_| NoAnswer::NotHttp(at.host_port.clone()))?;
        timeout(PATIENCE, self.ask_slowly(at, trust, request))
            .await
            .unwrap_or_else(|_| Err(NoAnswer::Silence(at.host_port.clone())))
    }

    async fn ask_slowly(
        &self,
        at: &Address,
        trust: Trust,
        request: Request<Full<Bytes>>,
    ) -> Result<(Answer, Option<TlsPin>), NoAnswer> {
        let host_port = &at.host_port;
        let unreached = |error| NoAnswer::Unreached(host_port.clone(), error);
        let not_http = |_| NoAnswer::NotHttp(host_port.clone());
        let untrusted = |error| NoAnswer::Tls(host_port.clone(), error);
        if !at.is_secure {
            let tcp = TcpStream::connect(host_port).await.map_err(unreached)?;
            let answer = exchange(tcp, request, MAX_BODY_BYTES).await;
            return Ok((answer.map_err(not_http)?, None));
        }
        let name = server_name(host_port).map_err(untrusted)?;
        let tcp = match Proxy::from_environment(host_port) {
            Some(proxy) => {
                let connected = proxy.connect(host_port).await;
                connected.map_err(|error| unreached(io::Error::other(error)))?
            }
            None => TcpStream::connect(host_port).await.map_err(unreached)?,
        };
        let config = self.config(trust).await.map_err(untrusted)?;
        let tls = TlsConnector::from(config).connect(name, tcp);
        let tls = tls.await.map_err(untrusted)?;
        let shown = tls::shown(tls.get_ref().1);
        let answer = exchange(tls, request, MAX_BODY_BYTES).await;
        Ok((answer.map_err(not_http)?, shown))
    }

    async fn config(&self, trust: Trust) -> io::Result<Arc<ClientConfig>> {
        let made = async || tls::config(trust).await.map(Arc::new);
        match trust {
            Trust::Authorities => self.tls.get_or_try_init(made).await.cloned(),
            Trust::Pinned(_) | Trust::Nobody => made().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_this_computer_is_asked() {
        for (text, host_port) in [
            ("https://desk.example.org", "desk.example.org:443"),
            ("https://desk.example.org:8443/x?y", "desk.example.org:8443"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[::1]/", "[::1]:80"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.host_port, host_port);
        }
        for bad in [
            "",
            "desk.example.org",
            "http://desk.example.org",
            "http://127.0.0.1.example.org",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "https://user@desk.example.org",
            "https://",
            "/x",
        ] {
            bad.parse::<Address>().expect_err(bad);
        }
        let address: Address = "https://desk.example.org:8443/x?y".parse().expect("valid");
        assert_eq!(
            address.at("/.well-known/remora").to_string(),
            "https://desk.example.org:8443/.well-known/remora"
        );
    }
}
