//! The desk's certificate, in files that somebody renews every few weeks.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};
use tokio_rustls::TlsAcceptor;

use crate::error::{Exit, Failure};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(60);

/// What is shown.
pub(super) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: Arc<ServerConfig>,
    read: Instant,
}

impl Tls {
    /// # Errors
    /// The files are not readable, or not of each other.
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, Failure> {
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            config: config(certificate, key)?,
            read: Instant::now(),
        })
    }

    /// With what is in the files now; what cannot be used changes nothing.
    pub(super) fn acceptor(&mut self) -> TlsAcceptor {
        if self.read.elapsed() >= LOOK {
            self.read = Instant::now();
            match config(&self.certificate, &self.key) {
                Ok(config) => self.config = config,
                Err(failure) => tracing::warn!(%failure, "the certificate stays as it was"),
            }
        }
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

fn config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, Failure> {
    let failed = |path: &Path, why: &dyn std::fmt::Display| {
        let line = format!(
            "{}: {why}; give PEM files with --tls-cert and --tls-key",
            path.display()
        );
        Failure::new(Exit::Usage, "CERTIFICATE", line)
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(certificate, &error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| Failure::internal("TLS", error))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| failed(certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
