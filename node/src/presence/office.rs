//! Drives the device's machine of invitations (`proto::invitation::desk`): for the agent that has the device's key.
//!
//! ```text
//!  relay ── Offer, Signal, Dismissed ──▶ lines (Noise) ──▶ Desk ──▶ seats: this agent's inbox, and those of other log-ins
//!        ◀─ Signal, Dismiss ──────────────           ◀── open, decline ──
//! ```

use std::{
    collections::BTreeMap,
    future::pending,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::ExchangeId,
    identity::Role,
    invitation::{
        desk::{Action, Call, Desk, NotYours, Seat, Shown, Unattended},
        seal::{Answering, Broken, Channel},
        word::{Card, FromDevice, FromHelper, InvitationId, Withdrawal, introduction},
    },
    noise::StaticKey,
    presence::Device,
    session::Kind,
    wire::message::control::{Dismiss, Signal, node_to_relay::Body as Request},
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    child::{Command, News},
    letter::{FromSeat, Letter, ToSeat, UNATTENDED},
    seats::{Arrival, Seats},
};
use crate::{
    control::{Control, unix_ms},
    deadline::until,
    event::card,
    identity::{Identity, Member},
};

/// Exchanges at once: as many as a relay opens.
const MAX_LINES: usize = 16;
/// Questions and answers of an unattended session: one each, and what nobody waits for.
const QUEUE: usize = 4;
/// For a helper to prove who it is and to say what it wants.
const HELLO: Duration = Duration::from_secs(10);

/// An exchange with a helper.
#[derive(Debug)]
struct Line {
    state: State,
    /// Until then it has to have said something of use.
    hello_by: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Answering(Option<Answering>),
    Open(Box<Channel>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Office {
    desk: Desk,
    identity: Identity,
    key: StaticKey,
    lines: BTreeMap<ExchangeId, Line>,
    seats: BTreeMap<Seat, mpsc::Sender<ToSeat>>,
    arrivals: Seats,
    command: Command,
    /// Unattended sessions: one, and maybe another that is ending.
    unattended: JoinSet<InvitationId>,
    /// What the newest of them is told, and what it tells.
    begun: Option<Begun>,
}

/// An unattended session's program.
#[derive(Debug)]
struct Begun {
    id: InvitationId,
    answers: mpsc::Sender<bool>,
    news: mpsc::Receiver<News>,
}

/// What [`Office::next`] waits for.
#[derive(Debug)]
pub(super) enum Happening {
    Arrival(Arrival),
    Over(InvitationId),
    News(InvitationId, News),
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
            key: identity.key(),
            identity,
            lines: BTreeMap::new(),
            seats: BTreeMap::new(),
            arrivals,
            command,
            unattended: JoinSet::new(),
            begun: None,
        }
    }

    /// How many can be asked.
    pub(super) fn seats(&self) -> u32 {
        self.desk.seats()
    }

    /// What happens next here. Cancel-safe.
    pub(super) async fn next(&mut self) -> Happening {
        let hello = self.lines.values().filter_map(|line| line.hello_by).min();
        let due = [hello, self.desk.poll_timeout()];
        tokio::select! { biased;
            arrival = self.arrivals.next() => Happening::Arrival(arrival),
            (id, news) = heard(&mut self.begun) => Happening::News(id, news),
            Some(Ok(over)) = self.unattended.join_next() => Happening::Over(over),
            () = until(due.into_iter().flatten().min()) => Happening::Time,
        }
    }

    /// Deals with it; whether there are more seats now, or fewer.
    pub(super) async fn handle(&mut self, happening: Happening, control: Option<&Control>) -> bool {
        let before = self.seats();
        match happening {
            Happening::Arrival(arrival) => self.arrive(arrival),
            Happening::Over(id) | Happening::News(id, News::Over) => {
                self.desk.handle_lease_over(id)
            }
            Happening::News(id, News::Countdown(within)) => {
                self.desk.handle_countdown(id, Instant::now() + within);
            }
            Happening::News(id, News::Answered) => self.desk.handle_countdown_over(id),
            Happening::Time => self.time(control).await,
        }
        self.act(control).await;
        self.seats() != before
    }

    async fn time(&mut self, control: Option<&Control>) {
        let now = Instant::now();
        self.desk.handle_timeout(now);
        let is_late = |line: &Line| line.hello_by.is_some_and(|by| by <= now);
        let late = self.lines.iter().filter(|(_, line)| is_late(line));
        let late: Vec<_> = late.map(|(&exchange, _)| exchange).collect();
        for exchange in late {
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
            FromSeat::Open { id } if self.is_counting_down(&id) => {
                let done = parse(&id).and_then(|id| self.desk.handle_answer(seat, id, true));
                let begins = done.map(|()| ToSeat::Begins { id: id.clone() });
                (id, begins)
            }
            FromSeat::Decline { id } if self.is_counting_down(&id) => {
                let done = parse(&id).and_then(|id| self.desk.handle_answer(seat, id, false));
                let declined = done.map(|()| ToSeat::Declined { id: id.clone() });
                (id, declined)
            }
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

    fn is_counting_down(&self, id: &str) -> bool {
        let parsed = id.parse::<InvitationId>();
        parsed.is_ok_and(|id| self.desk.is_counting_down(id))
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
        let answering = match self.lines.len() < MAX_LINES {
            true => Answering::new(device, &self.key, first),
            false => Err(Broken),
        };
        match answering {
            Ok((answering, answer)) => {
                control.tell(signal(exchange, answer)).await;
                let line = Line {
                    state: State::Answering(Some(answering)),
                    hello_by: Some(Instant::now() + HELLO),
                };
                self.lines.insert(exchange, line);
            }
            Err(Broken) => control.tell(dismiss(exchange)).await,
        }
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
        let Some(line) = self.lines.get_mut(&exchange) else {
            return Ok(());
        };
        let channel = match &mut line.state {
            State::Answering(answering) => {
                let answering = answering.take().ok_or(Broken)?;
                line.state = State::Open(Box::new(answering.handle_last(piece)?));
                return Ok(());
            }
            State::Open(channel) => channel,
        };
        let (helper, message) = (channel.peer(), channel.open(piece)?);
        let Some(message) = message else {
            return Ok(());
        };
        match FromHelper::from_schema(message)? {
            Some(FromHelper::Offer(offer)) => {
                let shown = introduction(Role::Helper, &offer.profile, offer.papers.as_ref());
                let verdict = self.identity.judge(&shown, helper);
                // Whoever is not let in does not learn whose the device is.
                if line.hello_by.take().is_some() && verdict.is_ok() {
                    let card = self.card();
                    self.say(exchange, &card, control).await?;
                }
                let (call, now) = (Call(exchange.0), Instant::now());
                self.desk.handle_offer(call, helper, *offer, verdict, now);
            }
            Some(FromHelper::Withdrawn(id, why)) => {
                line.hello_by = None;
                self.desk.handle_withdrawn(helper, id, why);
                self.act(Some(control)).await;
                self.dismiss(exchange, Some(control)).await;
            }
            None => {}
        }
        Ok(())
    }

    fn card(&self) -> FromDevice {
        let member = self.identity.member.as_deref();
        FromDevice::Card(Box::new(Card {
            profile: self.identity.profile.clone(),
            papers: member.map(Member::papers),
        }))
    }

    /// The exchange is over.
    pub(super) async fn handle_dismissed(&mut self, exchange: ExchangeId, control: &Control) {
        if self.lines.remove(&exchange).is_some() {
            let (call, now) = (Call(exchange.0), Instant::now());
            self.desk.handle_call_gone(call, now);
            self.act(Some(control)).await;
        }
    }

    /// The relay is gone, or left, and all exchanges with it.
    pub(super) fn handle_relay_lost(&mut self) {
        for exchange in std::mem::take(&mut self.lines).into_keys() {
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
                        && (self.say(exchange, &word, control).await.is_err() || is_last)
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
                    let (answers, answers_rx) = mpsc::channel(QUEUE);
                    let (news_to, news) = mpsc::channel(QUEUE);
                    let child = self.command.unattended(&code, answers_rx, news_to);
                    self.begun = Some(Begun { id, answers, news });
                    self.unattended.spawn(async move {
                        child.await;
                        id
                    });
                }
                Action::Answer(id, yes) => {
                    let begun = self.begun.as_ref().filter(|begun| begun.id == id);
                    if begun.is_some_and(|begun| begun.answers.try_send(yes).is_err()) {
                        tracing::debug!("the unattended session has ended");
                    }
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

    async fn say(
        &mut self,
        exchange: ExchangeId,
        word: &FromDevice,
        control: &Control,
    ) -> Result<(), Broken> {
        let Some(line) = self.lines.get_mut(&exchange) else {
            return Ok(());
        };
        let State::Open(channel) = &mut line.state else {
            return Err(Broken);
        };
        for piece in channel.seal(&word.to_schema())? {
            control.tell(signal(exchange, piece)).await;
        }
        Ok(())
    }

    async fn dismiss(&mut self, exchange: ExchangeId, control: Option<&Control>) {
        self.lines.remove(&exchange);
        self.desk.handle_call_gone(Call(exchange.0), Instant::now());
        if let Some(control) = control {
            control.tell(dismiss(exchange)).await;
        }
    }
}

/// Waits for ever when there is none, or it has said all.
async fn heard(begun: &mut Option<Begun>) -> (InvitationId, News) {
    if let Some(begun) = begun
        && let Some(news) = begun.news.recv().await
    {
        return (begun.id, news);
    }
    pending().await
}

fn signal(exchange: ExchangeId, payload: Bytes) -> Request {
    Request::Signal(Signal {
        exchange: exchange.0,
        payload,
    })
}

fn dismiss(exchange: ExchangeId) -> Request {
    Request::Dismiss(Dismiss {
        exchange: exchange.0,
        payload: Bytes::new(),
        wrong_secret: false,
    })
}

fn letter(shown: &Shown) -> Letter {
    let left = shown.until.saturating_duration_since(Instant::now());
    let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let kind = match shown.offer.kind {
        Kind::Attended => "attended",
        Kind::Unattended => UNATTENDED,
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
