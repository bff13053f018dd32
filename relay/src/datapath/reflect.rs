//! "From which address do you see me?" Pure; the bytes are `proto::wire::reflect`'s.

use std::{net::SocketAddr, time::Instant};

use remora_proto::wire::reflect::{self, LEN};

use super::DropReason;
use crate::rate::{Rate, TokenBucket};

/// How many questions a relay answers, whoever asks.
///
/// The source of a question may be forged, so a limit per source would only take memory. Answers are not longer
/// than questions, so what is left to limit is the relay's own time: a few milliseconds of each second.
const REFLECT_RATE: Rate = Rate::per_second(2000, 2000);

/// Answers reflection requests.
#[derive(Debug)]
pub struct Reflector {
    bucket: TokenBucket,
}

impl Reflector {
    /// One that has answered nothing yet.
    pub fn new(now: Instant) -> Self {
        Self {
            bucket: TokenBucket::new(now),
        }
    }

    /// The answer to `datagram`, which goes back to `source`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn respond(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
    ) -> Result<[u8; LEN], DropReason> {
        let answer = reflect::respond(datagram, source).ok_or(DropReason::ReflectMalformed)?;
        self.bucket
            .take(REFLECT_RATE, 1, now)
            .map_err(|_| DropReason::ReflectLimited)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_until_there_are_too_many() {
        let (now, source) = (Instant::now(), SocketAddr::from(([192, 0, 2, 1], 7)));
        let mut reflector = Reflector::new(now);
        for transaction in 0..2000 {
            let answer = reflector
                .respond(&reflect::request(transaction), source, now)
                .expect("answered");
            assert_eq!(
                reflect::decode_response(&answer),
                Some((transaction, source))
            );
            assert_eq!(
                reflector.respond(&answer, source, now),
                Err(DropReason::ReflectMalformed)
            );
        }
        let limited = reflector.respond(&reflect::request(1), source, now);
        assert_eq!(limited, Err(DropReason::ReflectLimited));
    }
}
