//! Whose certificate is good: the one that a relay's address or a desk names, or one that the system's authorities vouch for.

use std::{io, sync::Arc};

use remora_proto::{id::TlsPin, wire::stream::ALPN};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
    version::TLS13,
};

/// Whose word is taken for a certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust {
    /// The system's authorities'.
    Authorities,
    /// The certificate has this key, whatever else it says.
    Pinned(TlsPin),
    /// Nobody's: who it is has to be known otherwise, and before anything is said that is not for everybody.
    Nobody,
}

/// The key of the certificate that the other side has shown, and proven to have.
pub(crate) fn shown(connection: &ClientConnection) -> Option<TlsPin> {
    let certificate = connection.peer_certificates()?.first()?;
    pin(certificate).ok()
}

/// Of a certificate.
///
/// # Errors
/// It is none.
pub(crate) fn pin(certificate: &CertificateDer<'_>) -> Result<TlsPin, Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(TlsPin::of(&key))
}

/// How TLS is spoken to somebody whom one knows so.
pub(crate) async fn config(trust: Trust) -> io::Result<ClientConfig> {
    let provider = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?;
    let pinned = |pin| Arc::new(Pinned { pin, provider });
    let mut config = match trust {
        Trust::Pinned(pin) => builder
            .dangerous()
            .with_custom_certificate_verifier(pinned(Some(pin)))
            .with_no_client_auth(),
        Trust::Nobody => builder
            .dangerous()
            .with_custom_certificate_verifier(pinned(None))
            .with_no_client_auth(),
        Trust::Authorities => {
            // Some hundred files, or a store that asks other programs.
            let roots = tokio::task::spawn_blocking(authorities).await?;
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Those that this computer trusts; what is unreadable among them vouches for nobody.
pub(crate) fn authorities() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "the system's authorities");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

/// Takes the certificate with that key, or with any, whatever else it says; its bearer has the key.
#[derive(Debug)]
struct Pinned {
    pin: Option<TlsPin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = pin(certificate)?;
        if self.pin.is_none_or(|pin| pin == shown) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
