//! Machine: the clipboard's text, each way where it is granted.
//!
//! ```text
//!  handle_local ─▶ ours ─▶ Tell(offer)            Tell(request) ◀─ theirs ◀─ handle_wanted
//!                   └────▶ Send ◀─ request heard                     └─ handle_content ─▶ Came
//! ```
//!
//! Text leaves when somebody inserts it at the other side, not when it is copied. What came is not offered back.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    identity::Role,
    session::{Grants, Matter, Way},
    wire::message::session::{self as schema, control::Body},
};

/// Longest text, in bytes of UTF-8.
pub const MAX_CLIPBOARD_BYTES: usize = 1 << 20;

/// What the shell does, or says.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// To the other side, on the control stream.
    Tell(Body),
    /// To the other side, on a stream of its own; then [`Clipboard::handle_sent`].
    Send {
        /// Of the offer.
        number: u32,
        /// UTF-8.
        text: Bytes,
    },
    /// The other side has text, of so many bytes.
    Offered(u32),
    /// It has none any more that may come here.
    Withdrawn,
    /// This is it.
    Came(Bytes),
}

/// Nothing comes of somebody's wish to insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is nothing on the other side's clipboard that may come here")]
pub struct NothingThere;

#[derive(Debug)]
struct Theirs {
    number: u32,
    bytes: u32,
    wanted: bool,
}

/// One side's machine.
#[derive(Debug)]
pub struct Clipboard {
    role: Role,
    grants: Grants,
    ours: Option<Bytes>,
    /// Of the latest offer.
    number: u32,
    /// More is not sent meanwhile, however often it is asked for.
    sending: bool,
    theirs: Option<Theirs>,
    came: Option<Bytes>,
    outputs: VecDeque<Output>,
}

impl Clipboard {
    /// Of that side; nothing is granted.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            grants: Grants::NONE,
            ours: None,
            number: 0,
            sending: false,
            theirs: None,
            came: None,
            outputs: VecDeque::new(),
        }
    }

    /// Whether this side's text may go to the other.
    pub fn may_send(&self) -> bool {
        self.grants
            .has(Matter::Clipboard, Way::to(self.role.peer()))
    }

    /// Whether the other side's may come here.
    pub fn may_receive(&self) -> bool {
        self.grants.has(Matter::Clipboard, Way::to(self.role))
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What is granted from now on. What may not go any more is forgotten.
    pub fn handle_grants(&mut self, grants: Grants) {
        self.grants = grants;
        if !self.may_send() {
            self.ours = None;
        }
        if !self.may_receive() && self.theirs.take().is_some() {
            self.outputs.push_back(Output::Withdrawn);
        }
    }

    /// This side's clipboard holds this text now; empty: nothing that could be sent.
    pub fn handle_local(&mut self, text: Bytes) {
        let is_news = self.ours.as_ref() != Some(&text) && self.came.as_ref() != Some(&text);
        if !self.may_send() || !is_news || text.len() > MAX_CLIPBOARD_BYTES {
            return;
        }
        // Somebody copied here: what the other side has is not the newest.
        self.came = None;
        self.number = self.number.wrapping_add(1);
        let bytes = u32::try_from(text.len()).expect("at most 1 MiB");
        self.outputs
            .push_back(Output::Tell(Body::ClipboardOffer(schema::ClipboardOffer {
                number: self.number,
                bytes,
            })));
        self.ours = Some(text);
    }

    /// Somebody wants to insert the other side's text here.
    ///
    /// # Errors
    /// There is none that may come.
    pub fn handle_wanted(&mut self) -> Result<(), NothingThere> {
        let theirs = self.theirs.as_mut().ok_or(NothingThere)?;
        if !std::mem::replace(&mut theirs.wanted, true) {
            let number = theirs.number;
            let request = schema::ClipboardRequest { number };
            self.outputs
                .push_back(Output::Tell(Body::ClipboardRequest(request)));
        }
        Ok(())
    }

    /// A message of the other side's about the clipboard.
    pub fn handle_message(&mut self, body: &Body) {
        if let Body::ClipboardOffer(offer) = body {
            self.handle_offer(offer);
        } else if let Body::ClipboardRequest(request) = body {
            self.handle_request(request);
        }
    }

    fn handle_offer(&mut self, offer: &schema::ClipboardOffer) {
        let fits = usize::try_from(offer.bytes).is_ok_and(|bytes| bytes <= MAX_CLIPBOARD_BYTES);
        if !self.may_receive() || !fits {
            return;
        }
        self.theirs = (offer.bytes > 0).then_some(Theirs {
            number: offer.number,
            bytes: offer.bytes,
            wanted: false,
        });
        self.outputs.push_back(match offer.bytes {
            0 => Output::Withdrawn,
            bytes => Output::Offered(bytes),
        });
    }

    /// The other side asks for what was offered. An older offer's text is gone.
    fn handle_request(&mut self, request: &schema::ClipboardRequest) {
        if !self.may_send() || request.number != self.number || self.sending {
            return;
        }
        if let Some(text) = self.ours.clone() {
            self.sending = true;
            let number = self.number;
            self.outputs.push_back(Output::Send { number, text });
        }
    }

    /// What was to be sent is, or cannot be.
    pub fn handle_sent(&mut self) {
        self.sending = false;
    }

    /// A stream of the other side's has ended. What was not asked for, is not what was offered, or is no text, is nothing.
    pub fn handle_content(&mut self, number: u32, text: Bytes) {
        let Some(theirs) = &mut self.theirs else {
            return;
        };
        let is_it = theirs.wanted
            && theirs.number == number
            && u32::try_from(text.len()) == Ok(theirs.bytes)
            && std::str::from_utf8(&text).is_ok();
        if is_it {
            // Asked for again, it comes again.
            theirs.wanted = false;
            self.came = Some(text.clone());
            self.outputs.push_back(Output::Came(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> Grants {
        Grants::both(Matter::Clipboard)
    }

    fn machine(role: Role, grants: Grants) -> Clipboard {
        let mut clipboard = Clipboard::new(role);
        clipboard.handle_grants(grants);
        clipboard
    }

    /// Carries what one says to the other; gives what each was told or has to do beside.
    fn carry(one: &mut Clipboard, other: &mut Clipboard) -> Vec<Output> {
        let mut rest = vec![];
        while let Some(output) = one.poll_output() {
            match output {
                Output::Tell(Body::ClipboardOffer(offer)) => other.handle_offer(&offer),
                Output::Tell(Body::ClipboardRequest(request)) => other.handle_request(&request),
                Output::Send { number, text } => {
                    one.handle_sent();
                    other.handle_content(number, text);
                }
                output @ (Output::Tell(_)
                | Output::Offered(_)
                | Output::Withdrawn
                | Output::Came(_)) => rest.push(output),
            }
        }
        rest
    }

    fn text(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn text_goes_when_somebody_inserts_it_and_not_before() {
        let (mut sharer, mut helper) =
            (machine(Role::Sharer, both()), machine(Role::Helper, both()));
        sharer.handle_local(text("a secret"));
        assert_eq!(carry(&mut sharer, &mut helper), []);
        assert_eq!(carry(&mut helper, &mut sharer), [Output::Offered(8)]);
        assert_eq!(sharer.poll_output(), None, "nothing goes unasked");
        helper.handle_wanted().expect("offered");
        helper.handle_wanted().expect("asked for once");
        assert_eq!(carry(&mut helper, &mut sharer), []);
        assert_eq!(carry(&mut sharer, &mut helper), []);
        assert_eq!(
            carry(&mut helper, &mut sharer),
            [Output::Came(text("a secret"))]
        );
    }

    #[test]
    fn what_came_is_not_offered_back() {
        let (mut sharer, mut helper) =
            (machine(Role::Sharer, both()), machine(Role::Helper, both()));
        helper.handle_local(text("one"));
        carry(&mut helper, &mut sharer);
        sharer.handle_wanted().expect("offered");
        carry(&mut sharer, &mut helper);
        carry(&mut helper, &mut sharer);
        // A clipboard manager takes it over.
        sharer.handle_local(text("one"));
        let told = carry(&mut sharer, &mut helper);
        assert_eq!(told, [Output::Came(text("one"))]);
        sharer.handle_local(text("two"));
        carry(&mut sharer, &mut helper);
        assert_eq!(carry(&mut helper, &mut sharer), [Output::Offered(3)]);
    }

    #[test]
    fn without_a_grant_nothing_is_offered_asked_for_or_sent() {
        let mut sharer = machine(Role::Sharer, Grants::of(Matter::Clipboard, Way::ToSharer));
        sharer.handle_local(text("x"));
        assert_eq!(sharer.poll_output(), None);
        sharer.handle_request(&schema::ClipboardRequest { number: 0 });
        assert_eq!(sharer.poll_output(), None);
        let mut helper = machine(Role::Helper, Grants::of(Matter::Clipboard, Way::ToSharer));
        helper.handle_offer(&schema::ClipboardOffer {
            number: 1,
            bytes: 3,
        });
        assert_eq!(helper.handle_wanted(), Err(NothingThere));
        assert_eq!(helper.poll_output(), None);
    }

    #[test]
    fn a_grant_that_ends_takes_along_what_was_offered() {
        let (mut sharer, mut helper) =
            (machine(Role::Sharer, both()), machine(Role::Helper, both()));
        sharer.handle_local(text("x"));
        carry(&mut sharer, &mut helper);
        assert_eq!(carry(&mut helper, &mut sharer), [Output::Offered(1)]);
        helper.handle_wanted().expect("offered");
        for side in [&mut sharer, &mut helper] {
            side.handle_grants(Grants::NONE);
        }
        // The request was under way.
        assert_eq!(carry(&mut helper, &mut sharer), [Output::Withdrawn]);
        assert_eq!(sharer.poll_output(), None);
        helper.handle_content(1, text("x"));
        assert_eq!(helper.poll_output(), None);
    }

    #[test]
    fn only_what_was_offered_and_asked_for_is_taken() {
        let mut helper = machine(Role::Helper, both());
        let offer = |bytes| schema::ClipboardOffer { number: 1, bytes };
        helper.handle_offer(&offer(u32::MAX));
        assert_eq!(helper.handle_wanted(), Err(NothingThere), "over 1 MiB");
        helper.handle_offer(&offer(2));
        assert_eq!(helper.poll_output(), Some(Output::Offered(2)));
        helper.handle_content(1, text("ab"));
        assert_eq!(helper.poll_output(), None, "a push");
        helper.handle_wanted().expect("offered");
        helper.poll_output();
        for (number, content) in [
            (2, text("ab")),
            (1, text("abc")),
            (1, Bytes::from_static(&[0xff, 0xfe])),
        ] {
            helper.handle_content(number, content);
            assert_eq!(helper.poll_output(), None);
        }
        helper.handle_content(1, text("ab"));
        assert_eq!(helper.poll_output(), Some(Output::Came(text("ab"))));
    }

    #[test]
    fn asking_often_sends_once_at_a_time() {
        let mut sharer = machine(Role::Sharer, both());
        sharer.handle_local(text("x"));
        sharer.poll_output();
        let request = schema::ClipboardRequest { number: 1 };
        for _ in 0..1_000 {
            sharer.handle_request(&request);
        }
        assert!(matches!(sharer.poll_output(), Some(Output::Send { .. })));
        assert_eq!(sharer.poll_output(), None);
        sharer.handle_sent();
        sharer.handle_request(&request);
        assert!(sharer.poll_output().is_some());
    }
}
