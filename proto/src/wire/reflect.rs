//! Address reflection: "from which address do you see me?", answered with no state and no amplification.
//!
//! | offset | size | request | response |
//! |---|---|---|---|
//! | 0 | 1 | 0x05 | 0x05 |
//! | 1 | 1 | 0 | 1 |
//! | 2 | 8 | transaction: random, chosen by the asker | the same |
//! | 10 | 19 | 0 | the address, see `address` |
//!
//! Both are 29 bytes: the answer is never longer than the question.

use std::net::SocketAddr;

use super::address;

/// Length of request and response.
pub const LEN: usize = ADDRESS_AT + address::LEN;
const ADDRESS_AT: usize = 10;

/// A request for `transaction`.
pub fn request(transaction: u64) -> [u8; LEN] {
    let mut out = [0; LEN];
    out[0] = super::FIRST_BYTE_REFLECT;
    out[2..10].copy_from_slice(&transaction.to_be_bytes());
    out
}

/// The response to a datagram from `source`, if it is a well-formed request.
pub fn respond(datagram: &[u8], source: SocketAddr) -> Option<[u8; LEN]> {
    let mut out: [u8; LEN] = datagram.try_into().ok()?;
    if out[0] != super::FIRST_BYTE_REFLECT
        || out[1] != 0
        || out[ADDRESS_AT..].iter().any(|&byte| byte != 0)
    {
        return None;
    }
    out[1] = 1;
    out[ADDRESS_AT..].copy_from_slice(&address::encode(source));
    Some(out)
}

/// Transaction and address from a response; `None` when it is not one.
pub fn decode_response(datagram: &[u8]) -> Option<(u64, SocketAddr)> {
    let bytes: &[u8; LEN] = datagram.try_into().ok()?;
    if bytes[..2] != [super::FIRST_BYTE_REFLECT, 1] {
        return None;
    }
    let transaction = u64::from_be_bytes(*bytes[2..].first_chunk()?);
    Some((transaction, address::decode(&bytes[ADDRESS_AT..])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asker_learns_its_address() {
        for source in ["192.0.2.1:5000", "[2001:db8::1]:6000"] {
            let source: SocketAddr = source.parse().expect("an address");
            let answer = respond(&request(42), source).expect("well-formed");
            assert_eq!(decode_response(&answer), Some((42, source)));
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().expect("an address");
        let answer = respond(&request(1), mapped).expect("well-formed");
        assert_eq!(
            decode_response(&answer),
            Some((1, "192.0.2.1:7".parse().expect("an address")))
        );
    }

    #[test]
    fn a_response_is_never_answered() {
        let source = SocketAddr::from(([192, 0, 2, 1], 9));
        let answer = respond(&request(1), source).expect("well-formed");
        assert_eq!(respond(&answer, source), None);
        assert_eq!(respond(&request(1)[..28], source), None);
        assert_eq!(decode_response(&request(1)), None);
    }
}
