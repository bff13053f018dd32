//! What was sent, what came back, and how long that took. Pure.
//!
//! Each frame carries behind its prefix who sent it, and when:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | the run's number |
//! | 4 | 4 | the lane's number |
//! | 8 | 8 | sequence, over all lanes |
//! | 16 | 8 | when it was sent, nanoseconds since the load began |

use hdrhistogram::Histogram;

/// Latencies are told apart within 0.1 %, up to ten seconds; whoever is slower is as slow.
const MAX_LATENCY_NS: u64 = 10_000_000_000;
const SIGNIFICANT_FIGURES: u8 = 3;

/// The bytes behind a frame's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) run: u32,
    pub(super) lane: u32,
    pub(super) sequence: u64,
    pub(super) sent_ns: u64,
}

/// Their number.
pub const STAMP_BYTES: usize = 24;

impl Stamp {
    pub(super) fn encode(self) -> [u8; STAMP_BYTES] {
        let mut out = [0; STAMP_BYTES];
        out[..4].copy_from_slice(&self.run.to_le_bytes());
        out[4..8].copy_from_slice(&self.lane.to_le_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..].copy_from_slice(&self.sent_ns.to_le_bytes());
        out
    }

    fn decode(data: &[u8]) -> Option<Self> {
        let stamp = data.first_chunk::<STAMP_BYTES>()?;
        let long = |at: usize| {
            stamp[at..]
                .first_chunk()
                .map(|bytes| u64::from_le_bytes(*bytes))
        };
        let short = |at: usize| {
            stamp[at..]
                .first_chunk()
                .map(|bytes| u32::from_le_bytes(*bytes))
        };
        Some(Self {
            run: short(0)?,
            lane: short(4)?,
            sequence: long(8)?,
            sent_ns: long(16)?,
        })
    }
}

/// The lane that a frame's data names.
pub(super) fn lane_of(data: &[u8]) -> Option<usize> {
    let stamp = Stamp::decode(data)?;
    usize::try_from(stamp.lane).ok()
}

/// What one run of the load came to.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Frames sent while it counted.
    pub sent: u64,
    /// Those of them that arrived, if only afterwards.
    pub delivered: u64,
    /// Frames that arrived while it counted, whenever they were sent.
    pub arrived: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Arrived and were never sent, or belong to another session.
    pub foreign: u64,
    /// Lanes that had frames and got none.
    pub silent_lanes: usize,
    /// From sending a frame to having it, of those that count.
    pub latency_ns: Histogram<u64>,
    /// The same for each lane, where that was asked for.
    pub by_lane: Vec<LaneCounts>,
}

/// What one lane came to.
#[derive(Clone, Debug)]
pub struct LaneCounts {
    /// Frames sent while it counted.
    pub sent: u64,
    /// Those of them that arrived.
    pub delivered: u64,
    /// From sending a frame to having it.
    pub latency_ns: Histogram<u64>,
}

impl LaneCounts {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never: the bounds are valid.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            sent: 0,
            delivered: 0,
            latency_ns: latencies()?,
        })
    }
}

fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(
        1,
        MAX_LATENCY_NS,
        SIGNIFICANT_FIGURES,
    )?)
}

/// The books of one run.
#[derive(Debug)]
pub(super) struct Tally {
    run: u32,
    /// The length of the data, by which a foreign frame is known, too.
    data_bytes: usize,
    next_sequence: u64,
    /// Which frames count: these, and those after them.
    first_counted: u64,
    /// But none from here on.
    end_counted: u64,
    /// A bit for each sequence number that has arrived.
    arrived_bits: Vec<u64>,
    given_up: u64,
    arrived_all: u64,
    /// Of each lane: had a frame, got a frame.
    lanes: Vec<[bool; 2]>,
    counts: Counts,
    counting: bool,
}

impl Tally {
    pub(super) fn new(
        run: u32,
        lanes: usize,
        data_bytes: usize,
        by_lane: bool,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            run,
            data_bytes,
            next_sequence: 0,
            first_counted: u64::MAX,
            end_counted: u64::MAX,
            arrived_bits: Vec::new(),
            given_up: 0,
            arrived_all: 0,
            lanes: vec![[false; 2]; lanes],
            counts: Counts {
                sent: 0,
                delivered: 0,
                arrived: 0,
                duplicated: 0,
                foreign: 0,
                silent_lanes: 0,
                latency_ns: latencies()?,
                by_lane: (0..if by_lane { lanes } else { 0 })
                    .map(|_| LaneCounts::new())
                    .collect::<Result<_, _>>()?,
            },
            counting: false,
        })
    }

    /// The stamp of the next frame of `lane`.
    pub(super) fn stamp(&mut self, lane: u32, now_ns: u64) -> Stamp {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        if sequence.is_multiple_of(64) {
            self.arrived_bits.push(0);
        }
        self.lanes[lane as usize][0] = true;
        if self.counting
            && let Some(counts) = self.counts.by_lane.get_mut(lane as usize)
        {
            counts.sent += 1;
        }
        Stamp {
            run: self.run,
            lane,
            sequence,
            sent_ns: now_ns,
        }
    }

    /// From now on it counts.
    pub(super) fn start(&mut self) {
        self.first_counted = self.next_sequence;
        self.end_counted = u64::MAX;
        self.counting = true;
    }

    /// Frames sent from now on do not count, nor does their arriving, until it starts again.
    pub(super) fn stop(&mut self) {
        self.end_counted = self.next_sequence;
        self.counts.sent += self.end_counted - self.first_counted;
        self.counting = false;
    }

    /// A frame's data has arrived where only those of `lane` do; true when it is one of this run, for the first time.
    pub(super) fn arrive(&mut self, lane: Option<usize>, data: &[u8], now_ns: u64) -> bool {
        let stamp = Stamp::decode(data).filter(|stamp| {
            stamp.run == self.run
                && Some(stamp.lane as usize) == lane
                && stamp.sequence < self.next_sequence
                && data.len() == self.data_bytes
        });
        let Some(stamp) = stamp else {
            self.counts.foreign += 1;
            return false;
        };
        let (word, bit) = (stamp.sequence / 64, 1 << (stamp.sequence % 64));
        let word = usize::try_from(word).unwrap_or(usize::MAX);
        let Some(bits) = self.arrived_bits.get_mut(word) else {
            return false;
        };
        if *bits & bit != 0 {
            self.counts.duplicated += 1;
            return false;
        }
        *bits |= bit;
        self.arrived_all += 1;
        self.lanes[stamp.lane as usize][1] = true;
        self.counts.arrived += u64::from(self.counting);
        if (self.first_counted..self.end_counted).contains(&stamp.sequence) {
            self.counts.delivered += 1;
            let latency_ns = now_ns.saturating_sub(stamp.sent_ns);
            self.counts.latency_ns.saturating_record(latency_ns);
            if let Some(counts) = self.counts.by_lane.get_mut(stamp.lane as usize) {
                counts.delivered += 1;
                counts.latency_ns.saturating_record(latency_ns);
            }
        }
        true
    }

    /// Frames on their way.
    pub(super) fn on_their_way(&self) -> u64 {
        // What was given up may arrive after all.
        self.next_sequence
            .saturating_sub(self.arrived_all + self.given_up)
    }

    /// What is on its way now is lost.
    pub(super) fn give_up(&mut self) {
        self.given_up += self.on_their_way();
    }

    pub(super) fn counts(mut self) -> Counts {
        let silent = |lane: &&[bool; 2]| **lane == [true, false];
        self.counts.silent_lanes = self.lanes.iter().filter(silent).count();
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        Tally::new(7, 2, STAMP_BYTES, true).expect("valid bounds")
    }

    #[test]
    fn only_what_is_sent_while_it_counts_counts() {
        let mut tally = tally();
        let early = tally.stamp(0, 10).encode();
        tally.start();
        let counted = tally.stamp(1, 20).encode();
        let lost = tally.stamp(1, 25);
        assert!(tally.arrive(Some(0), &early, 30) && tally.arrive(Some(1), &counted, 60));
        tally.stop();
        let late = tally.stamp(0, 70).encode();
        assert!(tally.arrive(Some(0), &late, 80));
        assert_eq!((lost.sequence, tally.on_their_way()), (2, 1));
        tally.give_up();
        assert_eq!(tally.on_their_way(), 0);
        let counts = tally.counts();
        assert_eq!((counts.sent, counts.delivered, counts.arrived), (2, 1, 2));
        assert_eq!(counts.latency_ns.max(), 40);
        assert_eq!((counts.duplicated, counts.foreign), (0, 0));
        let by_lane = counts
            .by_lane
            .iter()
            .map(|lane| (lane.sent, lane.delivered));
        assert_eq!(by_lane.collect::<Vec<_>>(), [(0, 0), (2, 1)]);
    }

    #[test]
    fn it_can_start_again() {
        let mut tally = tally();
        for _ in 0..2 {
            tally.start();
            let counted = tally.stamp(0, 0).encode();
            assert!(tally.arrive(Some(0), &counted, 1));
            tally.stamp(0, 0);
            tally.stop();
            tally.stamp(0, 0);
            tally.give_up();
        }
        assert_eq!(tally.on_their_way(), 0);
        let counts = tally.counts();
        assert_eq!((counts.sent, counts.delivered, counts.arrived), (4, 2, 2));
    }

    #[test]
    fn what_is_not_ours_is_foreign_and_what_comes_twice_is_double() {
        let mut tally = tally();
        let stamp = tally.stamp(1, 0);
        let frame = stamp.encode();
        assert!(!tally.arrive(Some(0), &frame, 1), "another lane's");
        assert!(!tally.arrive(Some(1), &frame[1..], 1), "cut");
        assert!(
            !tally.arrive(Some(1), &[&frame[..], &[0]].concat(), 1),
            "longer"
        );
        for (run, sequence) in [(8, 0), (7, 1)] {
            let other = Stamp {
                run,
                sequence,
                ..stamp
            };
            assert!(!tally.arrive(Some(1), &other.encode(), 1));
        }
        assert!(tally.arrive(Some(1), &frame, 1));
        assert!(!tally.arrive(Some(1), &frame, 2));
        let silent = tally.stamp(0, 3);
        assert_eq!(silent.sequence, 1);
        let counts = tally.counts();
        assert_eq!((counts.foreign, counts.duplicated), (5, 1));
        assert_eq!(counts.silent_lanes, 1);
    }
}
