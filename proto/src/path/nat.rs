//! What a node's NAT does, as far as the addresses tell from which others see its sockets.
//!
//! Mapping (RFC 4787 §4.1) tells whether two nodes need more than checks; how ports are allotted (§4.2) tells what.

use std::net::SocketAddr;

use super::way::Base;
use crate::wire::message::session as schema;

/// How one socket was seen by one observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The socket.
    pub base: Base,
    /// Who saw it.
    pub observer: SocketAddr,
    /// As what.
    pub seen: SocketAddr,
    /// It was asked more than once, so that it may have come after others that were asked later.
    pub is_late: bool,
}

/// What stands between a node and everybody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// What the address depends on that others see.
    pub mapping: Mapping,
}

/// What a socket's mapping depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// Nobody has found out: one observer is not enough.
    #[default]
    Unknown,
    /// Nothing: all see the same address; or there is no NAT.
    Independent,
    /// Whom it sends to: each sees another port.
    Dependent(Allocation),
}

/// How a NAT chooses the port of a new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// The last one and this many, from 1 to [`MAX_STEP`].
    Sequential {
        /// From one to the next.
        step: u16,
    },
    /// Any of these: at most [`MAX_BLOCK`], none beyond 65,535.
    Block {
        /// The lowest.
        first: u16,
        /// How many.
        size: u16,
    },
    /// Any.
    Random,
}

/// Ports further apart than this do not follow each other.
pub const MAX_STEP: u16 = 32;
/// Aligned blocks that are told by their bounds.
const BLOCKS: [u16; 5] = [256, 512, 1024, 2048, 4096];
/// Samples that are spread as wide are of no block.
const MAX_SPREAD: u16 = 8192;
/// With this many samples at least a spread, or steps, tell something.
const ENOUGH: usize = 4;
/// Most ports of a block: the widest spread, and what the fewest samples leave out on both sides.
pub const MAX_BLOCK: u16 = MAX_SPREAD + 2 * (MAX_SPREAD / 3);

impl Nat {
    /// By the samples, in the order in which the sockets sent.
    pub fn of(samples: &[Sample]) -> Self {
        let mut main = samples.iter().filter(|sample| sample.base == Base::MAIN);
        let Some(first) = main.next() else {
            return Self::default();
        };
        let others: Vec<_> = main
            .filter(|sample| sample.observer != first.observer)
            .collect();
        let mapping = if others.is_empty() {
            Mapping::Unknown
        } else if others.iter().all(|other| other.seen == first.seen) {
            Mapping::Independent
        } else {
            Mapping::Dependent(Allocation::of(samples))
        };
        Self { mapping }
    }

    /// Its ports, when it has another one for each destination.
    pub fn allocation(&self) -> Option<Allocation> {
        match self.mapping {
            Mapping::Dependent(allocation) => Some(allocation),
            Mapping::Unknown | Mapping::Independent => None,
        }
    }
}

impl Allocation {
    fn of(samples: &[Sample]) -> Self {
        let fresh = samples.iter().filter(|sample| sample.base != Base::MAIN);
        let fresh: Vec<_> = fresh.copied().collect();
        let all: Vec<_> = samples.iter().map(|sample| sample.seen.port()).collect();
        let sequential = step(&fresh).map(|step| Self::Sequential { step });
        sequential.or_else(|| block(&all)).unwrap_or(Self::Random)
    }
}

/// The most frequent of the differences, the smallest of several, when all but one of them are those of ports in turn and some are
/// alike; one more may not be for each sample that is late, whose turn was another.
fn step(samples: &[Sample]) -> Option<u16> {
    let steps = |ports: &[u16]| {
        let differences = ports.windows(2).map(|two| two[1].wrapping_sub(two[0]));
        let steps = differences.filter(|step| (1..=MAX_STEP).contains(step));
        steps.collect::<Vec<_>>()
    };
    let mut ports: Vec<_> = samples.iter().map(|sample| sample.seen.port()).collect();
    let late = samples.iter().filter(|sample| sample.is_late).count();
    let in_turn = steps(&ports).len();
    ports.sort_unstable();
    let steps = steps(&ports);
    if ports.len() < ENOUGH || in_turn + 2 + late < ports.len() || steps.len() + 2 < ports.len() {
        return None;
    }
    let frequency = |step: u16| steps.iter().filter(|other| **other == step).count();
    let repeated = steps.iter().copied().filter(|step| frequency(*step) > 1);
    repeated.min_by_key(|&step| (usize::MAX - frequency(step), step))
}

/// The smaller of two: the smallest aligned block in which all of them are; and, as the number of tanks is estimated from their
/// serial numbers, what reaches beyond them by the mean gap between two.
fn block(ports: &[u16]) -> Option<Allocation> {
    let (&low, &high) = (ports.iter().min()?, ports.iter().max()?);
    let spread = high - low;
    if ports.len() < ENOUGH || spread >= MAX_SPREAD {
        return None;
    }
    let gap = spread / u16::try_from(ports.len() - 1).unwrap_or(u16::MAX);
    let first = low.saturating_sub(gap);
    let estimate = (high.saturating_add(gap) - first, first);
    let aligned = BLOCKS.into_iter().find(|size| low / size == high / size);
    let aligned = aligned.map(|size| (size, low / size * size));
    let (size, first) = aligned.map_or(estimate, |aligned| aligned.min(estimate));
    let size = size.max(1);
    Some(Allocation::Block { first, size })
}

/// As it is told to the other side.
pub(super) fn encode(nat: &Nat) -> schema::Nat {
    let mapping = |mapping: schema::Mapping| schema::Nat {
        mapping: mapping.into(),
        ..schema::Nat::default()
    };
    match nat.mapping {
        Mapping::Unknown => mapping(schema::Mapping::Unspecified),
        Mapping::Independent => mapping(schema::Mapping::Independent),
        Mapping::Dependent(Allocation::Random) => mapping(schema::Mapping::Random),
        Mapping::Dependent(Allocation::Sequential { step }) => schema::Nat {
            step: step.into(),
            ..mapping(schema::Mapping::Sequential)
        },
        Mapping::Dependent(Allocation::Block { first, size }) => schema::Nat {
            first: first.into(),
            size: size.into(),
            ..mapping(schema::Mapping::Block)
        },
    }
}

/// What the other side told; what makes no sense is unknown.
pub(super) fn decode(nat: &schema::Nat) -> Nat {
    let port = |port: u32| u16::try_from(port).ok();
    let allocation = match nat.mapping() {
        schema::Mapping::Unspecified => None,
        schema::Mapping::Independent => {
            let mapping = Mapping::Independent;
            return Nat { mapping };
        }
        schema::Mapping::Random => Some(Allocation::Random),
        schema::Mapping::Sequential => port(nat.step)
            .filter(|step| (1..=MAX_STEP).contains(step))
            .map(|step| Allocation::Sequential { step }),
        schema::Mapping::Block => port(nat.first)
            .zip(port(nat.size))
            .filter(|&(first, size)| {
                (1..=MAX_BLOCK).contains(&size) && first.checked_add(size - 1).is_some()
            })
            .map(|(first, size)| Allocation::Block { first, size }),
    };
    Nat {
        mapping: allocation.map_or(Mapping::Unknown, Mapping::Dependent),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(base: u16, observer: u16, port: u16) -> Sample {
        Sample {
            base: Base(base),
            observer: SocketAddr::from(([198, 51, 100, 1], observer)),
            seen: SocketAddr::from(([203, 0, 113, 1], port)),
            is_late: false,
        }
    }

    /// The main socket as three observers see it, and as one sees five others.
    fn mapping(main: [u16; 3], fresh: [u16; 5]) -> Mapping {
        let main = (1..)
            .zip(main)
            .map(|(observer, port)| sample(0, observer, port));
        let fresh = (1..).zip(fresh).map(|(base, port)| sample(base, 1, port));
        Nat::of(&main.chain(fresh).collect::<Vec<_>>()).mapping
    }

    #[test]
    fn one_observer_tells_nothing_and_two_tell_whether_it_depends_on_them() {
        for (samples, expected) in [
            (vec![], Mapping::Unknown),
            (vec![sample(0, 1, 5000)], Mapping::Unknown),
            (
                vec![sample(0, 1, 5000), sample(0, 1, 5001)],
                Mapping::Unknown,
            ),
            (
                vec![sample(0, 1, 5000), sample(0, 2, 5000)],
                Mapping::Independent,
            ),
            (
                vec![sample(0, 1, 5000), sample(0, 2, 5001)],
                Mapping::Dependent(Allocation::Random),
            ),
        ] {
            assert_eq!(Nat::of(&samples).mapping, expected, "{samples:?}");
        }
    }

    #[test]
    fn ports_in_turn_are_told_from_ports_of_a_block_and_those_from_any() {
        let sequential = |step| Mapping::Dependent(Allocation::Sequential { step });
        let block = |first, size| Mapping::Dependent(Allocation::Block { first, size });
        for (main, fresh, expected) in [
            (
                [5000, 5001, 5002],
                [5003, 5004, 5005, 5006, 5007],
                sequential(1),
            ),
            (
                [5000, 5002, 5004],
                [5006, 5008, 5012, 5014, 5050],
                sequential(2),
            ),
            (
                [65_533, 65_534, 65_535],
                [1024, 1025, 1026, 1030, 1031],
                sequential(1),
            ),
            (
                [5000, 5001, 5002],
                [5003, 65_535, 1024, 1026, 1028],
                block_or_random(),
            ),
            (
                [4096, 4351, 4200],
                [4340, 4099, 4199, 4120, 4310],
                block(4096, 256),
            ),
            (
                [8192, 12_287, 9000],
                [10_000, 12_000, 8200, 9900, 11_000],
                block(8192, 4096),
            ),
            (
                [20_000, 20_511, 20_400],
                [20_490, 20_300, 20_100, 20_123, 20_200],
                block(19_927, 657),
            ),
            (
                [60_000, 65_535, 62_000],
                [61_000, 65_000, 60_500, 63_000, 64_000],
                block(59_210, 6325),
            ),
            (
                [2000, 40_000, 9000],
                [33_000, 61_000, 15_000, 22_000, 50_000],
                block_or_random(),
            ),
        ] {
            assert_eq!(mapping(main, fresh), expected, "{main:?} {fresh:?}");
        }
        fn block_or_random() -> Mapping {
            Mapping::Dependent(Allocation::Random)
        }
    }

    #[test]
    fn what_was_lost_and_asked_again_hides_no_turn() {
        let nat = |late: &[usize]| {
            let mut samples = vec![sample(0, 1, 5000), sample(0, 2, 5001)];
            let fresh = [5002, 5005, 5003, 5006, 5004];
            samples.extend((1..).zip(fresh).map(|(base, port)| sample(base, 1, port)));
            for at in late {
                samples[2 + at].is_late = true;
            }
            Nat::of(&samples).allocation()
        };
        let step = Some(Allocation::Sequential { step: 1 });
        assert_eq!(nat(&[1, 3]), step);
        assert_ne!(nat(&[]), step);
    }

    proptest! {
        /// Whatever was seen: it crosses as it is, and what a plan works with is bounded.
        #[test]
        fn what_was_seen_crosses_as_it_is(ports in prop::collection::vec(any::<u16>(), 0..12), narrow in 0..14_u32) {
            let samples = ports.iter().enumerate().map(|(n, port)| {
                let n = u16::try_from(n).expect("few");
                sample(n.saturating_sub(2), n, (port >> narrow).wrapping_add(30_000))
            });
            let nat = Nat::of(&samples.collect::<Vec<_>>());
            prop_assert_eq!(decode(&encode(&nat)), nat);
        }

        #[test]
        fn what_is_told_is_bounded(mapping: i32, step: u32, first: u32, size: u32, small: bool) {
            let (mapping, mask) = if small { (mapping.rem_euclid(6), 0x3fff) } else { (mapping, u32::MAX) };
            let nat = decode(&schema::Nat { mapping, step: step & mask, first: first & mask, size: size & mask });
            match nat.allocation() {
                Some(Allocation::Sequential { step }) => prop_assert!((1..=MAX_STEP).contains(&step)),
                Some(Allocation::Block { first, size }) => {
                    prop_assert!((1..=MAX_BLOCK).contains(&size));
                    prop_assert!(u32::from(first) + u32::from(size) <= 65_536);
                }
                Some(Allocation::Random) | None => {}
            }
            prop_assert_eq!(decode(&encode(&nat)), nat);
        }
    }
}
