//! Who somebody is, and what is known of a device: what an organisation signs of each, bound to a node's key, so that whoever copies
//! it has nothing.

use super::{
    label::Label,
    permission::Permissions,
    scope::{MAX_SCOPES, Scope},
    signed::{Document, InvalidDocument, VERSION, array, of_this_version},
};
use crate::{
    id::{NodeId, OrgId},
    identity::Profile,
    wire::message::org as schema,
};
use bytes::Bytes;

/// Largest signed credential: with [`MAX_DEVICE_BYTES`] it fits the inner handshake.
pub const MAX_CREDENTIAL_BYTES: usize = 600;
/// Largest signed device document.
pub const MAX_DEVICE_BYTES: usize = 220;
/// Longest name of a device.
pub const MAX_DEVICE_NAME_BYTES: usize = 32;
/// Most policies that a device document names.
pub const MAX_FAILING: usize = 4;

/// A credential's own number, for who revokes it.
pub type Serial = [u8; 16];

/// Who somebody is, and the most that they may ever do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Who says so.
    pub issuer: OrgId,
    /// Random.
    pub serial: Serial,
    /// The one that may show it.
    pub node: NodeId,
    /// Name within the organisation.
    pub subject: Label,
    /// What the card shows.
    pub profile: Profile,
    /// SHA-256 of the picture, if there is one.
    pub picture: Option<[u8; 32]>,
    /// The most that the policy can give them.
    pub permissions: Permissions,
    /// Whom they may help at most; up to [`MAX_SCOPES`].
    pub scopes: Vec<Scope>,
    /// Seconds since 1970.
    pub issued: u64,
    /// Seconds since 1970.
    pub expires: u64,
}

impl Document for Credential {
    type Raw = schema::Credential;
    const CONTEXT: &'static str = "remora credential 1";
    const MAX_BYTES: usize = MAX_CREDENTIAL_BYTES;

    fn issuer(&self) -> OrgId {
        self.issuer
    }

    fn to_raw(&self) -> schema::Credential {
        let profile = self.profile.clone();
        schema::Credential {
            version: VERSION,
            issuer: Bytes::copy_from_slice(&self.issuer.0),
            serial: Bytes::copy_from_slice(&self.serial),
            node: Bytes::copy_from_slice(&self.node.0),
            subject: self.subject.to_string(),
            full_name: profile.full_name,
            job_title: profile.job_title,
            company: profile.company,
            domain: profile.domain,
            picture: self
                .picture
                .map(|hash| Bytes::copy_from_slice(&hash))
                .unwrap_or_default(),
            permissions: self.permissions.bits(),
            scopes: self.scopes.iter().map(Scope::to_raw).collect(),
            issued: self.issued,
            expires: self.expires,
        }
    }

    fn from_raw(raw: schema::Credential) -> Result<Self, InvalidDocument> {
        of_this_version(raw.version)?;
        lives(raw.issued, raw.expires)?;
        let picture = match raw.picture.is_empty() {
            true => None,
            false => Some(array(&raw.picture, "picture")?),
        };
        let (name, title) = (&raw.full_name, &raw.job_title);
        let profile = Profile::new(name, title, &raw.company, &raw.domain)
            .map_err(|_| InvalidDocument::Field("profile"))?;
        if raw.domain.is_empty() || raw.scopes.len() > MAX_SCOPES {
            return Err(InvalidDocument::Field("domain"));
        }
        Ok(Self {
            issuer: OrgId(array(&raw.issuer, "issuer")?),
            serial: array(&raw.serial, "serial")?,
            node: NodeId(array(&raw.node, "node")?),
            subject: Label::read(&raw.subject, "subject")?,
            profile,
            picture,
            permissions: Permissions::from_bits(raw.permissions),
            scopes: Scope::read_all(&raw.scopes)?,
            issued: raw.issued,
            expires: raw.expires,
        })
    }
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Who says so.
    pub issuer: OrgId,
    /// The node on it.
    pub node: NodeId,
    /// Its name within the organisation.
    pub name: Label,
    /// Its owner's own.
    pub personal: bool,
    /// Several people work at it at once.
    pub multi_user: bool,
    /// Policies that it fails; up to [`MAX_FAILING`]. None: it complies.
    pub failing: Vec<Label>,
    /// Seconds since 1970.
    pub issued: u64,
    /// Seconds since 1970.
    pub expires: u64,
}

impl Document for Device {
    type Raw = schema::Device;
    const CONTEXT: &'static str = "remora device 1";
    const MAX_BYTES: usize = MAX_DEVICE_BYTES;

    fn issuer(&self) -> OrgId {
        self.issuer
    }

    fn to_raw(&self) -> schema::Device {
        schema::Device {
            version: VERSION,
            issuer: Bytes::copy_from_slice(&self.issuer.0),
            node: Bytes::copy_from_slice(&self.node.0),
            name: self.name.to_string(),
            personal: self.personal,
            multi_user: self.multi_user,
            failing: self.failing.iter().map(ToString::to_string).collect(),
            issued: self.issued,
            expires: self.expires,
        }
    }

    fn from_raw(raw: schema::Device) -> Result<Self, InvalidDocument> {
        of_this_version(raw.version)?;
        lives(raw.issued, raw.expires)?;
        if raw.name.len() > MAX_DEVICE_NAME_BYTES || raw.failing.len() > MAX_FAILING {
            return Err(InvalidDocument::Field("name"));
        }
        let failing = raw.failing.iter().map(|code| Label::read(code, "failing"));
        Ok(Self {
            issuer: OrgId(array(&raw.issuer, "issuer")?),
            node: NodeId(array(&raw.node, "node")?),
            name: Label::read(&raw.name, "name")?,
            personal: raw.personal,
            multi_user: raw.multi_user,
            failing: failing.collect::<Result<_, _>>()?,
            issued: raw.issued,
            expires: raw.expires,
        })
    }
}

pub(super) fn lives(issued: u64, expires: u64) -> Result<(), InvalidDocument> {
    match issued < expires {
        true => Ok(()),
        false => Err(InvalidDocument::Field("expiry")),
    }
}
