//! What goes to the relay: by UDP, or by a stream. The magic socket asks for each datagram; the keeper decides.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::udp::Transmit;
use remora_proto::wire::{
    self,
    reflect::{self, Reflection},
};
use tokio::sync::{Notify, mpsc};

use super::silence::Silence;

/// What was said and not answered, so that it can be said again by a stream: a handshake's first flight.
const MAX_FIRST_WORDS: usize = 8;

/// See the module.
pub(super) struct Bearing {
    by: Mutex<By>,
    is_by_stream: AtomicBool,
    /// It has changed, and the relay does not know yet where the node is.
    has_changed: AtomicBool,
    /// Of what was sent by UDP.
    silence: Silence,
    /// Whether [`Bearing::heard`] is waited for, and that it happened.
    is_watched: AtomicBool,
    heard: Notify,
    /// The question that is open, or 0; and whether one was answered.
    asked: AtomicU64,
    is_answered: AtomicBool,
    /// Nothing has been heard yet.
    is_fresh: AtomicBool,
}

enum By {
    /// With what was said, while nothing has been heard.
    Udp(Vec<Bytes>),
    /// Nothing leaves before there is a stream.
    Waiting(Vec<Bytes>),
    Stream(mpsc::Sender<Bytes>),
}

impl Bearing {
    /// By UDP; or by nothing until there is a stream.
    pub(super) fn new(tcp_only: bool) -> Self {
        Self {
            by: Mutex::new(if tcp_only {
                By::Waiting(Vec::new())
            } else {
                By::Udp(Vec::new())
            }),
            is_by_stream: AtomicBool::new(tcp_only),
            has_changed: AtomicBool::new(false),
            silence: Silence::new(Instant::now()),
            is_watched: AtomicBool::new(false),
            heard: Notify::new(),
            asked: AtomicU64::new(0),
            is_answered: AtomicBool::new(false),
            is_fresh: AtomicBool::new(true),
        }
    }

    /// Takes what is to go to the relay; false when it is to go by UDP.
    pub(super) fn take(&self, transmit: &Transmit<'_>) -> bool {
        // How the relay sees our UDP socket, it can only say by UDP.
        if wire::kind(transmit.contents) == wire::Kind::Reflect {
            return false;
        }
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        let datagrams = || {
            transmit
                .contents
                .chunks(size.max(1))
                .map(Bytes::copy_from_slice)
        };
        if !self.is_by_stream() {
            self.silence.sent(Instant::now());
            if !self.is_fresh.load(Ordering::Relaxed) {
                return false;
            }
        }
        match &mut *self.lock() {
            By::Udp(first) => {
                first.extend(datagrams().take(MAX_FIRST_WORDS.saturating_sub(first.len())));
                false
            }
            By::Waiting(first) => {
                first.extend(datagrams().take(MAX_FIRST_WORDS.saturating_sub(first.len())));
                true
            }
            By::Stream(queue) => {
                for datagram in datagrams() {
                    if queue.try_send(datagram).is_err() {
                        tracing::trace!("the stream is full, or has just ended");
                    }
                }
                true
            }
        }
    }

    /// From now on by the stream that takes from `queue`; what nobody has answered is said again.
    pub(super) fn use_stream(&self, queue: mpsc::Sender<Bytes>) {
        let mut by = self.lock();
        if let By::Udp(first) | By::Waiting(first) = &mut *by {
            for datagram in first.drain(..) {
                if queue.try_send(datagram).is_err() {
                    tracing::debug!("the stream has just ended");
                }
            }
        }
        *by = By::Stream(queue);
        self.is_by_stream.store(true, Ordering::Relaxed);
        self.has_changed.store(true, Ordering::Relaxed);
    }

    /// From now on by UDP.
    pub(super) fn use_udp(&self) {
        *self.lock() = By::Udp(Vec::new());
        self.silence.heard();
        self.is_by_stream.store(false, Ordering::Relaxed);
        self.has_changed.store(true, Ordering::Relaxed);
    }

    /// Whether it goes by a stream, or would.
    pub(super) fn is_by_stream(&self) -> bool {
        self.is_by_stream.load(Ordering::Relaxed)
    }

    /// Whether that has changed since this was last asked.
    pub(super) fn has_changed(&self) -> bool {
        self.has_changed.swap(false, Ordering::Relaxed)
    }

    /// The relay has sent this by UDP.
    pub(super) fn handle(&self, datagram: &[u8]) {
        self.silence.heard();
        if self.is_fresh.swap(false, Ordering::Relaxed)
            && let By::Udp(first) = &mut *self.lock()
        {
            *first = Vec::new();
        }
        if !self.is_watched.load(Ordering::Relaxed) {
            return;
        }
        if let Some(Reflection { transaction, .. }) = reflect::decode_response(datagram) {
            let asked = self.asked.load(Ordering::Relaxed);
            if asked != 0 && asked == transaction {
                self.asked.store(0, Ordering::Relaxed);
                self.is_answered.store(true, Ordering::Relaxed);
            }
        }
        self.heard.notify_one();
    }

    /// Whether [`Self::heard`] is waited for.
    pub(super) fn watch(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
    }

    /// Until the relay has been heard by UDP; whether it has answered what was asked last.
    pub(super) async fn heard(&self) -> bool {
        self.heard.notified().await;
        self.is_answered.swap(false, Ordering::Relaxed)
    }

    /// A question that only one answer fits.
    pub(super) fn ask(&self, transaction: u64) -> [u8; reflect::LEN] {
        self.asked.store(transaction, Ordering::Relaxed);
        reflect::request(transaction)
    }

    /// Whether what was sent by UDP has not been answered for so long.
    pub(super) fn is_silent(&self, duration: Duration) -> bool {
        self.silence.has_lasted(duration, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, By> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::wire::reflect::Load;

    use super::*;

    fn transmit(contents: &[u8]) -> Transmit<'_> {
        Transmit {
            destination: ([192, 0, 2, 1], 7).into(),
            ecn: None,
            contents,
            segment_size: Some(3),
            src_ip: None,
        }
    }

    #[test]
    fn what_nobody_answered_is_said_again_by_the_stream_and_questions_go_by_udp() {
        for tcp_only in [false, true] {
            let bearing = Bearing::new(tcp_only);
            assert_eq!(bearing.take(&transmit(b"\x80aabb")), tcp_only);
            assert!(!bearing.take(&transmit(&reflect::request(7))));
            let (queue, mut outgoing) = mpsc::channel(8);
            bearing.use_stream(queue);
            assert!(bearing.take(&transmit(b"\x80cc")));
            assert!(!bearing.take(&transmit(&reflect::request(7))));
            for expected in [&b"\x80aa"[..], b"bb", b"\x80cc"] {
                assert_eq!(outgoing.try_recv().expect("sent"), expected);
            }
            assert!(bearing.has_changed() && !bearing.has_changed());
        }
    }

    #[test]
    fn what_was_answered_is_not_said_again() {
        let bearing = Bearing::new(false);
        assert!(!bearing.take(&transmit(b"\x80aa")));
        bearing.handle(b"\x80");
        assert!(!bearing.take(&transmit(b"\x80bb")));
        let (queue, mut outgoing) = mpsc::channel(8);
        bearing.use_stream(queue);
        assert!(outgoing.try_recv().is_err());
        bearing.use_udp();
        assert!(!bearing.take(&transmit(b"\x80cc")) && !bearing.is_by_stream());
    }

    #[tokio::test]
    async fn an_answer_is_to_the_last_question_and_counts_once() {
        let bearing = Bearing::new(false);
        bearing.watch(true);
        bearing.ask(1);
        bearing.ask(2);
        for (transaction, expected) in [(1, false), (2, true), (2, false)] {
            let from = ([192, 0, 2, 1], 7).into();
            let question = reflect::request(transaction);
            let answer = reflect::respond(&question, from, Load::default()).expect("an answer");
            bearing.handle(&answer);
            assert_eq!(bearing.heard().await, expected);
        }
    }
}
