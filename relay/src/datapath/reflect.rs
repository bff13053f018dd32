//! "From which address do you see me, and how much have you to do?" The bytes are `proto::wire::reflect`'s.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use remora_proto::wire::reflect::{self, LEN, Load};

use super::DropReason;
use crate::rate::{Rate, TokenBucket};

/// How many questions a relay answers, whoever asks.
///
/// The source of a question may be forged, so a limit per source would only take memory. Answers are not longer
/// than questions, so what is left to limit is the relay's own time: a few milliseconds of each second.
const REFLECT_RATE: Rate = Rate::per_second(2000, 2000);

/// How much the relay has to do: control says it, every answer tells it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedLoad(Arc<AtomicU8>);

impl SharedLoad {
    /// So much, from now on.
    pub fn set(&self, load: Load) {
        self.0.store(load.to_byte(), Ordering::Relaxed);
    }

    fn get(&self) -> Load {
        Load::from_byte(self.0.load(Ordering::Relaxed))
    }
}

/// Answers reflection requests.
#[derive(Debug)]
pub struct Reflector {
    bucket: TokenBucket,
    load: SharedLoad,
}

impl Reflector {
    /// One that has answered nothing yet.
    pub fn new(load: SharedLoad, now: Instant) -> Self {
        Self {
            bucket: TokenBucket::new(now),
            load,
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
        let answer = reflect::respond(datagram, source, self.load.get());
        let answer = answer.ok_or(DropReason::ReflectMalformed)?;
        self.bucket
            .take(REFLECT_RATE, 1, now)
            .map_err(|_| DropReason::ReflectLimited)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::wire::reflect::Reflection;

    use super::*;

    #[test]
    fn questions_are_answered_until_there_are_too_many() {
        let (now, source) = (Instant::now(), SocketAddr::from(([192, 0, 2, 1], 7)));
        let load = SharedLoad::default();
        let mut reflector = Reflector::new(load.clone(), now);
        for transaction in 0..2000 {
            let nodes = usize::try_from(transaction).expect("few");
            load.set(Load::of_nodes(nodes));
            let answer = reflector
                .respond(&reflect::request(transaction), source, now)
                .expect("answered");
            let reflection = Reflection {
                transaction,
                seen: source,
                load: Load::of_nodes(nodes),
            };
            assert_eq!(reflect::decode_response(&answer), Some(reflection));
            assert_eq!(
                reflector.respond(&answer, source, now),
                Err(DropReason::ReflectMalformed)
            );
        }
        let limited = reflector.respond(&reflect::request(1), source, now);
        assert_eq!(limited, Err(DropReason::ReflectLimited));
    }
}
