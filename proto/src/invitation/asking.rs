//! The sharer asks first: what somebody who waits for help says to whoever rings (`remora request`).
//!
//! ```text
//!  helper ── Look ──▶ judged ─┬─ Refused                                        ─▶ not on that helper's list
//!                             └─ Card, Asks(reason, waited)                     ─▶ on it
//!  helper ── Offer ─▶ judged ─┬─ the first ─▶ Delivered(1), Opened ─▶ Take      ─▶ the session that its code leads to
//!                             └─ all others ─▶ Refused(TAKEN)
//! ```
//!
//! A request is a device with a key of its own, made for this one request, at which nobody is asked whether to open an invitation: who
//! waits has said so by asking. Who may see and take it is for the person's computer to say, by the same verdict as in the session, and
//! what it is about is said under Noise to those alone (`seal`). So there is no list of requests anywhere that could be read, forged or
//! filled: relays know which devices wait for which organisation, and helpers make the list by ringing at them.

use std::{collections::VecDeque, time::Instant};

use super::{
    desk::{Call, check},
    word::{FromDevice, InvitationId, MAX_REASON_BYTES, Offer, Refusal, one_line},
};
use crate::{
    id::NodeId,
    org::verdict::{self, Verdict},
    session::Kind,
};

/// What the shell has to do.
#[derive(Debug)]
pub enum Action {
    /// Say this to a helper.
    Tell(Call, FromDevice),
    /// A helper who could take it has seen it, for the first time.
    Seen,
    /// It is taken: go on with the code of this offer, once.
    Take(Box<Offer>, Box<Verdict>),
}

/// The machine.
#[derive(Debug)]
pub struct Asking {
    reason: String,
    since: Instant,
    is_seen: bool,
    taken: Option<(InvitationId, NodeId)>,
    actions: VecDeque<Action>,
}

impl Asking {
    /// A request, with what it is about: one line of at most [`MAX_REASON_BYTES`], what is more is cut off; may be empty.
    pub fn new(reason: &str, now: Instant) -> Self {
        Self {
            reason: one_line(reason, MAX_REASON_BYTES),
            since: now,
            is_seen: false,
            taken: None,
            actions: VecDeque::new(),
        }
    }

    /// What is next to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether somebody has taken it.
    pub fn is_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// A helper looks, of whom this is to be thought.
    pub fn handle_look(
        &mut self,
        call: Call,
        look: InvitationId,
        verdict: Result<Verdict, verdict::Refusal>,
        now: Instant,
    ) {
        let seen = verdict
            .map_err(Refusal::from)
            .and_then(|verdict| check(Kind::Attended, None, &verdict))
            .and(match self.taken {
                Some(_) => Err(Refusal::Taken),
                None => Ok(()),
            });
        if let Err(refusal) = seen {
            return self.tell(call, FromDevice::Refused(look, refusal));
        }
        let (reason, waited) = (
            self.reason.clone(),
            now.saturating_duration_since(self.since),
        );
        self.tell(call, FromDevice::Asks(look, reason, waited));
        if !std::mem::replace(&mut self.is_seen, true) {
            self.actions.push_back(Action::Seen);
        }
    }

    /// A helper whose key is proven to be `helper` wants to take it.
    pub fn handle_offer(
        &mut self,
        call: Call,
        helper: NodeId,
        offer: Offer,
        verdict: Result<Verdict, verdict::Refusal>,
    ) {
        let id = offer.id;
        if let Err(refusal) = self.take(helper, offer, verdict) {
            return self.tell(call, FromDevice::Refused(id, refusal));
        }
        self.tell(call, FromDevice::Delivered(id, 1));
        self.tell(call, FromDevice::Opened(id));
    }

    fn take(
        &mut self,
        helper: NodeId,
        offer: Offer,
        verdict: Result<Verdict, verdict::Refusal>,
    ) -> Result<(), Refusal> {
        let verdict = verdict?;
        check(offer.kind, offer.mode, &verdict)?;
        if offer.kind == Kind::Unattended {
            let there = "a device that nobody attends; somebody asks for help here";
            return Err(Refusal::PrerequisiteMissing(there.into()));
        }
        match self.taken {
            // Said again, because a relay was lost in between.
            Some(taken) if taken == (offer.id, helper) => Ok(()),
            Some(_) => Err(Refusal::Taken),
            None => {
                self.taken = Some((offer.id, helper));
                let take = Action::Take(Box::new(offer), Box::new(verdict));
                self.actions.push_back(take);
                Ok(())
            }
        }
    }

    fn tell(&mut self, call: Call, word: FromDevice) {
        self.actions.push_back(Action::Tell(call, word));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        code::Code,
        identity::Profile,
        org::{permission::Permissions, verdict::Limit},
        random::Random,
        session::{Mode, T_CONSENT},
    };

    const SAM: NodeId = NodeId([1; 32]);
    const KIM: NodeId = NodeId([2; 32]);

    #[expect(clippy::disallowed_methods, reason = "any moment is a start")]
    fn start() -> Instant {
        Instant::now()
    }

    fn offer(seed: u64) -> Offer {
        let mut random = Random::seeded(seed);
        Offer {
            id: InvitationId::generate(&mut random),
            code: Code::generate(&mut random),
            kind: Kind::Attended,
            mode: None,
            reason: String::new(),
            profile: Profile::new("Sam", "", "", "").expect("a name"),
            papers: None,
            within: T_CONSENT,
        }
    }

    fn permitted() -> Result<Verdict, verdict::Refusal> {
        Ok(Verdict {
            permissions: Permissions::ALL,
            ..Verdict::unmanaged()
        })
    }

    #[derive(Debug, PartialEq)]
    enum Did {
        Tell(u64, FromDevice),
        Seen,
        Take(InvitationId),
    }

    fn did(asking: &mut Asking) -> Vec<Did> {
        let all = std::iter::from_fn(|| asking.poll_action());
        let did = |action| match action {
            Action::Tell(Call(call), word) => Did::Tell(call, word),
            Action::Seen => Did::Seen,
            Action::Take(offer, _) => Did::Take(offer.id),
        };
        all.map(did).collect()
    }

    #[test]
    fn a_2_whoever_may_help_sees_what_it_is_about_and_the_first_to_take_it_wins() {
        let now = start();
        let mut asking = Asking::new("the printer\n", now);
        let look = offer(1).id;
        let later = now + Duration::from_secs(90);
        asking.handle_look(Call(1), look, permitted(), later);
        let asks = FromDevice::Asks(look, "the printer".into(), Duration::from_secs(90));
        let first = [Did::Tell(1, asks), Did::Seen];
        assert_eq!(did(&mut asking), first);
        asking.handle_look(Call(2), look, permitted(), later);
        assert_eq!(did(&mut asking).len(), 1, "it was seen before");
        assert!(!asking.is_taken());
        let (sams, kims) = (offer(2), offer(3));
        asking.handle_offer(Call(3), SAM, sams.clone(), permitted());
        asking.handle_offer(Call(4), KIM, kims.clone(), permitted());
        let told = |call, id| {
            let delivered = FromDevice::Delivered(id, 1);
            [delivered, FromDevice::Opened(id)].map(|word| Did::Tell(call, word))
        };
        let [delivered, opened] = told(3, sams.id);
        let taken = FromDevice::Refused(kims.id, Refusal::Taken);
        assert_eq!(
            did(&mut asking),
            [Did::Take(sams.id), delivered, opened, Did::Tell(4, taken)]
        );
        assert!(asking.is_taken());
        // Sam's relay was lost; nothing is taken twice, nor by Sam's id with another key.
        asking.handle_offer(Call(5), SAM, sams.clone(), permitted());
        assert_eq!(did(&mut asking), told(5, sams.id));
        asking.handle_offer(Call(6), KIM, sams.clone(), permitted());
        asking.handle_look(Call(7), look, permitted(), later);
        let refused = |call, id| Did::Tell(call, FromDevice::Refused(id, Refusal::Taken));
        assert_eq!(did(&mut asking), [refused(6, sams.id), refused(7, look)]);
    }

    #[test]
    fn a_2_whoever_may_not_help_learns_nothing_and_takes_nothing() {
        let now = start();
        let mut asking = Asking::new("the printer", now);
        let limited = |limit| {
            Ok(Verdict {
                permissions: Permissions::NONE,
                limit: Some(limit),
                ..Verdict::unmanaged()
            })
        };
        let cases = [
            (
                limited(Limit::OutOfScope),
                Refusal::Limit(Limit::OutOfScope),
            ),
            (
                limited(Limit::NoPermission),
                Refusal::Limit(Limit::NoPermission),
            ),
            (Err(verdict::Refusal::OrgMismatch), Refusal::OrgMismatch),
            (Err(verdict::Refusal::Revoked), Refusal::AuthFailed),
        ];
        for (verdict, refusal) in cases {
            let offer = offer(1);
            let refused = Did::Tell(1, FromDevice::Refused(offer.id, refusal));
            asking.handle_look(Call(1), offer.id, verdict.clone(), now);
            assert_eq!(did(&mut asking), [refused]);
            asking.handle_offer(Call(1), SAM, offer, verdict);
            assert_eq!(did(&mut asking).len(), 1);
        }
        // More than is permitted; and nobody's absence is agreed to by asking for help.
        let seeing = Ok(Verdict {
            permissions: Permissions::GUEST,
            ..Verdict::unmanaged()
        });
        let control = Offer {
            mode: Some(Mode::Control),
            ..offer(1)
        };
        asking.handle_offer(Call(1), SAM, control, seeing);
        let unattended = Offer {
            kind: Kind::Unattended,
            ..offer(2)
        };
        asking.handle_offer(Call(1), SAM, unattended, permitted());
        let refused = did(&mut asking);
        assert!(
            matches!(
                &refused[..],
                [
                    Did::Tell(
                        _,
                        FromDevice::Refused(_, Refusal::Limit(Limit::NoPermission))
                    ),
                    Did::Tell(_, FromDevice::Refused(_, Refusal::PrerequisiteMissing(_))),
                ]
            ),
            "{refused:?}"
        );
        assert!(!asking.is_taken());
    }
}
