//! The device's side of invitations: who at it may open which, and who was first.
//!
//! ```text
//!  call ── Offer ──▶ judged ─┬─ Refused ──▶ call
//!                            ├─ attended ──▶ shown to every seat ──▶ Delivered(n) ──▶ call
//!                            │                 seat opens: the first has the code ──▶ Opened ──▶ call, the others: Withdrawn(TAKEN)
//!                            │                 each seat declines ──▶ Declined ──▶ call
//!                            └─ unattended ──▶ lease ──▶ Begin, without a person (row 8u)
//!  call ── Withdrawn, gone for a while ─▶ withdrawn from every seat that has not opened it
//! ```
//!
//! A *call* is an exchange with a helper, a *seat* somebody who is logged in at the device and can be asked. Offers do not carry the code
//! to a seat before it is the first to open.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::word::{FromDevice, InvitationId, Offer, Refusal, Withdrawal};
use crate::{
    code::Code,
    id::NodeId,
    org::{
        permission::Permission,
        verdict::{self, Limit, Verdict},
    },
    session::{Kind, Mode, T_CONSENT},
};

/// Offers at once.
pub const MAX_OFFERS: usize = 16;
/// Of one helper.
pub const MAX_OFFERS_OF_ONE: usize = 4;
/// People who can be asked.
pub const MAX_SEATS: usize = 32;
/// For a helper whose call was lost to ring again, before its offer is withdrawn.
pub const T_CALL: Duration = Duration::from_secs(20);

/// An exchange with a helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call(pub u64);

/// Somebody who is logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat(pub u64);

/// What may be had at this device without anybody there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unattended {
    /// Its person does not want that, or it has been started without.
    Off,
    /// It lacks this.
    Lacks(String),
    /// Sessions.
    On,
}

/// Why a seat cannot open or decline an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYours {
    /// Somebody else was first.
    #[error("somebody else was first")]
    Taken,
    /// It was withdrawn, has expired, or never was.
    #[error("there is no such invitation, or not any more")]
    Gone,
}

impl NotYours {
    /// For scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Taken => "TAKEN",
            Self::Gone => "UNKNOWN_INVITATION",
        }
    }
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Action {
    /// Say this to a helper.
    Tell(Call, FromDevice),
    /// Show an offer, in which there is no code that a seat could use; or that it is there once more.
    Show(Seat, Box<Shown>),
    /// It is there no more.
    Withdraw(Seat, InvitationId, Withdrawal),
    /// Begin an unattended session with this code.
    Begin(InvitationId, Code),
}

/// What a seat sees of an offer.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Which.
    pub id: InvitationId,
    /// Who invites, and what for; its code is the desk's.
    pub offer: Offer,
    /// What is to be thought of that.
    pub verdict: Verdict,
    /// Until then it can be opened.
    pub until: Instant,
}

#[derive(Debug)]
struct Held {
    shown: Shown,
    helper: NodeId,
    call: Option<Call>,
    /// Who has it before them.
    seats: BTreeSet<Seat>,
    is_taken: bool,
    /// Then it is withdrawn, whatever is said until then.
    until: Instant,
}

/// The machine.
#[derive(Debug)]
pub struct Desk {
    unattended: Unattended,
    seats: BTreeSet<Seat>,
    held: BTreeMap<InvitationId, Held>,
    lease: Option<Lease>,
    actions: VecDeque<Action>,
}

/// Who is at the unattended device.
#[derive(Debug)]
struct Lease {
    id: InvitationId,
    helper: NodeId,
    by: String,
}

impl Desk {
    /// A desk without seats.
    pub fn new(unattended: Unattended) -> Self {
        Self {
            unattended,
            seats: BTreeSet::new(),
            held: BTreeMap::new(),
            lease: None,
            actions: VecDeque::new(),
        }
    }

    /// What is next to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.held.values().map(|held| held.until).min()
    }

    /// How many can be asked.
    pub fn seats(&self) -> u32 {
        u32::try_from(self.seats.len()).unwrap_or(u32::MAX)
    }

    /// Somebody logs in: what is open is open to them, too. False when there are too many.
    pub fn handle_seat(&mut self, seat: Seat) -> bool {
        if self.seats.len() >= MAX_SEATS {
            return false;
        }
        self.seats.insert(seat);
        for held in self.held.values_mut().filter(|held| !held.is_taken) {
            held.seats.insert(seat);
            let shown = Box::new(held.shown.clone());
            self.actions.push_back(Action::Show(seat, shown));
            tell_delivered(&mut self.actions, held);
        }
        true
    }

    /// Somebody logs out. What nobody else can open is not declined by that: they may be back.
    pub fn handle_seat_gone(&mut self, seat: Seat) {
        self.seats.remove(&seat);
        for held in self.held.values_mut() {
            held.seats.remove(&seat);
        }
    }

    /// An offer, of a helper whose key is proven to be `helper`, with what is to be thought of it.
    pub fn handle_offer(
        &mut self,
        call: Call,
        helper: NodeId,
        offer: Offer,
        verdict: Result<Verdict, verdict::Refusal>,
        now: Instant,
    ) {
        let id = offer.id;
        let taken = self.take(call, helper, offer, verdict, now);
        if let Err(refusal) = taken {
            let refused = FromDevice::Refused(id, refusal);
            self.actions.push_back(Action::Tell(call, refused));
        }
    }

    fn take(
        &mut self,
        call: Call,
        helper: NodeId,
        offer: Offer,
        verdict: Result<Verdict, verdict::Refusal>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let verdict = verdict?;
        check(offer.kind, offer.mode, &verdict)?;
        match offer.kind {
            Kind::Attended => self.show(call, helper, offer, verdict, now),
            Kind::Unattended => self.lease(call, helper, offer),
        }
    }

    fn show(
        &mut self,
        call: Call,
        helper: NodeId,
        offer: Offer,
        verdict: Verdict,
        now: Instant,
    ) -> Result<(), Refusal> {
        let id = offer.id;
        let until = now + offer.within.min(T_CONSENT);
        let mut has = BTreeSet::new();
        match self.held.get(&id) {
            Some(held) if held.helper != helper => return Err(Refusal::AuthFailed),
            // Whoever opened it has not come, or the helper would not ask again.
            Some(held) if !held.is_taken => has = held.seats.clone(),
            Some(_) => {}
            None => {
                let of_one = self.held.values().filter(|held| held.helper == helper);
                if self.held.len() >= MAX_OFFERS || of_one.count() >= MAX_OFFERS_OF_ONE {
                    return Err(Refusal::Full);
                }
            }
        }
        let shown = Shown {
            id,
            offer,
            verdict,
            until,
        };
        // Whoever has it before them is not told again.
        for &seat in self.seats.difference(&has) {
            let shown = Box::new(shown.clone());
            self.actions.push_back(Action::Show(seat, shown));
        }
        let held = Held {
            shown,
            helper,
            call: Some(call),
            seats: self.seats.clone(),
            is_taken: false,
            until,
        };
        tell_delivered(&mut self.actions, &held);
        self.held.insert(id, held);
        Ok(())
    }

    /// Row 8u.
    fn lease(&mut self, call: Call, helper: NodeId, offer: Offer) -> Result<(), Refusal> {
        match &self.unattended {
            Unattended::Off => {
                return Err(Refusal::PrerequisiteMissing(
                    "consent of its person (remora agent --unattended on)".into(),
                ));
            }
            Unattended::Lacks(what) => return Err(Refusal::PrerequisiteMissing(what.clone())),
            Unattended::On => {}
        }
        let delivered = FromDevice::Delivered(offer.id, 1);
        match &self.lease {
            Some(lease) if lease.id == offer.id && lease.helper == helper => {}
            Some(lease) => return Err(Refusal::LeaseHeld(lease.by.clone())),
            None => {
                self.lease = Some(Lease {
                    id: offer.id,
                    helper,
                    by: offer.profile.full_name,
                });
                self.actions.push_back(Action::Begin(offer.id, offer.code));
            }
        }
        self.actions.push_back(Action::Tell(call, delivered));
        Ok(())
    }

    /// The unattended session is over, or did not begin.
    pub fn handle_lease_over(&mut self, id: InvitationId) {
        if self.lease.as_ref().is_some_and(|lease| lease.id == id) {
            self.lease = None;
        }
    }

    /// The helper does not wait any more.
    pub fn handle_withdrawn(&mut self, helper: NodeId, id: InvitationId, why: Withdrawal) {
        if self.held.get(&id).is_some_and(|held| held.helper == helper) {
            self.withdraw(id, why);
        }
    }

    fn withdraw(&mut self, id: InvitationId, why: Withdrawal) {
        let Some(held) = self.held.remove(&id) else {
            return;
        };
        if held.is_taken {
            return;
        }
        for seat in held.seats {
            self.actions.push_back(Action::Withdraw(seat, id, why));
        }
    }

    /// A call is over: its helper may ring again.
    pub fn handle_call_gone(&mut self, call: Call, now: Instant) {
        for held in self.held.values_mut() {
            if held.call == Some(call) {
                held.call = None;
                held.until = held.until.min(now + T_CALL);
            }
        }
    }

    /// A seat opens an offer: the first has its code. Row 8.
    ///
    /// # Errors
    /// [`NotYours`]
    pub fn handle_open(&mut self, seat: Seat, id: InvitationId) -> Result<Code, NotYours> {
        let held = self.held.get_mut(&id).ok_or(NotYours::Gone)?;
        if held.is_taken {
            return Err(NotYours::Taken);
        }
        if !held.seats.remove(&seat) {
            return Err(NotYours::Gone);
        }
        held.is_taken = true;
        for other in std::mem::take(&mut held.seats) {
            let taken = Action::Withdraw(other, id, Withdrawal::Taken);
            self.actions.push_back(taken);
        }
        if let Some(call) = held.call {
            let opened = FromDevice::Opened(id);
            self.actions.push_back(Action::Tell(call, opened));
        }
        Ok(held.shown.offer.code.clone())
    }

    /// A seat does not want an offer; when none of them does, the helper is told.
    ///
    /// # Errors
    /// [`NotYours`]
    pub fn handle_decline(&mut self, seat: Seat, id: InvitationId) -> Result<(), NotYours> {
        let held = self.held.get_mut(&id).ok_or(NotYours::Gone)?;
        if held.is_taken {
            return Err(NotYours::Taken);
        }
        if !held.seats.remove(&seat) {
            return Err(NotYours::Gone);
        }
        if held.seats.is_empty() {
            let call = held.call;
            self.held.remove(&id);
            if let Some(call) = call {
                let declined = FromDevice::Declined(id);
                self.actions.push_back(Action::Tell(call, declined));
            }
        }
        Ok(())
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let over = self.held.iter().filter(|(_, held)| held.until <= now);
        let over: Vec<_> = over.map(|(&id, _)| id).collect();
        for id in over {
            self.withdraw(id, Withdrawal::Expired);
        }
    }
}

/// Row 2's guard, by the word of the device, which is the one that counts.
pub(super) fn check(kind: Kind, mode: Option<Mode>, verdict: &Verdict) -> Result<(), Refusal> {
    if let Some(limit) = verdict.limit {
        return Err(Refusal::Limit(limit));
    }
    let permitted = verdict.permitted();
    let wanted = mode.or(permitted);
    let is_unattended = kind == Kind::Unattended;
    let may = permitted.is_some()
        && wanted <= permitted
        && (!is_unattended || verdict.permissions.has(Permission::Unattended));
    match may {
        true => Ok(()),
        false => Err(Refusal::Limit(Limit::NoPermission)),
    }
}

fn tell_delivered(actions: &mut VecDeque<Action>, held: &Held) {
    if let (Some(call), Ok(agents)) = (held.call, u32::try_from(held.seats.len()))
        && agents > 0
    {
        let delivered = FromDevice::Delivered(held.shown.id, agents);
        actions.push_back(Action::Tell(call, delivered));
    }
}

#[cfg(test)]
mod tests;
