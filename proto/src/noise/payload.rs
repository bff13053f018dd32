//! Framing of the CRYPTO streams, and the fields inside the Noise payloads.
//!
//! quinn hands over CRYPTO bytes as contiguous chunks of any size, never message by message, so every
//! message carries its own length and is put together here:
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | `Kind` |
//! | 1 | 3 | length of the body, big endian, at most `MAX_MESSAGE` |
//! | 4 | length | body |
//!
//! A Noise payload is a row of fields, tags strictly ascending:
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | tag: 1 transport parameters, 2 protocols, 3 app, 4 ML-KEM |
//! | 1 | 2 | length of the value, big endian |
//! | 3 | length | value |

/// Most that the body of one message may have; quinn's own `crypto_buffer_size` is 16 KiB.
pub const MAX_MESSAGE: usize = 12 * 1024;
/// Kind and length.
const HEADER: usize = 4;

/// Which message this is. One kind is allowed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Client, Initial: `[psk_id (16) if the profile has psk0] noise message 1`.
    M1 = 1,
    /// Server, Initial: `noise message 2`.
    M2 = 2,
    /// Server, Handshake: `HMAC-SHA256(s fin, h2)`.
    ServerFinished = 3,
    /// Client, Handshake: `noise message 3`.
    M3 = 4,
}

/// Bytes of the peer that are not what may stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed handshake message")]
pub struct Malformed;

/// Something of our own that does not fit its length field or the receiver's cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too long for a handshake message")]
pub struct TooLong;

/// Appends a message with its header.
///
/// # Errors
/// When the body is longer than [`MAX_MESSAGE`]; nothing is written then.
pub fn write_message(out: &mut Vec<u8>, kind: Kind, body: &[u8]) -> Result<(), TooLong> {
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_MESSAGE)
        .ok_or(TooLong)?;
    out.push(kind as u8);
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(body);
    Ok(())
}

/// Puts messages together from chunks of any size.
#[derive(Debug, Default)]
pub struct Reassembler {
    buffer: Vec<u8>,
}

impl Reassembler {
    /// Appends a chunk.
    ///
    /// # Errors
    /// When more than one message of full size would be held.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        if chunk.len() > HEADER + MAX_MESSAGE - self.buffer.len() {
            return Err(Malformed);
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    /// Takes the next message once it is complete.
    ///
    /// # Errors
    /// When it is not of the one kind that may come now, or announces too much.
    pub fn next(&mut self, expected: Kind) -> Result<Option<Vec<u8>>, Malformed> {
        let Some((&kind, rest)) = self.buffer.split_first() else {
            return Ok(None);
        };
        if kind != expected as u8 {
            return Err(Malformed);
        }
        let Some((&[high, middle, low], rest)) = rest.split_first_chunk::<3>() else {
            return Ok(None);
        };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > MAX_MESSAGE {
            return Err(Malformed);
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let body = body.to_vec();
        self.buffer.drain(..HEADER + length);
        Ok(Some(body))
    }

    /// Nothing waits in here.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// The fields of a Noise payload.
///
/// Ascending tags make duplicates impossible. Unknown tags below 0x80 are skipped, so that fields can be
/// added; unknown ones from 0x80 on are refused, so that fields can be added which must be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// QUIC transport parameters (RFC 9000 §18): M1 and M2.
    pub transport_parameters: Option<Vec<u8>>,
    /// Client: the protocols it offers, best first. Server: exactly the one it chose.
    pub alpn: Vec<Vec<u8>>,
    /// Opaque at this layer.
    pub app: Vec<u8>,
    /// ML-KEM-768 encapsulation key (M1) or ciphertext (M2).
    pub kem: Option<Vec<u8>>,
}

const TAG_TRANSPORT: u8 = 1;
const TAG_ALPN: u8 = 2;
const TAG_APP: u8 = 3;
const TAG_KEM: u8 = 4;

impl Payload {
    /// Writes the fields that are there.
    ///
    /// # Errors
    /// When one does not fit its length.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let mut out = Vec::new();
        if let Some(parameters) = &self.transport_parameters {
            put(&mut out, TAG_TRANSPORT, parameters)?;
        }
        if !self.alpn.is_empty() {
            put(&mut out, TAG_ALPN, &encode_alpn(&self.alpn)?)?;
        }
        if !self.app.is_empty() {
            put(&mut out, TAG_APP, &self.app)?;
        }
        if let Some(kem) = &self.kem {
            put(&mut out, TAG_KEM, kem)?;
        }
        Ok(out)
    }

    /// Reads fields until the end.
    ///
    /// # Errors
    /// When tags do not ascend, a value is cut, or a field that must be understood is unknown.
    pub fn decode(mut rest: &[u8]) -> Result<Self, Malformed> {
        let mut payload = Self::default();
        let mut last = 0;
        while let Some((&tag, after)) = rest.split_first() {
            let (&length, after) = after.split_first_chunk::<2>().ok_or(Malformed)?;
            let (value, after) = after
                .split_at_checked(u16::from_be_bytes(length).into())
                .ok_or(Malformed)?;
            if tag <= last {
                return Err(Malformed);
            }
            (last, rest) = (tag, after);
            match tag {
                TAG_TRANSPORT => payload.transport_parameters = Some(value.to_vec()),
                TAG_ALPN => payload.alpn = decode_alpn(value)?,
                TAG_APP => payload.app = value.to_vec(),
                TAG_KEM => payload.kem = Some(value.to_vec()),
                0x80.. => return Err(Malformed),
                _ => {}
            }
        }
        Ok(payload)
    }
}

fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) -> Result<(), TooLong> {
    let length = u16::try_from(value.len()).map_err(|_| TooLong)?;
    out.push(tag);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// As in RFC 7301 §3.1: a byte of length, then the name.
fn encode_alpn(names: &[Vec<u8>]) -> Result<Vec<u8>, TooLong> {
    let mut out = Vec::new();
    for name in names {
        out.push(u8::try_from(name.len()).map_err(|_| TooLong)?);
        out.extend_from_slice(name);
    }
    Ok(out)
}

fn decode_alpn(mut rest: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut names = Vec::new();
    while let Some((&length, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(length.into()).ok_or(Malformed)?;
        if name.is_empty() {
            return Err(Malformed);
        }
        names.push(name.to_vec());
        rest = after;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_fields_are_unique_and_ordered() {
        assert!(Payload::decode(&[1, 0, 0, 3, 0, 1, 7]).is_ok());
        assert!(
            Payload::decode(&[3, 0, 1, 7, 1, 0, 0]).is_err(),
            "descending"
        );
        assert!(Payload::decode(&[3, 0, 1, 7, 3, 0, 1, 8]).is_err(), "twice");
        assert!(
            Payload::decode(&[0, 0, 0]).is_err(),
            "zero is below every tag"
        );
        assert!(
            Payload::decode(&[0x7f, 0, 1, 7]).is_ok(),
            "unknown, may be skipped"
        );
        assert!(
            Payload::decode(&[0x80, 0, 1, 7]).is_err(),
            "unknown, must be understood"
        );
        assert!(Payload::decode(&[1, 0, 2, 7]).is_err(), "cut short");
        assert!(
            Payload::decode(&[2, 0, 1, 0]).is_err(),
            "a protocol without a name"
        );
        assert!(
            Payload::decode(&[2, 0, 2, 2, 7]).is_err(),
            "a name cut short"
        );
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut out = Vec::new();
        assert_eq!(
            write_message(&mut out, Kind::M1, &[0; MAX_MESSAGE + 1]),
            Err(TooLong)
        );
        assert!(out.is_empty());
        assert_eq!(
            Payload {
                app: vec![0; 65_536],
                ..Payload::default()
            }
            .encode(),
            Err(TooLong)
        );
        assert_eq!(
            Payload {
                alpn: vec![vec![b'a'; 256]],
                ..Payload::default()
            }
            .encode(),
            Err(TooLong)
        );
    }

    #[test]
    fn a_message_of_full_size_is_taken_and_a_longer_one_is_not_stored() {
        let mut buffer = Reassembler::default();
        let mut message = Vec::new();
        write_message(&mut message, Kind::M1, &[9; MAX_MESSAGE]).unwrap();
        buffer.push(&message).unwrap();
        assert_eq!(buffer.next(Kind::M1), Ok(Some(vec![9; MAX_MESSAGE])));
        assert!(buffer.is_empty());
        message.push(0);
        assert_eq!(buffer.push(&message), Err(Malformed));
    }
}
