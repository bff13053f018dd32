//! While a session runs: a second relay is kept warm, and when the one that carries the session stops, or another is clearly nearer to
//! both, the two nodes meet there. Drives the machines that decide (`proto::path::{carriers, meeting}`).
//!
//! ```text
//!  relays ── draining, lost, allocated ──▶ ┌──────────┐ ─▶ connect, leave, present a key, release
//!  the other node ── what it can use ────▶ │ Carriers │ ─▶ carrier: by which packets go
//!  silence ──────────────────────────────▶ └──────────┘ ─▶ people
//!                                             ▲ nearer
//!  how far away relays are, from both ───▶ Meeting
//! ```
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the few messages that are about relays, among many"
)]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::Connection;
use remora_proto::{
    id::{RelayId, SessionId, Side},
    line::Why,
    path::{
        carriers::{self, Carriers, Command, Leg, Usable},
        meeting::{self, Meeting},
        tally::Tally,
    },
    random::Random,
    wire::{
        frame::Header,
        message::{
            control::{
                Here, MoveCause, PathWay, Release, ReleaseCause, node_to_relay::Body as Request,
            },
            session::{self as schema, control::Body},
        },
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Homes,
    attached::{Attached, FAREWELL},
};
use crate::{
    control::{Allocation, Notice, RequestError},
    deadline::until,
    error::Failure,
    event::Event,
    path::{
        carrier::{self, Carrier},
        route::SharedRoute,
        socket::{Inlet, MagicSocket},
        survey,
    },
    session::Relays,
};

/// How often one looks whether anything is heard.
const LOOK: Duration = Duration::from_millis(100);
/// What goes through the relay is unanswered for so long, and three round trips: it is tried elsewhere, too. Longer than it takes to lose
/// two packets and send them again (RFC 9002 §6.2.1: some two round trips, then four); and if nothing was wrong, nothing comes of it.
const SILENT: Duration = Duration::from_millis(800);
/// How often the relay is asked whether it is there; while packets go directly, nothing else would tell.
const PULSE: Duration = Duration::from_secs(4);
/// For its answer; it may have to be said again, or by TCP.
const PULSE_TIMEOUT: Duration = Duration::from_secs(3);
/// So many in a row without an answer, and the relay is lost.
const MAX_MISSED: u32 = 2;
/// What one side says to the other of relays: once at the start, and a word a move.
const QUEUE_WORDS: usize = 16;

/// What this task works with.
#[derive(Debug)]
pub(crate) struct Session {
    /// As the relay that it began at knows it.
    pub(crate) id: SessionId,
    /// Ours.
    pub(crate) side: Side,
    /// Between the two nodes.
    pub(crate) connection: Connection,
    /// By which packets go.
    pub(crate) carrier: Arc<Carrier>,
    /// Whether they go by it at all.
    pub(crate) route: Arc<SharedRoute>,
    /// Where they come to.
    pub(crate) inlet: Inlet,
    /// For people.
    pub(crate) events: mpsc::Sender<Event>,
}

/// A session at a relay.
#[derive(Debug)]
struct Open {
    session: SessionId,
    is_heard: Arc<AtomicBool>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Keeping {
    homes: Homes,
    session: Session,
    carriers: Carriers,
    meeting: Meeting,
    tally: Tally,
    usable: Vec<Usable>,
    at: BTreeMap<RelayId, Attached>,
    legs: BTreeMap<Leg, Open>,
    /// What has been presented where.
    presented: BTreeMap<Bytes, Leg>,
    /// Where the session began: what goes without a relay goes by this socket, whatever becomes of the relay.
    origin: Arc<MagicSocket>,
    connecting: JoinSet<(RelayId, Result<Attached, Failure>)>,
    presenting: JoinSet<(Leg, Result<Option<Allocation>, RequestError>)>,
    measuring: JoinSet<Vec<Usable>>,
    pulse: JoinSet<(RelayId, bool)>,
    missed: u32,
    /// Of the origin's socket, when its relay has been left.
    receiving: JoinSet<(Arc<MagicSocket>, JoinSet<()>)>,
    leaving: JoinSet<()>,
    heard: mpsc::Receiver<Body>,
    say: mpsc::Sender<Body>,
    moved: mpsc::Sender<()>,
    ended: watch::Sender<Option<Why>>,
    taken: watch::Receiver<Option<Duration>>,
}

impl Keeping {
    /// For a session that began at `home`; also what the session's task works with.
    pub(crate) fn new(homes: Homes, home: Attached, session: Session) -> (Self, Relays) {
        let (hear, heard) = mpsc::channel(QUEUE_WORDS);
        let (say, said) = mpsc::channel(QUEUE_WORDS);
        let (moved, moves) = mpsc::channel(QUEUE_WORDS);
        let (take, taken) = watch::channel(None);
        let (end, ended) = watch::channel(None);
        let began = Leg {
            relay: home.id(),
            number: 0,
        };
        let open = Open {
            session: session.id,
            is_heard: Arc::default(),
        };
        let way = way(&session.route, &session.carrier);
        let keeping = Self {
            tally: Tally::new(way, Instant::now()),
            carriers: Carriers::new(home.id(), Random::system(), Instant::now()),
            meeting: Meeting::new(session.side, home.id(), Instant::now()),
            usable: homes.usable(&home),
            homes,
            session,
            origin: Arc::clone(&home.socket),
            at: BTreeMap::from([(home.id(), home)]),
            legs: BTreeMap::from([(began, open)]),
            presented: BTreeMap::new(),
            connecting: JoinSet::new(),
            presenting: JoinSet::new(),
            measuring: JoinSet::new(),
            pulse: JoinSet::new(),
            missed: 0,
            receiving: JoinSet::new(),
            leaving: JoinSet::new(),
            heard,
            say,
            moved,
            ended: end,
            taken,
        };
        let relays = Relays {
            heard: hear,
            said,
            moved: moves,
            ended,
            taken: take,
        };
        (keeping, relays)
    }

    /// For as long as it is polled.
    pub(crate) async fn run(&mut self) -> Infallible {
        if self.usable.len() > 1 {
            self.tell_peer(Body::Relays(carriers::encode(&self.usable)));
        }
        let [mut look, mut pulse] = [LOOK, PULSE].map(interval);
        for ticks in [&mut look, &mut pulse] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            while let Some(command) = self.carriers.poll_command() {
                self.carry_out(command);
            }
            while let Some(command) = self.meeting.poll_command() {
                self.see_about(command);
            }
            self.report();
            let due = [self.carriers.poll_timeout(), self.meeting.poll_timeout()];
            let due = due.into_iter().flatten().min();
            tokio::select! { biased;
                (relay, notice) = next_notice(&mut self.at) => match notice {
                    Some(notice) => self.handle_notice(relay, notice).await,
                    None => self.lose(relay),
                },
                Some(body) = self.heard.recv() => self.handle_word(&body),
                Some(Ok((leg, answer))) = self.presenting.join_next() => {
                    self.handle_answer(leg, answer);
                }
                Some(Ok((relay, attached))) = self.connecting.join_next() => {
                    self.handle_connected(relay, attached);
                }
                Some(Ok((relay, is_there))) = self.pulse.join_next() => {
                    self.handle_pulse(relay, is_there);
                }
                Some(Ok(measured)) = self.measuring.join_next() => {
                    self.meeting.handle_measured(&measured, Instant::now());
                }
                Ok(()) = self.taken.changed() => {
                    if let Some(rtt) = *self.taken.borrow_and_update() {
                        self.meeting.handle_path(rtt);
                    }
                }
                () = until(due) => {
                    self.carriers.handle_timeout(Instant::now());
                    self.meeting.handle_timeout(Instant::now());
                }
                _ = look.tick() => self.look(),
                _ = pulse.tick() => self.feel(),
            }
        }
    }

    /// Says the last words to all relays, and ends every task.
    pub(crate) async fn close(self) {
        let Self {
            session,
            at,
            legs,
            origin,
            mut leaving,
            connecting,
            presenting,
            measuring,
            pulse,
            ..
        } = self;
        origin.close_route(session.id);
        // Whoever holds a handle keeps the connection, and whoever could send an event the person waiting.
        drop((session, connecting, presenting, measuring, pulse));
        for (leg, open) in legs {
            let release = Request::Release(Release {
                session: open.session.0,
            });
            if let Some(attached) = at.get(&leg.relay)
                && timeout(FAREWELL, attached.control.tell(release))
                    .await
                    .is_err()
            {
                tracing::debug!("the relay was not told of the end");
            }
        }
        for attached in at.into_values() {
            leaving.spawn(attached.close());
        }
        leaving.join_all().await;
    }

    // --- what happens ---

    async fn handle_notice(&mut self, relay: RelayId, notice: Notice) {
        let now = Instant::now();
        match notice {
            Notice::Draining(within) => {
                if !self.carriers.has_alternative() {
                    let event = Event::RelayDraining(within);
                    if self.session.events.send(event).await.is_err() {
                        tracing::debug!("nobody listens");
                    }
                }
                self.note(relay, MoveCause::Draining);
                self.carriers.handle_draining(relay, within, now);
            }
            Notice::Allocated(allocation) => {
                if let Some(&leg) = self.presented.get(&allocation.rejoin) {
                    self.handle_allocated(leg, &allocation);
                }
            }
            // By then it goes elsewhere, or the other has left.
            Notice::Released(_, ReleaseCause::PeerReleased, _) => {}
            Notice::Released(session, cause, why) => {
                let mut legs = self.legs.iter();
                let leg = legs.find(|(leg, open)| leg.relay == relay && open.session == session);
                let Some((&leg, _)) = leg else { return };
                if cause == ReleaseCause::OperatorEnded {
                    tracing::info!(?relay, "the relay's operator ends the session");
                    self.ended.send_replace(Some(why));
                } else {
                    self.note(relay, MoveCause::Lost);
                    self.carriers.handle_released(leg, now);
                }
            }
            Notice::Offer(..)
            | Notice::Signal(..)
            | Notice::Dismissed(..)
            | Notice::Taken
            | Notice::Silent => {}
        }
    }

    fn handle_word(&mut self, body: &Body) {
        let now = Instant::now();
        match body {
            Body::Relays(theirs) => {
                let connection = &self.session.connection;
                let lot = carriers::lot(|out, label, context| {
                    connection.export_keying_material(out, label, context)
                });
                let Ok(lot) = lot else { return };
                let theirs = carriers::decode(theirs);
                let order = carriers::agree(&self.usable, &theirs, &lot);
                let [ours, others] = [&self.usable, &theirs].map(|usable| usable.first());
                let is_bridged = ours.map(|our| our.relay) != others.map(|their| their.relay);
                tracing::debug!(?order, is_bridged, "relays that both can use");
                self.meeting
                    .handle_agreed(order.clone(), &theirs, is_bridged);
                self.carriers.handle_agreed(order, is_bridged, now);
            }
            Body::Measured(theirs) => self.meeting.handle_told(&carriers::decode(theirs)),
            Body::Moving(moving) => {
                let nearer = moving.nearer[..].try_into().ok().map(RelayId);
                self.tally.handle_cause(match nearer {
                    Some(_) => MoveCause::Nearer,
                    None => MoveCause::Peer,
                });
                self.carriers.handle_moving(moving.number, nearer, now);
            }
            _ => {}
        }
    }

    fn handle_connected(&mut self, relay: RelayId, attached: Result<Attached, Failure>) {
        let now = Instant::now();
        match attached {
            Ok(attached) => {
                let is_leaving = attached.is_leaving();
                self.leave(relay);
                self.at.insert(relay, attached);
                self.carriers.handle_attached(relay, is_leaving, now);
            }
            Err(failure) => {
                tracing::debug!(?relay, %failure, "not reached");
                self.carriers.handle_lost(relay, now);
            }
        }
    }

    fn handle_answer(&mut self, leg: Leg, answer: Result<Option<Allocation>, RequestError>) {
        match answer {
            Ok(Some(allocation)) => self.handle_allocated(leg, &allocation),
            Ok(None) => {}
            Err(RequestError::Refused(refused)) => {
                tracing::info!(?leg, reason = refused.reason().as_str_name(), "not taken");
                self.carriers.handle_refused(leg.relay, Instant::now());
            }
            // The end of its notices says so, too.
            Err(RequestError::Lost) => {}
        }
    }

    fn handle_allocated(&mut self, leg: Leg, allocation: &Allocation) {
        let Some(attached) = self.at.get(&leg.relay) else {
            return;
        };
        let session = allocation.session;
        let inlet = self.session.inlet.clone();
        let is_heard = attached
            .socket
            .open_route(session, self.session.side, Vec::new(), inlet);
        self.legs.insert(leg, Open { session, is_heard });
        self.carriers.handle_allocated(leg, Instant::now());
    }

    fn look(&mut self) {
        let now = Instant::now();
        let is_relayed = self.session.route.get().direct.is_none();
        let by_stream = self.session.carrier.leg().socket.is_by_stream();
        self.meeting.handle_relayed(is_relayed && !by_stream, now);
        let patience = SILENT + 3 * self.session.connection.rtt();
        let is_silent = is_relayed && self.session.carrier.is_silent(patience, now);
        if is_silent {
            self.tally.handle_cause(MoveCause::Lost);
        }
        let way = way(&self.session.route, &self.session.carrier);
        let (_, why) = self.session.route.explain();
        let silence = self.session.carrier.silence(now);
        self.tally.handle_look(way, why, silence, now);
        self.carriers.handle_silence(is_silent, now);
        let current = self.carriers.current();
        let Some(open) = self.legs.get(&current) else {
            return;
        };
        if open.is_heard.load(Ordering::Relaxed) {
            self.carriers.handle_heard(current, now);
            self.tally.handle_heard(now);
        }
        if let Some(attached) = self.at.get(&current.relay)
            && attached.socket.is_unheard(open.session)
        {
            attached.control.try_tell(Request::Here(Here {}));
        }
    }

    /// Asks the relay whether it is there.
    fn feel(&mut self) {
        let relay = self.carriers.current().relay;
        let Some(attached) = self.at.get(&relay) else {
            return;
        };
        if self.pulse.is_empty() && self.usable.len() > 1 {
            let control = attached.control.clone();
            self.pulse.spawn(async move {
                let answered = timeout(PULSE_TIMEOUT, control.here()).await;
                (relay, answered.is_ok_and(|answer| answer.is_ok()))
            });
        }
    }

    fn handle_pulse(&mut self, relay: RelayId, is_there: bool) {
        if is_there || relay != self.carriers.current().relay {
            self.missed = 0;
            return;
        }
        self.missed += 1;
        if self.missed >= MAX_MISSED {
            self.missed = 0;
            self.lose(relay);
        }
    }

    // --- what is done ---

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Connect(relay) => {
                let homes = self.homes.clone();
                self.connecting
                    .spawn(async move { (relay, homes.attach(relay).await) });
            }
            Command::Leave(relay) => self.leave(relay),
            Command::Present(leg) => self.present(leg),
            Command::Use(leg) => self.switch(leg),
            Command::Release(leg) => self.release(leg),
            Command::Tell { number, nearer } => {
                let nearer = nearer.map(|relay| Bytes::copy_from_slice(&relay.0));
                let nearer = nearer.unwrap_or_default();
                self.tell_peer(Body::Moving(schema::Moving { number, nearer }));
            }
        }
    }

    fn see_about(&mut self, command: meeting::Command) {
        match command {
            meeting::Command::Measure => {
                let usable: Vec<_> = self.usable.iter().map(|usable| usable.relay).collect();
                let homes = self.homes.clone();
                self.measuring
                    .spawn(async move { homes.measured(&usable).await });
            }
            meeting::Command::Tell(usable) => {
                self.tell_peer(Body::Measured(carriers::encode(&usable)));
            }
            meeting::Command::Meet(relay) => {
                tracing::info!(session = %self.session.id, ?relay, "nearer to both");
                self.tally.handle_cause(MoveCause::Nearer);
                self.carriers.handle_nearer(relay, Instant::now());
            }
        }
    }

    fn present(&mut self, leg: Leg) {
        let Some(attached) = self.at.get(&leg.relay) else {
            return;
        };
        let connection = &self.session.connection;
        let key = carriers::rejoin_key(leg.relay, leg.number, |out, label, context| {
            connection.export_keying_material(out, label, context)
        });
        let Ok(key) = key.map(|key| Bytes::copy_from_slice(&key)) else {
            return;
        };
        tracing::debug!(?leg, "waiting there");
        self.presented.insert(key.clone(), leg);
        let (control, side) = (attached.control.clone(), self.session.side);
        self.presenting
            .spawn(async move { (leg, control.rejoin(key, side).await) });
    }

    fn switch(&mut self, leg: Leg) {
        let (Some(attached), Some(open)) = (self.at.get(&leg.relay), self.legs.get(&leg)) else {
            return;
        };
        let name = attached.control.welcome.relay_name.clone();
        tracing::info!(session = %self.session.id, relay = name, "another relay carries the session");
        self.session.route.change_relay();
        let mut observers = survey::observers(&attached.control);
        // The socket that packets leave by that go without a relay has one family.
        let is_v4 = self.origin.relay().is_ipv4();
        observers.retain(|observer| observer.is_ipv4() == is_v4);
        self.session.carrier.switch(carrier::Leg {
            socket: Arc::clone(&attached.socket),
            header: Header {
                side: self.session.side,
                session: open.session,
            },
            name,
            observers,
        });
        self.presented.retain(|_, other| other.number >= leg.number);
        self.missed = 0;
        self.meeting.handle_moved(leg.relay, Instant::now());
        self.tally.handle_relay_changed(Instant::now());
        if self.moved.try_send(()).is_err() {
            tracing::debug!("the session has ended");
        }
    }

    fn release(&mut self, leg: Leg) {
        let Some(open) = self.legs.remove(&leg) else {
            return;
        };
        if let Some(attached) = self.at.get(&leg.relay) {
            let session = open.session.0;
            attached
                .control
                .try_tell(Request::Release(Release { session }));
            // What goes without a relay has the first one's number.
            if open.session != self.session.id {
                attached.socket.leave_route(open.session);
            }
        }
    }

    fn leave(&mut self, relay: RelayId) {
        let Some(attached) = self.at.remove(&relay) else {
            return;
        };
        self.legs.retain(|leg, _| leg.relay != relay);
        if Arc::ptr_eq(&attached.socket, &self.origin) {
            self.receiving.spawn(attached.detach());
        } else {
            self.leaving.spawn(attached.close());
        }
    }

    fn lose(&mut self, relay: RelayId) {
        self.note(relay, MoveCause::Lost);
        self.leave(relay);
        self.carriers.handle_lost(relay, Instant::now());
    }

    /// Something is the matter with a relay: with the one that carries the session, it goes elsewhere.
    fn note(&mut self, relay: RelayId, cause: MoveCause) {
        if relay == self.carriers.current().relay {
            self.tally.handle_cause(cause);
        }
    }

    /// One of the two tells the relay how the path has gone.
    fn report(&mut self) {
        while let Some(report) = self.tally.poll_report() {
            if self.session.side == Side::Host
                && let Some(attached) = self.at.get(&self.carriers.current().relay)
            {
                attached.control.try_tell(Request::PathReport(report));
            }
        }
    }

    fn tell_peer(&self, body: Body) {
        if self.say.try_send(body).is_err() {
            tracing::debug!("the other side is not told");
        }
    }
}

/// How packets go just now.
fn way(route: &SharedRoute, carrier: &Carrier) -> PathWay {
    match (route.get().direct, carrier.leg().socket.is_by_stream()) {
        (Some(_), _) => PathWay::Direct,
        (None, true) => PathWay::Stream,
        (None, false) => PathWay::Relay,
    }
}

/// What any of the relays says; `None` when it has gone.
async fn next_notice(at: &mut BTreeMap<RelayId, Attached>) -> (RelayId, Option<Notice>) {
    poll_fn(|context| {
        for (relay, attached) in &mut *at {
            if let Poll::Ready(notice) = attached.notices.poll_recv(context) {
                return Poll::Ready((*relay, notice));
            }
        }
        Poll::Pending
    })
    .await
}
