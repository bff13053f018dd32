//! The desk's certificate, in files that somebody renews every few weeks.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use remora_proto::id::TlsPin;
use rustls::{
    CertificateError::BadEncoding,
    Error::InvalidCertificate,
    ServerConfig,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    error::{Exit, Failure},
    path::stream::tls,
};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(60);

/// What is shown.
pub(super) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: Arc<ServerConfig>,
    pin: TlsPin,
    read: Instant,
}

impl Tls {
    /// # Errors
    /// The files are not readable, or not of each other.
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, Failure> {
        let (config, pin) = config(certificate, key)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            config,
            pin,
            read: Instant::now(),
        })
    }

    /// With what is in the files now, and the key of that certificate; what cannot be used changes nothing.
    pub(super) fn current(&mut self) -> (TlsAcceptor, TlsPin) {
        if self.read.elapsed() >= LOOK {
            self.read = Instant::now();
            match config(&self.certificate, &self.key) {
                Ok((config, pin)) => (self.config, self.pin) = (config, pin),
                Err(failure) => tracing::warn!(%failure, "the certificate stays as it was"),
            }
        }
        (TlsAcceptor::from(Arc::clone(&self.config)), self.pin)
    }
}

fn config(certificate: &Path, key: &Path) -> Result<(Arc<ServerConfig>, TlsPin), Failure> {
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
    let own = chain.first().ok_or(InvalidCertificate(BadEncoding));
    let pin = own
        .and_then(tls::pin)
        .map_err(|error| failed(certificate, &error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| Failure::internal("TLS", error))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| failed(certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), pin))
}
