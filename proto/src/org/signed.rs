//! Documents with their issuer's signature: made by an issuer, read by everybody else.

use std::{fmt, ops::Deref};

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use prost::Message;

use crate::{id::OrgId, wire::message::org as schema};

/// How far apart two honest clocks may be, in seconds; as for records.
pub const CLOCK_TOLERANCE_S: u64 = crate::record::CLOCK_TOLERANCE_MS / 1000;
/// Largest signed policy: what a relay keeps of an organisation.
pub const MAX_POLICY_BYTES: usize = 64 << 10;

/// Of every document.
pub(crate) const VERSION: u32 = 1;
pub(crate) const POLICY_CONTEXT: &str = "remora policy 1";

/// Signs for an organisation. Whoever has it is the organisation.
pub struct Issuer(SigningKey);

impl Issuer {
    /// From the 32 secret bytes of its key (RFC 8032 §5.1.5).
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Whom everybody knows it by.
    pub fn id(&self) -> OrgId {
        OrgId(self.0.verifying_key().to_bytes())
    }

    /// Signs a policy as it is encoded, whatever it says; [`Signed::new`] signs one that it has read.
    pub fn sign_policy_body(&self, body: Bytes) -> Bytes {
        let signature = Bytes::copy_from_slice(&self.sign(POLICY_CONTEXT, &body));
        let signed = schema::Signed { body, signature };
        signed.encode_to_vec().into()
    }

    fn sign(&self, context: &str, body: &[u8]) -> [u8; 64] {
        self.0.sign(&signed_bytes(context, body)).to_bytes()
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Issuer").field(&self.id()).finish()
    }
}

/// Bytes that are no document, or not their issuer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// Longer than its kind may be.
    #[error("it has {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// Its length, signed.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Not protobuf, not in the one form that there is, or of another version.
    #[error("it is malformed, or of another version of remora")]
    Malformed,
    /// An impossible value.
    #[error("its {0} is missing or has an impossible value")]
    Field(&'static str),
    /// Not signed by the issuer it names.
    #[error("its signature does not verify")]
    Signature,
}

/// What can be signed: a message of `schema/org.proto`, and what it means.
pub trait Document: Sized {
    /// The message.
    type Raw: Message + Default;
    /// Signed with it, so that no document can be taken for one of another kind.
    const CONTEXT: &'static str;
    /// With its signature.
    const MAX_BYTES: usize;

    /// Who must have signed it.
    fn issuer(&self) -> OrgId;
    /// As it is sent.
    fn to_raw(&self) -> Self::Raw;
    /// What it says, checked but for the signature.
    ///
    /// # Errors
    /// A field that cannot be.
    fn from_raw(raw: Self::Raw) -> Result<Self, InvalidDocument>;
}

/// A document that its issuer has signed. Whether that issuer is trusted is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<D> {
    document: D,
    bytes: Bytes,
}

impl<D: Document> Signed<D> {
    /// Signs.
    ///
    /// # Errors
    /// It is longer than its kind may be, or would not be read.
    ///
    /// # Panics
    /// When it names another issuer.
    pub fn new(document: D, issuer: &Issuer) -> Result<Self, InvalidDocument> {
        assert_eq!(document.issuer(), issuer.id(), "an issuer signs as itself");
        let body: Bytes = document.to_raw().encode_to_vec().into();
        let signature = Bytes::copy_from_slice(&issuer.sign(D::CONTEXT, &body));
        let bytes = schema::Signed { body, signature }.encode_to_vec();
        Self::open(&bytes)
    }

    /// Reads a document and checks its issuer's signature.
    ///
    /// # Errors
    /// [`InvalidDocument`], the first reason found.
    pub fn open(bytes: &[u8]) -> Result<Self, InvalidDocument> {
        let signed = envelope(bytes, D::MAX_BYTES)?;
        let raw = D::Raw::decode(&signed.body[..]).map_err(|_| InvalidDocument::Malformed)?;
        if raw.encode_to_vec() != signed.body {
            return Err(InvalidDocument::Malformed);
        }
        let document = D::from_raw(raw)?;
        verify(D::CONTEXT, &signed, document.issuer())?;
        let bytes = Bytes::copy_from_slice(bytes);
        Ok(Self { document, bytes })
    }

    /// What somebody else signs in the issuer's name, for tests of what that is worth: nothing.
    #[cfg(feature = "sim")]
    pub fn forged(document: D, forger: &Issuer) -> Self {
        let body: Bytes = document.to_raw().encode_to_vec().into();
        let signature = Bytes::copy_from_slice(&forger.sign(D::CONTEXT, &body));
        let bytes = schema::Signed { body, signature }.encode_to_vec().into();
        Self { document, bytes }
    }

    /// As it is sent and kept.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl<D> Deref for Signed<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.document
    }
}

/// Which policy it is: all that a relay reads of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyHeader {
    /// Whose.
    pub issuer: OrgId,
    /// Greater ones replace smaller ones.
    pub number: u64,
    /// Seconds since 1970.
    pub issued: u64,
    /// Seconds since 1970.
    pub expires: u64,
}

impl PolicyHeader {
    /// Reads it and checks the issuer's signature over the whole policy.
    ///
    /// # Errors
    /// [`InvalidDocument`], the first reason found.
    pub fn open(bytes: &[u8]) -> Result<Self, InvalidDocument> {
        let signed = envelope(bytes, MAX_POLICY_BYTES)?;
        let raw = schema::PolicyHeader::decode(&signed.body[..])
            .map_err(|_| InvalidDocument::Malformed)?;
        let header = Self::from_raw(&raw)?;
        verify(POLICY_CONTEXT, &signed, header.issuer)?;
        Ok(header)
    }

    pub(crate) fn from_raw(raw: &schema::PolicyHeader) -> Result<Self, InvalidDocument> {
        of_this_version(raw.version)?;
        if raw.number == 0 {
            return Err(InvalidDocument::Field("number"));
        }
        if raw.issued >= raw.expires {
            return Err(InvalidDocument::Field("expiry"));
        }
        Ok(Self {
            issuer: OrgId(array(&raw.issuer, "issuer")?),
            number: raw.number,
            issued: raw.issued,
            expires: raw.expires,
        })
    }
}

fn envelope(bytes: &[u8], max: usize) -> Result<schema::Signed, InvalidDocument> {
    if bytes.len() > max {
        let bytes = bytes.len();
        return Err(InvalidDocument::TooLong { bytes, max });
    }
    let signed = schema::Signed::decode(bytes).map_err(|_| InvalidDocument::Malformed)?;
    match signed.encode_to_vec() == bytes {
        true => Ok(signed),
        false => Err(InvalidDocument::Malformed),
    }
}

fn verify(context: &str, signed: &schema::Signed, issuer: OrgId) -> Result<(), InvalidDocument> {
    let key = VerifyingKey::from_bytes(&issuer.0).map_err(|_| InvalidDocument::Field("issuer"))?;
    let signature = Signature::from_bytes(&array(&signed.signature, "signature")?);
    key.verify_strict(&signed_bytes(context, &signed.body), &signature)
        .map_err(|_| InvalidDocument::Signature)
}

fn signed_bytes(context: &str, body: &[u8]) -> Vec<u8> {
    [context.as_bytes(), &[0], body].concat()
}

pub(crate) fn of_this_version(version: u32) -> Result<(), InvalidDocument> {
    match version {
        VERSION => Ok(()),
        _ => Err(InvalidDocument::Malformed),
    }
}

pub(crate) fn array<const N: usize>(
    bytes: &[u8],
    field: &'static str,
) -> Result<[u8; N], InvalidDocument> {
    bytes.try_into().map_err(|_| InvalidDocument::Field(field))
}
