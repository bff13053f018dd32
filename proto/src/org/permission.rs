//! What a helper may do (RULES.md 2.2), as a set that is closed under implication, so that nobody has to think of it again.

use std::{fmt, str::FromStr};

/// One thing that an organisation allows its helpers, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Permission {
    /// See the screen.
    View = 0,
    /// Use mouse and keyboard.
    Control = 1,
    /// Run what needs an administrator's rights.
    Elevation = 2,
    /// Work where nobody sits.
    Unattended = 3,
    /// Invite somebody ("Remote tasks: Offer remote assistance").
    Offer = 4,
    /// Know the devices ("Remote Assistance Connector: Read").
    Connector = 5,
}

impl Permission {
    /// All of them, in the order of their bits.
    pub const ALL: [Self; 6] = [
        Self::View,
        Self::Control,
        Self::Elevation,
        Self::Unattended,
        Self::Offer,
        Self::Connector,
    ];

    /// As people and scripts write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Control => "control",
            Self::Elevation => "elevation",
            Self::Unattended => "unattended",
            Self::Offer => "offer",
            Self::Connector => "connector",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// What whoever has it may do, too; itself among them.
    const fn closure(self) -> u8 {
        let below = match self {
            Self::View | Self::Offer | Self::Connector => 0,
            Self::Control => Self::View.bit(),
            Self::Elevation => Self::Control.closure(),
            Self::Unattended => Self::Elevation.closure(),
        };
        self.bit() | below
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that names no permission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no permission; there are view, control, elevation, unattended, offer and connector"
)]
pub struct UnknownPermission(pub String);

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        Self::ALL
            .into_iter()
            .find(|permission| permission.name() == text)
            .ok_or_else(|| UnknownPermission(text.to_owned()))
    }
}

/// What somebody may do. Whatever is in it is in it with all that it implies.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self(Permission::Unattended.closure() | Self::TO_HELP);
    /// Everything that a person who sits there can allow and take back.
    pub const ATTENDED: Self = Self(Permission::Elevation.closure() | Self::TO_HELP);
    /// What somebody may do for whom nobody vouches, where an organisation lets such people in at all.
    pub const GUEST: Self = Self(Permission::View.bit() | Self::TO_HELP);

    /// What it takes, besides something to do.
    const TO_HELP: u8 = Permission::Offer.bit() | Permission::Connector.bit();

    /// From the bits of a message: bit n is the permission of value n. Bits that this program does not know grant nothing.
    pub fn from_bits(bits: u32) -> Self {
        Permission::ALL
            .into_iter()
            .filter(|permission| bits & u32::from(permission.bit()) != 0)
            .collect()
    }

    /// As they go into a message.
    pub fn bits(self) -> u32 {
        self.0.into()
    }

    /// Whether it is among them.
    pub fn has(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// What both allow. Of two closed sets that is closed.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What either allows. Of two closed sets that is closed.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is among them.
    pub fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether somebody with these can help at all: Offer, Connector, and something to do.
    pub fn may_help(self) -> bool {
        self.0 & Self::TO_HELP == Self::TO_HELP && self.has(Permission::View)
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL
            .into_iter()
            .filter(move |&permission| self.has(permission))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let closed = permissions.into_iter().map(Permission::closure);
        Self(closed.fold(0, |all, one| all | one))
    }
}

/// `view, control, offer`, or `nothing`.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return f.write_str("nothing");
        }
        for (n, permission) in self.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{permission}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permissions({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(permissions: &[Permission]) -> Permissions {
        permissions.iter().copied().collect()
    }

    #[test]
    fn r_2_2_implications() {
        use Permission::{Connector, Control, Elevation, Offer, Unattended, View};
        let table: [(Permission, &[Permission]); 6] = [
            (View, &[View]),
            (Control, &[View, Control]),
            (Elevation, &[View, Control, Elevation]),
            (Unattended, &[View, Control, Elevation, Unattended]),
            (Offer, &[Offer]),
            (Connector, &[Connector]),
        ];
        for (given, follows) in table {
            let all: Vec<_> = only(&[given]).iter().collect();
            assert_eq!(all, follows, "{given}");
            // Set to No beside it makes no difference, for there is no way to say so.
            assert_eq!(Permissions::from_bits(given.bit().into()), only(follows));
        }
    }

    #[test]
    fn r_2_2_it_takes_offer_connector_and_something_to_do() {
        use Permission::{Connector, Offer};
        for remote_help in &Permission::ALL[..4] {
            assert!(only(&[Offer, Connector, *remote_help]).may_help());
            assert!(!only(&[Offer, *remote_help]).may_help());
            assert!(!only(&[Connector, *remote_help]).may_help());
        }
        assert!(!only(&[Offer, Connector]).may_help());
        assert!(!Permissions::NONE.may_help());
    }

    #[test]
    fn every_set_there_is_is_closed() {
        for bits in 0..=u32::from(u8::MAX) {
            let set = Permissions::from_bits(bits);
            assert_eq!(Permissions::from_bits(set.bits()), set);
            assert_eq!(set.iter().collect::<Permissions>(), set);
            for other in 0..=u32::from(u8::MAX) {
                let other = Permissions::from_bits(other);
                for made in [set.and(other), set.or(other)] {
                    assert_eq!(Permissions::from_bits(made.bits()), made);
                }
                assert_eq!(set.covers(other), set.or(other) == set);
            }
        }
        for named in [Permissions::ALL, Permissions::ATTENDED, Permissions::GUEST] {
            assert_eq!(Permissions::from_bits(named.bits()), named);
            assert!(named.may_help());
        }
        assert!(!Permissions::ATTENDED.has(Permission::Unattended));
        assert_eq!(Permissions::from_bits(u32::MAX), Permissions::ALL);
    }

    #[test]
    fn names_are_read_back() {
        for permission in Permission::ALL {
            assert_eq!(permission.name().parse(), Ok(permission));
        }
        assert!("root".parse::<Permission>().is_err());
        assert_eq!(Permissions::NONE.to_string(), "nothing");
        assert_eq!(only(&[Permission::Control]).to_string(), "view, control");
    }
}
