//! Address reflection: "from which address do you see me, and how much have you to do?", answered with no state and no
//! amplification.
//!
//! | offset | size | request | response |
//! |---|---|---|---|
//! | 0 | 1 | 0x05 | 0x05 |
//! | 1 | 1 | 0 | 1 and, added to it, the load of who answers, see `Load` |
//! | 2 | 8 | transaction: random, chosen by the asker | the same |
//! | 10 | 19 | 0 | the address, see `address` |
//!
//! Both are 29 bytes: the answer is never longer than the question.

use std::net::SocketAddr;

use super::address;

/// How much a relay has to do, from 0 (nothing) to 254: eight steps for each doubling of its nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load(u8);

impl Load {
    /// Of a relay that takes nobody: it is about to stop.
    pub const FULL: Self = Self(254);

    /// Of a relay with so many nodes.
    pub fn of_nodes(nodes: usize) -> Self {
        let Some(doublings) = nodes.checked_ilog2() else {
            return Self(0);
        };
        // What is left between two powers of two, as an eighth: the three bits below the highest.
        let eighth = match doublings.checked_sub(3) {
            Some(lower) => nodes >> lower,
            None => nodes << (3 - doublings),
        } & 7;
        let steps = usize::try_from(doublings).unwrap_or(usize::MAX) * 8 + eighth + 1;
        Self(u8::try_from(steps).map_or(Self::FULL.0 - 1, |steps| steps.min(Self::FULL.0 - 1)))
    }

    /// Whether another one has clearly less to do: seven tenths of the nodes, or fewer.
    pub fn is_more_than(self, other: Self) -> bool {
        self.0 >= other.0.saturating_add(4)
    }

    /// As a byte, for whoever shares it among threads.
    pub fn to_byte(self) -> u8 {
        self.0
    }

    /// From such a byte.
    pub fn from_byte(byte: u8) -> Self {
        Self(byte.min(Self::FULL.0))
    }
}

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reflection {
    /// Of the request.
    pub transaction: u64,
    /// How the asker is seen.
    pub seen: SocketAddr,
    /// Of who answers.
    pub load: Load,
}

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

/// The response to a datagram from `source`, if it is a well-formed request, of who has so much to do.
pub fn respond(datagram: &[u8], source: SocketAddr, load: Load) -> Option<[u8; LEN]> {
    let mut out: [u8; LEN] = datagram.try_into().ok()?;
    if out[0] != super::FIRST_BYTE_REFLECT
        || out[1] != 0
        || out[ADDRESS_AT..].iter().any(|&byte| byte != 0)
    {
        return None;
    }
    out[1] = 1 + load.0;
    out[ADDRESS_AT..].copy_from_slice(&address::encode(source));
    Some(out)
}

/// What a response says; `None` when it is not one.
pub fn decode_response(datagram: &[u8]) -> Option<Reflection> {
    let bytes: &[u8; LEN] = datagram.try_into().ok()?;
    if bytes[0] != super::FIRST_BYTE_REFLECT {
        return None;
    }
    Some(Reflection {
        transaction: u64::from_be_bytes(*bytes[2..].first_chunk()?),
        seen: address::decode(&bytes[ADDRESS_AT..])?,
        load: Load(bytes[1].checked_sub(1)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asker_learns_its_address_and_how_much_there_is_to_do() {
        let mapped = "[::ffff:192.0.2.1]:5000";
        for (source, seen) in [
            ("192.0.2.1:5000", "192.0.2.1:5000"),
            ("[2001:db8::1]:6000", "[2001:db8::1]:6000"),
            (mapped, "192.0.2.1:5000"),
        ] {
            for load in [Load::default(), Load::of_nodes(300), Load::FULL] {
                let source = source.parse().expect("an address");
                let answer = respond(&request(42), source, load).expect("well-formed");
                let reflection = Reflection {
                    transaction: 42,
                    seen: seen.parse().expect("an address"),
                    load,
                };
                assert_eq!(decode_response(&answer), Some(reflection));
            }
        }
    }

    #[test]
    fn a_response_is_never_answered() {
        let source = SocketAddr::from(([192, 0, 2, 1], 9));
        let answer = respond(&request(1), source, Load::default()).expect("well-formed");
        assert_eq!(respond(&answer, source, Load::default()), None);
        assert_eq!(respond(&request(1)[..28], source, Load::default()), None);
        assert_eq!(decode_response(&request(1)), None);
    }

    #[test]
    fn more_nodes_are_never_less_load() {
        let mut nodes: Vec<usize> = (0..4096).collect();
        nodes.extend((12..usize::BITS).map(|bit| 1 << bit));
        nodes.push(usize::MAX);
        let loads: Vec<_> = nodes.into_iter().map(Load::of_nodes).collect();
        assert!(loads.is_sorted());
        assert_eq!(loads[0], Load::default());
        // An eighth more is seen, and half as much again is clearly more.
        assert!(Load::of_nodes(800) < Load::of_nodes(900));
        assert!(!Load::of_nodes(900).is_more_than(Load::of_nodes(800)));
        assert!(Load::of_nodes(1200).is_more_than(Load::of_nodes(800)));
        assert!(!Load::FULL.is_more_than(Load::FULL));
        assert!(loads.iter().all(|&load| load < Load::FULL));
        assert!(
            loads
                .iter()
                .all(|&load| Load::from_byte(load.to_byte()) == load)
        );
        assert_eq!(Load::from_byte(u8::MAX), Load::FULL);
    }
}
