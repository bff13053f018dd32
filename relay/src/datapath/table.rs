//! Session → where to. Written by the registry, read by every worker for every run of frames.
//!
//! One table for all workers, without a lock on the reader's side: a slot is a seqlock (Lameter 2005; Boehm 2012 for the
//! orderings), its buckets and counters are atomics of their own. `cargo bench -p remora-relay` has it next to a `DashMap`
//! and to a copy per worker.
//!
//! An id leads to one of a bucket of 8 places by its hash, and a place to a slot; with a slot's number stands part of the hash, so
//! that no other session's slot is looked at. Ids are random and the caller's to choose, so that a full bucket is answered as
//! a taken id is: with no.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    },
    time::{Duration, Instant},
};

use remora_proto::id::{SessionId, Side};

use super::{
    DropReason,
    leg::{Leg, PackedAddress, PackedLeg},
    pages,
};
use crate::rate::Rate;

/// Places in a bucket: a cache line of them.
const WAYS: usize = 8;
/// Bits of a place that are its slot's number + 1; those above are of the hash.
const NUMBER_BITS: u32 = 32;
/// As large as one of a full screen gets on most networks.
const LARGE_FRAME_BYTES: usize = 1500;
/// Times that a reader looks at a slot again whose legs are just being changed.
const TRIES: u32 = 64;

/// What one direction has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames forwarded.
    pub frames: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

/// What a session has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// By the side that sent it.
    pub sent: [Counters; 2],
    /// A side has used up what it may send at once: of its next large frames some are dropped.
    pub is_held_back: bool,
}

/// A session. Of its three cache lines a frame needs two, unless the relay has several addresses.
#[repr(C, align(64))]
#[derive(Debug, Default)]
struct Slot {
    /// Odd while session or legs are being changed.
    version: AtomicU64,
    /// 0 for nobody's.
    session: AtomicU64,
    /// By [`Side`]: who sends, and where to; see [`PackedLeg`].
    remotes: [[AtomicU64; 3]; 2],
    /// When each direction's bucket will be full again, ns since the table was made: see [`crate::rate`].
    full_at: [AtomicU64; 2],
    last_seen: AtomicU64,
    frames: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
    /// The rest of legs that have one.
    locals: [[AtomicU64; 2]; 2],
    /// When a frame was last refused because its side sends too fast; 0 for never.
    held_back_at: AtomicU64,
}

/// What of a slot belongs together: session, address of the one side, leg of the other.
#[derive(Clone, Copy, Debug)]
struct Route {
    session: u64,
    from: PackedAddress,
    to: PackedLeg,
}

impl Slot {
    /// What `side` sends goes so; nobody's route while it is being changed for longer than a moment.
    #[inline]
    fn read(&self, side: Side) -> Route {
        let remote = |side: Side| {
            let [a, b, c] = &self.remotes[side as usize];
            [a, b, c].map(|word| word.load(Ordering::Relaxed))
        };
        for _ in 0..TRIES {
            let version = self.version.load(Ordering::Acquire);
            let session = self.session.load(Ordering::Relaxed);
            let mut to = PackedLeg {
                remote: remote(side.peer()),
                ..PackedLeg::NONE
            };
            let from = PackedLeg {
                remote: remote(side),
                ..PackedLeg::NONE
            };
            if PackedLeg::has_local(to.remote) {
                let [a, b] = &self.locals[side.peer() as usize];
                to.local = [a, b].map(|word| word.load(Ordering::Relaxed));
            }
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                let from = from.remote();
                return Route { session, from, to };
            }
            std::hint::spin_loop();
        }
        // The writer was interrupted: the frame is lost, as one would be that came a moment earlier.
        Route {
            session: 0,
            from: PackedAddress::NONE,
            to: PackedLeg::NONE,
        }
    }

    /// By the side that sent it.
    fn sent(&self) -> [Counters; 2] {
        [0, 1].map(|direction: usize| Counters {
            frames: self.frames[direction].load(Ordering::Relaxed),
            bytes: self.bytes[direction].load(Ordering::Relaxed),
        })
    }

    /// Only with the writers' lock.
    fn write(&self, session: u64, legs: [Option<Leg>; 2]) {
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.session.store(session, Ordering::Relaxed);
        for (side, leg) in legs.into_iter().enumerate() {
            let Some(leg) = leg.map(PackedLeg::from) else {
                continue;
            };
            let words = self.remotes[side].iter().chain(&self.locals[side]);
            for (word, value) in words.zip(leg.remote.into_iter().chain(leg.local)) {
                word.store(value, Ordering::Relaxed);
            }
        }
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }
}

/// A rate in the units of a slot.
#[derive(Clone, Copy, Debug)]
struct Price {
    /// Nanoseconds a byte, times 2 to the power of `shift`: no division a frame.
    byte: u64,
    /// At most 32: less where bytes are so dear that no word would hold their price.
    shift: u32,
    burst_ns: u64,
}

impl Price {
    fn new(rate: Rate) -> Self {
        let byte = |shift| Some((u64::try_from(rate.nanos_per_unit(shift)).ok()?, shift));
        let (byte, shift) = (0..=32).rev().find_map(byte).unwrap_or((u64::MAX, 0));
        Self {
            byte,
            shift,
            burst_ns: nanos(rate.time_for(rate.burst())),
        }
    }

    fn of(self, bytes: usize) -> u64 {
        let ns = (u128::from(self.byte) * bytes as u128) >> self.shift;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// Cheaper than an atomic addition; for what has one writer.
fn add(counter: &AtomicU64, amount: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    counter.store(sum, Ordering::Relaxed);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A moment as a table counts it: ns since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Moment(u64);

/// The session table.
#[derive(Debug)]
pub struct Table {
    price: Price,
    started: Instant,
    /// Part of the hash, and slot + 1; 0 for none. Buckets of [`WAYS`].
    places: Box<[AtomicU64]>,
    slots: Box<[Slot]>,
    len: AtomicUsize,
    /// Slots that are nobody's; also the writers' lock.
    free: Mutex<Vec<u32>>,
}

impl Table {
    /// An empty table for at most `sessions`, each of which may send `rate` bytes each way. Nothing happens before `now`.
    pub fn new(rate: Rate, sessions: usize, now: Instant) -> Self {
        let sessions = u32::try_from(sessions.max(1)).unwrap_or(u32::MAX - 1);
        // Three of four places stay empty, so that one bucket in a thousand is ever full.
        let buckets = (sessions as usize * 4).div_ceil(WAYS).next_power_of_two();
        let places: Box<[_]> = (0..buckets * WAYS).map(|_| AtomicU64::new(0)).collect();
        let slots: Box<[_]> = (0..sessions).map(|_| Slot::default()).collect();
        // Each frame is another place and another slot.
        pages::prefer_huge(&places);
        pages::prefer_huge(&slots);
        Self {
            price: Price::new(rate),
            started: now,
            places,
            slots,
            len: AtomicUsize::new(0),
            free: Mutex::new((0..sessions).rev().collect()),
        }
    }

    /// Adds a session between `legs` (host's, joiner's); false when there is no room for this id, or it is taken.
    pub fn insert(&self, session: SessionId, legs: [Leg; 2], now: Instant) -> bool {
        let mut free = self.lock();
        let (bucket, tag) = self.bucket(session);
        let empty = bucket
            .iter()
            .find(|place| place.load(Ordering::Relaxed) == 0);
        let (Some(place), None) = (empty, self.find(session)) else {
            return false;
        };
        let Some(number) = free.pop() else {
            return false;
        };
        let (slot, Moment(now)) = (&self.slots[number as usize], self.moment(now));
        for direction in 0..2 {
            slot.full_at[direction].store(now, Ordering::Relaxed);
            slot.frames[direction].store(0, Ordering::Relaxed);
            slot.bytes[direction].store(0, Ordering::Relaxed);
        }
        slot.last_seen.store(now, Ordering::Relaxed);
        slot.held_back_at.store(0, Ordering::Relaxed);
        slot.write(session.0, legs.map(Some));
        place.store(tag | u64::from(number + 1), Ordering::Release);
        self.len.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Removes a session; what it carried, by the side that sent it.
    pub fn remove(&self, session: SessionId) -> Option<[Counters; 2]> {
        let mut free = self.lock();
        let (place, number) = self.place(session)?;
        let slot = &self.slots[number as usize];
        place.store(0, Ordering::Relaxed);
        slot.write(0, [None; 2]);
        free.push(number);
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(slot.sent())
    }

    /// What a session has carried so far.
    pub fn carried(&self, session: SessionId, now: Instant) -> Option<Carried> {
        let (slot, Moment(now)) = (self.find(session)?, self.moment(now));
        let a_frame = self.price.of(LARGE_FRAME_BYTES);
        let is_held_back = slot.full_at.iter().any(|full_at| {
            let used = full_at.load(Ordering::Relaxed).saturating_sub(now);
            used.saturating_add(a_frame) > self.price.burst_ns
        });
        Some(Carried {
            sent: slot.sent(),
            is_held_back,
        })
    }

    /// A node's address changed.
    pub fn update_leg(&self, session: SessionId, side: Side, leg: Leg) {
        let _writing = self.lock();
        if let Some(slot) = self.find(session) {
            let mut legs = [None; 2];
            legs[side as usize] = Some(leg);
            slot.write(session.0, legs);
        }
    }

    /// When a frame of this session was last forwarded, or when it began.
    pub fn last_seen(&self, session: SessionId) -> Option<Instant> {
        let slot = self.find(session)?;
        Some(self.started + Duration::from_nanos(slot.last_seen.load(Ordering::Relaxed)))
    }

    /// Sessions of which a frame was refused within `time` because they send too fast. Looks at every slot.
    pub fn held_back(&self, time: Duration, now: Instant) -> usize {
        let Moment(now) = self.moment(now);
        let since = now.saturating_sub(nanos(time)).max(1);
        let is_held_back = |slot: &&Slot| {
            slot.held_back_at.load(Ordering::Relaxed) >= since
                && slot.session.load(Ordering::Relaxed) != 0
        };
        self.slots.iter().filter(is_held_back).count()
    }

    /// Sessions in the table.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `now`, worked out once for a batch.
    pub fn moment(&self, now: Instant) -> Moment {
        Moment(nanos(now.saturating_duration_since(self.started)))
    }

    /// Where a run of `frames` goes, unchanged, that are `length` bytes together, came from `source` and name `side` of
    /// `session`: to the other leg. The side is charged.
    ///
    /// Three questions, in the order of their price: is there such a session, does the source own the side, may that side
    /// still send? Nobody who is not a leg can therefore spend a session's rate.
    ///
    /// # Errors
    /// Why the run goes nowhere; then nothing has changed.
    pub fn charge(
        &self,
        session: SessionId,
        side: Side,
        (frames, length): (usize, usize),
        source: PackedAddress,
        Moment(now): Moment,
    ) -> Result<PackedLeg, DropReason> {
        let slot = self.find(session).ok_or(DropReason::UnknownSession)?;
        let route = slot.read(side);
        if route.session != session.0 {
            return Err(DropReason::UnknownSession);
        }
        if route.from != source {
            return Err(DropReason::WrongSource);
        }
        let (from, price) = (side as usize, self.price.of(length));
        // One writer: the frames of a direction come from one address, and the kernel gives those to one worker. What two
        // could lose when a leg has just moved is a count.
        let full_at = slot.full_at[from].load(Ordering::Relaxed);
        let full_at = full_at.max(now).saturating_add(price);
        if full_at - now > self.price.burst_ns {
            slot.held_back_at.store(now.max(1), Ordering::Relaxed);
            return Err(DropReason::RateLimited);
        }
        slot.full_at[from].store(full_at, Ordering::Relaxed);
        add(&slot.frames[from], frames as u64);
        add(&slot.bytes[from], length as u64);
        slot.last_seen.store(now, Ordering::Relaxed);
        Ok(route.to)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a session's place is, and its part of the hash.
    fn bucket(&self, session: SessionId) -> (&[AtomicU64], u64) {
        let hash = session.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let buckets = self.places.len() / WAYS;
        let bucket = usize::try_from(hash >> NUMBER_BITS).unwrap_or(0) & (buckets - 1);
        // The low half: the high one chose the bucket.
        (&self.places[bucket * WAYS..][..WAYS], hash << NUMBER_BITS)
    }

    fn place(&self, session: SessionId) -> Option<(&AtomicU64, u32)> {
        let (bucket, tag) = self.bucket(session);
        bucket.iter().find_map(|place| {
            let known = place.load(Ordering::Acquire);
            let number = u32::try_from(known & u64::from(u32::MAX)).ok()?;
            let number = number.checked_sub(1)?;
            let is_its = known >> NUMBER_BITS == tag >> NUMBER_BITS
                && self.slots[number as usize].session.load(Ordering::Relaxed) == session.0;
            is_its.then_some((place, number))
        })
    }

    fn find(&self, session: SessionId) -> Option<&Slot> {
        let (_, number) = self.place(session)?;
        Some(&self.slots[number as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr},
        time::Duration,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::datapath::leg::FarEnd;

    fn leg(port: u16) -> Leg {
        Leg {
            end: FarEnd::Node,
            remote: SocketAddr::from(([192, 0, 2, 1], port)),
            local: None,
        }
    }

    fn charge(
        table: &Table,
        session: SessionId,
        side: Side,
        amount: (usize, usize),
        source: SocketAddr,
        now: Instant,
    ) -> Result<Leg, DropReason> {
        table
            .charge(session, side, amount, source.into(), table.moment(now))
            .map(Leg::from)
    }

    #[test]
    fn an_entry_lives_from_insert_to_remove() {
        let (now, id) = (Instant::now(), SessionId(1));
        let table = Table::new(Rate::per_second(1000, 5000), 100, now);
        assert!(table.insert(id, [leg(1), leg(2)], now));
        assert!(
            !table.insert(id, [leg(3), leg(4)], now),
            "an id is never taken twice"
        );
        assert_eq!(
            charge(&table, id, Side::Host, (1, 100), leg(1).remote, now),
            Ok(leg(2))
        );
        assert_eq!(
            charge(&table, id, Side::Joiner, (1, 50), leg(2).remote, now),
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
            charge(&table, id, Side::Host, (1, 1), leg(1).remote, now),
            Err(DropReason::UnknownSession)
        );
    }

    const HOST: u16 = 1;
    const JOINER: u16 = 2;

    /// Session 5, each of whose sides may send 3,000 bytes at once.
    fn table_of_one(now: Instant) -> Table {
        let table = Table::new(Rate::per_second(1000, 3000), 8, now);
        assert!(table.insert(SessionId(5), [leg(HOST), leg(JOINER)], now));
        table
    }

    #[test]
    fn the_source_must_be_the_leg_of_the_side_it_names() {
        let now = Instant::now();
        let table = table_of_one(now);
        for (session, side, port, reason) in [
            (6, Side::Host, HOST, DropReason::UnknownSession),
            (5, Side::Joiner, HOST, DropReason::WrongSource),
            (5, Side::Host, JOINER, DropReason::WrongSource),
            (5, Side::Host, 3, DropReason::WrongSource),
        ] {
            assert_eq!(
                charge(
                    &table,
                    SessionId(session),
                    side,
                    (1, 100),
                    leg(port).remote,
                    now
                ),
                Err(reason)
            );
        }
    }

    #[test]
    fn each_direction_has_its_own_rate_and_strangers_cannot_spend_it() {
        let now = Instant::now();
        let table = table_of_one(now);
        for _ in 0..100 {
            assert!(
                charge(
                    &table,
                    SessionId(5),
                    Side::Host,
                    (1, 1000),
                    leg(3).remote,
                    now
                )
                .is_err()
            );
        }
        for _ in 0..3 {
            assert!(
                charge(
                    &table,
                    SessionId(5),
                    Side::Host,
                    (1, 1000),
                    leg(HOST).remote,
                    now
                )
                .is_ok()
            );
        }
        let limited = charge(
            &table,
            SessionId(5),
            Side::Host,
            (1, 1000),
            leg(HOST).remote,
            now,
        );
        assert_eq!(limited, Err(DropReason::RateLimited));
        assert!(
            charge(
                &table,
                SessionId(5),
                Side::Joiner,
                (1, 1000),
                leg(JOINER).remote,
                now
            )
            .is_ok()
        );
        let later = now + Duration::from_secs(1);
        assert!(
            charge(
                &table,
                SessionId(5),
                Side::Host,
                (1, 1000),
                leg(HOST).remote,
                later
            )
            .is_ok()
        );
    }

    proptest! {
        #[test]
        fn what_is_forwarded_comes_from_one_leg_and_goes_to_the_other(
            session in 4..7_u64, joiner: bool, port in 0..4_u16, length in 0..5000_usize,
        ) {
            let now = Instant::now();
            let side = if joiner { Side::Joiner } else { Side::Host };
            if let Ok(to) = charge(&table_of_one(now), SessionId(session), side, (1, length), leg(port).remote, now) {
                prop_assert_eq!((session, port), (5, if joiner { JOINER } else { HOST }));
                prop_assert_eq!(to, leg(if joiner { HOST } else { JOINER }));
                prop_assert!(length <= 3000);
            }
        }
    }

    #[test]
    fn a_leg_follows_its_node() {
        let (now, id) = (Instant::now(), SessionId(1));
        let table = Table::new(Rate::per_second(1000, 5000), 100, now);
        table.insert(id, [leg(1), leg(2)], now);
        table.update_leg(id, Side::Host, leg(7));
        assert_eq!(
            charge(&table, id, Side::Host, (1, 1), leg(1).remote, now),
            Err(DropReason::WrongSource)
        );
        assert_eq!(
            charge(&table, id, Side::Host, (1, 1), leg(7).remote, now),
            Ok(leg(2))
        );
        assert_eq!(
            charge(&table, id, Side::Joiner, (1, 1), leg(2).remote, now),
            Ok(leg(7))
        );
        table.update_leg(SessionId(2), Side::Host, leg(8));
    }

    #[test]
    fn what_a_run_costs_is_the_time_that_its_bytes_take() {
        let day = Duration::from_secs(86_400);
        for rate in [
            Rate::per_second(16 << 20, 4 << 20),
            Rate::per_second(u64::MAX, u64::MAX),
            Rate::per_second(1, 9),
            Rate::new(1000, day, 3036),
            Rate::new(1, day * 365, 1),
        ] {
            for bytes in [0, 1, 13, 1200, 65_507] {
                let exact = nanos(rate.time_for(bytes as u64));
                let price = Price::new(rate).of(bytes);
                assert!(price <= exact && exact - price <= 1, "{rate:?} {bytes}");
            }
        }
    }

    #[test]
    fn only_forwarded_frames_count_as_life() {
        let (start, id) = (Instant::now(), SessionId(1));
        let table = Table::new(Rate::per_second(1000, 1000), 100, start);
        table.insert(id, [leg(1), leg(2)], start);
        let later = start + Duration::from_secs(1);
        assert!(charge(&table, id, Side::Host, (1, 1), leg(9).remote, later).is_err());
        assert!(charge(&table, id, Side::Host, (1, 2000), leg(1).remote, later).is_err());
        assert_eq!(table.last_seen(id), Some(start));
        assert!(charge(&table, id, Side::Host, (1, 1), leg(1).remote, later).is_ok());
        assert_eq!(table.last_seen(id), Some(later));
        assert_eq!(table.last_seen(SessionId(2)), None);
    }

    #[test]
    fn a_full_table_says_no_and_has_room_again() {
        let now = Instant::now();
        let table = Table::new(Rate::per_second(1000, 5000), 40, now);
        let inserted: Vec<_> = (1..200)
            .map(SessionId)
            .filter(|id| table.insert(*id, [leg(1), leg(2)], now))
            .collect();
        assert_eq!((inserted.len(), table.len()), (40, 40));
        for id in &inserted {
            assert!(charge(&table, *id, Side::Host, (1, 9), leg(1).remote, now).is_ok());
            assert!(table.remove(*id).is_some());
        }
        assert!(table.is_empty());
        assert!(table.insert(SessionId(7), [leg(1), leg(2)], now));
        assert_eq!(table.remove(SessionId(7)), Some([Counters::default(); 2]));
    }

    /// A reader sees the legs of one moment, never one half of each.
    #[test]
    fn legs_are_never_torn() {
        let (now, id) = (Instant::now(), SessionId(5));
        let table = Table::new(Rate::per_second(u64::MAX, u64::MAX), 4, now);
        let moved = |n: u16| Leg {
            end: FarEnd::Node,
            remote: SocketAddr::from((Ipv4Addr::from_bits(n.into()), n)),
            local: Some(Ipv4Addr::from_bits(n.into()).into()),
        };
        table.insert(id, [leg(1), moved(1)], now);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in (1..2_000).cycle().take(200_000) {
                    table.update_leg(id, Side::Joiner, moved(n));
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                if let Ok(to) = charge(&table, id, Side::Host, (1, 1), leg(1).remote, now) {
                    assert_eq!(to, moved(to.remote.port()));
                    seen += 1;
                }
            }
            assert!(seen > 0);
        });
    }

    #[test]
    fn an_idle_session_takes_little_memory() {
        assert!(size_of::<Slot>() + 8 * size_of::<AtomicU64>() <= 256);
    }
}
