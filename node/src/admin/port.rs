//! One question to a relay's admin port, one answer: by HTTP, as that port speaks where it is for the same computer or a network of the
//! operator's own, or by HTTPS, with a client certificate where there is one.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::{
    cli::operator::Access,
    config::{File, FileAdmin},
    error::{Exit, Failure},
    path::stream::{server_name, tls::authorities},
};

/// To reach the port, and for an answer that waits for nothing.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer answers are none of a relay's.
const MAX_ANSWER_BYTES: u64 = 4 << 20;
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
        let host_port = &self.url.host_port;
        let authorization = match &self.token {
            Some(token) => Zeroizing::new(format!("authorization: Bearer {}\r\n", token.as_str())),
            None => Zeroizing::default(),
        };
        let request = Zeroizing::new(format!(
            "{method} {path} HTTP/1.1\r\nhost: {host_port}\r\n{}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            *authorization,
            body.len()
        ));
        let response = timeout(patience, self.exchange(request.as_bytes())).await;
        let response = response.map_err(|_| {
            let line = format!("no answer from {host_port} within {} s", patience.as_secs());
            Failure::new(Exit::TimedOut, "ADMIN_TIMEOUT", line)
        })?;
        let response = response.map_err(|error| {
            let line = format!("the admin port {host_port} is not reached: {error}");
            Failure::new(Exit::Offline, "ADMIN_OFFLINE", line)
        })?;
        answer(&response)
    }

    async fn exchange(&self, request: &[u8]) -> io::Result<String> {
        let host_port = &self.url.host_port;
        let tcp = TcpStream::connect(host_port).await?;
        match &self.config {
            Some(config) if self.url.is_secure => {
                let name = server_name(host_port)?;
                let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp);
                exchange_on(tls.await?, request).await
            }
            Some(_) | None => exchange_on(tcp, request).await,
        }
    }
}

async fn exchange_on<S>(mut stream: S, request: &[u8]) -> io::Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut response = Vec::new();
    let read = stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut response)
        .await;
    // A relay that ends closes TCP, and may not say in TLS that it does.
    match read {
        Err(error) if response.is_empty() => return Err(error),
        Ok(_) if response.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) | Err(_) => {}
    }
    String::from_utf8(response).map_err(io::Error::other)
}

/// What a relay said, or why it did not do it.
fn answer(response: &str) -> Result<String, Failure> {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !head.starts_with("HTTP/1.") {
        return Err(not_a_relay());
    }
    if status == "200" {
        return Ok(body.to_owned());
    }
    let problem: Value = serde_json::from_str(body).map_err(|_| not_a_relay())?;
    let part = |name: &str| problem[name].as_str().ok_or_else(not_a_relay);
    let line = format!("{}; {}", part("message")?, part("what_to_do")?);
    let (exit, code) = match (status, part("code")?) {
        ("401" | "403", _) => (Exit::NotPermitted, "NOT_PERMITTED"),
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
    let unfit = |path: &Path, error: &dyn std::fmt::Display| {
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
        let said = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"v\":1}\n";
        assert_eq!(answer(said).expect("facts"), "{\"v\":1}\n");
        let refused = "HTTP/1.1 403 Forbidden\r\n\r\n\
            {\"v\":1,\"code\":\"NOT_PERMITTED\",\"message\":\"no token\",\"what_to_do\":\"start it with one\"}\n";
        let refused = answer(refused).expect_err("refused");
        assert_eq!(
            (refused.exit, &refused.line[..]),
            (Exit::NotPermitted, "no token; start it with one")
        );
        for other in [
            "",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 500 x\r\n\r\n{\"code\":7}",
            "SSH-2.0-x",
        ] {
            assert_eq!(answer(other).expect_err("none").code, "NOT_A_RELAY");
        }
    }
}
