//! Sessions that an administrator has ended: the name by which people tell an administrator which one they mean, and what is said of it.
//!
//! A name is a hash of what only the two nodes of one session know. It can be read out, and stands in a policy that relays see: from it
//! nobody learns who the two are, and an end that was signed of one session says nothing of any other.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{Context, SHA256};

use super::signed::InvalidDocument;
use crate::{
    code::{ALPHABET, InvalidCode, significant},
    line::Why,
};

/// Most of them in a policy: those of a bad day. Who ends one more forgets the one that was ended first.
pub const MAX_ENDED: usize = 64;
/// Afterwards an end is forgotten: no session waits so long for a policy.
pub const ENDED_FOR_S: u64 = 7 * 24 * 60 * 60;

const LEN: usize = 16;
const CONTEXT: &[u8] = b"remora session name 1";

/// Which session: 80 bits, as 16 symbols of the alphabet of codes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionName([u8; LEN]);

/// Text that names no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSessionName {
    /// Too few symbols, or too many.
    #[error(
        "a session's name has {LEN} letters and digits, this has {0}; `remora sessions` shows it, at either of the two"
    )]
    Length(usize),
    /// Not of the alphabet.
    #[error("a session's name is written as codes are: {0}")]
    Symbol(InvalidCode),
}

impl SessionName {
    /// Of the session whose inner handshake has that final hash.
    pub fn new(handshake_hash: &[u8; 32]) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(CONTEXT);
        hash.update(handshake_hash);
        let hash = hash.finish();
        let bytes = hash.as_ref().iter();
        let mut bits = bytes.flat_map(|byte| (0..8).rev().map(move |n| (byte >> n) & 1));
        Self(std::array::from_fn(|_| {
            let symbol = bits
                .by_ref()
                .take(5)
                .fold(0, |sum, bit| sum << 1 | usize::from(bit));
            ALPHABET[symbol]
        }))
    }

    fn symbols(&self) -> &str {
        std::str::from_utf8(&self.0).expect("ASCII")
    }
}

/// In groups of four, to be read out.
impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, group) in self.0.chunks(4).enumerate() {
            let group = std::str::from_utf8(group).map_err(|_| fmt::Error)?;
            write!(f, "{}{group}", if n == 0 { "" } else { "-" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As forgiving as codes are.
impl FromStr for SessionName {
    type Err = InvalidSessionName;

    fn from_str(text: &str) -> Result<Self, InvalidSessionName> {
        let mut symbols = Vec::new();
        for symbol in text.chars().filter_map(|c| significant(c).transpose()) {
            symbols.push(symbol.map_err(InvalidSessionName::Symbol)?);
        }
        let count = symbols.len();
        let name = symbols.try_into();
        name.map(Self)
            .map_err(|_| InvalidSessionName::Length(count))
    }
}

/// What is said of a session that an administrator has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Why, for its two people; may be empty.
    pub why: Why,
}

pub(crate) fn read_name(text: &str) -> Result<SessionName, InvalidDocument> {
    let name = text.parse::<SessionName>().ok();
    // There is one form of it.
    name.filter(|name| name.symbols() == text)
        .ok_or(InvalidDocument::Field("ended"))
}

pub(crate) fn name_text(name: &SessionName) -> String {
    name.symbols().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_a_name_of_its_own_that_can_be_read_out_and_typed() {
        let name = SessionName::new(&[7; 32]);
        assert_ne!(name, SessionName::new(&[8; 32]));
        let text = name.to_string();
        assert_eq!(text.len(), LEN + 3);
        for typed in [
            text.clone(),
            text.to_uppercase(),
            text.replace('-', " "),
            text.replace('0', "O").replace('1', "l"),
        ] {
            assert_eq!(typed.parse(), Ok(name), "{typed}");
        }
        assert_eq!(read_name(&name_text(&name)), Ok(name));
        assert!(read_name(&text).is_err(), "there is one form in a document");
        assert_eq!(
            "4060-r0gx".parse::<SessionName>(),
            Err(InvalidSessionName::Length(8))
        );
        assert!(matches!(
            "uuuu".parse::<SessionName>(),
            Err(InvalidSessionName::Symbol(_))
        ));
    }
}
