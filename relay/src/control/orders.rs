//! What an operator asks of the registry by the admin port.

use std::{net::SocketAddr, time::Duration};

use remora_proto::{id::SessionId, line::Why};
use tokio::sync::{mpsc, oneshot};

use crate::datapath::table::Counters;

/// Operators are few; when full, whoever asks waits.
const QUEUE: usize = 16;
/// Of a session's id, in a text that stands for it: fewer letters stand for too many.
const MIN_PREFIX: usize = 4;
/// A whole id.
const ID_LETTERS: usize = 16;

/// What is asked, and where to answer.
#[derive(Debug)]
pub enum Order {
    /// The sessions after this id, at most so many.
    List {
        /// In the order of ids; of the first page, 0.
        after: SessionId,
        /// At most.
        most: usize,
        /// Where to answer.
        answer: oneshot::Sender<Listing>,
    },
    /// End one; its two nodes are told why.
    End {
        /// Which.
        session: Prefix,
        /// For the two people.
        why: Why,
        /// Where to answer.
        answer: oneshot::Sender<Result<SessionId, NotOne>>,
    },
}

/// Where orders are given.
pub fn ends() -> (mpsc::Sender<Order>, mpsc::Receiver<Order>) {
    mpsc::channel(QUEUE)
}

/// Some of the sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// How many there are.
    pub total: usize,
    /// By id.
    pub sessions: Vec<Facts>,
}

/// A session, as far as it is an operator's business: how much it carries and how, not whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As the log has it.
    pub session: SessionId,
    /// Since it was allocated here.
    pub age: Duration,
    /// By side: host, joiner.
    pub sides: [SideFacts; 2],
    /// A side sends as fast as it may, and would send faster.
    pub is_held_back: bool,
}

/// One side of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFacts {
    /// How its node is reached.
    pub way: Way,
    /// What it has sent.
    pub sent: Counters,
}

/// How a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// At that address; a stream's is on loopback.
    At(SocketAddr),
    /// By TCP.
    Stream,
    /// By another relay.
    Relay,
}

impl Way {
    /// As scripts have it.
    pub fn label(self) -> &'static str {
        match self {
            Self::At(_) => "udp",
            Self::Stream => "tcp",
            Self::Relay => "relay",
        }
    }
}

/// A text that stands for a session: the first letters of its id, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The first id that begins so.
    pub first: SessionId,
    /// The last one.
    pub last: SessionId,
}

impl Prefix {
    /// From 4 to 16 hexadecimal digits; nothing else stands for a session.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || !(MIN_PREFIX..=ID_LETTERS).contains(&text.len()) {
            return None;
        }
        let padded = |with: &str| {
            let id = format!("{text}{}", with.repeat(ID_LETTERS - text.len()));
            u64::from_str_radix(&id, 16).ok().map(SessionId)
        };
        Some(Self {
            first: padded("0")?,
            last: padded("f")?,
        })
    }
}

/// Why a text names no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOne {
    /// None begins so; it may have ended.
    None,
    /// Several do.
    Several,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_letters_stand_for_all_ids_that_begin_so() {
        let range = |text| Prefix::parse(text).map(|one| (one.first.0, one.last.0));
        assert_eq!(
            range("7f3a"),
            Some((0x7f3a_0000_0000_0000, 0x7f3a_ffff_ffff_ffff))
        );
        assert_eq!(range("0123456789ABCDEF").map(|(a, b)| a == b), Some(true));
        for other in ["", "7f3", "7f3g", "0123456789abcdef0", "+7f3a", " 7f3a"] {
            assert_eq!(range(other), None, "{other:?}");
        }
    }
}
