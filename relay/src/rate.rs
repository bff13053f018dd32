//! Token buckets, pure. A bucket is one moment: when it will be full again.
//!
//! Taking `n` units moves that moment `n / rate` further away; a take that would move it further than a
//! whole burst from now is refused and moves nothing. This is the generic cell rate algorithm (ITU-T I.371): no
//! refill to compute, no rounding that leaks units, and a full bucket equals no bucket, so it can be forgotten.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// How fast something may be used, and how much of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    units: u64,
    per: Duration,
    burst: u64,
}

impl Rate {
    /// `units` per `per` in the long run, `burst` at once; each at least 1.
    pub const fn new(units: u64, per: Duration, burst: u64) -> Self {
        Self {
            units: if units == 0 { 1 } else { units },
            per,
            burst: if burst == 0 { 1 } else { burst },
        }
    }

    /// `units` per second, `burst` at once.
    pub const fn per_second(units: u64, burst: u64) -> Self {
        Self::new(units, Duration::from_secs(1), burst)
    }

    /// Units per [`Duration`] given to [`Rate::new`].
    pub const fn units(self) -> u64 {
        self.units
    }

    /// Units that may be taken at once.
    pub const fn burst(self) -> u64 {
        self.burst
    }

    /// Nanoseconds that a unit takes to come back, times 2 to the power of `shift`.
    pub fn nanos_per_unit(self, shift: u32) -> u128 {
        (self.per.as_nanos() << shift) / u128::from(self.units)
    }

    /// How long `units` take to come back.
    pub fn time_for(self, units: u64) -> Duration {
        let nanos = u128::from(units) * self.per.as_nanos() / u128::from(self.units);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// One bucket; its [`Rate`] is the caller's, because thousands of buckets share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes `units`, or says how long until they are there.
    ///
    /// # Errors
    /// The time to wait; the bucket is as it was.
    pub fn take(&mut self, rate: Rate, units: u64, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + rate.time_for(units);
        let wait = full_at
            .duration_since(now)
            .saturating_sub(rate.time_for(rate.burst));
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full_at = full_at;
        Ok(())
    }
}

/// A bucket for each source address, bounded.
///
/// An IPv6 source is its /64: that is what one subscriber gets, and addresses within it cost nothing. Full
/// buckets are forgotten; when more than `capacity` are not full, the one that is nearest to it falls out,
/// so whoever asks most is remembered longest.
#[derive(Debug)]
pub struct SourceLimiter {
    rate: Rate,
    capacity: usize,
    bucket_by_source: HashMap<IpAddr, TokenBucket>,
    by_full_at: BTreeSet<(Instant, IpAddr)>,
}

impl SourceLimiter {
    /// A limiter that remembers at most `capacity` sources.
    pub fn new(rate: Rate, capacity: usize) -> Self {
        Self {
            rate,
            capacity,
            bucket_by_source: HashMap::new(),
            by_full_at: BTreeSet::new(),
        }
    }

    /// Takes one unit of `source`, or says how long until it has one.
    ///
    /// # Errors
    /// The time to wait.
    pub fn take(&mut self, source: IpAddr, now: Instant) -> Result<(), Duration> {
        self.forget_full(now);
        let source = prefix(source);
        let mut bucket = self
            .bucket_by_source
            .get(&source)
            .copied()
            .unwrap_or_else(|| TokenBucket::new(now));
        let before = bucket.full_at;
        bucket.take(self.rate, 1, now)?;
        self.by_full_at.remove(&(before, source));
        self.by_full_at.insert((bucket.full_at, source));
        self.bucket_by_source.insert(source, bucket);
        if self.bucket_by_source.len() > self.capacity {
            self.forget_first();
        }
        Ok(())
    }

    fn forget_full(&mut self, now: Instant) {
        while self
            .by_full_at
            .first()
            .is_some_and(|(full_at, _)| *full_at <= now)
        {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, source)) = self.by_full_at.pop_first() {
            self.bucket_by_source.remove(&source);
        }
    }
}

fn prefix(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const KIB: Rate = Rate::per_second(1024, 4096);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        for _ in 0..4 {
            assert_eq!(bucket.take(KIB, 1024, start), Ok(()));
        }
        assert_eq!(bucket.take(KIB, 1024, start), Err(ms(1000)));
        assert_eq!(bucket.take(KIB, 512, start), Err(ms(500)));
        assert_eq!(bucket.take(KIB, 512, start + ms(500)), Ok(()));
        assert_eq!(
            bucket.take(KIB, 1, start + ms(500)),
            Err(Duration::from_nanos(976_562))
        );
    }

    #[test]
    fn a_rest_fills_it_to_one_burst_and_no_more() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(KIB, 4096, later), Ok(()));
        assert!(bucket.take(KIB, 1, later).is_err());
        assert!(
            bucket
                .take(KIB, 4097, later + Duration::from_secs(3600))
                .is_err()
        );
    }

    #[test]
    fn each_source_has_its_own_and_a_v6_subscriber_one() {
        let start = Instant::now();
        let mut limiter = SourceLimiter::new(Rate::new(10, Duration::from_secs(60), 2), 100);
        let v4 = |last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last));
        let v6 = |text: &str| text.parse::<IpAddr>().expect("an address");
        for _ in 0..2 {
            assert_eq!(limiter.take(v4(1), start), Ok(()));
        }
        assert_eq!(limiter.take(v4(1), start), Err(ms(6000)));
        assert_eq!(limiter.take(v6("::ffff:192.0.2.1"), start), Err(ms(6000)));
        assert_eq!(limiter.take(v4(2), start), Ok(()));
        assert_eq!(limiter.take(v6("2001:db8:0:1::1"), start), Ok(()));
        assert_eq!(limiter.take(v6("2001:db8:0:1::2"), start), Ok(()));
        assert!(limiter.take(v6("2001:db8:0:1::3"), start).is_err());
        assert_eq!(limiter.take(v6("2001:db8:0:2::3"), start), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_the_busiest_source_is_kept() {
        let start = Instant::now();
        let mut limiter = SourceLimiter::new(Rate::new(1, Duration::from_secs(1), 5), 10);
        let busy = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..5 {
            assert_eq!(limiter.take(busy, start), Ok(()));
        }
        for n in 0..1000_u32 {
            assert_eq!(limiter.take(Ipv4Addr::from_bits(n).into(), start), Ok(()));
            assert!(limiter.bucket_by_source.len() <= 10);
            assert_eq!(limiter.bucket_by_source.len(), limiter.by_full_at.len());
        }
        assert!(limiter.take(busy, start).is_err());
        assert_eq!(limiter.take(busy, start + Duration::from_secs(5)), Ok(()));
        assert_eq!(limiter.bucket_by_source.len(), 1);
    }

    proptest! {
        #[test]
        fn never_more_than_a_burst_and_the_rate(takes in prop::collection::vec((0..5000_u64, 0..2000_u64), 1..200)) {
            let start = Instant::now();
            let (mut bucket, mut now, mut taken) = (TokenBucket::new(start), start, 0);
            for (wait_ms, units) in takes {
                now += ms(wait_ms);
                taken += bucket.take(KIB, units, now).map_or(0, |()| units);
                let allowed = 4096 + u64::try_from(now.duration_since(start).as_millis()).expect("short") * 1024 / 1000 + 1;
                prop_assert!(taken <= allowed, "{taken} of {allowed}");
            }
        }
    }
}
