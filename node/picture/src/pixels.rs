//! A picture as it is captured and as it is drawn.

use std::fmt;

/// Rows of blue, green, red and a byte that means nothing.
#[derive(Clone, Copy)]
pub struct Pixels<'a> {
    /// `stride · height` bytes.
    pub bytes: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Pixels in a row.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl fmt::Debug for Pixels<'_> {
    /// The size only: screen content is nobody's but the two people's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pixels({} × {})", self.width, self.height)
    }
}
