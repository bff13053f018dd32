//! What the relay shows at its TCP port: a certificate from files, read again when they change, or one of its own making.

// When one ends.
pub mod expiry;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519};
use remora_proto::{id::TlsPin, noise::StaticKey, wire::stream::ALPN};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use zeroize::Zeroizing;

/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410 §7).
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// In a certificate that nobody vouches for; nobody reads it.
const OWN_NAME: &str = "remora-relay";

/// Where an operator's certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM: the relay's certificate and those that lead to an authority, in this order.
    pub certificate: PathBuf,
    /// PEM: its key.
    pub key: PathBuf,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// Which is shown.
    Certificate,
    /// Which proves that it is ours.
    Key,
}

/// A certificate that cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not there, or not for us to read.
    #[error("cannot read {path}; name a file that is there and that this user may read")]
    Unreadable {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Not PEM, or of something else.
    #[error("{path} is no {what} in PEM")]
    Malformed {
        /// Which file.
        path: String,
        /// What it should be.
        what: &'static str,
        /// What was found.
        source: rustls::pki_types::pem::Error,
    },
    /// The two are not of each other, or of a kind that TLS has no use for.
    #[error("the certificate and the key do not fit together")]
    Unfit(#[from] rustls::Error),
    /// Our own could not be made.
    #[error("cannot make a certificate")]
    Own(#[from] rcgen::Error),
}

/// The certificate that is shown just now.
#[derive(Debug)]
pub struct Certificate {
    shown: Arc<Shown>,
    files: Option<Watched>,
}

/// Files that may change.
#[derive(Debug)]
struct Watched {
    files: Files,
    known: Contents,
    /// Why they could not be read when they were looked at last.
    trouble: Option<String>,
}

/// What is shown, for whoever looks when it ends.
#[derive(Clone, Debug)]
pub struct Showing {
    shown: Arc<Shown>,
    is_own: bool,
}

impl Showing {
    /// Nobody vouches for it, and nobody looks at its end.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Where it is an operator's: when it ends, seconds since 1970, as far as that can be read.
    pub fn ends(&self) -> Option<i64> {
        if self.is_own {
            return None;
        }
        let shown = self.shown.0.read();
        let shown = shown.unwrap_or_else(PoisonError::into_inner);
        expiry::not_after(shown.cert.first()?)
    }
}

#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

/// What was read last, so that a change shows, whatever a file's time says.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Contents")
    }
}

impl Certificate {
    /// The one in `files`.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn from_files(files: Files) -> Result<Self, CertificateError> {
        let contents = files.read()?;
        let key = contents.parse(&files)?;
        Ok(Self {
            shown: Arc::new(Shown(RwLock::new(Arc::new(key)))),
            files: Some(Watched {
                files,
                known: contents,
                trouble: None,
            }),
        })
    }

    /// One that follows from the relay's key, the same after a restart, and its pin, for the relay's address.
    ///
    /// # Errors
    /// When the libraries refuse, which they have no reason to.
    pub fn of_its_own(key: &StaticKey) -> Result<(Self, TlsPin), CertificateError> {
        let secret = key.derive("tls certificate");
        let pkcs8 = Zeroizing::new([&PKCS8_ED25519[..], &secret[..]].concat());
        let pkcs8 = PrivatePkcs8KeyDer::from(&pkcs8[..]);
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519)?;
        let mut params = CertificateParams::new([OWN_NAME.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, OWN_NAME);
        let certificate = CertificateDer::from(params.self_signed(&pair)?);
        let pin = pin(&certificate)?;
        let key = certified(vec![certificate], PrivateKeyDer::from(pkcs8.clone_key()))?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(key))));
        Ok((Self { shown, files: None }, pin))
    }

    /// How TLS is spoken: 1.3, as all nodes do, with whatever certificate is shown by then.
    ///
    /// # Errors
    /// When the library refuses, which it has no reason to.
    pub fn tls(&self) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(provider::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(self.resolver());
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Streams live long: whoever comes back does a whole handshake, and nothing is kept of it.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// The one that is shown, whichever that is by then.
    pub fn showing(&self) -> Showing {
        Showing {
            shown: Arc::clone(&self.shown),
            is_own: self.files.is_none(),
        }
    }

    /// Who shows it, whichever it is by then.
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.shown) as _
    }

    /// Looks whether the files have changed; what cannot be used changes nothing, and is said once.
    pub fn look(&mut self) {
        match self.files.as_mut().and_then(Watched::news) {
            Some(Ok(key)) => {
                *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                tracing::info!("a new certificate is shown");
            }
            Some(Err(error)) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(error, "the certificate stays as it was");
            }
            None => {}
        }
    }
}

impl Watched {
    /// What is in the files, or what is wrong with them, if it is something else than before.
    fn news(&mut self) -> Option<Result<CertifiedKey, CertificateError>> {
        // Both are written one after the other: what does not fit yet does so when they are looked at next.
        let contents = match self.files.read() {
            Ok(contents) => contents,
            Err(error) => {
                let trouble = Some(error.to_string());
                let is_new = self.trouble != trouble;
                self.trouble = trouble;
                return is_new.then_some(Err(error));
            }
        };
        self.trouble = None;
        if contents == self.known {
            return None;
        }
        self.known = contents;
        Some(self.known.parse(&self.files))
    }
}

impl Files {
    /// What is wrong with each, and if that is nothing, with both together.
    pub fn check(&self) -> Vec<(File, CertificateError)> {
        let chain = read(&self.certificate).and_then(|text| chain(&text, &self.certificate));
        let key = read(&self.key).and_then(|text| private_key(&text, &self.key));
        match (chain, key) {
            (Ok(chain), Ok(key)) => {
                let unfit = certified(chain, key).err();
                unfit
                    .map(|error| (File::Certificate, error))
                    .into_iter()
                    .collect()
            }
            (chain, key) => {
                let chain = chain.err().map(|error| (File::Certificate, error));
                let key = key.err().map(|error| (File::Key, error));
                chain.into_iter().chain(key).collect()
            }
        }
    }

    fn read(&self) -> Result<Contents, CertificateError> {
        Ok(Contents {
            certificate: read(&self.certificate)?.to_vec(),
            key: read(&self.key)?,
        })
    }
}

impl Contents {
    fn parse(&self, files: &Files) -> Result<CertifiedKey, CertificateError> {
        let chain = chain(&self.certificate, &files.certificate)?;
        certified(chain, private_key(&self.key, &files.key)?)
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let text = std::fs::read(path).map_err(|source| CertificateError::Unreadable {
        path: path.display().to_string(),
        source,
    });
    text.map(Zeroizing::new)
}

fn chain(text: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>();
    chain.map_err(|error| malformed(path, "certificate", error))
}

fn private_key(text: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let key = PrivateKeyDer::from_pem_slice(text);
    key.map_err(|error| malformed(path, "private key", error))
}

fn malformed(
    path: &Path,
    what: &'static str,
    source: rustls::pki_types::pem::Error,
) -> CertificateError {
    CertificateError::Malformed {
        path: path.display().to_string(),
        what,
        source,
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, CertificateError> {
    // An empty chain is found here, too.
    Ok(CertifiedKey::from_der(
        chain,
        key,
        &provider::default_provider(),
    )?)
}

/// A certificate's key, as the relay's address names it.
fn pin(certificate: &CertificateDer<'_>) -> Result<TlsPin, rustls::Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(TlsPin::of(&key))
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate and its key in files of `directory`.
    fn write(directory: &Path, certificate: &str, key: &str) -> Files {
        let files = Files {
            certificate: directory.join("tls.crt"),
            key: directory.join("tls.key"),
        };
        std::fs::write(&files.certificate, certificate).expect("written");
        std::fs::write(&files.key, key).expect("written");
        files
    }

    /// PEM, as certificates come.
    fn made() -> (String, String) {
        let pair = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["relay.example".to_owned()]).expect("a name");
        let certificate = params.self_signed(&pair).expect("signed");
        let pem = |what: &str, der: &[u8]| {
            let text = data_encoding::BASE64.encode(der);
            format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n")
        };
        (
            pem("CERTIFICATE", certificate.der()),
            pem("PRIVATE KEY", &pair.serialize_der()),
        )
    }

    fn shown(certificate: &Certificate) -> TlsPin {
        let shown = certificate.shown.0.read().expect("unpoisoned");
        pin(&shown.cert[0]).expect("a certificate")
    }

    #[test]
    fn its_own_is_the_same_after_a_restart_and_anothers_is_not() {
        let of = |byte| Certificate::of_its_own(&StaticKey::from_bytes([byte; 32])).expect("made");
        let ((first, pin), (again, same), (_, other)) = (of(7), of(7), of(8));
        assert_eq!((pin, shown(&first), shown(&again)), (same, pin, pin));
        assert_ne!(pin, other);
    }

    #[test]
    fn new_files_are_shown_and_broken_ones_change_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let [old, new] = [made(), made()];
        let files = write(directory.path(), &old.0, &old.1);
        let mut certificate = Certificate::from_files(files.clone()).expect("a certificate");
        let before = shown(&certificate);
        // Half written, of another's key, empty, gone.
        write(directory.path(), &new.0[..100], &old.1);
        certificate.look();
        write(directory.path(), &new.0, &old.1);
        certificate.look();
        write(directory.path(), "", "");
        certificate.look();
        std::fs::remove_file(&files.key).expect("removed");
        certificate.look();
        assert_eq!(shown(&certificate), before);
        write(directory.path(), &new.0, &new.1);
        certificate.look();
        assert_ne!(shown(&certificate), before);
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said_once_until_it_is_something_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let [old, new] = [made(), made()];
        let files = write(directory.path(), &old.0, &old.1);
        let certificate = Certificate::from_files(files.clone()).expect("a certificate");
        let mut watched = certificate.files.expect("files");
        let mut wrong = || watched.news().map(|news| news.is_err());
        assert_eq!(wrong(), None);
        for _ in 0..2 {
            std::fs::remove_file(&files.key).expect("removed");
            assert_eq!([wrong(), wrong()], [Some(true), None]);
            std::fs::remove_file(&files.certificate).expect("removed");
            assert_eq!([wrong(), wrong()], [Some(true), None], "another file");
            write(directory.path(), &old.0, &old.1);
            assert_eq!(wrong(), None, "as it was");
        }
        write(directory.path(), &new.0, &old.1);
        assert_eq!([wrong(), wrong()], [Some(true), None]);
        write(directory.path(), &new.0, &new.1);
        assert_eq!([wrong(), wrong()], [Some(false), None]);
    }

    #[test]
    fn what_cannot_be_shown_says_why() {
        let directory = tempfile::tempdir().expect("a directory");
        let [one, other] = [made(), made()];
        for (certificate, key, says) in [
            (&one.0[..], &other.1[..], "do not fit together"),
            ("", &one.1, "do not fit together"),
            (&one.0, "", "tls.key is no private key"),
            (
                "-----BEGIN CERTIFICATE-----\n!",
                &one.1,
                "tls.crt is no certificate",
            ),
        ] {
            let files = write(directory.path(), certificate, key);
            let error = Certificate::from_files(files)
                .expect_err("unfit")
                .to_string();
            assert!(error.contains(says), "{error}");
        }
        let nowhere = Files {
            certificate: directory.path().join("nowhere"),
            key: directory.path().join("nowhere"),
        };
        let error = Certificate::from_files(nowhere)
            .expect_err("nowhere")
            .to_string();
        assert!(error.contains("name a file"), "{error}");
    }
}
