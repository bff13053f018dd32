//! How often each source may ask, pure.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

pub use remora_proto::rate::{Rate, TokenBucket};

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

    /// So often from now on.
    pub fn limit(&mut self, rate: Rate) {
        self.rate = rate;
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
        let before = bucket.full_at();
        bucket.take(self.rate, 1, now)?;
        self.by_full_at.remove(&(before, source));
        self.by_full_at.insert((bucket.full_at(), source));
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

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
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
}
