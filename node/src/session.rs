//! Drives the session's machine over the inner connection: streams in, streams out, a deadline, a person.
//!
//! ```text
//!  commands ─▶ ┌─────────┐ ─▶ control writer ─▶ QUIC stream 0
//!              │ Session │ ─▶ chat writer ────▶ QUIC stream 4
//!  events  ◀── │ machine │ ◀─ control reader ◀─
//!              │         │ ◀─ chat reader ◀────
//!              └──┬───▲──┘
//!          rights ▼   │ wishes
//!              the picture, on a task of its own: share::sharing at the sharer, help::incoming at the helper
//! ```

/// What a session has done to the sharer's system.
pub mod backends;
/// The inner connection: who connects, who accepts, what both say in the handshake.
pub mod inner;
/// What of it reaches beyond the screen: the broker, the shield, questions on the bar.
pub(crate) mod powers;
/// What goes on after a restart.
pub mod resume;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use quinn::{Connection, RecvStream, SendStream};
use remora_proto::{
    elevation::Orders,
    identity::Role,
    line::Why,
    org::{
        membership::{InvalidPapers, Papers},
        verdict::{self, Verdict},
    },
    path::{candidate::Policy, machine::Moved},
    random::Random,
    resumption::Resumption,
    session::{
        Act, Cause, Command, Event as SessionEvent, Phase, Receipt, Refusal, Resumed, Rights,
        Session, Setup, Shield, Transmit,
    },
    wire::message::{
        Inbox, InvalidMessage, encode,
        session::{self as schema, control::Body},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use self::{
    backends::{Backends, Report, Undone},
    inner::{Inner, Messages},
    powers::Said,
    resume::{Keep, Waiting},
};
use crate::{
    deadline::until,
    event::{Asked, Event, Input, PathSnapshot},
    exchange::{self, Folder, ToExchange},
    help::incoming,
    identity::Identity,
    path::{congestion::WayNumber, mover},
    share::{
        desktop::Desktop,
        hands::AtWork,
        sharing::{self, Sharing, ToScreen, ToSession},
    },
};

/// Messages between a stream's task and the machine. Full means that the network (writers) or the person's program
/// (readers) is behind, and the one who fills it waits.
const QUEUE_MESSAGES: usize = 64;
/// What the helper says about the picture. Full means that the screen is stuck; then nobody misses a laser pointer, and a
/// frame whose acknowledgement is lost is sent again.
const QUEUE_SCREEN: usize = 256;
/// Keys go before everything but QUIC's own frames.
const PRIORITY_INPUT: i32 = 1;
/// How long the last words may take (`T_endnote` of SESSION.md §1.2 is 2 s: half to be acknowledged, half for the other
/// side to take its leave).
const LINGER: Duration = Duration::from_secs(1);
/// How often the path badge is renewed, if nothing happens.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the way is measured. QUIC measures by what it has acknowledged, and who mostly receives sends next to nothing of that
/// kind: it would show the handshake's round trip for half a minute.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// How often one looks whether anything was heard; so late at most is a silence noticed.
const LISTEN_INTERVAL: Duration = Duration::from_millis(250);
/// Papers come hours apart. Whoever sends them without end has no more than one looked at in so long: signatures cost time.
const PAPERS_INTERVAL: Duration = Duration::from_millis(500);
/// After that a computer that restarts is down, or does not say that it is not any more.
const GOING_DOWN: Duration = Duration::from_secs(20);
/// Who waits for a measurement; of more, those who came first are told nothing.
const MAX_WAITING: usize = 8;

/// A running session, from the outside.
#[derive(Debug)]
pub struct Channels {
    /// What the person wants.
    pub input: mpsc::Receiver<Input>,
    /// What the person should know.
    pub events: mpsc::Sender<Event>,
    /// How packets go, renewed every second and with each move.
    pub path: watch::Sender<PathSnapshot>,
    /// Who wants an answer.
    pub asked: mpsc::Receiver<Asked>,
    /// Sharer: what the system does.
    pub backends: Backends,
    /// Sharer: how to come back after a restart.
    pub keep: Option<Keep>,
    /// Where files come to.
    pub folder: Folder,
    /// Whose clipboard takes part.
    pub desktop: Desktop,
}

/// The task that keeps relays, from the session's side.
#[derive(Debug)]
pub struct Relays {
    /// What the other side says to it.
    pub heard: mpsc::Sender<Body>,
    /// What it says to the other side.
    pub said: mpsc::Receiver<Body>,
    /// Another relay carries the session.
    pub moved: mpsc::Receiver<()>,
    /// The operator of a relay that it has a place at has ended it, for that reason.
    pub ended: watch::Receiver<Option<Why>>,
    /// How long the way through the relay takes, there and back, as last measured; `None`: not yet, or packets go another way.
    pub taken: watch::Sender<Option<Duration>>,
}

impl Relays {
    fn hear(&self, body: Body) {
        if self.heard.try_send(body).is_err() {
            tracing::debug!("too much is said about relays");
        }
    }
}

/// This side's part in the picture.
#[derive(Debug)]
pub enum Picture {
    /// Frames and cursor shapes as the sharer sent them, for the page.
    Viewer(mpsc::Sender<Bytes>),
    /// The screen, and what may be done to it.
    Screen(Box<Sharing>),
}

/// What this side thinks of the other, and the other of this side, for as long as the session lasts.
#[derive(Debug)]
pub struct Judge {
    /// This side's.
    pub identity: Identity,
    /// What the other knows of it.
    pub shown: Option<Papers>,
    /// The other.
    pub peer: inner::Peer,
}

impl Judge {
    /// With the papers and the policy of the moment, at the time of the moment.
    fn verdict(&self) -> Result<Verdict, verdict::Refusal> {
        self.identity.judge(&self.peer.introduction, self.peer.node)
    }

    /// What this side has to show anew: papers hold for some hours, and a session goes on.
    fn renewed(&mut self) -> Option<Body> {
        let papers = self.identity.member.as_ref()?.papers();
        if self.shown.as_ref() == Some(&papers) {
            return None;
        }
        let body = Body::Papers(schema::Papers {
            credential: papers.credential.bytes().clone(),
            device: papers.device_bytes(),
        });
        self.shown = Some(papers);
        Some(body)
    }

    /// The other shows newer papers.
    fn look_at(&mut self, shown: &schema::Papers) -> Result<(), InvalidPapers> {
        let papers = Papers::open(&shown.credential, &shown.device)?;
        let before = &mut self.peer.introduction.papers;
        let (Some(papers), Some(held)) = (papers, &before) else {
            return Err(InvalidPapers::NotRenewed);
        };
        papers.succeed(held)?;
        *before = Some(papers);
        Ok(())
    }

    /// Why an administrator of this side's organisation has ended the session.
    fn ending(&self, session: &Session) -> Option<Why> {
        let ending = self.identity.member.as_ref()?.ending(&session.name())?;
        Some(ending.why)
    }

    /// The hash of the other's picture, if whoever vouches for the other has signed it.
    fn signed_portrait(&self, verdict: &Result<Verdict, verdict::Refusal>) -> Option<[u8; 32]> {
        let papers = self.peer.introduction.papers.as_ref()?;
        let is_verified = verdict.as_ref().is_ok_and(|verdict| verdict.verified);
        papers.credential.picture.filter(|_| is_verified)
    }
}

/// How it is over in this connection.
#[derive(Debug)]
pub enum Over {
    /// It has ended.
    Ended(Receipt),
    /// The sharer's computer restarts; it goes on in another one. At the sharer, in another process.
    Restarting(Box<Waiting>),
}

/// Runs a session until it has ended, or in another connection what was `resumed`; nothing is left running afterwards.
pub async fn run(
    inner: Inner,
    (setup, resumed): (Setup, Option<Resumed>),
    mut judge: Judge,
    policy: Policy,
    (channels, picture): (&mut Channels, Picture),
    mut relays: Relays,
) -> Over {
    let Inner {
        connection,
        control,
        chat,
        input,
        path,
        mover,
        inlet: _,
        path_keys,
        resumption,
        endpoint,
    } = inner;
    let mut tasks = JoinSet::new();
    let (route, carrier) = (Arc::clone(&mover.route), Arc::clone(&mover.carrier));
    let (moved, mut moves) = mpsc::channel(QUEUE_MESSAGES);
    let (told, candidates) = mpsc::channel(QUEUE_MESSAGES);
    tasks.spawn(write(path.send, candidates));
    let (to, named) = mpsc::channel(QUEUE_MESSAGES);
    tasks.spawn(read(path.recv, path.inbox, to));
    route.begin(&policy, carrier.leg().socket.is_by_stream());
    let relay_only = policy.relay_only;
    let (relay_wanted, relayed) = watch::channel(relay_only);
    let (theirs, mut relay_wanted_by_peer) = watch::channel(false);
    let (ping, pings) = mpsc::channel(QUEUE_MESSAGES);
    let (pongs, mut measured) = mpsc::channel(QUEUE_MESSAGES);
    let links = mover::Links {
        named,
        told,
        moved,
        relayed,
        relay_wanted: theirs,
        pings,
        pongs,
    };
    tasks.spawn(mover.run(path_keys, policy, links));
    let (to, mut controls) = mpsc::channel(QUEUE_MESSAGES);
    tasks.spawn(read::<schema::Control>(control.recv, control.inbox, to));
    let (to, mut chats) = mpsc::channel(QUEUE_MESSAGES);
    tasks.spawn(read(chat.recv, chat.inbox, to));
    let (control_tx, control_rx) = mpsc::channel(QUEUE_MESSAGES);
    let (input_tx, input_rx) = mpsc::channel(QUEUE_MESSAGES);
    let (chat_tx, chat_rx) = mpsc::channel(QUEUE_MESSAGES);
    let mut writers = JoinSet::new();
    writers.spawn(write(control.send, control_rx));
    writers.spawn(write(chat.send, chat_rx));
    if let Err(error) = input.send.set_priority(PRIORITY_INPUT) {
        tracing::debug!(%error, "priority");
    }
    writers.spawn(write(input.send, input_rx));
    let (keys, keys_rx) = mpsc::channel(QUEUE_MESSAGES);
    let (to_session, mut from_beside) = mpsc::channel(QUEUE_MESSAGES);
    let this_side = exchange::ThisSide {
        role: setup.role,
        folder: channels.folder.clone(),
        desktop: channels.desktop.clone(),
        portrait: judge.identity.portrait.clone(),
        signed: judge.signed_portrait(&setup.verdict),
    };
    let exchange = exchange::Handle::start(
        this_side,
        connection.clone(),
        to_session.clone(),
        channels.events.clone(),
    );
    let mut beside = match picture {
        Picture::Viewer(frames) => Beside::viewer(connection.clone(), frames, to_session, exchange),
        Picture::Screen(sharing) => {
            tasks.spawn(read(input.recv, input.inbox, keys));
            let way = route.number();
            Beside::screen(
                *sharing,
                connection.clone(),
                keys_rx,
                way,
                to_session,
                exchange,
            )
        }
    };

    let mut verdict = setup.verdict.clone();
    let (role, helper) = (setup.role, setup.peer.profile.clone());
    // Helper: to the sharer's broker, of this elevation.
    let mut orders: Option<Orders> = None;
    let mut session = match resumed {
        None => Session::new(setup, Instant::now()),
        Some(resumed) => Session::resumed(setup, resumed, Instant::now()),
    };
    // Helper: then the computer that restarts is taken to be down.
    let mut down_by: Option<Instant> = None;
    let snapshot = |rtt: Option<Duration>| {
        let (direct, why_relayed) = route.explain();
        let stats = connection.stats();
        let leg = carrier.leg();
        PathSnapshot {
            relay: leg.name.clone(),
            rtt: rtt.unwrap_or_else(|| connection.rtt()),
            bytes: stats.udp_tx.bytes + stats.udp_rx.bytes,
            received: stats.udp_rx.bytes,
            direct,
            why_relayed,
            is_by_tcp: false,
        }
        .reached(leg.socket.is_by_stream())
    };
    // Of the way of the moment, once it has been measured.
    let mut rtt = None;
    let mut waiting: Vec<oneshot::Sender<PathSnapshot>> = Vec::new();
    channels.path.send_replace(snapshot(rtt));
    let [mut renewal, mut measure, mut listen] =
        [SNAPSHOT_INTERVAL, MEASURE_INTERVAL, LISTEN_INTERVAL].map(interval);
    for ticks in [&mut renewal, &mut measure, &mut listen] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let (mut controls_over, mut chats_over) = (false, false);
    let mut sign_out = false;
    let mut heard = 0;
    let mut papers_seen: Option<Instant> = None;
    let receipt = loop {
        // At the sharer its own system says so.
        let waits = role == Role::Helper && session.is_restarting();
        let is_cut = controls_over && (chats_over || !session.accepts_chat());
        if !waits {
            down_by = None;
        } else if is_cut || down_by.is_some_and(|at| at <= Instant::now()) {
            break None;
        }
        // A stream ends with the connection. What still waits on the other one is heard first.
        if is_cut {
            warn_of(session.handle_connection_lost(Instant::now()));
        }
        while let Some(transmit) = session.poll_transmit() {
            let sent = match transmit {
                Transmit::Control(body) => {
                    control_tx
                        .send(encode(&schema::Control { body: Some(body) }))
                        .await
                }
                Transmit::Chat(chat) => chat_tx.send(encode(&chat)).await,
            };
            if sent.is_err() {
                tracing::debug!("a stream of the session is closed");
            }
        }
        let published = publish(&mut session, &mut beside, &channels.events).await;
        let mut undone = false;
        for said in published.elevated {
            match (role, said) {
                (Role::Helper, Said::Key(key)) => {
                    orders = Orders::new(&key, &mut Random::system());
                }
                (Role::Sharer, Said::Order(sealed)) => {
                    if let Err(error) = channels.backends.order(sealed) {
                        tracing::warn!(%error, "an order was not passed on");
                    }
                }
                (Role::Helper, Said::Over) => orders = None,
                (Role::Helper, Said::Order(_)) | (Role::Sharer, Said::Key(_) | Said::Over) => {}
            }
        }
        if let Some((shield, within)) = published.shield.filter(|_| role == Role::Sharer) {
            let notice = (shield == Shield::Frozen).then(|| powers::notice(&helper, within));
            channels.backends.notice(notice.as_deref());
        }
        if published.restarts {
            down_by = Some(Instant::now() + GOING_DOWN);
        }
        let mut restart = false;
        for act in published.acts {
            sign_out |= act == Act::SignOut;
            restart |= act == Act::Restart;
            // The one is done when all is said, the other when all is written.
            if act != Act::SignOut
                && act != Act::Restart
                && let Err(error) = channels.backends.act(act)
            {
                tracing::warn!(?act, %error, "not done");
                if let Some(instead) = instead_of(act) {
                    warn_of(session.handle_pressed(instead, Instant::now()));
                    undone = true;
                }
            }
        }
        if restart {
            match go_down(channels, &session, &resumption, &judge) {
                Ok(()) => break None,
                Err(error) => {
                    tracing::warn!(%error, "the computer does not restart");
                    warn_of(session.handle_command(Command::RestartFailed, Instant::now()));
                    undone = true;
                }
            }
        }
        if let Some(receipt) = published.receipt {
            break Some(receipt);
        }
        if undone {
            continue;
        }
        // A person who types faster than the network takes is made to wait; the other side is not. Nor is chat held up by a program
        // that says much.
        let may_command = chat_tx.capacity() > 0;
        let may_report = control_tx.capacity() > QUEUE_MESSAGES / 2;
        let (reports, touches) = channels.backends.heard();
        tokio::select! { biased;
            () = until(session.poll_timeout()) => session.handle_timeout(Instant::now()),
            () = until(down_by) => {}
            message = controls.recv(), if !controls_over => match message {
                Some(Ok(message)) => match message.body {
                    Some(body @ (Body::Relays(_) | Body::Measured(_) | Body::Moving(_))) => relays.hear(body),
                    Some(Body::Papers(shown)) => {
                        if papers_seen.is_some_and(|at| at.elapsed() < PAPERS_INTERVAL) {
                            continue;
                        }
                        papers_seen = Some(Instant::now());
                        match judge.look_at(&shown) {
                            Ok(()) => judge_anew(&judge, &mut verdict, &mut session),
                            Err(error) => tracing::warn!(%error, "the other side's papers"),
                        }
                    }
                    _ => warn_of(session.handle_control(message, Instant::now())),
                },
                Some(Err(_)) => warn_of(session.handle_malformed(Instant::now())),
                None => controls_over = true,
            },
            message = chats.recv(), if !chats_over && session.accepts_chat() => match message {
                Some(Ok(chat)) => warn_of(session.handle_chat(chat, Instant::now())),
                Some(Err(_)) => warn_of(session.handle_malformed(Instant::now())),
                None => chats_over = true,
            },
            wanted = channels.input.recv(), if may_command => {
                let command = match wanted {
                    Some(Input::Session(command)) => command,
                    Some(Input::NewCode) => continue,
                    Some(Input::Exchange(wish)) => {
                        beside.note_hands(&mut session);
                        match session.check_hands(Instant::now()) {
                            Err(refusal) if wish.moves_file() => {
                                tell(&channels.events, not_possible(refusal)).await;
                            }
                            Ok(()) | Err(_) => beside.exchange(ToExchange::Wish(wish)).await,
                        }
                        continue;
                    }
                    Some(Input::Order(order)) => match powers::seal(orders.as_mut(), &order) {
                        Ok(command) => command,
                        Err((code, text)) => {
                            tell(&channels.events, Event::NotPossible { code, text: text.to_owned() }).await;
                            continue;
                        }
                    },
                    Some(Input::Relayed(relayed)) => {
                        if relay_only {
                            let text = "this session was begun to go through the relay only".into();
                            tell(&channels.events, Event::NotPossible { code: "POLICY_RELAY_ONLY", text }).await;
                        } else {
                            relay_wanted.send_replace(relayed);
                            let theirs = *relay_wanted_by_peer.borrow();
                            let ours = relayed;
                            tell(&channels.events, Event::RelayWish { ours, theirs }).await;
                        }
                        continue;
                    }
                    Some(Input::Keys(events)) => {
                        // Full: the network is behind, and old keys are worse than none but a release. So are those that nobody
                        // sees the effect of: they would all be pressed when the other side is back.
                        let is_interrupted = session.phase() == Phase::Interrupted;
                        if is_interrupted || input_tx.try_send(encode(&schema::InputBatch { events })).is_err() {
                            tracing::debug!("input dropped");
                        }
                        continue;
                    }
                    None => {
                        // Nobody is left to be asked what leaving means.
                        if session.handle_command(Command::Leave, Instant::now()).is_err()
                            || session.phase() == Phase::Ending
                        {
                            warn_of(session.handle_connection_lost(Instant::now()));
                        }
                        continue;
                    }
                };
                beside.note_hands(&mut session);
                if let Err(refusal) = session.handle_command(command, Instant::now()) {
                    tell(&channels.events, not_possible(refusal)).await;
                }
            }
            Some(said) = from_beside.recv() => match said {
                // The bar's buttons are out of the helper's reach.
                ToSession::Wish(command) => warn_of(session.handle_pressed(command, Instant::now())),
                ToSession::Malformed => warn_of(session.handle_malformed(Instant::now())),
                ToSession::Prompt(prompt) => warn_of(session.handle_secure_prompt(prompt, Instant::now())),
                ToSession::Activity => warn_of(session.handle_activity(Instant::now())),
                ToSession::Chat => tell(&channels.events, Event::ChatWanted).await,
            },
            Some(report) = reports.recv(), if may_report => warn_of(session.handle_pressed(
                match report {
                    Report::Broker(body) => Command::Elevated(body),
                    Report::BrokerGone => Command::ReleaseElevation,
                },
                Instant::now(),
            )),
            Some(()) = touches.recv() => warn_of(session.handle_local_input(Instant::now())),
            Some(body) = relays.said.recv() => {
                if control_tx.send(encode(&schema::Control { body: Some(body) })).await.is_err() {
                    tracing::debug!("the control stream is closed");
                }
            }
            Ok(()) = relays.ended.changed() => {
                let why = relays.ended.borrow_and_update().clone();
                if let Some(why) = why {
                    warn_of(session.handle_operator_end(why, Instant::now()));
                }
            }
            Some(()) = relays.moved.recv() => if route.get().direct.is_none() {
                rtt = None;
                relays.taken.send_replace(None);
                measure.reset_immediately();
                tell_move(snapshot(rtt), &channels.path, &channels.events, &beside).await;
            },
            Some(step) = moves.recv() => {
                // The connection measures the new way in a while; the checks have.
                rtt = match step {
                    Moved::Direct { rtt, .. } => Some(rtt),
                    Moved::Relayed => None,
                };
                relays.taken.send_replace(None);
                measure.reset_immediately();
                tell_move(snapshot(rtt), &channels.path, &channels.events, &beside).await;
            }
            Ok(()) = relay_wanted_by_peer.changed() => {
                let wish = Event::RelayWish {
                    ours: *relay_wanted.borrow(),
                    theirs: *relay_wanted_by_peer.borrow_and_update(),
                };
                tell(&channels.events, wish).await;
            }
            Some(taken) = measured.recv() => {
                rtt = Some(taken);
                relays.taken.send_replace(rtt.filter(|_| route.get().direct.is_none()));
                let path = snapshot(rtt);
                for asked in waiting.drain(..) {
                    // Whoever has gone meanwhile need not know.
                    asked.send(path.clone()).ok();
                }
                channels.path.send_replace(path);
            }
            Some(asked) = channels.asked.recv(), if may_command => match asked {
                Asked::Way(asked) => {
                    waiting.retain(|asked| !asked.is_closed());
                    waiting.truncate(MAX_WAITING - 1);
                    waiting.insert(0, asked);
                    measure.reset_immediately();
                }
                Asked::Command(command, told) => {
                    // Whoever has gone meanwhile hears of it as all do.
                    beside.note_hands(&mut session);
                    told.send(session.handle_command(command, Instant::now())).ok();
                }
            },
            _ = measure.tick() => if ping.try_send(()).is_err() {
                tracing::debug!("the path is behind");
            },
            _ = listen.tick(), if session.phase() != Phase::Ended => {
                let so_far = frames_heard(&connection);
                if std::mem::replace(&mut heard, so_far) != so_far {
                    warn_of(session.handle_heard(Instant::now()));
                }
            }
            // There is room again.
            _ = chat_tx.reserve(), if !may_command => {}
            _ = renewal.tick() => {
                let path = snapshot(rtt);
                beside.tell(ToScreen::Path(path.kind().to_owned()));
                channels.path.send_replace(path);
                if let Some(body) = judge.renewed()
                    && control_tx.send(encode(&schema::Control { body: Some(body) })).await.is_err()
                {
                    tracing::debug!("the control stream is closed");
                }
                if let Some(why) = judge.ending(&session) {
                    warn_of(session.handle_kill(why, Instant::now()));
                } else {
                    judge_anew(&judge, &mut verdict, &mut session);
                }
            }
        }
    };
    // Nothing is shown and no key stays down while the last words are said.
    drop((control_tx, chat_tx, input_tx, from_beside));
    beside.end_exchange().await;
    beside.close().await;
    channels.path.send_replace(snapshot(rtt));
    let why = receipt
        .as_ref()
        .map_or("RESTARTING", |receipt| receipt.reason.name());
    take_leave(&connection, writers, why).await;
    if sign_out && let Err(error) = channels.backends.act(Act::SignOut) {
        tracing::error!(%error, "the sharer was not signed out");
    }
    tasks.shutdown().await;
    // The close packet leaves before the endpoint's socket does.
    if timeout(LINGER, endpoint.wait_idle()).await.is_err() {
        tracing::debug!("the inner connection did not drain in time");
    }
    match receipt {
        Some(receipt) => Over::Ended(receipt),
        None => Over::Restarting(Box::new(Waiting {
            session,
            resumption,
            peer: resume::peer(&judge.peer),
        })),
    }
}

/// Sharer: writes down how to come back, and has the system restart.
///
/// # Errors
/// It does not, and nothing is written down.
fn go_down(
    channels: &mut Channels,
    session: &Session,
    resumption: &Resumption,
    judge: &Judge,
) -> Result<(), Undone> {
    let Some(keep) = &channels.keep else {
        return Err(Undone("UNSUPPORTED".to_owned()));
    };
    keep.write(session, resumption, resume::peer(&judge.peer))?;
    let done = channels.backends.act(Act::Restart);
    done.inspect_err(|_| keep.place.erase())
}

/// What is thought of the other side now, if that is not what was thought before.
fn judge_anew(
    judge: &Judge,
    before: &mut Result<Verdict, verdict::Refusal>,
    session: &mut Session,
) {
    let now = judge.verdict();
    if now != *before {
        warn_of(session.handle_verdict(now.clone(), Instant::now()));
        *before = now;
    }
}

/// QUIC frames of the other side so far, of those that an idle connection has, too. Only authentic packets have any.
fn frames_heard(connection: &Connection) -> u64 {
    let frames = connection.stats().frame_rx;
    frames.acks + frames.ping + frames.stream
}

/// Packets go another way now: all who show it know it at once.
async fn tell_move(
    path: PathSnapshot,
    shown: &watch::Sender<PathSnapshot>,
    events: &mpsc::Sender<Event>,
    beside: &Beside,
) {
    beside.tell(ToScreen::Moved);
    beside.tell(ToScreen::Path(path.kind().to_owned()));
    // Before the event: whoever hears of it may look.
    shown.send_replace(path.clone());
    tell(events, Event::Moved(path)).await;
}

fn not_possible(refusal: Refusal) -> Event {
    Event::NotPossible {
        code: refusal.code(),
        text: refusal.to_string(),
    }
}

fn warn_of(handled: Result<(), Refusal>) {
    if let Err(error) = handled {
        tracing::warn!(%error, code = error.code(), "refused");
    }
}

/// What came of telling everybody.
#[derive(Default)]
struct Published {
    /// To be done to the sharer's system, in this order.
    acts: Vec<Act>,
    /// To the broker, or from it.
    elevated: Vec<Said>,
    /// What is done about whoever walks by, now.
    shield: Option<(Shield, Duration)>,
    /// The session is over.
    receipt: Option<Receipt>,
    /// The sharer's computer goes down.
    restarts: bool,
}

/// What the session is told when its system does not do what it can.
fn instead_of(act: Act) -> Option<Command> {
    match act {
        Act::Elevate => Some(Command::ReleaseElevation),
        // Nothing is shown of a screen that others can see.
        Act::Shield => Some(Command::CaptureFailed),
        Act::Unelevate | Act::Unshield | Act::Restart | Act::SignOut | Act::PowerKey { .. } => None,
    }
}

/// Passes events on to whom they concern.
async fn publish(
    session: &mut Session,
    beside: &mut Beside,
    events: &mpsc::Sender<Event>,
) -> Published {
    let mut published = Published::default();
    while let Some(event) = session.poll_event() {
        beside.rights(session.rights()).await;
        if let Some(question) = powers::question(&event) {
            beside.tell(ToScreen::Ask(question));
        }
        match &event {
            SessionEvent::Trust { peer, .. } | SessionEvent::Returned { peer, .. } => {
                beside.tell(ToScreen::Helper {
                    name: peer.full_name.clone(),
                    who: powers::who(peer),
                });
                beside.exchange(ToExchange::Trusted).await;
            }
            // Nobody but the screen is interested.
            SessionEvent::Media(_) if beside.screen.is_some() => {
                if let SessionEvent::Media(body) = event {
                    beside.tell(ToScreen::Media(body));
                }
                continue;
            }
            SessionEvent::Exchange(_) => {
                if let SessionEvent::Exchange(body) = event {
                    beside.exchange(ToExchange::Heard(body)).await;
                }
                continue;
            }
            SessionEvent::Act(act) => {
                published.acts.push(*act);
                continue;
            }
            SessionEvent::Elevated(Body::ElevationOrder(order)) => {
                published.elevated.push(Said::Order(order.sealed.clone()));
                continue;
            }
            SessionEvent::Elevated(Body::ElevationKey(key)) => {
                published.elevated.push(Said::Key(key.key.clone()));
            }
            SessionEvent::ElevationReleased => published.elevated.push(Said::Over),
            SessionEvent::Shield { shield, within } => published.shield = Some((*shield, *within)),
            // For people it begins when there is something to see.
            SessionEvent::Starting { .. } => {
                beside.tell(ToScreen::Open);
                continue;
            }
            SessionEvent::Interrupted { cause, .. } => {
                published.restarts = *cause == Cause::Restarting;
            }
            SessionEvent::Ended(ended) => {
                published.receipt = Some(ended.clone());
                // The end is the last that is told.
                beside.end_exchange().await;
            }
            SessionEvent::Media(_)
            | SessionEvent::Elevated(_)
            | SessionEvent::Judged(_)
            | SessionEvent::PeerCheckedSas(_)
            | SessionEvent::ConsentPrompt { .. }
            | SessionEvent::Countdown { .. }
            | SessionEvent::AwaitingConsent { .. }
            | SessionEvent::Started { .. }
            | SessionEvent::ModeChanged { .. }
            | SessionEvent::UpgradeDeclined
            | SessionEvent::Refused(_)
            | SessionEvent::ElevationPrompt { .. }
            | SessionEvent::ElevationGranted
            | SessionEvent::ElevationDeclined
            | SessionEvent::RestartPrompt { .. }
            | SessionEvent::RestartDeclined
            | SessionEvent::NoRestart(_)
            | SessionEvent::HandoverPrompt { .. }
            | SessionEvent::HandingOver { .. }
            | SessionEvent::HandoverDeclined
            | SessionEvent::HandoverFailed
            | SessionEvent::Paused(_)
            | SessionEvent::Covered(_)
            | SessionEvent::Check { .. }
            | SessionEvent::GoesOn
            | SessionEvent::LeaveWarning { .. }
            | SessionEvent::Stayed
            | SessionEvent::Resumed { .. }
            | SessionEvent::Granted(_)
            | SessionEvent::GrantWanted(_)
            | SessionEvent::Chat { .. } => {}
        }
        tell(events, Event::Session(event)).await;
    }
    published
}

/// The tasks that have the picture, and what is exchanged, from the session's side.
struct Beside {
    task: JoinHandle<()>,
    /// Until the end.
    exchange: Option<exchange::Handle>,
    /// At the sharer.
    screen: Option<Screen>,
}

/// The sharer's screen, from the session's side.
struct Screen {
    tell: mpsc::Sender<ToScreen>,
    allow: watch::Sender<Rights>,
    hands: watch::Receiver<AtWork>,
}

impl Beside {
    fn viewer(
        connection: Connection,
        frames: mpsc::Sender<Bytes>,
        session: mpsc::Sender<ToSession>,
        exchange: exchange::Handle,
    ) -> Self {
        Self {
            task: tokio::spawn(incoming::receive(connection, frames, session)),
            exchange: Some(exchange),
            screen: None,
        }
    }

    fn screen(
        sharing: Sharing,
        connection: Connection,
        input: mpsc::Receiver<Result<schema::InputBatch, InvalidMessage>>,
        way: WayNumber,
        session: mpsc::Sender<ToSession>,
        exchange: exchange::Handle,
    ) -> Self {
        let (tell, told) = mpsc::channel(QUEUE_SCREEN);
        let (allow, rights) = watch::channel(Rights::default());
        let (at_work, hands) = watch::channel(AtWork::default());
        let channels = sharing::Channels {
            told,
            rights,
            session,
            input,
            at_work,
            way,
        };
        Self {
            task: tokio::spawn(sharing.run(connection, channels)),
            exchange: Some(exchange),
            screen: Some(Screen { tell, allow, hands }),
        }
    }

    /// What the session allows now.
    async fn rights(&mut self, now: Rights) {
        if let Some(exchange) = &mut self.exchange {
            exchange.grants(now.grants).await;
        }
        if let Some(screen) = &self.screen {
            screen
                .allow
                .send_if_modified(|rights| std::mem::replace(rights, now) != now);
        }
    }

    /// Tells the session whether the helper may have brought about what is said next.
    fn note_hands(&self, session: &mut Session) {
        let hands = self.screen.as_ref().map(|screen| *screen.hands.borrow());
        if let Some(at) = hands.and_then(|hands| hands.last(Instant::now())) {
            session.handle_hands(at);
        }
    }

    async fn exchange(&self, what: ToExchange) {
        if let Some(exchange) = &self.exchange {
            exchange.tell(what).await;
        }
    }

    async fn end_exchange(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.close().await;
        }
    }

    fn tell(&self, what: ToScreen) {
        if let Some(screen) = &self.screen
            && screen.tell.try_send(what).is_err()
        {
            tracing::debug!("the screen is behind");
        }
    }

    /// Nothing is shown and no key is down afterwards.
    async fn close(self) {
        let Self {
            mut task,
            exchange: _,
            screen,
        } = self;
        if screen.is_none() {
            // Only receives.
            task.abort();
        }
        drop(screen);
        if timeout(LINGER, &mut task).await.is_err() {
            tracing::warn!("the screen did not close in time");
        }
    }
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    if events.send(event).await.is_err() {
        tracing::debug!("nobody listens");
    }
}

/// Reads messages until the stream is over; what is no message is the last thing handed on.
async fn read<M: Message + Default>(
    mut stream: RecvStream,
    mut inbox: Inbox,
    to: mpsc::Sender<Result<M, InvalidMessage>>,
) {
    loop {
        loop {
            let message = match inbox.next() {
                Ok(Some(message)) => Ok(message),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let over = message.is_err();
            if to.send(message).await.is_err() || over {
                return;
            }
        }
        match stream.read_chunk(Messages::CHUNK_BYTES, true).await {
            Ok(Some(chunk)) => inbox.push(&chunk.bytes),
            Ok(None) | Err(_) => return,
        }
    }
}

/// Writes until the machine is done, then waits for the last byte to be acknowledged.
async fn write(mut stream: SendStream, mut messages: mpsc::Receiver<Bytes>) {
    while let Some(message) = messages.recv().await {
        if stream.write_chunk(message).await.is_err() {
            return;
        }
    }
    if stream.finish().is_ok() && stream.stopped().await.is_err() {
        tracing::debug!("the end of a stream was not acknowledged");
    }
}

/// The last words are delivered, then the one who hears them last closes the connection.
async fn take_leave(connection: &Connection, mut writers: JoinSet<()>, reason: &str) {
    let delivered = async { while writers.join_next().await.is_some() {} };
    if timeout(LINGER, delivered).await.is_err() {
        tracing::debug!("the last words were not acknowledged in time");
    }
    connection.close(0u32.into(), reason.as_bytes());
}
