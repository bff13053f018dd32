//! Frames from the sharer: each on a stream of its own, handed on as soon as it is there, unless it is so old that showing
//! it would mislead. Then the sharer is told, and sends what is there now.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, RecvStream};
use remora_picture::frame::Header;
use remora_proto::{
    session::Command,
    wire::message::session::{self as schema, control::Body},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::share::sharing::ToSession;

/// A frame is at most the sharer's window, 4 MiB, and the run of tiles that went over it.
const MAX_FRAME_BYTES: usize = 8 << 20;
/// Older pixels are not shown, unless the path itself takes longer.
const MAX_AGE: Duration = Duration::from_millis(450);
/// The fastest frame of so long ago still says how the two clocks compare.
const MEMORY: Duration = Duration::from_secs(30);

/// Hands frames and cursor shapes on until the connection ends.
pub async fn receive(
    connection: Connection,
    to: mpsc::Sender<Bytes>,
    session: mpsc::Sender<ToSession>,
) {
    let mut reading = JoinSet::new();
    let mut clocks = Clocks::new(Instant::now());
    loop {
        let arrived = tokio::select! { biased;
            Some(read) = reading.join_next(), if !reading.is_empty() => read,
            accepted = connection.accept_uni() => match accepted {
                Ok(stream) => {
                    reading.spawn(read(stream));
                    continue;
                }
                Err(_) => return,
            },
        };
        // Cut off: the sharer has newer pixels.
        let Ok(Some(bytes)) = arrived else { continue };
        // Other streams hold no frame: they are never late.
        let header = Header::parse(&bytes).ok().map(|(header, _)| header);
        let late = header.filter(|header| {
            let captured = Duration::from_millis(header.captured_ms);
            let age = clocks.age(captured, Instant::now(), connection.rtt());
            age > MAX_AGE.max(connection.rtt())
        });
        let passed = match late {
            Some(header) => {
                let ack = schema::FrameAck {
                    sequence: header.sequence,
                    dropped: true,
                    decode_ms: 0,
                };
                let ack = ToSession::Wish(Command::Media(Body::FrameAck(ack)));
                session.send(ack).await.is_ok()
            }
            None => to.send(bytes).await.is_ok(),
        };
        if !passed {
            return;
        }
    }
}

async fn read(mut stream: RecvStream) -> Option<Bytes> {
    let frame = stream.read_to_end(MAX_FRAME_BYTES).await;
    frame.ok().map(Bytes::from)
}

/// How the sharer's clock and ours compare: the fastest frame took half the fastest round trip.
#[derive(Debug)]
struct Clocks {
    started: Instant,
    since: Instant,
    /// The least that arrival (since `started`) and capture differed by, now and in the time before; seconds.
    least: f64,
    before: f64,
    round_trip: Duration,
}

impl Clocks {
    fn new(now: Instant) -> Self {
        Self {
            started: now,
            since: now,
            least: f64::INFINITY,
            before: f64::INFINITY,
            round_trip: Duration::MAX,
        }
    }

    /// From capture to now.
    fn age(&mut self, captured: Duration, now: Instant, round_trip: Duration) -> Duration {
        if now.duration_since(self.since) > MEMORY {
            (self.before, self.least, self.since) = (self.least, f64::INFINITY, now);
        }
        self.round_trip = self.round_trip.min(round_trip);
        let differ = now.duration_since(self.started).as_secs_f64() - captured.as_secs_f64();
        self.least = self.least.min(differ);
        let queued = differ - self.least.min(self.before);
        let queued = Duration::try_from_secs_f64(queued).unwrap_or_default();
        self.round_trip / 2 + queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_frame_is_as_old_as_it_waited_and_half_a_round_trip() {
        let start = Instant::now();
        let mut clocks = Clocks::new(start);
        // The sharer's clock began 7 s before ours, and the path takes 40 ms.
        let age = |clocks: &mut Clocks, at: u64, waited: u64| {
            clocks.age(ms(7_000 + at), start + ms(at + 40 + waited), ms(80))
        };
        assert_eq!(age(&mut clocks, 0, 500), ms(40), "nothing to compare with");
        assert_eq!(age(&mut clocks, 600, 0), ms(40));
        let late = age(&mut clocks, 700, 300);
        assert!(late > ms(339) && late < ms(341), "{late:?}");
    }

    #[test]
    fn a_clock_that_says_anything_at_all_is_survived() {
        let start = Instant::now();
        let mut clocks = Clocks::new(start);
        for captured in [Duration::from_micros(u64::MAX), Duration::ZERO, ms(1)] {
            clocks.age(captured, start + ms(5), Duration::MAX);
        }
    }
}
