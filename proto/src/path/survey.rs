//! Finds out what a node's NAT does: how one socket is seen by several observers and, when that differs, how fresh sockets are.
//!
//! ```text
//!  the main socket ─▶ up to three observers ─▶ all alike? ─▶ independent
//!                                                └─ no ─▶ five fresh sockets ─▶ one observer ─▶ how ports are allotted
//! ```
//!
//! Observers answer `wire::reflect`; which are there is for the shell to say: the relay's two ports, another relay.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    nat::{Nat, Sample},
    way::{Base, SocketChange},
};
use crate::{random::Random, wire::reflect};

/// Observers that are asked: two ports of one address, and another address.
pub const MAX_OBSERVERS: usize = 3;
/// Sockets that are opened to see how ports are allotted; numbered from here, which is beyond what plans use.
pub const FRESH: [Base; 5] = [
    Base(0xff00),
    Base(0xff01),
    Base(0xff02),
    Base(0xff03),
    Base(0xff04),
];
/// When a question is asked, and asked again, after the first time.
const ASKED_MS: [u64; 4] = [0, 100, 300, 700];
/// Then there is no answer.
const GIVEN_UP: Duration = Duration::from_millis(1500);

#[derive(Debug)]
struct Question {
    base: Base,
    observer: SocketAddr,
    transaction: u64,
    began: Instant,
    /// So often; once more when it has been given up.
    asked: usize,
    seen: Option<SocketAddr>,
}

impl Question {
    /// When it is asked again or, after the last time, given up; `None` when it is over.
    fn due(&self) -> Option<Instant> {
        let after = match ASKED_MS.get(self.asked) {
            Some(&ms) => Duration::from_millis(ms),
            None if self.asked == ASKED_MS.len() => GIVEN_UP,
            None => return None,
        };
        self.seen.is_none().then(|| self.began + after)
    }
}

/// The machine.
#[derive(Debug)]
pub struct Survey {
    questions: Vec<Question>,
    /// Of the fresh sockets, until they are opened.
    transactions: Option<[u64; FRESH.len()]>,
    is_over: bool,
    transmits: VecDeque<(Base, SocketAddr, [u8; reflect::LEN])>,
    sockets: VecDeque<SocketChange>,
}

impl Survey {
    /// Asks the first [`MAX_OBSERVERS`] of `observers`, from `now` on.
    pub fn new(observers: &[SocketAddr], random: &mut Random, now: Instant) -> Self {
        let mut transaction = || u64::from_be_bytes(random.bytes());
        let observers = observers.iter().take(MAX_OBSERVERS);
        let questions = observers.map(|&observer| Question {
            base: Base::MAIN,
            observer,
            transaction: transaction(),
            began: now,
            asked: 0,
            seen: None,
        });
        let mut survey = Self {
            questions: questions.collect(),
            transactions: None,
            is_over: false,
            transmits: VecDeque::new(),
            sockets: VecDeque::new(),
        };
        survey.transactions = Some(FRESH.map(|_| transaction()));
        survey.handle_timeout(now);
        survey
    }

    // --- in ---

    /// An answer that came to `base` from `observer`; false when nobody has asked for it.
    pub fn handle_response(
        &mut self,
        base: Base,
        observer: SocketAddr,
        transaction: u64,
        seen: SocketAddr,
        now: Instant,
    ) -> bool {
        let question = self.questions.iter_mut().find(|question| {
            (question.base, question.observer, question.transaction)
                == (base, observer, transaction)
        });
        let Some(question) = question else {
            return false;
        };
        question.seen.get_or_insert(seen);
        self.handle_timeout(now);
        true
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for question in &mut self.questions {
            if question.due().is_none_or(|due| due > now) {
                continue;
            }
            question.asked += 1;
            if question.asked <= ASKED_MS.len() {
                let request = reflect::request(question.transaction);
                self.transmits
                    .push_back((question.base, question.observer, request));
            }
        }
        let is_dependent = Nat::of(&self.samples()).allocation().is_some();
        if is_dependent && let Some(transactions) = self.transactions.take() {
            self.open_fresh(transactions, now);
        }
        if !self.is_over && self.poll_timeout().is_none() {
            self.is_over = true;
            let fresh = self.questions.iter().map(|question| question.base);
            let fresh = fresh.filter(|base| *base != Base::MAIN);
            self.sockets.extend(fresh.map(SocketChange::Close));
        }
    }

    // --- out ---

    /// When [`Self::handle_timeout`] is due; `None` when it is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.questions.iter().filter_map(Question::due).min()
    }

    /// A socket to open or to close, before anything is sent; call until `None`.
    pub fn poll_socket(&mut self) -> Option<SocketChange> {
        self.sockets.pop_front()
    }

    /// A question to send, from where and to whom; call until `None`.
    pub fn poll_transmit(&mut self) -> Option<(Base, SocketAddr, [u8; reflect::LEN])> {
        self.transmits.pop_front()
    }

    /// Whether nothing more comes of it.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// What the NAT does; unknown until it is over.
    pub fn nat(&self) -> Nat {
        if self.is_over {
            Nat::of(&self.samples())
        } else {
            Nat::default()
        }
    }

    /// How the first of the observers that have answered sees the main socket.
    pub fn reflexive(&self) -> Option<SocketAddr> {
        self.samples().first().map(|sample| sample.seen)
    }

    /// What has been seen, in the order in which it was asked.
    pub fn samples(&self) -> Vec<Sample> {
        let answered = self.questions.iter().filter_map(|question| {
            Some(Sample {
                base: question.base,
                observer: question.observer,
                seen: question.seen?,
                is_late: question.asked > 1,
            })
        });
        answered.collect()
    }

    /// All are seen by one observer, that answers: what differs then is not for whom.
    fn open_fresh(&mut self, transactions: [u64; FRESH.len()], now: Instant) {
        let answers = |question: &&Question| question.seen.is_some();
        let Some(observer) = self.questions.iter().find(answers) else {
            return;
        };
        let observer = observer.observer;
        for (base, transaction) in FRESH.into_iter().zip(transactions) {
            self.sockets.push_back(SocketChange::Open(base));
            self.transmits
                .push_back((base, observer, reflect::request(transaction)));
            self.questions.push(Question {
                base,
                observer,
                transaction,
                began: now,
                asked: 1,
                seen: None,
            });
        }
    }
}
