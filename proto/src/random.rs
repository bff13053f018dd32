//! Randomness as a value: shells pass `Random::system`, tests `Random::seeded`; `Random::shared` is for what two draw alike.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};

/// A source of random bytes that a machine owns.
pub struct Random(Source);

enum Source {
    System,
    Seeded { prk: Prk, counter: u64 },
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Random {
    /// The operating system's generator: the only choice of shells.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The same bytes for the same seed: for tests, which must be repeatable. Never for keys of real people.
    pub fn seeded(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_be_bytes());
        Self(Source::Seeded {
            prk: Prk::new_less_safe(HKDF_SHA256, &key),
            counter: 0,
        })
    }

    /// The same bytes at both who have the secret: for what they are to draw alike, and nothing else.
    #[cfg(feature = "end-to-end")]
    pub(crate) fn shared(secret: &[u8; 32]) -> Self {
        Self(Source::Seeded {
            prk: Prk::new_less_safe(HKDF_SHA256, secret),
            counter: 0,
        })
    }

    /// Fills `out`.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing safe can be done then.
    pub fn fill(&mut self, out: &mut [u8]) {
        match &mut self.0 {
            Source::System => getrandom::fill(out).expect("the system gives randomness"),
            Source::Seeded { prk, counter } => {
                for chunk in out.chunks_mut(255 * 32) {
                    *counter += 1;
                    prk.expand(&[&counter.to_be_bytes()], Length(chunk.len()))
                        .and_then(|okm| okm.fill(chunk))
                        .expect("at most 255 blocks");
                }
            }
        }
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}

/// Shows which kind it is, never its state.
impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Random::system",
            Source::Seeded { .. } => "Random::seeded",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_seed_repeats_and_two_seeds_differ() {
        let draw = |seed| Random::seeded(seed).bytes::<40>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut one = Random::seeded(1);
        assert_ne!(one.bytes::<8>(), one.bytes::<8>());
    }
}
