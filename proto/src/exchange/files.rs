//! Machine: files, each way where it is granted. It knows names, sizes and hashes; the shell has the bytes.
//!
//! ```text
//!  sender    offer ──▶ OFFERED ──accept heard──▶ QUEUED ──one at a time──▶ SENDING ──received heard──▶ gone
//!                         ▲─────────── the grant ends, or the stream does ────┘
//!  receiver  offer heard ──▶ OFFERED ──accept──▶ PREPARING ──prepared──▶ AWAITED ──stream──▶ RECEIVING ──▶ gone
//!                                                   ▲── granted again ── HALTED ◀── the grant ends ──┘
//! ```
//!
//! While the session is paused or interrupted nothing is granted; afterwards a transfer goes on where it stopped: the receiver says
//! how much it has, and the hash of that, and the sender whether that is how the file begins. Nobody's file is ever overwritten or
//! trusted to be what it is called: that is the shell's part.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::name::{FileName, MAX_OFFERED_NAME_BYTES};
use crate::{
    identity::Role,
    session::{Grants, Matter, Way},
    wire::message::session::{self as schema, FileEndReason, control::Body},
};

/// Offers that are waiting or under way, each way. The receiver declines more, as the sender's own machine does.
pub const MAX_OFFERS: usize = 8;

/// SHA-256.
pub type Hash = [u8; 32];

/// What is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What it may be called.
    pub name: FileName,
    /// All of it.
    pub bytes: u64,
    /// Of all of it.
    pub hash: Hash,
}

/// Whose offer a number is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// This side's: the file goes.
    Ours,
    /// The other side's: the file comes.
    Theirs,
}

/// Why nothing more comes of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It is there, and is what was offered.
    Received,
    /// The receiver does not want it.
    Declined,
    /// The sender does not want it to go any more.
    Withdrawn,
    /// It is not what was offered.
    Changed,
    /// The receiver has no room for it.
    DiskFull,
    /// The receiver has so many offers already.
    TooMany,
    /// It cannot be read, or written.
    Failed,
}

impl Over {
    /// For scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Received => "FILE_RECEIVED",
            Self::Declined => "FILE_DECLINED",
            Self::Withdrawn => "FILE_WITHDRAWN",
            Self::Changed => "FILE_CHANGED",
            Self::DiskFull => "FILE_DISK_FULL",
            Self::TooMany => "FILE_TOO_MANY",
            Self::Failed => "FILE_FAILED",
        }
    }

    fn to_schema(self) -> FileEndReason {
        match self {
            Self::Received => FileEndReason::FileReceived,
            Self::Declined => FileEndReason::FileDeclined,
            Self::Withdrawn => FileEndReason::FileWithdrawn,
            Self::Changed => FileEndReason::FileChanged,
            Self::DiskFull => FileEndReason::FileDiskFull,
            Self::TooMany => FileEndReason::FileTooMany,
            Self::Failed => FileEndReason::FileFailed,
        }
    }

    fn from_schema(reason: FileEndReason) -> Self {
        match reason {
            FileEndReason::FileReceived => Self::Received,
            FileEndReason::FileDeclined => Self::Declined,
            FileEndReason::FileWithdrawn => Self::Withdrawn,
            FileEndReason::FileChanged => Self::Changed,
            FileEndReason::FileDiskFull => Self::DiskFull,
            FileEndReason::FileTooMany => Self::TooMany,
            FileEndReason::FileFailed => Self::Failed,
        }
    }
}

/// What the shell does, or says.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// To the other side, on the control stream.
    Tell(Body),
    /// The other side offers a file; somebody has to accept or decline it.
    Offered {
        /// Of the offer.
        number: u32,
        /// What.
        offer: Offer,
    },
    /// See what of it is here, and whether there is room for the rest; then [`Files::handle_prepared`].
    Prepare {
        /// Of the other side's offer.
        number: u32,
        /// What.
        offer: Offer,
    },
    /// Send it on a stream of its own, from `offset` on if the file begins with so much of that hash, else all of it.
    Send {
        /// Of this side's offer.
        number: u32,
        /// The receiver has so much.
        offset: u64,
        /// Of that.
        hash: Hash,
    },
    /// What is under way stops at once; a receiver keeps what it has.
    Stop {
        /// Whose offer.
        whose: Whose,
        /// Its number.
        number: u32,
    },
    /// Nothing more comes of it; what was kept for it is not needed.
    Over {
        /// Whose offer.
        whose: Whose,
        /// Its number.
        number: u32,
        /// Why.
        over: Over,
    },
}

/// Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The sharer has not allowed that.
    #[error("the sharer has not allowed files that way; /files asks for it, or allows it")]
    NotGranted,
    /// See [`MAX_OFFERS`].
    #[error("{MAX_OFFERS} files are waiting or under way already")]
    TooMany,
    /// There is no such offer, or it is too late for that.
    #[error("there is no file of that number to be had")]
    NoSuchOffer,
}

impl Refused {
    /// For scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotGranted => "NOT_GRANTED",
            Self::TooMany => "FILE_TOO_MANY",
            Self::NoSuchOffer => "NO_SUCH_FILE",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    Offered,
    Queued { offset: u64, hash: Hash },
    Sending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coming {
    Offered,
    Preparing,
    Awaited { offset: u64 },
    Receiving,
    Halted,
}

/// One side's machine.
#[derive(Debug)]
pub struct Files {
    role: Role,
    grants: Grants,
    /// Of this side's latest offer.
    number: u32,
    /// Of the other side's latest.
    heard: u32,
    going: BTreeMap<u32, Going>,
    coming: BTreeMap<u32, (Offer, Coming)>,
    outputs: VecDeque<Output>,
}

impl Files {
    /// Of that side; nothing is granted.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            grants: Grants::NONE,
            number: 0,
            heard: 0,
            going: BTreeMap::new(),
            coming: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Whether files may go to the other side.
    pub fn may_send(&self) -> bool {
        self.grants.has(Matter::Files, Way::to(self.role.peer()))
    }

    /// Whether files may come here.
    pub fn may_receive(&self) -> bool {
        self.grants.has(Matter::Files, Way::to(self.role))
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What is granted from now on. What is under way stops, or goes on.
    pub fn handle_grants(&mut self, grants: Grants) {
        let (sent, received) = (self.may_send(), self.may_receive());
        self.grants = grants;
        if sent && !self.may_send() {
            for (number, going) in &mut self.going {
                if *going == Going::Sending {
                    stop(&mut self.outputs, Whose::Ours, *number);
                }
                // The receiver accepts again.
                *going = Going::Offered;
            }
        }
        if received && !self.may_receive() {
            for (number, (_, coming)) in &mut self.coming {
                if *coming != Coming::Offered {
                    stop(&mut self.outputs, Whose::Theirs, *number);
                    *coming = Coming::Halted;
                }
            }
        }
        if !received && self.may_receive() {
            for (number, (offer, coming)) in &mut self.coming {
                if *coming == Coming::Halted {
                    *coming = Coming::Preparing;
                    let (number, offer) = (*number, offer.clone());
                    self.outputs.push_back(Output::Prepare { number, offer });
                }
            }
        }
    }

    // ---- this side's person --------------------------------------------------------------

    /// Whether another file may be offered, for whoever has to hash it first.
    ///
    /// # Errors
    /// [`Refused::NotGranted`], [`Refused::TooMany`].
    pub fn may_offer(&self) -> Result<(), Refused> {
        match (self.may_send(), self.going.len() < MAX_OFFERS) {
            (false, _) => Err(Refused::NotGranted),
            (true, false) => Err(Refused::TooMany),
            (true, true) => Ok(()),
        }
    }

    /// Offers a file; its number.
    ///
    /// # Errors
    /// As [`may_offer`](Self::may_offer).
    pub fn offer(&mut self, offer: &Offer) -> Result<u32, Refused> {
        self.may_offer()?;
        self.number = self.number.wrapping_add(1);
        self.going.insert(self.number, Going::Offered);
        self.tell(Body::FileOffer(schema::FileOffer {
            number: self.number,
            name: offer.name.to_string(),
            bytes: offer.bytes,
            hash: Bytes::copy_from_slice(&offer.hash),
        }));
        Ok(self.number)
    }

    /// Accepts one of the other side's.
    ///
    /// # Errors
    /// [`Refused::NoSuchOffer`], [`Refused::NotGranted`].
    pub fn accept(&mut self, number: u32) -> Result<(), Refused> {
        let may = self.may_receive();
        match self.coming.get_mut(&number) {
            Some((_, Coming::Offered)) if !may => Err(Refused::NotGranted),
            Some((offer, coming @ Coming::Offered)) => {
                *coming = Coming::Preparing;
                let offer = offer.clone();
                self.outputs.push_back(Output::Prepare { number, offer });
                Ok(())
            }
            Some(_) | None => Err(Refused::NoSuchOffer),
        }
    }

    /// Does not want one of the other side's, or not any more; or takes back one of this side's.
    ///
    /// # Errors
    /// [`Refused::NoSuchOffer`]
    pub fn give_up(&mut self, whose: Whose, number: u32) -> Result<(), Refused> {
        if !self.knows(whose, number) {
            return Err(Refused::NoSuchOffer);
        }
        let over = match whose {
            Whose::Ours => Over::Withdrawn,
            Whose::Theirs => Over::Declined,
        };
        self.end(whose, number, over);
        Ok(())
    }

    // ---- the shell -----------------------------------------------------------------------

    /// So much of the other side's file is here, and this is its hash; whether that is still wanted.
    pub fn handle_prepared(&mut self, number: u32, offset: u64, hash: Hash) -> bool {
        if let Some((_, coming @ Coming::Preparing)) = self.coming.get_mut(&number) {
            *coming = Coming::Awaited { offset };
            let hash = Bytes::copy_from_slice(&hash);
            self.tell(Body::FileAccept(schema::FileAccept {
                number,
                offset,
                hash,
            }));
            true
        } else {
            false
        }
    }

    /// The other side has opened the stream of a file, whose bytes begin at `offset`; what it is, if that was accepted and may come.
    pub fn handle_stream(&mut self, number: u32, offset: u64) -> Option<Offer> {
        let (offer, coming) = self.coming.get_mut(&number)?;
        match *coming {
            Coming::Awaited { offset: here } if offset == here || offset == 0 => {
                *coming = Coming::Receiving;
                Some(offer.clone())
            }
            Coming::Offered
            | Coming::Preparing
            | Coming::Awaited { .. }
            | Coming::Receiving
            | Coming::Halted => None,
        }
    }

    /// All of this side's file is on its way; the next one may go.
    pub fn handle_sent(&mut self, number: u32) {
        if let Some(going @ Going::Sending) = self.going.get_mut(&number) {
            *going = Going::Offered;
        }
        self.send_next();
    }

    /// A transfer was cut off, and may go on.
    pub fn handle_cut_off(&mut self, number: u32) {
        if let Some((_, coming @ Coming::Receiving)) = self.coming.get_mut(&number) {
            *coming = Coming::Halted;
        }
    }

    /// Nothing more comes of a transfer, or all of it has come.
    pub fn handle_over(&mut self, whose: Whose, number: u32, over: Over) {
        if self.knows(whose, number) {
            self.end(whose, number, over);
        }
    }

    // ---- the other side ------------------------------------------------------------------

    /// A message of the other side's about files. What makes no sense is passed over.
    pub fn handle_message(&mut self, body: &Body) {
        if let Body::FileOffer(offer) = body {
            self.offered(offer);
        } else if let Body::FileAccept(accept) = body {
            self.accepted(accept);
        } else if let Body::FileEnd(end) = body {
            let whose = match end.yours {
                true => Whose::Ours,
                false => Whose::Theirs,
            };
            self.heard_over(whose, end.number, Over::from_schema(end.reason()));
        }
    }

    fn offered(&mut self, offer: &schema::FileOffer) {
        let number = offer.number;
        // In order: a number stands for one file in all of the session.
        let hash = Hash::try_from(&offer.hash[..]);
        let (Ok(hash), true) = (hash, number > self.heard) else {
            return;
        };
        if offer.name.len() > MAX_OFFERED_NAME_BYTES {
            return;
        }
        self.heard = number;
        if !self.may_receive() {
            return self.tell_over(Whose::Theirs, number, Over::Declined);
        }
        if self.coming.len() >= MAX_OFFERS {
            return self.tell_over(Whose::Theirs, number, Over::TooMany);
        }
        let (name, bytes) = (FileName::new(&offer.name), offer.bytes);
        let offer = Offer { name, bytes, hash };
        self.coming.insert(number, (offer.clone(), Coming::Offered));
        self.outputs.push_back(Output::Offered { number, offer });
    }

    fn accepted(&mut self, accept: &schema::FileAccept) {
        let may = self.may_send();
        let hash = Hash::try_from(&accept.hash[..]);
        if let (Ok(hash), true, Some(going @ Going::Offered)) =
            (hash, may, self.going.get_mut(&accept.number))
        {
            let offset = accept.offset;
            *going = Going::Queued { offset, hash };
            self.send_next();
        }
    }

    fn heard_over(&mut self, whose: Whose, number: u32, over: Over) {
        // Only a receiver knows whether it has it, and only before that can it be taken back.
        let makes_sense = match over {
            Over::Received | Over::Declined | Over::DiskFull | Over::TooMany => {
                whose == Whose::Ours
            }
            Over::Withdrawn => whose == Whose::Theirs,
            Over::Changed | Over::Failed => true,
        };
        if makes_sense && self.forget(whose, number) {
            self.outputs.push_back(Output::Over {
                whose,
                number,
                over,
            });
            self.send_next();
        }
    }

    // ---- both ----------------------------------------------------------------------------

    fn tell(&mut self, body: Body) {
        self.outputs.push_back(Output::Tell(body));
    }

    fn tell_over(&mut self, whose: Whose, number: u32, over: Over) {
        self.tell(Body::FileEnd(schema::FileEnd {
            number,
            yours: whose == Whose::Theirs,
            reason: over.to_schema().into(),
        }));
    }

    /// Whether there is such an offer, and it is not over.
    pub fn knows(&self, whose: Whose, number: u32) -> bool {
        match whose {
            Whose::Ours => self.going.contains_key(&number),
            Whose::Theirs => self.coming.contains_key(&number),
        }
    }

    /// Whether there was something to forget.
    fn forget(&mut self, whose: Whose, number: u32) -> bool {
        let (known, under_way) = match whose {
            Whose::Ours => {
                let going = self.going.remove(&number);
                (going.is_some(), going == Some(Going::Sending))
            }
            Whose::Theirs => {
                let coming = self.coming.remove(&number).map(|(_, coming)| coming);
                let under_way = coming == Some(Coming::Receiving);
                (coming.is_some(), under_way)
            }
        };
        if under_way {
            stop(&mut self.outputs, whose, number);
        }
        known
    }

    fn end(&mut self, whose: Whose, number: u32, over: Over) {
        self.tell_over(whose, number, over);
        self.forget(whose, number);
        self.outputs.push_back(Output::Over {
            whose,
            number,
            over,
        });
        self.send_next();
    }

    /// One at a time, in the order of their numbers: two at once are each half as fast.
    fn send_next(&mut self) {
        if self.going.values().any(|going| *going == Going::Sending) {
            return;
        }
        let queued = self.going.iter_mut().find_map(|(number, going)| {
            if let Going::Queued { offset, hash } = *going {
                *going = Going::Sending;
                Some((*number, offset, hash))
            } else {
                None
            }
        });
        if let Some((number, offset, hash)) = queued {
            self.outputs.push_back(Output::Send {
                number,
                offset,
                hash,
            });
        }
    }
}

fn stop(outputs: &mut VecDeque<Output>, whose: Whose, number: u32) {
    outputs.push_back(Output::Stop { whose, number });
}
