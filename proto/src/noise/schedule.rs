//! From Noise's chaining key to the secrets of QUIC packets.
//!
//! Every derivation is HKDF-SHA256 (RFC 5869) with an `HkdfLabel` as in RFC 8446 §7.1 whose prefix is
//! `"mnq1 "`: no label can collide with those of TLS 1.3 (`"tls13 "`) or of QUIC versions 1 and 2.
//!
//! ```text
//! constants = Extract("mnq1 public constants", version)      initial salt, retry key: public
//!
//! after M2   hs = Extract(h2, k1 || k2)   ─▶ "c hs" "s hs" "s fin"
//! after M3   ap = Extract(h3, k1 || k2)   ─▶ "c ap" "s ap" "exp"
//! per secret                              ─▶ "quic key" "quic iv" "quic hp", next: "quic ku"
//! ```

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};
use zeroize::Zeroizing;

/// Stands before every label.
const LABEL_PREFIX: &[u8] = b"mnq1 ";
/// Most that HKDF-SHA256 gives (RFC 5869 §2.3).
const MAX_OUTPUT: usize = 255 * 32;

/// A secret of 32 bytes, wiped on drop.
pub type Secret = Zeroizing<[u8; 32]>;

/// Noise's Split() (Noise §5.2): both keys, one after the other. Wiped on drop.
pub type Split = Zeroizing<[u8; 64]>;

/// One secret for each direction.
pub struct Secrets {
    /// Protects what the client sends.
    pub client: Secret,
    /// Protects what the server sends.
    pub server: Secret,
}

/// Shows nothing.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// How many bytes `aws-lc-rs` shall give.
pub(super) struct Length(pub(super) usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label (RFC 8446 §7.1) with any prefix.
fn expand_prefixed(prk: &Prk, prefix: &[u8], label: &str, context: &[u8], out: &mut [u8]) {
    let length = u16::try_from(out.len()).expect("callers want at most 255 * 32 bytes");
    let label_length =
        u8::try_from(prefix.len() + label.len()).expect("labels are short constants");
    let context_length = u8::try_from(context.len()).expect("a context is a hash or nothing");
    let info = [
        &length.to_be_bytes()[..],
        &[label_length],
        prefix,
        label.as_bytes(),
        &[context_length],
        context,
    ];
    prk.expand(&info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("callers want at most 255 * 32 bytes");
}

fn expand(prk: &Prk, label: &str, context: &[u8]) -> Secret {
    let mut out = Secret::default();
    expand_prefixed(prk, LABEL_PREFIX, label, context, &mut out[..]);
    out
}

/// `Label(secret, label, "", out.len())`.
pub(super) fn expand_label(secret: &Secret, label: &str, out: &mut [u8]) {
    expand_prefixed(&prk(secret), LABEL_PREFIX, label, &[], out);
}

fn prk(secret: &Secret) -> Prk {
    Prk::new_less_safe(HKDF_SHA256, &secret[..])
}

/// Secret after the next key update (RFC 9001 §6.1); header protection does not change.
pub fn next_generation(current: &Secret) -> Secret {
    expand(&prk(current), "quic ku", &[])
}

/// Constants of a version, derived from its number: nothing to transcribe, nothing up the sleeve.
fn public_constants(version: u32) -> Prk {
    Salt::new(HKDF_SHA256, b"mnq1 public constants").extract(&version.to_be_bytes())
}

/// Secrets of Initial packets: against middleboxes and accidents, not against people (RFC 9001 §5.2).
pub fn initial(version: u32, client_dcid: &[u8]) -> Secrets {
    let salt = expand(&public_constants(version), "initial salt", &[]);
    let prk = Salt::new(HKDF_SHA256, &salt[..]).extract(client_dcid);
    Secrets {
        client: expand(&prk, "client in", &[]),
        server: expand(&prk, "server in", &[]),
    }
}

/// Key and nonce of the Retry tag (RFC 9001 §5.8).
pub(super) fn retry_key(version: u32) -> ([u8; 16], [u8; 12]) {
    let base = expand(&public_constants(version), "retry", &[]);
    let (mut key, mut nonce) = ([0; 16], [0; 12]);
    expand_label(&base, "quic key", &mut key);
    expand_label(&base, "quic iv", &mut nonce);
    (key, nonce)
}

/// A level: `hash` is the handshake hash, `split` Noise's Split() at that point.
///
/// The two keys of the split are input here and are never keys themselves; the hash as salt binds the
/// transcript a second time.
fn level(hash: &[u8; 32], split: &Split) -> Prk {
    Salt::new(HKDF_SHA256, hash).extract(&split[..])
}

/// After M2: secrets of Handshake packets, and the key of the server's Finished.
pub fn handshake(hash: &[u8; 32], split: &Split) -> (Secrets, Secret) {
    let prk = level(hash, split);
    let secrets = Secrets {
        client: expand(&prk, "c hs", hash),
        server: expand(&prk, "s hs", hash),
    };
    (secrets, expand(&prk, "s fin", hash))
}

/// After M3: secrets of 1-RTT packets, and the exporter's.
pub fn application(hash: &[u8; 32], split: &Split) -> (Secrets, Secret) {
    let prk = level(hash, split);
    let secrets = Secrets {
        client: expand(&prk, "c ap", hash),
        server: expand(&prk, "s ap", hash),
    };
    (secrets, expand(&prk, "exp", hash))
}

/// Wanted more than HKDF can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMuch;

/// Keying material for who stands above, as RFC 8446 §7.5: two stages, the context hashed.
pub(super) fn export(
    exporter: &Secret,
    label: &[u8],
    context: &[u8],
    out: &mut [u8],
) -> Result<(), TooMuch> {
    if out.len() > MAX_OUTPUT {
        return Err(TooMuch);
    }
    let length = u64::try_from(label.len()).map_err(|_| TooMuch)?;
    let hash = digest(
        &SHA256,
        &[&length.to_be_bytes()[..], label, context].concat(),
    );
    expand_prefixed(&prk(exporter), LABEL_PREFIX, "exporter", hash.as_ref(), out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    /// The machinery under our labels, with TLS's: RFC 9001 appendix A.1.
    #[test]
    fn rfc_9001_a1_initial_secrets() {
        let salt = unhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a");
        let prk = Salt::new(HKDF_SHA256, &salt).extract(&unhex("8394c8f03e515708"));
        let tls = |prk: &Prk, label: &str, length: usize| {
            let mut out = vec![0; length];
            expand_prefixed(prk, b"tls13 ", label, &[], &mut out);
            out
        };
        let client = tls(&prk, "client in", 32);
        assert_eq!(
            client,
            unhex("c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea")
        );
        let server = tls(&prk, "server in", 32);
        assert_eq!(
            server,
            unhex("3c199828fd139efd216c155ad844cc81fb82fa8d7446fa7d78be803acdda951b")
        );
        let client = Prk::new_less_safe(HKDF_SHA256, &client);
        assert_eq!(
            tls(&client, "quic key", 16),
            unhex("1f369613dd76d5467730efcbe3b1a22d")
        );
        assert_eq!(
            tls(&client, "quic iv", 12),
            unhex("fa044b2f42a3fd3b46fb255c")
        );
        assert_eq!(
            tls(&client, "quic hp", 16),
            unhex("9f50449e04a0e810283a1e9933adedd2")
        );
    }

    /// RFC 9001 appendix A.5.
    #[test]
    fn rfc_9001_a5_secrets_of_chacha20() {
        let secret = unhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b");
        let prk = Prk::new_less_safe(HKDF_SHA256, &secret);
        for (label, expected) in [
            (
                "quic key",
                "c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8",
            ),
            ("quic iv", "e0459b3474bdd0e44a41c144"),
            (
                "quic hp",
                "25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4",
            ),
            (
                "quic ku",
                "1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9",
            ),
        ] {
            let mut out = vec![0; expected.len() / 2];
            expand_prefixed(&prk, b"tls13 ", label, &[], &mut out);
            assert_eq!(hex::encode(out), expected, "{label}");
        }
    }

    #[test]
    fn an_exporter_gives_at_most_what_hkdf_has() {
        let exporter = Secret::new([1; 32]);
        assert_eq!(
            export(&exporter, b"label", b"", &mut vec![0; MAX_OUTPUT]),
            Ok(())
        );
        assert_eq!(
            export(&exporter, b"label", b"", &mut vec![0; MAX_OUTPUT + 1]),
            Err(TooMuch)
        );
        let export = |label: &[u8], context: &[u8]| {
            let mut out = [0; 16];
            export(&exporter, label, context, &mut out).unwrap();
            out
        };
        assert_ne!(
            export(b"ab", b"c"),
            export(b"a", b"bc"),
            "label and context do not run together"
        );
    }
}
