//! The session code, `4060-r0gx`: eight symbols of Crockford's base32, 40 bits.
//!
//! | symbols | bits | what |
//! |---|---|---|
//! | first 3 | 15 | locator: names the record, anybody may know it |
//! | last 5 | 25 | secret: never leaves the two nodes |
//!
//! Three wrong tries burn a code, so a guesser's chance is 3 in 2²⁵, and the person still sees the trust card.

use std::{fmt, str::FromStr};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    random::Random,
    record::{EPOCH_MS, LOCATOR_LEN, RecordKey},
};

/// Symbols in a code.
pub const LEN: usize = 8;

/// Crockford's base32: no i, l, o, u.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Codes with one of these in them are drawn again: somebody has to read them aloud to a stranger.
const OFFENSIVE: [&str; 12] = [
    "ass", "fag", "sex", "xxx", "nazi", "kkk", "n1gg", "rape", "cnt", "fck", "sht", "dyke",
];

/// A session code, normalised.
///
/// `Debug` shows the locator only, so that a code cannot end up whole in a log.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Code([u8; LEN]);

/// Why text is not a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCode {
    /// Not eight symbols.
    #[error("a code has 8 letters and digits, this has {0}")]
    Length(usize),
    /// `u` is not in the alphabet, and looks like no other symbol.
    #[error("a code never has the letter u; is it a v?")]
    LetterU,
    /// Neither letter, digit nor a separator.
    #[error("a code has only letters and digits, not `{0}`")]
    Symbol(char),
}

impl Code {
    /// Draws a code.
    pub fn generate(random: &mut Random) -> Self {
        loop {
            // 256 is a multiple of 32: the mask is unbiased.
            let code = Self(
                random
                    .bytes::<LEN>()
                    .map(|byte| ALPHABET[usize::from(byte & 31)]),
            );
            if !OFFENSIVE.iter().any(|word| code.symbols().contains(word)) {
                return code;
            }
        }
    }

    /// The public part.
    pub fn locator(&self) -> &[u8; LOCATOR_LEN] {
        self.0
            .first_chunk()
            .expect("eight symbols begin with three")
    }

    /// The PAKE's input: the whole normalised code.
    pub(crate) fn pake_input(&self) -> &[u8; LEN] {
        &self.0
    }

    /// Where its record is kept at `unix_ms`.
    pub fn locator_key(&self, realm: &str, unix_ms: u64) -> RecordKey {
        RecordKey::of_locator(self.locator(), realm, unix_ms / EPOCH_MS)
    }

    /// Where to look for its record: a code lives 600 s, so it may have been published in the epoch
    /// before; and the host's clock may be a little ahead.
    pub fn lookup_keys(&self, realm: &str, unix_ms: u64) -> [RecordKey; 3] {
        let epoch = unix_ms / EPOCH_MS;
        [epoch, epoch.saturating_sub(1), epoch + 1]
            .map(|epoch| RecordKey::of_locator(self.locator(), realm, epoch))
    }

    fn symbols(&self) -> &str {
        std::str::from_utf8(&self.0).expect("ASCII")
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*-****", &self.symbols()[..LOCATOR_LEN])
    }
}

/// For the screen of the person who reads it aloud.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = self.symbols().split_at(LEN / 2);
        write!(f, "{first}-{second}")
    }
}

/// Accepts what people type and paste: any case, spaces, dashes and dots anywhere, `i` and `l` for 1,
/// `o` for 0, full-width forms.
impl FromStr for Code {
    type Err = InvalidCode;

    fn from_str(text: &str) -> Result<Self, InvalidCode> {
        let mut code = Self([0; LEN]);
        let mut count = 0;
        for symbol in text.chars().filter_map(|c| significant(c).transpose()) {
            let symbol = symbol?;
            if let Some(slot) = code.0.get_mut(count) {
                *slot = symbol;
            }
            count += 1;
        }
        if count == LEN {
            Ok(code)
        } else {
            Err(InvalidCode::Length(count))
        }
    }
}

/// The alphabet's symbol for a character; `None` for a separator.
pub(crate) fn significant(c: char) -> Result<Option<u8>, InvalidCode> {
    let ascii = match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        c => c,
    };
    let symbol = match ascii.to_ascii_lowercase() {
        '-' | '_' | '.' | '\u{200e}' | '\u{200f}' => return Ok(None),
        space if space.is_whitespace() => return Ok(None),
        'i' | 'l' => b'1',
        'o' => b'0',
        'u' => return Err(InvalidCode::LetterU),
        other => u8::try_from(other).map_err(|_| InvalidCode::Symbol(c))?,
    };
    if ALPHABET.contains(&symbol) {
        Ok(Some(symbol))
    } else {
        Err(InvalidCode::Symbol(c))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(text: &str) -> Result<Code, InvalidCode> {
        text.parse()
    }

    #[test]
    fn e_8_codes_have_eight_symbols_and_are_forgiving_to_type() {
        let expected = code("4060-r0gx").expect("the guide's own example");
        for same in [
            "4060r0gx",
            "4060 R0GX",
            " 40 60 - r0 gx \n",
            "4O6o-ROgX",
            "４０６０－Ｒ０ＧＸ",
            "4060\u{2013}R0GX",
            "4.0.6.0.r.0.g.x",
            "\u{200e}4060-r0gx",
        ] {
            assert_eq!(code(same).as_ref(), Ok(&expected), "{same}");
        }
        assert_eq!(code("IL11-1111"), code("1111-1111"));
        assert_eq!(expected.to_string(), "4060-r0gx");
    }

    #[test]
    fn what_cannot_be_a_code_is_told_why() {
        assert_eq!(code("4060-r0g"), Err(InvalidCode::Length(7)));
        assert_eq!(code("4060-r0gxx"), Err(InvalidCode::Length(9)));
        assert_eq!(code(""), Err(InvalidCode::Length(0)));
        assert_eq!(code("4060-r0gU"), Err(InvalidCode::LetterU));
        assert_eq!(code("4060-r0gß"), Err(InvalidCode::Symbol('ß')));
        assert_eq!(code("4060/r0gx"), Err(InvalidCode::Symbol('/')));
    }

    #[test]
    fn neither_log_nor_record_key_holds_the_secret() {
        let (one, other) = (
            code("406a-bcde").expect("valid"),
            code("406z-9999").expect("valid"),
        );
        assert_eq!(format!("{one:?}"), "406*-****");
        assert_eq!(one.locator_key("r", 7), other.locator_key("r", 7));
        assert_ne!(one.locator_key("r", 7), one.locator_key("r", 7 + EPOCH_MS));
        assert_ne!(one.locator_key("r", 7), one.locator_key("another", 7));
    }

    #[test]
    fn a_code_is_found_through_its_whole_life() {
        let code = code("4060-r0gx").expect("valid");
        for published in [0, 1, EPOCH_MS - 1, EPOCH_MS].map(|offset| 3_000 * EPOCH_MS + offset) {
            let key = code.locator_key("r", published);
            for age in [0, EPOCH_MS / 2, EPOCH_MS - 1] {
                assert!(code.lookup_keys("r", published + age).contains(&key));
            }
            assert!(
                code.lookup_keys("r", published - 1).contains(&key),
                "the joiner's clock is behind"
            );
        }
    }

    #[test]
    fn drawn_codes_are_uniform() {
        let mut random = Random::seeded(1);
        let mut counts = [[0u32; 32]; LEN];
        for _ in 0..32_000 {
            let code = Code::generate(&mut random);
            for (at, symbol) in code.pake_input().iter().enumerate() {
                let value = ALPHABET
                    .iter()
                    .position(|s| s == symbol)
                    .expect("in the alphabet");
                counts[at][value] += 1;
            }
        }
        // 1,000 expected, standard deviation 31, and a little less where offensive words are left out.
        assert!(
            counts
                .iter()
                .flatten()
                .all(|count| (780..1220).contains(count)),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_round_trips(text in "\\PC{0,20}") {
            if let Ok(parsed) = code(&text) {
                prop_assert_eq!(code(&parsed.to_string()), Ok(parsed));
            }
        }
    }
}
