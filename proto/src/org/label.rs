//! Names within an organisation: of subjects, roles, groups, devices. Without case or script, so that no two look alike.

use std::{fmt, str::FromStr};

use super::signed::InvalidDocument;

/// Longest label, in bytes.
pub const MAX_LABEL_BYTES: usize = 64;

/// 1 to 64 of `a–z 0–9 . _ @ + -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Text that is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name here; use 1 to {MAX_LABEL_BYTES} of a-z 0-9 . _ @ + -")]
pub struct InvalidLabel(String);

impl Label {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn read(text: &str, field: &'static str) -> Result<Self, InvalidDocument> {
        text.parse().map_err(|_| InvalidDocument::Field(field))
    }
}

impl FromStr for Label {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let known = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._@+-".contains(&byte)
        };
        match (1..=MAX_LABEL_BYTES).contains(&text.len()) && text.bytes().all(known) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidLabel(text.chars().take(MAX_LABEL_BYTES).collect())),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
