//! D-Bus messages (version 1 of its protocol), little-endian: what notifications take, and no more. A library would compile half of all
//! crates anew for it.

/// Longest message that is read; ours are short, and so is what answers them.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Up to the length of the header's fields.
const FIXED_BYTES: usize = 16;

/// Of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

/// A method call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
    pub(super) member: &'static str,
    /// Of the body.
    pub(super) signature: &'static str,
    pub(super) body: Vec<u8>,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) member: String,
    pub(super) error: String,
    /// The number of the call that it answers, or 0.
    pub(super) reply_to: u32,
    body: Vec<u8>,
}

/// What came is no such message; nothing that follows can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of D-Bus, or longer than any that is waited for")]
pub(super) struct Malformed;

/// Writes values, each where its kind may stand.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn align(&mut self, to: usize) {
        let length = self.0.len().next_multiple_of(to);
        self.0.resize(length, 0);
    }

    /// `u`, or `i` as its bits.
    pub(super) fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// `s`, or `o`
    pub(super) fn string(&mut self, text: &str) {
        // It ends with a zero byte, and has no other one.
        let text = text.replace('\0', "");
        self.number(length(text.len()));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    /// `g`: short, and ours.
    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(0));
        self.0.extend_from_slice(signature.as_bytes());
        self.0.push(0);
    }

    /// An array of what `write` writes, whose elements begin at multiples of `align`.
    fn array(&mut self, align: usize, write: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.0.len();
        self.align(align);
        let start = self.0.len();
        write(self);
        let bytes = length(self.0.len() - start).to_le_bytes();
        self.0[at - 4..at].copy_from_slice(&bytes);
    }

    /// `as`
    pub(super) fn strings(&mut self, texts: &[&str]) {
        self.array(4, |writer| {
            for text in texts {
                writer.string(text);
            }
        });
    }

    /// `a{sv}` with one byte in it.
    pub(super) fn dictionary_of_byte(&mut self, key: &str, byte: u8) {
        self.array(8, |writer| {
            writer.align(8);
            writer.string(key);
            writer.signature("y");
            writer.0.push(byte);
        });
    }

    fn field(&mut self, code: u8, signature: &str, text: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        match signature {
            "g" => self.signature(text),
            _ => self.string(text),
        }
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Call {
    /// As it is sent, under that number.
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut out = Writer(vec![b'l', 1, 0, 1]);
        out.number(length(self.body.len()));
        out.number(serial);
        out.array(8, |out| {
            out.field(1, "o", self.path);
            out.field(2, "s", self.interface);
            out.field(3, "s", self.member);
            out.field(6, "s", self.destination);
            if !self.signature.is_empty() {
                out.field(8, "g", self.signature);
            }
        });
        out.align(8);
        out.0.extend_from_slice(&self.body);
        out.0
    }
}

/// Reads values.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// `u`
    pub(super) fn number(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = self.take(4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    /// `s`, or `o`
    pub(super) fn string(&mut self) -> Option<String> {
        let length = self.number()?;
        self.text(usize::try_from(length).ok()?)
    }

    /// `g`
    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?;
        self.text(length.into())
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        (self.byte()? == 0).then_some(text)
    }
}

impl Message {
    /// The body's values.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader {
            bytes: &self.body,
            at: 0,
        }
    }

    /// The first message of what has come, and its length; none yet.
    ///
    /// # Errors
    /// [`Malformed`]
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut reader = Reader { bytes, at: 0 };
        let Some(fixed) = reader.take(FIXED_BYTES) else {
            return Ok(None);
        };
        let number = |at: usize| {
            let bytes = fixed[at..at + 4].try_into().unwrap_or_default();
            usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let (order, kind, version) = (fixed[0], fixed[1], fixed[3]);
        let (body_bytes, fields_bytes) = (number(4), number(12));
        if order != b'l' || version != 1 || body_bytes.max(fields_bytes) > MAX_MESSAGE_BYTES {
            return Err(Malformed);
        }
        let fields_end = FIXED_BYTES + fields_bytes;
        let body_start = fields_end.next_multiple_of(8);
        let end = body_start + body_bytes;
        if bytes.len() < end {
            return Ok(None);
        }
        let kind = match kind {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Err(Malformed),
        };
        let mut message = Self {
            kind,
            member: String::new(),
            error: String::new(),
            reply_to: 0,
            body: bytes[body_start..end].to_vec(),
        };
        let mut fields = Reader {
            bytes: &bytes[..fields_end],
            at: FIXED_BYTES,
        };
        while fields.at < fields_end {
            message.field(&mut fields).ok_or(Malformed)?;
            fields.align(8);
        }
        Ok(Some((message, end)))
    }

    fn field(&mut self, fields: &mut Reader<'_>) -> Option<()> {
        let (code, signature) = (fields.byte()?, fields.signature()?);
        match signature.as_str() {
            "u" => {
                let number = fields.number()?;
                if code == 5 {
                    self.reply_to = number;
                }
            }
            "s" | "o" => {
                let text = fields.string()?;
                match code {
                    3 => self.member = text,
                    4 => self.error = text,
                    _ => {}
                }
            }
            "g" => drop(fields.signature()?),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(number: u32) -> Vec<u8> {
        let mut body = Writer::default();
        body.number(number);
        let call = Call {
            destination: "org.freedesktop.Notifications",
            path: "/org/freedesktop/Notifications",
            interface: "org.freedesktop.Notifications",
            member: "CloseNotification",
            signature: "u",
            body: body.into_bytes(),
        };
        call.encode(7)
    }

    #[test]
    fn a_message_is_read_as_it_was_written_however_much_of_it_has_come() {
        let bytes = [close(5), close(6)].concat();
        let length = close(5).len();
        for cut in 0..length {
            assert_eq!(Message::decode(&bytes[..cut]), Ok(None), "{cut}");
        }
        let (message, read) = Message::decode(&bytes).expect("right").expect("whole");
        assert_eq!(read, length);
        assert_eq!(
            (message.kind, message.member.as_str()),
            (Kind::Call, "CloseNotification")
        );
        assert_eq!(message.reader().number(), Some(5));
        assert_eq!(message.reader().string(), None);
    }

    /// By the specification's own example of a struct in an array, and by hand.
    #[test]
    fn values_stand_where_they_may() {
        let mut writer = Writer::default();
        writer.strings(&["a", "bc"]);
        writer.dictionary_of_byte("k", 2);
        let expected = [
            &[15, 0, 0, 0][..],
            &[1, 0, 0, 0, b'a', 0, 0, 0],
            &[2, 0, 0, 0, b'b', b'c', 0],
            &[0, 10, 0, 0, 0],
            &[1, 0, 0, 0, b'k', 0, 1, b'y', 0, 2],
        ]
        .concat();
        assert_eq!(writer.into_bytes(), expected);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Message::decode(&bytes).ok();
            for (at, byte) in [b'l', 2, 0, 1, 8, 0, 0, 0].into_iter().enumerate() {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            if let Some(place) = bytes.get_mut(13..16) {
                place.fill(0);
            }
            if let Ok(Some((message, _))) = Message::decode(&bytes) {
                let mut body = message.reader();
                body.number();
                body.string();
            }
        }
    }
}
