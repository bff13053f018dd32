//! One question to a relay's admin port, one answer: by HTTP, as that port speaks where it is for the same computer or a network of the
//! operator's own, or by HTTPS, with a client certificate where there is one.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    header::{AUTHORIZATION, HOST},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    time::{interval, timeout},
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::{
    cli::operator::Access,
    config::{File, FileAdmin},
    error::{Exit, Failure},
    http::{Answer, NoAnswer, exchange},
    path::stream::{server_name, tls::authorities},
};

/// To reach the port, and for an answer that waits for nothing.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks whether it has gone.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Longer answers are none of a relay's.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Where the token is when it stands in no file.
const TOKEN_VARIABLE: &str = "REMORA_ADMIN_TOKEN";

/// A relay's admin port, and what is presented there.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) url: Url,
    token: Option<Arc<Zeroizing<String>>>,
    /// For HTTPS.
    config: Option<Arc<ClientConfig>>,
}

/// Where one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) host_port: String,
    is_secure: bool,
}

/// All relays that an operator names: on the command line, else in the settings file.
///
/// # Errors
/// None is named, or what is named is no admin port, or a file cannot be read.
pub(super) fn ports(file: &File, access: &Access) -> Result<Vec<Port>, Failure> {
    let of_file = file.admin.as_ref();
    let named = match (&access.admin[..], of_file) {
        ([], Some(of_file)) => &of_file.relays[..],
        (typed, _) => typed,
    };
    if named.is_empty() {
        let line = "no relay's admin port is known: give --admin http://HOST:PORT, REMORA_ADMIN, or `relays` below [admin] in the settings file";
        return Err(Failure::new(Exit::Usage, "USAGE", line));
    }
    let urls = named.iter().map(|url| Url::parse(url));
    let urls: Vec<_> = urls.collect::<Result<_, _>>()?;
    at(urls, of_file, access)
}

/// These.
///
/// # Errors
/// A file cannot be read.
pub(super) fn at(
    urls: Vec<Url>,
    of_file: Option<&FileAdmin>,
    access: &Access,
) -> Result<Vec<Port>, Failure> {
    let pick = |typed: &Option<PathBuf>, stored: fn(&FileAdmin) -> &Option<PathBuf>| {
        let stored = of_file.and_then(|of_file| stored(of_file).clone());
        typed.clone().or(stored)
    };
    let certificate = pick(&access.client_cert, |file| &file.client_cert);
    let key = pick(&access.client_key, |file| &file.client_key);
    let client = certificate.zip(key);
    let token_file = pick(&access.token_file, |file| &file.token_file);
    let token = token(token_file.as_deref(), client.is_some())?;
    let config = match urls.iter().any(|url| url.is_secure) {
        true => {
            let ca = pick(&access.admin_ca, |file| &file.ca);
            Some(Arc::new(config(ca.as_deref(), client)?))
        }
        false => None,
    };
    let port = |url| Port {
        url,
        token: token.clone(),
        config: config.clone(),
    };
    Ok(urls.into_iter().map(port).collect())
}

impl Url {
    /// Host and port of `http://HOST:PORT`, or of what stands for it.
    ///
    /// # Errors
    /// It is no admin port.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        let (rest, is_secure) = match url.strip_prefix("https://") {
            Some(rest) => (rest, true),
            None => (url.strip_prefix("http://").unwrap_or(url), false),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').unwrap_or((rest, "9090"));
        let is_host = !host.is_empty()
            && !host.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
        if !is_host || port.parse::<u16>().is_err() {
            let line = format!(
                "{url:?} is no admin port; give the one of the relay's --admin, like http://127.0.0.1:9090"
            );
            return Err(Failure::new(Exit::Usage, "USAGE", line));
        }
        Ok(Self {
            host_port: format!("{host}:{port}"),
            is_secure,
        })
    }
}

impl Port {
    /// What a relay answers, an object.
    ///
    /// # Errors
    /// It is not reached, does not let us, or says no.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        body: &str,
        patience: Duration,
    ) -> Result<Value, Failure> {
        let text = self.ask_for_text(method, path, body, patience).await?;
        serde_json::from_str(&text).map_err(|_| not_a_relay())
    }

    /// The same where the answer is a text.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    pub(super) async fn ask_for_text(
        &self,
        method: &str,
        path: &str,
        body: &str,
        patience: Duration,
    ) -> Result<String, Failure> {
        let asked = timeout(patience, self.exchange(method, path, body)).await;
        let answer = asked.map_err(|_| {
            let (at, seconds) = (&self.url.host_port, patience.as_secs());
            let line = format!("no answer from {at} within {seconds} s");
            Failure::new(Exit::TimedOut, "ADMIN_TIMEOUT", line)
        })??;
        said(&answer)
    }

    /// Waits until nobody listens there any more, so that whoever is told that it is over can start another; no longer than `patience`,
    /// for what stands in front of a relay listens on.
    pub(super) async fn closed(&self, patience: Duration) {
        let closed = async {
            let mut looks = interval(LOOK_AGAIN);
            loop {
                looks.tick().await;
                if TcpStream::connect(&self.url.host_port).await.is_err() {
                    return;
                }
            }
        };
        timeout(patience, closed).await.ok();
    }

    async fn exchange(&self, method: &str, path: &str, body: &str) -> Result<Answer, Failure> {
        let host_port = &self.url.host_port;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host_port);
        if let Some(token) = &self.token {
            let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
            request = request.header(AUTHORIZATION, bearer.as_str());
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())));
        let request = request.map_err(|error| Failure::internal("a request", error))?;
        let offline = |error: &dyn fmt::Display| {
            let line = format!("the admin port {host_port} is not reached: {error}");
            Failure::new(Exit::Offline, "ADMIN_OFFLINE", line)
        };
        let tcp = TcpStream::connect(host_port).await;
        let tcp = tcp.map_err(|error| offline(&error))?;
        let answer = match &self.config {
            Some(config) if self.url.is_secure => {
                let name = server_name(host_port).map_err(|error| offline(&error))?;
                let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp);
                let tls = tls.await.map_err(|error| {
                    offline(&format!("{error}; if it speaks plain HTTP, say http://"))
                })?;
                exchange(tls, request, MAX_ANSWER_BYTES).await
            }
            Some(_) | None => exchange(tcp, request, MAX_ANSWER_BYTES).await,
        };
        answer.map_err(|error| match error {
            NoAnswer::Ended => offline(&error),
            NoAnswer::NotHttp => not_a_relay(),
        })
    }
}

/// What a relay said, or why it did not do it.
fn said(answer: &Answer) -> Result<String, Failure> {
    if answer.status == StatusCode::OK {
        let text = String::from_utf8(answer.body.to_vec());
        return text.map_err(|_| not_a_relay());
    }
    let problem: Value = answer.json().ok_or_else(not_a_relay)?;
    let part = |name: &str| problem[name].as_str().ok_or_else(not_a_relay);
    let line = format!("{}; {}", part("message")?, part("what_to_do")?);
    let (exit, code) = match (answer.status, part("code")?) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            (Exit::NotPermitted, "NOT_PERMITTED")
        }
        (_, "NO_SUCH_SESSION") => (Exit::Error, NO_SUCH_SESSION),
        (_, "SEVERAL_SESSIONS") => (Exit::Error, "SEVERAL_SESSIONS"),
        (_, "RELAY_ENDED") => (Exit::Offline, "ADMIN_OFFLINE"),
        (_, _) => (Exit::Error, "NOT_DONE"),
    };
    Err(Failure::new(exit, code, line))
}

/// A failure's code: another relay may have it.
pub(super) const NO_SUCH_SESSION: &str = "NO_SUCH_SESSION";

pub(super) fn not_a_relay() -> Failure {
    let line = "what answers there is no relay's admin port; give the one of --admin, like http://127.0.0.1:9090";
    Failure::new(Exit::Error, "NOT_A_RELAY", line)
}

/// From a file or the environment: an argument stands in `ps` for everybody to read. Who has a certificate needs none.
fn token(
    file: Option<&Path>,
    has_certificate: bool,
) -> Result<Option<Arc<Zeroizing<String>>>, Failure> {
    let text = match file {
        Some(path) => fs::read_to_string(path).map_err(|error| {
            let line = format!("cannot read the token in {}: {error}", path.display());
            Failure::new(Exit::Error, "NO_TOKEN", line)
        })?,
        None => match env::var(TOKEN_VARIABLE) {
            Ok(text) => text,
            Err(_) if has_certificate => return Ok(None),
            Err(_) => {
                let line =
                    format!("give the relay's admin token: --token-file FILE, or {TOKEN_VARIABLE}");
                return Err(Failure::new(Exit::Usage, "NO_TOKEN", line));
            }
        },
    };
    let text = Zeroizing::new(text);
    let word = text.trim();
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::new(
            Exit::Usage,
            "NO_TOKEN",
            "the admin token is one word",
        ));
    }
    Ok(Some(Arc::new(Zeroizing::new(word.to_owned()))))
}

/// How TLS is spoken to the ports.
fn config(ca: Option<&Path>, client: Option<(PathBuf, PathBuf)>) -> Result<ClientConfig, Failure> {
    let unfit = |path: &Path, error: &dyn fmt::Display| {
        let line = format!("{} cannot be used: {error}", path.display());
        Failure::new(Exit::Error, "CERTIFICATE", line)
    };
    let roots = match ca {
        None => authorities(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path).map_err(|error| unfit(path, &error))? {
                roots.add(authority).map_err(|error| unfit(path, &error))?;
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| Failure::internal("TLS", error))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = client else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&certificate).map_err(|error| unfit(&certificate, &error))?;
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| unfit(&key, &error))?;
    builder
        .with_client_auth_cert(chain, secret)
        .map_err(|error| unfit(&certificate, &error))
}

fn certificates(
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_file_iter(path)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_as_a_page_would_be() {
        for (url, expected, is_secure) in [
            ("http://127.0.0.1:9090", "127.0.0.1:9090", false),
            (
                "https://relay-0.example.org:9090/",
                "relay-0.example.org:9090",
                true,
            ),
            ("[::1]:9090", "[::1]:9090", false),
            ("relay-0", "relay-0:9090", false),
        ] {
            let url = Url::parse(url).expect("a port");
            assert_eq!((&url.host_port[..], url.is_secure), (expected, is_secure));
        }
        for bad in [
            "",
            "http://",
            "https://relay:9090/x",
            "a b:1",
            "relay:x",
            "http://h\r\nx: y:1",
        ] {
            assert_eq!(Url::parse(bad).expect_err(bad).exit, Exit::Usage);
        }
    }

    #[test]
    fn what_a_relay_says_is_understood_and_what_others_say_is_not() {
        let answer = |status: u16, body: &'static str| Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            body: Bytes::from_static(body.as_bytes()),
        };
        assert_eq!(
            said(&answer(200, "{\"v\":1}\n")).expect("facts"),
            "{\"v\":1}\n"
        );
        let refused = r#"{"v":1,"code":"NOT_PERMITTED","message":"no token","what_to_do":"start it with one"}"#;
        let refused = said(&answer(403, refused)).expect_err("refused");
        assert_eq!(
            (refused.exit, &refused.line[..]),
            (Exit::NotPermitted, "no token; start it with one")
        );
        for (status, other) in [(404, ""), (500, "{\"code\":7}"), (302, "<html>")] {
            let none = said(&answer(status, other)).expect_err("none");
            assert_eq!(none.code, "NOT_A_RELAY");
        }
    }
}
