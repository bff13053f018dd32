//! Whom somebody may help: people, devices, groups of both (RULES.md 2.2).

use std::{fmt, str::FromStr};

use super::{
    label::{InvalidLabel, Label},
    policy::Policy,
    signed::InvalidDocument,
};
use crate::wire::message::org::{self as schema, ScopeKind};

/// Most scopes in one place.
pub const MAX_SCOPES: usize = 8;

/// Some of an organisation's people and devices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All people, on whatever device.
    Everyone,
    /// All enrolled devices, whoever sits there.
    Devices,
    /// One person.
    User(Label),
    /// One device.
    Device(Label),
    /// Those of a group of the policy.
    Group(Label),
}

/// Where help would be given: who sits there, at which enrolled device. Neither: nobody's whom the organisation knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The sharer.
    pub subject: Option<Label>,
    /// Its device, if that is enrolled.
    pub device: Option<Label>,
}

impl Scope {
    /// Whether the place is within it.
    pub fn contains(&self, place: &Place, policy: &Policy) -> bool {
        match self {
            Self::Everyone => true,
            Self::Devices => place.device.is_some(),
            Self::User(user) => place.subject.as_ref() == Some(user),
            Self::Device(device) => place.device.as_ref() == Some(device),
            Self::Group(name) => policy.groups.get(name).is_some_and(|group| {
                let user = place
                    .subject
                    .as_ref()
                    .map(|user| group.users.contains(user));
                let device = place
                    .device
                    .as_ref()
                    .map(|device| group.devices.contains(device));
                user == Some(true) || device == Some(true)
            }),
        }
    }

    pub(crate) fn to_raw(&self) -> schema::Scope {
        let (kind, name) = match self {
            Self::Everyone => (ScopeKind::Everyone, None),
            Self::Devices => (ScopeKind::Devices, None),
            Self::User(name) => (ScopeKind::User, Some(name)),
            Self::Device(name) => (ScopeKind::Device, Some(name)),
            Self::Group(name) => (ScopeKind::Group, Some(name)),
        };
        schema::Scope {
            kind: kind.into(),
            name: name.map(ToString::to_string).unwrap_or_default(),
        }
    }

    fn from_raw(raw: &schema::Scope) -> Result<Self, InvalidDocument> {
        let name = || Label::read(&raw.name, "scope");
        match raw.kind() {
            ScopeKind::Everyone if raw.name.is_empty() => Ok(Self::Everyone),
            ScopeKind::Devices if raw.name.is_empty() => Ok(Self::Devices),
            ScopeKind::User => Ok(Self::User(name()?)),
            ScopeKind::Device => Ok(Self::Device(name()?)),
            ScopeKind::Group => Ok(Self::Group(name()?)),
            ScopeKind::Unspecified | ScopeKind::Everyone | ScopeKind::Devices => {
                Err(InvalidDocument::Field("scope"))
            }
        }
    }

    pub(crate) fn read_all(raw: &[schema::Scope]) -> Result<Vec<Self>, InvalidDocument> {
        if raw.len() > MAX_SCOPES {
            return Err(InvalidDocument::Field("scopes"));
        }
        raw.iter().map(Self::from_raw).collect()
    }
}

/// Text that names no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    /// Of no kind.
    #[error("{0:?} is no scope; say everyone, devices, user:NAME, device:NAME or group:NAME")]
    Kind(String),
    /// Of somebody who cannot be.
    #[error(transparent)]
    Name(#[from] InvalidLabel),
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        match text.split_once(':') {
            None if text == "everyone" => Ok(Self::Everyone),
            None if text == "devices" => Ok(Self::Devices),
            Some(("user", name)) => Ok(Self::User(name.parse()?)),
            Some(("device", name)) => Ok(Self::Device(name.parse()?)),
            Some(("group", name)) => Ok(Self::Group(name.parse()?)),
            None | Some(_) => Err(InvalidScope::Kind(text.to_owned())),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone"),
            Self::Devices => f.write_str("devices"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Device(name) => write!(f, "device:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}
