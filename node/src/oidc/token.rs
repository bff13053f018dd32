//! ID tokens (OpenID Connect Core 1.0 §3.1.3.7) in the compact form (RFC 7515 §7.1): pure, with `now` passed in.
//!
//! The algorithm is the key's, not the token's to choose: RS256, PS256, ES256 or EdDSA, each with a key of its own kind; a token that says
//! `none`, or an HMAC with what everybody knows, finds no key.

use aws_lc_rs::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use data_encoding::BASE64URL_NOPAD;
use remora_proto::org::signed::CLOCK_TOLERANCE_S;
use serde::Deserialize;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

/// Longest token: those with many groups are some KiB.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Oldest token that is handed in: whoever has signed in does so at once.
const MAX_AGE_S: u64 = 600;
/// Keys that are looked at; providers have two or three.
const MAX_KEYS: usize = 64;
/// A key's exponent and modulus, at most: 8192 bits.
const MAX_KEY_BYTES: usize = 1024;

/// What a token says.
pub(crate) type Claims = Map<String, Value>;

/// A token that is believed.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) claims: Claims,
    /// It has the computer's nonce. Some providers leave it out when they renew a token (OpenID Connect Core 1.0 §12.2), or of device
    /// codes: whose computer it is then has to be known otherwise.
    pub(crate) is_bound: bool,
}

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("this is no ID token")]
    Malformed,
    #[error("it is signed in a way that is not accepted")]
    Algorithm,
    #[error("the provider has no such key")]
    UnknownKey,
    #[error("its signature does not verify")]
    Signature,
    #[error("another provider has issued it")]
    Issuer,
    #[error("it was issued for another program")]
    Audience,
    #[error("it has expired, or a clock is wrong")]
    Expired,
    #[error("it is of the future, or a clock is wrong")]
    NotYet,
    #[error("it was issued for another computer, or another organisation")]
    Nonce,
}

impl Invalid {
    /// For scripts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Malformed => "TOKEN_MALFORMED",
            Self::Algorithm => "TOKEN_ALGORITHM",
            Self::UnknownKey => "TOKEN_KEY",
            Self::Signature => "TOKEN_SIGNATURE",
            Self::Issuer => "TOKEN_ISSUER",
            Self::Audience => "TOKEN_AUDIENCE",
            Self::Expired => "TOKEN_EXPIRED",
            Self::NotYet => "TOKEN_NOT_YET",
            Self::Nonce => "TOKEN_NONCE",
        }
    }
}

/// How a token may be signed (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Ps256,
    Es256,
    EdDsa,
}

impl Algorithm {
    fn of(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A public key.
#[derive(Debug)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// Uncompressed (SEC 1 §2.3.3).
    P256([u8; 65]),
    Ed25519([u8; 32]),
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The only one it is for, where the provider says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

/// A provider's keys (RFC 7517).
#[derive(Debug)]
pub(crate) struct Keys(Vec<Key>);

#[derive(Deserialize)]
struct RawKeys {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

fn decoded(text: Option<&String>) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text?.as_bytes()).ok()
}

impl Keys {
    /// Of a JWK set; keys that are not for signing, or of kinds that are not used here, are left out (RFC 7517 §5).
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let raw: RawKeys = serde_json::from_slice(bytes).ok()?;
        let keys = raw.keys.into_iter().take(MAX_KEYS).filter_map(Key::parse);
        Some(Self(keys.collect()))
    }
}

impl Key {
    fn parse(value: Value) -> Option<Self> {
        let raw: RawKey = serde_json::from_value(value).ok()?;
        if raw.r#use.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let algorithm = match &raw.alg {
            Some(name) => Some(Algorithm::of(name)?),
            None => None,
        };
        let material = match (raw.kty.as_str(), raw.crv.as_deref()) {
            ("RSA", _) => {
                let (modulus, exponent) = (decoded(raw.n.as_ref())?, decoded(raw.e.as_ref())?);
                if modulus.len() > MAX_KEY_BYTES || exponent.len() > MAX_KEY_BYTES {
                    return None;
                }
                Material::Rsa { modulus, exponent }
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (decoded(raw.x.as_ref())?, decoded(raw.y.as_ref())?);
                Material::P256([&[4][..], &x, &y].concat().try_into().ok()?)
            }
            ("OKP", Some("Ed25519")) => {
                Material::Ed25519(decoded(raw.x.as_ref())?.try_into().ok()?)
            }
            _ => return None,
        };
        Some(Self {
            id: raw.kid,
            algorithm,
            material,
        })
    }

    /// Whether a token of that head is this key's to sign.
    fn fits(&self, head: &Head, algorithm: Algorithm) -> bool {
        let is_kind = match self.material {
            Material::Rsa { .. } => matches!(algorithm, Algorithm::Rs256 | Algorithm::Ps256),
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
        };
        let is_named = head.kid.is_none() || head.kid == self.id;
        is_kind && is_named && self.algorithm.is_none_or(|only| only == algorithm)
    }

    fn has_signed(&self, algorithm: Algorithm, message: &[u8], signed: &[u8]) -> bool {
        let plain = |kind: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(kind, key)
                .verify(message, signed)
                .is_ok()
        };
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                let kind: &RsaParameters = match algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Rs256 | Algorithm::Es256 | Algorithm::EdDsa => {
                        &signature::RSA_PKCS1_2048_8192_SHA256
                    }
                };
                let key = RsaPublicKeyComponents {
                    n: modulus,
                    e: exponent,
                };
                key.verify(kind, message, signed).is_ok()
            }
            Material::P256(point) => plain(&signature::ECDSA_P256_SHA256_FIXED, point),
            Material::Ed25519(key) => plain(&signature::ED25519, key),
        }
    }
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// Whom a token must be of, and for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client_id: &'a str,
    /// What the computer has asked for, if the provider repeats it.
    pub(crate) nonce: &'a str,
    /// Seconds since 1970.
    pub(crate) now: u64,
}

/// What the token says.
///
/// # Errors
/// The first reason not to believe it; with [`Invalid::UnknownKey`], newer keys may help.
pub(crate) fn verify(token: &str, keys: &Keys, expected: Expected<'_>) -> Result<Token, Invalid> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Invalid::Malformed);
    }
    let mut parts = token.split('.');
    let (Some(head), Some(body), Some(signed), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Invalid::Malformed);
    };
    let bytes = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes());
    let malformed = |_| Invalid::Malformed;
    let message = &token.as_bytes()[..head.len() + 1 + body.len()];
    let head: Head =
        serde_json::from_slice(&bytes(head).map_err(malformed)?).map_err(|_| Invalid::Malformed)?;
    let is_jwt = head
        .typ
        .as_ref()
        .is_none_or(|kind| kind.eq_ignore_ascii_case("JWT"));
    // RFC 7515 §4.1.11: who does not understand it refuses.
    if head.crit.is_some() || !is_jwt {
        return Err(Invalid::Malformed);
    }
    let algorithm = Algorithm::of(&head.alg).ok_or(Invalid::Algorithm)?;
    let signed = bytes(signed).map_err(malformed)?;
    let mut fitting = keys.0.iter().filter(|key| key.fits(&head, algorithm));
    let Some(first) = fitting.next() else {
        return Err(Invalid::UnknownKey);
    };
    let mut all = std::iter::once(first).chain(fitting);
    if !all.any(|key| key.has_signed(algorithm, message, &signed)) {
        return Err(Invalid::Signature);
    }
    let claims: Claims =
        serde_json::from_slice(&bytes(body).map_err(malformed)?).map_err(|_| Invalid::Malformed)?;
    let is_bound = check(&claims, expected)?;
    Ok(Token { claims, is_bound })
}

/// Whether it is bound.
fn check(claims: &Claims, expected: Expected<'_>) -> Result<bool, Invalid> {
    let is = |name: &str, value: &str| claims.get(name).and_then(Value::as_str) == Some(value);
    if !is("iss", expected.issuer) {
        return Err(Invalid::Issuer);
    }
    let (is_ours, is_alone) = match claims.get("aud") {
        Some(Value::Array(all)) => (
            all.iter().any(|one| one == expected.client_id),
            all.len() == 1,
        ),
        Some(one) => (one == expected.client_id, true),
        None => (false, true),
    };
    let has_party = claims.contains_key("azp");
    if !is_ours || ((has_party || !is_alone) && !is("azp", expected.client_id)) {
        return Err(Invalid::Audience);
    }
    check_time(claims, expected.now)?;
    match claims.get("nonce") {
        None => Ok(false),
        Some(Value::String(told)) if told.as_bytes().ct_eq(expected.nonce.as_bytes()).into() => {
            Ok(true)
        }
        Some(_) => Err(Invalid::Nonce),
    }
}

fn check_time(claims: &Claims, now: u64) -> Result<(), Invalid> {
    let seconds = |name| {
        claims.get(name).and_then(|value| {
            // RFC 7519 §2: a number, which some write with a fraction.
            value
                .as_u64()
                .or_else(|| value.as_f64().and_then(whole_seconds))
        })
    };
    let (Some(expires), Some(issued)) = (seconds("exp"), seconds("iat")) else {
        return Err(Invalid::Malformed);
    };
    let earliest = now.saturating_add(CLOCK_TOLERANCE_S);
    let latest = now.saturating_sub(CLOCK_TOLERANCE_S);
    let is_early = |time: u64| time > earliest;
    if is_early(issued) || seconds("nbf").is_some_and(is_early) {
        return Err(Invalid::NotYet);
    }
    match expires > latest && issued.saturating_add(MAX_AGE_S) >= latest {
        true => Ok(()),
        false => Err(Invalid::Expired),
    }
}

/// `None` for what is no time.
fn whole_seconds(number: f64) -> Option<u64> {
    let whole = number.trunc();
    (0.0..1e12)
        .contains(&whole)
        .then(|| format!("{whole:.0}").parse().ok())?
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod tests;
