//! What may leave either computer beside the picture and the words: nothing, until the sharer grants it, each way on its own
//! (SESSION.md §1.5, the row of clipboard and file).

use crate::{identity::Role, wire::message::session as schema};

/// What can be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Matter {
    /// The clipboard's text.
    Clipboard,
    /// Files.
    Files,
}

/// Whereto.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the sharer's computer to the helper's.
    ToHelper,
    /// From the helper's computer to the sharer's.
    ToSharer,
}

impl Way {
    /// To the computer of that role.
    pub fn to(role: Role) -> Self {
        match role {
            Role::Helper => Self::ToHelper,
            Role::Sharer => Self::ToSharer,
        }
    }

    /// For scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::ToHelper => "to_helper",
            Self::ToSharer => "to_sharer",
        }
    }
}

impl Matter {
    /// For scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clipboard => "clipboard",
            Self::Files => "files",
        }
    }
}

/// A set of grants.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Grants(u8);

/// A grant, and its bit.
const ALL: [(Matter, Way, u8); 4] = [
    (Matter::Clipboard, Way::ToHelper, 1),
    (Matter::Clipboard, Way::ToSharer, 2),
    (Matter::Files, Way::ToHelper, 4),
    (Matter::Files, Way::ToSharer, 8),
];

impl Grants {
    /// As every session begins.
    pub const NONE: Self = Self(0);

    /// A single one.
    pub fn of(matter: Matter, way: Way) -> Self {
        let only = |&(m, w, bit): &(Matter, Way, u8)| (m == matter && w == way).then_some(bit);
        Self(ALL.iter().filter_map(only).sum())
    }

    /// Both ways of one matter.
    pub fn both(matter: Matter) -> Self {
        Self::of(matter, Way::ToHelper) | Self::of(matter, Way::ToSharer)
    }

    /// Whether that is granted.
    pub fn has(self, matter: Matter, way: Way) -> bool {
        self.covers(Self::of(matter, way))
    }

    /// Whether all of `other` is.
    pub fn covers(self, other: Self) -> bool {
        other.without(self).is_empty()
    }

    /// Whether nothing is.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// All but those.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Clipboard before files, to the helper before to the sharer.
    pub fn iter(self) -> impl Iterator<Item = (Matter, Way)> {
        let held = move |&(_, _, bit): &(Matter, Way, u8)| self.0 & bit != 0;
        ALL.into_iter()
            .filter(held)
            .map(|(matter, way, _)| (matter, way))
    }

    /// Those for which `holds`.
    #[must_use]
    pub(super) fn only(self, holds: impl Fn(Matter) -> bool) -> Self {
        let kept = self.iter().filter(|(matter, _)| holds(*matter));
        kept.fold(Self::NONE, |kept, (matter, way)| {
            kept | Self::of(matter, way)
        })
    }

    pub(super) fn to_schema(self) -> schema::Grants {
        schema::Grants {
            clipboard_to_helper: self.has(Matter::Clipboard, Way::ToHelper),
            clipboard_to_sharer: self.has(Matter::Clipboard, Way::ToSharer),
            files_to_helper: self.has(Matter::Files, Way::ToHelper),
            files_to_sharer: self.has(Matter::Files, Way::ToSharer),
        }
    }

    pub(super) fn from_schema(grants: schema::Grants) -> Self {
        let said = [
            grants.clipboard_to_helper,
            grants.clipboard_to_sharer,
            grants.files_to_helper,
            grants.files_to_sharer,
        ];
        let bits = ALL.iter().zip(said);
        Self(
            bits.filter_map(|((_, _, bit), said)| said.then_some(bit))
                .sum(),
        )
    }
}

impl std::ops::BitOr for Grants {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_of_grants_survives_the_wire() {
        for bits in 0..16 {
            let grants = Grants(bits);
            assert_eq!(Grants::from_schema(grants.to_schema()), grants);
            let again = grants.iter().fold(Grants::NONE, |all, (matter, way)| {
                all | Grants::of(matter, way)
            });
            assert_eq!(again, grants);
        }
    }

    #[test]
    fn one_way_is_not_the_other() {
        let one = Grants::of(Matter::Clipboard, Way::ToHelper);
        assert!(one.has(Matter::Clipboard, Way::ToHelper));
        assert!(!one.has(Matter::Clipboard, Way::ToSharer));
        assert!(!one.has(Matter::Files, Way::ToHelper));
        let both = Grants::both(Matter::Clipboard);
        assert!(both.covers(one) && !one.covers(both));
        assert_eq!(
            both.without(one),
            Grants::of(Matter::Clipboard, Way::ToSharer)
        );
        assert_eq!(both.only(|matter| matter == Matter::Files), Grants::NONE);
    }
}
