//! How one comes to the admin port, at each of its addresses: by TCP, or where an operator has given it a certificate, by TLS. Then a
//! client certificate of the operator's authority counts as the token; who shows none comes in, too, for probes and Prometheus have
//! none.
//!
//! Handshakes run beside each other, so that whoever is slow at theirs keeps nobody waiting.

use std::{fs, future::poll_fn, io, path::PathBuf, sync::Arc, task::Poll, time::Duration};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

use crate::stream::certificate::{Certificate, CertificateError, Files};

/// From a TCP connection to TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once; whoever comes beyond waits to be accepted.
const MAX_HANDSHAKES: usize = 64;
/// When the system has no file descriptor left, whoever asks waits until another has ended.
const WHEN_EXHAUSTED: Duration = Duration::from_millis(100);
/// How often the certificate's files are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(30);

/// What an operator gives the admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// What it shows.
    pub files: Files,
    /// Whose certificates count as the token, PEM.
    pub client_ca: Option<PathBuf>,
}

/// Who asks, as far as the connection says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// It has shown a certificate of the operator's authority.
    pub is_known: bool,
}

/// Accepts connections.
#[derive(Debug)]
pub struct Door {
    listeners: Vec<TcpListener>,
    tls: Option<Lock>,
}

#[derive(Debug)]
struct Lock {
    certificate: Certificate,
    config: Arc<ServerConfig>,
    shaking: JoinSet<Option<(TlsStream<TcpStream>, Caller)>>,
    look: time::Interval,
}

impl Door {
    /// Plain, or with what was given; call within a tokio runtime.
    ///
    /// # Errors
    /// Why what was given cannot be used.
    pub fn new(listeners: Vec<TcpListener>, tls: Option<&Tls>) -> Result<Self, CertificateError> {
        let tls = tls.map(Lock::new).transpose()?;
        Ok(Self { listeners, tls })
    }

    /// Whether those whose certificates count as the token, if there are such, could be used.
    ///
    /// # Errors
    /// Why not.
    pub fn check_authorities(tls: &Tls) -> Result<(), CertificateError> {
        verifier(tls).map(drop)
    }
}

impl Lock {
    fn new(tls: &Tls) -> Result<Self, CertificateError> {
        let certificate = Certificate::from_files(tls.files.clone())?;
        let provider = Arc::new(provider::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier(tls)?)
            .with_cert_resolver(certificate.resolver());
        let mut look = time::interval(LOOK_AT_FILES);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            certificate,
            config: Arc::new(config),
            shaking: JoinSet::new(),
            look,
        })
    }

    fn shake(&mut self, tcp: TcpStream) {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        self.shaking.spawn(async move {
            let opened = time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await;
            match opened {
                Ok(Ok(tls)) => {
                    let shown = tls.get_ref().1.peer_certificates();
                    let is_known = shown.is_some_and(|chain| !chain.is_empty());
                    Some((tls, Caller { is_known }))
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no TLS at the admin port");
                    None
                }
                Err(_) => None,
            }
        });
    }
}

/// Who shows a certificate shows one of that authority, or is not let in.
fn verifier(tls: &Tls) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let Some(path) = &tls.client_ca else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let unfit = |what: String| CertificateError::Unfit(rustls::Error::General(what));
    let text = fs::read(path).map_err(|source| CertificateError::Unreadable {
        path: path.display().to_string(),
        source,
    })?;
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&text) {
        let authority = authority.map_err(|source| CertificateError::Malformed {
            path: path.display().to_string(),
            what: "certificate",
            source,
        })?;
        roots.add(authority)?;
    }
    WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::new(provider::default_provider()),
    )
    .allow_unauthenticated()
    .build()
    .map_err(|error| unfit(format!("{}: {error}", path.display())))
}

impl Listener for Door {
    type Io = Either<TcpStream, TlsStream<TcpStream>>;
    type Addr = Caller;

    async fn accept(&mut self) -> (Self::Io, Caller) {
        loop {
            let Some(lock) = &mut self.tls else {
                match incoming(&self.listeners).await {
                    Ok(tcp) => return (Either::Left(tcp), Caller::default()),
                    Err(error) => exhausted(&error).await,
                }
                continue;
            };
            let has_room = lock.shaking.len() < MAX_HANDSHAKES;
            tokio::select! {
                Some(shaken) = lock.shaking.join_next() => {
                    if let Ok(Some((tls, caller))) = shaken {
                        return (Either::Right(tls), caller);
                    }
                }
                _ = lock.look.tick() => lock.certificate.look(),
                accepted = incoming(&self.listeners), if has_room => match accepted {
                    Ok(tcp) => lock.shake(tcp),
                    Err(error) => exhausted(&error).await,
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Ok(Caller::default())
    }
}

/// Whoever comes next, to whichever address.
async fn incoming(listeners: &[TcpListener]) -> io::Result<TcpStream> {
    poll_fn(|context| {
        let mut polled = listeners.iter().map(|at| at.poll_accept(context));
        match polled.find(Poll::is_ready) {
            Some(Poll::Ready(accepted)) => Poll::Ready(accepted.map(|(tcp, _)| tcp)),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    })
    .await
}

async fn exhausted(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection of the admin port");
    time::sleep(WHEN_EXHAUSTED).await;
}

impl Connected<IncomingStream<'_, Door>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        *stream.remote_addr()
    }
}
