//! Session → where to. Written by the registry, read by the datapath for every frame.
//!
//! One sharded map for now: a frame locks its own session's shard for the time of a comparison and a bucket.
//! The fast datapath replaces it by a copy per worker behind the same methods.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use dashmap::{DashMap, mapref::entry::Entry as Slot};
use remora_proto::id::{SessionId, Side};

use super::DropReason;
use crate::rate::{Rate, TokenBucket};

/// One end of a session, as seen from the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The node's address, as the socket names it: frames come from exactly there and go there.
    pub remote: SocketAddr,
    /// The relay's own address that the node talks to, where it has several: the node's NAT lets nothing
    /// else through.
    pub local: Option<IpAddr>,
}

/// What one direction has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames forwarded.
    pub frames: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

#[derive(Debug)]
struct Entry {
    /// By [`Side`]: who sends, which way.
    legs: [Leg; 2],
    buckets: [TokenBucket; 2],
    sent: [Counters; 2],
    last_seen: Instant,
}

/// The session table.
#[derive(Debug)]
pub struct Table {
    rate: Rate,
    entries: DashMap<SessionId, Entry>,
}

impl Table {
    /// An empty table whose sessions may send `rate` bytes each way.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            entries: DashMap::new(),
        }
    }

    /// Adds a session between `legs` (host's, joiner's); false when the id is taken.
    pub fn insert(&self, session: SessionId, legs: [Leg; 2], now: Instant) -> bool {
        match self.entries.entry(session) {
            Slot::Occupied(_) => false,
            Slot::Vacant(slot) => {
                slot.insert(Entry {
                    legs,
                    buckets: [TokenBucket::new(now); 2],
                    sent: [Counters::default(); 2],
                    last_seen: now,
                });
                true
            }
        }
    }

    /// Removes a session; what it carried, by the side that sent it.
    pub fn remove(&self, session: SessionId) -> Option<[Counters; 2]> {
        self.entries.remove(&session).map(|(_, entry)| entry.sent)
    }

    /// A node's address changed.
    pub fn update_leg(&self, session: SessionId, side: Side, leg: Leg) {
        if let Some(mut entry) = self.entries.get_mut(&session) {
            entry.legs[side as usize] = leg;
        }
    }

    /// When a frame of this session was last forwarded, or when it began.
    pub fn last_seen(&self, session: SessionId) -> Option<Instant> {
        self.entries.get(&session).map(|entry| entry.last_seen)
    }

    /// Sessions in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Charges `side` of `session` with a frame of `length` bytes from `source`, and names the other leg.
    ///
    /// # Errors
    /// Why the frame goes nowhere; then nothing has changed.
    pub fn charge(
        &self,
        session: SessionId,
        side: Side,
        length: usize,
        source: SocketAddr,
        now: Instant,
    ) -> Result<Leg, DropReason> {
        let mut entry = self
            .entries
            .get_mut(&session)
            .ok_or(DropReason::UnknownSession)?;
        let from = side as usize;
        if entry.legs[from].remote != source {
            return Err(DropReason::WrongSource);
        }
        entry.buckets[from]
            .take(self.rate, length as u64, now)
            .map_err(|_| DropReason::RateLimited)?;
        entry.sent[from].frames += 1;
        entry.sent[from].bytes += length as u64;
        entry.last_seen = now;
        Ok(entry.legs[side.peer() as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn leg(port: u16) -> Leg {
        Leg {
            remote: SocketAddr::from(([192, 0, 2, 1], port)),
            local: None,
        }
    }

    #[test]
    fn an_entry_lives_from_insert_to_remove() {
        let (now, id) = (Instant::now(), SessionId(1));
        let table = Table::new(Rate::per_second(1000, 5000));
        assert!(table.insert(id, [leg(1), leg(2)], now));
        assert!(
            !table.insert(id, [leg(3), leg(4)], now),
            "an id is never taken twice"
        );
        assert_eq!(
            table.charge(id, Side::Host, 100, leg(1).remote, now),
            Ok(leg(2))
        );
        assert_eq!(
            table.charge(id, Side::Joiner, 50, leg(2).remote, now),
            Ok(leg(1))
        );
        assert_eq!(
            table.remove(id),
            Some([
                Counters {
                    frames: 1,
                    bytes: 100
                },
                Counters {
                    frames: 1,
                    bytes: 50
                }
            ])
        );
        assert_eq!(table.remove(id), None);
        assert!(table.is_empty());
        assert_eq!(
            table.charge(id, Side::Host, 1, leg(1).remote, now),
            Err(DropReason::UnknownSession)
        );
    }

    #[test]
    fn a_leg_follows_its_node() {
        let (now, id) = (Instant::now(), SessionId(1));
        let table = Table::new(Rate::per_second(1000, 5000));
        table.insert(id, [leg(1), leg(2)], now);
        table.update_leg(id, Side::Host, leg(7));
        assert_eq!(
            table.charge(id, Side::Host, 1, leg(1).remote, now),
            Err(DropReason::WrongSource)
        );
        assert_eq!(
            table.charge(id, Side::Host, 1, leg(7).remote, now),
            Ok(leg(2))
        );
        assert_eq!(
            table.charge(id, Side::Joiner, 1, leg(2).remote, now),
            Ok(leg(7))
        );
        table.update_leg(SessionId(2), Side::Host, leg(8));
    }

    #[test]
    fn only_forwarded_frames_count_as_life() {
        let (start, id) = (Instant::now(), SessionId(1));
        let table = Table::new(Rate::per_second(1000, 1000));
        table.insert(id, [leg(1), leg(2)], start);
        let later = start + Duration::from_secs(1);
        assert!(
            table
                .charge(id, Side::Host, 1, leg(9).remote, later)
                .is_err()
        );
        assert!(
            table
                .charge(id, Side::Host, 2000, leg(1).remote, later)
                .is_err()
        );
        assert_eq!(table.last_seen(id), Some(start));
        assert!(
            table
                .charge(id, Side::Host, 1, leg(1).remote, later)
                .is_ok()
        );
        assert_eq!(table.last_seen(id), Some(later));
        assert_eq!(table.last_seen(SessionId(2)), None);
    }
}
