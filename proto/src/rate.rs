//! Token buckets, pure. A bucket is one moment: when it will be full again.
//!
//! Taking `n` units moves that moment `n / rate` further away; a take that would move it further than a
//! whole burst from now is refused and moves nothing. This is the generic cell rate algorithm (ITU-T I.371): no
//! refill to compute, no rounding that leaks units, and a full bucket equals no bucket, so it can be forgotten.

use std::time::{Duration, Instant};

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

    /// When it will be full again: a moment that is past means that it is.
    pub fn full_at(self) -> Instant {
        self.full_at
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: Rate = Rate::per_second(1024, 4096);

    #[expect(clippy::disallowed_methods, reason = "any moment is a start")]
    fn start() -> Instant {
        Instant::now()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_then_the_rate() {
        let start = start();
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
        let start = start();
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

    proptest! {
        #[test]
        fn never_more_than_a_burst_and_the_rate(takes in prop::collection::vec((0..5000_u64, 0..2000_u64), 1..200)) {
            let start = start();
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
