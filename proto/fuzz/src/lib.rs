//! What the targets share: a fuzzer's bytes read as a script.

/// Takes a fuzzer's bytes piece by piece; at the end it gives zeros and empty slices, so every input is a script.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a>(pub &'a [u8]);

impl<'a> Script<'a> {
    /// Whether anything is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    /// A yes or a no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Two bytes, big endian.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes())
    }

    /// `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        out[..head.len()].copy_from_slice(head);
        self.0 = rest;
        out
    }

    /// A length byte and so many bytes.
    pub fn short(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.take(length)
    }

    /// A length word and so many bytes.
    pub fn long(&mut self) -> &'a [u8] {
        let length = usize::from(self.word());
        self.take(length)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        head
    }
}

/// The wall clock of every target, milliseconds since 1970.
pub const UNIX_MS: u64 = 1_800_000_000_000;
/// The secret of the one session key that signs records here.
pub const RECORD_KEY: [u8; 32] = [3; 32];
