//! Drives the device's machine of invitations (`proto::invitation::desk`): for the agent that has the device's key.
//!
//! ```text
//!  relay ── Offer, Signal, Dismissed ──▶ lines (Noise) ──▶ Desk ──▶ seats: this agent's inbox, and those of other log-ins
//!        ◀─ Signal, Dismiss ──────────────           ◀── open, decline ──
//! ```

use std::{collections::BTreeMap, time::Instant};

use remora_proto::{
    id::ExchangeId,
    invitation::{
        desk::{Action, Call, Desk, NotYours, Seat, Shown, Unattended},
        seal::Broken,
        word::{FromDevice, FromHelper, InvitationId, Withdrawal},
    },
    presence::Device,
    session::Kind,
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    child::Command,
    letter::{FromSeat, Letter, ToSeat},
    lines::Lines,
    seats::{Arrival, Seats},
};
use crate::{
    control::{Control, unix_ms},
    deadline::until,
    event::card,
    identity::Identity,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Office {
    desk: Desk,
    lines: Lines,
    seats: BTreeMap<Seat, mpsc::Sender<ToSeat>>,
    arrivals: Seats,
    command: Command,
    /// Unattended sessions.
    unattended: JoinSet<InvitationId>,
}

/// What [`Office::next`] waits for.
#[derive(Debug)]
pub(super) enum Happening {
    Arrival(Arrival),
    Over(InvitationId),
    Time,
}

impl Office {
    /// Of a device whose agents are `arrivals`; sessions begin by `command`.
    pub(super) fn new(
        identity: Identity,
        unattended: Unattended,
        arrivals: Seats,
        command: Command,
    ) -> Self {
        Self {
            desk: Desk::new(unattended),
            lines: Lines::new(identity),
            seats: BTreeMap::new(),
            arrivals,
            command,
            unattended: JoinSet::new(),
        }
    }

    /// How many can be asked.
    pub(super) fn seats(&self) -> u32 {
        self.desk.seats()
    }

    /// What happens next here. Cancel-safe.
    pub(super) async fn next(&mut self) -> Happening {
        let due = [self.lines.poll_timeout(), self.desk.poll_timeout()];
        tokio::select! { biased;
            arrival = self.arrivals.next() => Happening::Arrival(arrival),
            Some(Ok(over)) = self.unattended.join_next() => Happening::Over(over),
            () = until(due.into_iter().flatten().min()) => Happening::Time,
        }
    }

    /// Deals with it; whether there are more seats now, or fewer.
    pub(super) async fn handle(&mut self, happening: Happening, control: Option<&Control>) -> bool {
        let before = self.seats();
        match happening {
            Happening::Arrival(arrival) => self.arrive(arrival),
            Happening::Over(id) => self.desk.handle_lease_over(id),
            Happening::Time => self.time(control).await,
        }
        self.act(control).await;
        self.seats() != before
    }

    async fn time(&mut self, control: Option<&Control>) {
        let now = Instant::now();
        self.desk.handle_timeout(now);
        for exchange in self.lines.late(now) {
            self.dismiss(exchange, control).await;
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::New(seat, to) => {
                self.seats.insert(seat, to);
                if !self.desk.handle_seat(seat) {
                    self.seats.remove(&seat);
                }
            }
            Arrival::Gone(seat) => {
                self.seats.remove(&seat);
                self.desk.handle_seat_gone(seat);
            }
            Arrival::Said(seat, word) => {
                let Some(answer) = self.answer(seat, word) else {
                    return;
                };
                self.tell_seat(seat, answer);
            }
        }
    }

    fn answer(&mut self, seat: Seat, word: FromSeat) -> Option<ToSeat> {
        let parse = |id: &str| id.parse::<InvitationId>().map_err(|_| NotYours::Gone);
        let (id, done) = match word {
            FromSeat::Hello { .. } => return None,
            FromSeat::Open { id } => {
                let code = parse(&id).and_then(|parsed| self.desk.handle_open(seat, parsed));
                let opened = code.map(|code| ToSeat::Opened {
                    id: id.clone(),
                    code: code.to_string(),
                });
                (id, opened)
            }
            FromSeat::Decline { id } => {
                let done = parse(&id).and_then(|parsed| self.desk.handle_decline(seat, parsed));
                let declined = done.map(|()| ToSeat::Declined { id: id.clone() });
                (id, declined)
            }
        };
        Some(done.unwrap_or_else(|why| ToSeat::NotYours {
            id,
            code: why.name().into(),
            text: why.to_string(),
        }))
    }

    // --- the relay's notices ---

    /// Somebody rings.
    pub(super) async fn handle_ring(
        &mut self,
        device: &Device,
        exchange: ExchangeId,
        first: &[u8],
        control: &Control,
    ) {
        self.lines.ring(device, exchange, first, control).await;
    }

    /// Who rang says something.
    pub(super) async fn handle_signal(
        &mut self,
        exchange: ExchangeId,
        piece: &[u8],
        control: &Control,
    ) {
        if self.hear(exchange, piece, control).await.is_err() {
            tracing::debug!("a ring that is none");
            self.dismiss(exchange, Some(control)).await;
        }
        self.act(Some(control)).await;
    }

    async fn hear(
        &mut self,
        exchange: ExchangeId,
        piece: &[u8],
        control: &Control,
    ) -> Result<(), Broken> {
        let Some((helper, word)) = self.lines.hear(exchange, piece)? else {
            return Ok(());
        };
        match word {
            FromHelper::Offer(offer) => {
                let shown = (&offer.profile, offer.papers.as_ref());
                let judged = self.lines.judge(exchange, helper, shown, control).await;
                let (call, now) = (Call(exchange.0), Instant::now());
                self.desk.handle_offer(call, helper, *offer, judged?, now);
            }
            FromHelper::Withdrawn(id, why) => {
                self.lines.greet(exchange);
                self.desk.handle_withdrawn(helper, id, why);
                self.act(Some(control)).await;
                self.dismiss(exchange, Some(control)).await;
            }
            // Nobody has asked for help here.
            FromHelper::Look(_) => return Err(Broken),
        }
        Ok(())
    }

    /// The exchange is over.
    pub(super) async fn handle_dismissed(&mut self, exchange: ExchangeId, control: &Control) {
        if self.lines.remove(exchange) {
            let (call, now) = (Call(exchange.0), Instant::now());
            self.desk.handle_call_gone(call, now);
            self.act(Some(control)).await;
        }
    }

    /// The relay is gone, or left, and all exchanges with it.
    pub(super) fn handle_relay_lost(&mut self) {
        for exchange in self.lines.clear() {
            let (call, now) = (Call(exchange.0), Instant::now());
            self.desk.handle_call_gone(call, now);
        }
    }

    // --- what the desk wants ---

    async fn act(&mut self, control: Option<&Control>) {
        while let Some(action) = self.desk.poll_action() {
            match action {
                Action::Tell(Call(exchange), word) => {
                    let exchange = ExchangeId(exchange);
                    let is_last = matches!(word, FromDevice::Refused(..) | FromDevice::Declined(_));
                    if let Some(control) = control
                        && (self.lines.say(exchange, &word, control).await.is_err() || is_last)
                    {
                        self.dismiss(exchange, Some(control)).await;
                    }
                }
                Action::Show(seat, shown) => {
                    let letter = letter(&shown);
                    self.tell_seat(seat, ToSeat::Show { letter });
                }
                Action::Withdraw(seat, id, why) => {
                    let withdrawn = ToSeat::Withdrawn {
                        id: id.to_string(),
                        why: why_name(why).into(),
                    };
                    self.tell_seat(seat, withdrawn);
                }
                Action::Begin(id, code) => {
                    let child = self.command.unattended(&code);
                    self.unattended.spawn(async move {
                        child.await;
                        id
                    });
                }
            }
        }
    }

    /// An agent that does not read holds nobody up; it lists what it was told before.
    fn tell_seat(&self, seat: Seat, word: ToSeat) {
        if let Some(to) = self.seats.get(&seat)
            && to.try_send(word).is_err()
        {
            tracing::debug!("an agent is gone, or does not read");
        }
    }

    async fn dismiss(&mut self, exchange: ExchangeId, control: Option<&Control>) {
        self.desk.handle_call_gone(Call(exchange.0), Instant::now());
        self.lines.dismiss(exchange, control).await;
    }
}

fn letter(shown: &Shown) -> Letter {
    let left = shown.until.saturating_duration_since(Instant::now());
    let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let kind = match shown.offer.kind {
        Kind::Attended => "attended",
        Kind::Unattended => "unattended",
    };
    Letter {
        id: shown.id.to_string(),
        from: card(&shown.offer.profile, &shown.verdict),
        kind: kind.into(),
        mode: shown.offer.mode.map(|mode| mode.to_string()),
        reason: shown.offer.reason.clone(),
        until_unix_ms: unix_ms().saturating_add(left_ms),
    }
}

fn why_name(why: Withdrawal) -> &'static str {
    match why {
        Withdrawal::Taken => "TAKEN",
        Withdrawal::Cancelled => "HELPER_CANCELLED",
        Withdrawal::Expired => "EXPIRED",
    }
}
