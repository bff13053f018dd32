//! Text of others that people read in a line of ours: what may stand in it.

use std::str::FromStr;

/// Longest words about why something ended.
const MAX_WHY_BYTES: usize = 128;

/// Whether a character may not stand in text that is shown next to ours: controls, and the bidirectional
/// overrides and isolates (Unicode TR9) that would reorder what follows.
pub fn is_unsafe_in_line(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// An administrator's words, or those of a relay's operator, which two people read: one line of at most 128 bytes, without what could rearrange the words around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why(String);

/// Words that cannot be shown so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reason is one line of at most {MAX_WHY_BYTES} bytes")]
pub struct InvalidWhy;

impl Why {
    /// What of a peer's word can be shown; nothing, if it is too long.
    pub fn heard(text: &str) -> Self {
        text.parse().unwrap_or_default()
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Why {
    type Err = InvalidWhy;

    fn from_str(text: &str) -> Result<Self, InvalidWhy> {
        match text.len() <= MAX_WHY_BYTES && !text.contains(is_unsafe_in_line) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidWhy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_administrator_says_is_one_line() {
        assert_eq!("".parse(), Ok(Why::default()));
        let most = "x".repeat(MAX_WHY_BYTES);
        assert_eq!(Why::heard(&most).as_str(), most);
        for bad in [&format!("{most}x"), "two\nlines", "\u{202e}turned"] {
            assert_eq!(bad.parse::<Why>(), Err(InvalidWhy), "{bad:?}");
            assert_eq!(Why::heard(bad), Why::default());
        }
    }
}
