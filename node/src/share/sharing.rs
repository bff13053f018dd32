//! What a session does to the sharer's screen: shows it once a viewer asks, lets keys through while the sharer allows it,
//! draws the helper's pointer. Everything here belongs to one session, runs on a task beside it and goes with it.
//!
//! ```text
//!            ┌──────── rights: what may be shown and done ────────┐
//!  session ──┼─ ToScreen ─▶ Sharing ─▶ projector ─▶ outgoing ──▶ helper
//!            └─ ToSession ◀─┘    └───▶ hands ◀───────── input stream
//! ```
//!
//! The session never waits for the screen, nor the screen for the network: chat and control go on whatever the picture does.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a few messages concern the screen, among many"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::Connection;
use remora_proto::{
    identity::Role,
    session::{Command, Mode, Rights, SecurePrompt},
    wire::message::{
        CURSOR_STREAM, InvalidMessage,
        session::{self as schema, control::Body},
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    bar::{Bar, BarEvent, BarText, Question},
    capture::{CaptureError, CursorShape, Rect},
    desktop::Desktop,
    hands::{AtWork, Field, Hands, admit},
    outgoing::Outgoing,
    overlay::Overlay,
    projector::{Projected, Projector, ToProjector},
    prompts::Prompts,
};
use crate::{exchange::signs, path::congestion::WayNumber};

/// Between the projector's thread and this task, which only starts what it is told to.
const QUEUE_PROJECTED: usize = 8;

/// What the session tells the screen.
#[derive(Debug)]
pub enum ToScreen {
    /// Who looks: on the bar.
    Helper {
        /// Of the person.
        name: String,
        /// And of the company, for whoever has not seen the card.
        who: String,
    },
    /// How packets go: on the bar.
    Path(String),
    /// They go another way now.
    Moved,
    /// What the sharer is asked, or nothing any more: on the bar.
    Ask(Option<Question>),
    /// It will be looked at: the sharer has allowed it.
    Open,
    /// What the helper's program says about the picture.
    Media(Body),
}

/// What the screen tells the session.
#[derive(Debug)]
pub enum ToSession {
    /// What is wanted: by the sharer at the bar, or by the screen itself.
    Wish(Command),
    /// The sharer wants to talk.
    Chat,
    /// The helper's input was no message.
    Malformed,
    /// The helper used mouse or keyboard.
    Activity,
    /// A prompt that must not be seen covers the screen, or does not any more.
    Prompt(Option<SecurePrompt>),
}

/// The session's side of a screen.
#[derive(Debug)]
pub struct Channels {
    /// What the session says.
    pub told: mpsc::Receiver<ToScreen>,
    /// What it allows.
    pub rights: watch::Receiver<Rights>,
    /// What it hears.
    pub session: mpsc::Sender<ToSession>,
    /// The helper's keys and pointer.
    pub input: mpsc::Receiver<Result<schema::InputBatch, InvalidMessage>>,
    /// Whether they are at work.
    pub at_work: watch::Sender<AtWork>,
    /// Which way frames go.
    pub way: WayNumber,
}

/// The sharer's screen in one session.
#[derive(Debug)]
pub struct Sharing {
    desktop: Desktop,
    projector: Option<Projector>,
    projected: mpsc::Receiver<Projected>,
    projected_tx: mpsc::Sender<Projected>,
    overlay: Option<Overlay>,
    bar: Option<Bar>,
    bar_rect: Option<watch::Receiver<Rect>>,
    prompts: Option<Prompts>,
    /// Whether there is a prompt, as they say.
    prompt: Option<watch::Receiver<bool>>,
    /// There is one: not shown, even before the session knows of it.
    prompted: bool,
    text: BarText,
    /// Counts pauses and beginnings: frames of an earlier epoch are thrown away.
    epoch: u32,
    /// Nothing is shown at present: the sharer's pause, a prompt of the system.
    halted: bool,
    /// Nothing is heard of the helper.
    interrupted: bool,
    /// A viewer has asked.
    begun: bool,
    field: watch::Sender<Field>,
    stroke: u32,
    way: WayNumber,
}

async fn pressed(bar: &mut Option<Bar>) -> Option<BarEvent> {
    match bar {
        Some(bar) => bar.events().recv().await,
        None => std::future::pending().await,
    }
}

async fn moved(rect: &mut Option<watch::Receiver<Rect>>) -> Rect {
    if let Some(moving) = rect
        && moving.changed().await.is_ok()
    {
        return *moving.borrow_and_update();
    }
    std::future::pending().await
}

async fn prompted(prompt: &mut Option<watch::Receiver<bool>>) -> bool {
    if let Some(prompt) = prompt
        && prompt.changed().await.is_ok()
    {
        return *prompt.borrow_and_update();
    }
    std::future::pending().await
}

impl Sharing {
    /// Nothing is opened before a viewer asks.
    pub fn new(desktop: Desktop) -> Self {
        let (projected_tx, projected) = mpsc::channel(QUEUE_PROJECTED);
        Self {
            desktop,
            projector: None,
            projected,
            projected_tx,
            overlay: None,
            bar: None,
            bar_rect: None,
            prompts: None,
            prompt: None,
            prompted: false,
            text: BarText {
                name: String::new(),
                who: String::new(),
                control: false,
                administrator: false,
                paused: false,
                since: Instant::now(),
                path: String::new(),
                shares: String::new(),
                question: None,
            },
            epoch: 0,
            halted: false,
            interrupted: false,
            begun: false,
            field: watch::Sender::default(),
            stroke: 0,
            way: WayNumber::default(),
        }
    }

    /// Runs until the session drops its side; then nothing is shown and no key is down.
    pub async fn run(mut self, connection: Connection, channels: Channels) {
        let Channels {
            mut told,
            mut rights,
            session,
            input,
            at_work,
            way,
        } = channels;
        self.way = way;
        let mut outgoing = Outgoing::new(connection);
        let field = self.field.subscribe();
        let hands = Hands::start(
            self.desktop.clone(),
            rights.clone(),
            field,
            session.clone(),
            at_work,
        );
        let mut admitting = JoinSet::new();
        let admitted = admit(input, rights.clone(), hands.batches(), session.clone());
        admitting.spawn(admitted);
        loop {
            let said = tokio::select! { biased;
                changed = rights.changed() => match changed {
                    Ok(()) => {
                        let now = *rights.borrow_and_update();
                        self.obey(now, &mut outgoing);
                        None
                    }
                    Err(_) => break,
                },
                told = told.recv() => match told {
                    Some(told) => self
                        .hear(told, *rights.borrow(), &mut outgoing)
                        .map(ToSession::Wish),
                    None => break,
                },
                pressed = pressed(&mut self.bar) => self.answered(pressed),
                rect = moved(&mut self.bar_rect) => {
                    self.mask(rect);
                    None
                }
                prompted = prompted(&mut self.prompt) => {
                    self.prompted = prompted;
                    self.obey(*rights.borrow(), &mut outgoing);
                    // X11 shows it as any window: keys reach it.
                    let prompt = prompted.then_some(SecurePrompt { takes_keys: true });
                    Some(ToSession::Prompt(prompt))
                }
                sequence = outgoing.arrived() => {
                    self.seen(sequence, Duration::ZERO, &mut outgoing);
                    None
                }
                projected = self.projected.recv() => {
                    let wish = projected.and_then(|it| self.pass_on(it, &mut outgoing));
                    wish.map(ToSession::Wish)
                }
            };
            if let Some(said) = said
                && session.send(said).await.is_err()
            {
                break;
            }
        }
        outgoing.give_up_all();
        admitting.shutdown().await;
        // Joins the thread, which may wait for a display.
        let closing = tokio::task::spawn_blocking(move || drop((hands, self)));
        if closing.await.is_err() {
            tracing::error!("the screen was not closed properly");
        }
    }

    /// What the sharer wants who has pressed something.
    fn answered(&mut self, pressed: Option<BarEvent>) -> Option<ToSession> {
        let command = match pressed {
            Some(BarEvent::Pause) => Command::Pause(true),
            Some(BarEvent::Resume) => Command::Pause(false),
            Some(BarEvent::StopControl) => Command::DropMode,
            Some(BarEvent::Chat) => return Some(ToSession::Chat),
            Some(BarEvent::Leave) => Command::Leave,
            Some(BarEvent::Answer(yes)) => self.answer(yes)?,
            // Without its bar the sharer could not see that somebody looks.
            None => {
                self.bar = None;
                Command::CaptureFailed
            }
        };
        Some(ToSession::Wish(command))
    }

    /// To the question on the bar; one that has just gone is answered by nothing.
    fn answer(&self, yes: bool) -> Option<Command> {
        Some(match (self.text.question?, yes) {
            (Question::Countdown { mode, .. }, true) => Command::Allow(mode),
            (Question::Elevation, true) => Command::AllowElevation,
            (Question::Restart, true) => Command::AllowRestart,
            (Question::Handover, true) => Command::AllowHandover,
            (
                Question::Countdown { .. }
                | Question::Elevation
                | Question::Restart
                | Question::Handover,
                false,
            ) => Command::Decline,
            (Question::SignOut | Question::Reclaim, true) => Command::ConfirmLeave,
            (Question::SignOut | Question::Reclaim, false) => Command::Stay,
        })
    }

    /// Shows a question on the bar, which may not be there yet.
    fn ask(&mut self, question: Option<Question>) {
        self.text.question = question;
        if question.is_some()
            && self.bar.is_none()
            && let Err(error) = self.open_bar()
        {
            tracing::warn!(%error, "nobody is asked on the screen");
        }
        self.show_bar();
    }

    fn mask(&mut self, bar: Rect) {
        self.tell(ToProjector::Mask(bar));
        self.field.send_modify(|field| field.bar = bar);
    }

    /// Opens the bar, without which nothing is shown where somebody could see it.
    fn open_bar(&mut self) -> Result<(), CaptureError> {
        if self.bar.is_some() {
            return Ok(());
        }
        let Some(bar) = self.desktop.bar()? else {
            return Ok(());
        };
        bar.show(self.text.clone());
        let mut rect = bar.rect();
        let at = *rect.borrow_and_update();
        (self.bar, self.bar_rect) = (Some(bar), Some(rect));
        self.mask(at);
        Ok(())
    }

    fn show_bar(&self) {
        if let Some(bar) = &self.bar {
            bar.show(self.text.clone());
        }
    }

    /// What the session allows now.
    fn obey(&mut self, rights: Rights, outgoing: &mut Outgoing) {
        let covered = rights.prompt.is_some() || (self.prompted && !rights.elevated);
        let halted = rights.paused || covered;
        if halted != self.halted {
            self.halted = halted;
            self.epoch = self.epoch.wrapping_add(1);
            outgoing.give_up_all();
            self.tell(ToProjector::Pause {
                paused: self.halted,
                epoch: self.epoch,
            });
        }
        // What was sent into the silence is as old as that.
        if std::mem::replace(&mut self.interrupted, rights.interrupted)
            && rights.may_show()
            && self.begun
        {
            outgoing.give_up_all();
            self.begin_anew();
        }
        self.text.control = rights.mode == Some(Mode::Control);
        self.text.administrator = rights.elevated;
        self.text.paused = rights.paused;
        self.text.shares = signs(rights.grants, Role::Sharer);
        self.show_bar();
    }

    fn hear(&mut self, told: ToScreen, rights: Rights, outgoing: &mut Outgoing) -> Option<Command> {
        match told {
            ToScreen::Helper { name, who } => {
                (self.text.name, self.text.who) = (name, who);
                self.text.since = Instant::now();
            }
            ToScreen::Path(badge) => {
                if self.text.path != badge {
                    self.text.path = badge;
                    self.show_bar();
                }
            }
            ToScreen::Moved => self.tell(ToProjector::Moved),
            ToScreen::Ask(question) => self.ask(question),
            ToScreen::Open => return Some(self.prepare()),
            ToScreen::Media(Body::KeyFrameRequest(_)) if rights.may_show() => {
                outgoing.give_up_all();
                return self.begin(rights, outgoing);
            }
            ToScreen::Media(body) => self.handle(&body, outgoing),
        }
        None
    }

    fn handle(&mut self, body: &Body, outgoing: &mut Outgoing) {
        match body {
            Body::FrameAck(ack) if ack.dropped => self.tell(ToProjector::Dropped(ack.sequence)),
            Body::FrameAck(ack) => {
                let drawing = Duration::from_millis(ack.decode_ms.into());
                self.seen(ack.sequence, drawing, outgoing);
            }
            Body::SelectSource(select) => self.tell(ToProjector::Select(select.source)),
            Body::Pointer(pointer) => {
                let at = pointer
                    .visible
                    .then(|| self.field.borrow().place(pointer.x, pointer.y));
                if let Some(overlay) = self.overlay() {
                    overlay.point(at, pointer.colour);
                }
            }
            Body::PenStroke(stroke) => self.draw(stroke),
            Body::PenClear(_) => {
                if let Some(overlay) = self.overlay() {
                    overlay.clear();
                }
            }
            _ => {}
        }
    }

    /// Opens the screen before anybody looks. Where there is none, the two can still talk.
    fn prepare(&mut self) -> Command {
        match self.open() {
            Ok(()) | Err(CaptureError::NoDisplay) => Command::CaptureUp,
            Err(_) => Command::CaptureFailed,
        }
    }

    fn open(&mut self) -> Result<(), CaptureError> {
        if self.projector.is_some() {
            return Ok(());
        }
        let opened = self.desktop.capture().and_then(|capture| {
            self.projector = Some(Projector::start(
                capture,
                self.projected_tx.clone(),
                WayNumber::clone(&self.way),
            ));
            self.open_bar()
        });
        opened.inspect_err(|error| {
            tracing::warn!(%error, hint = error.hint(), "the screen cannot be shared");
        })
    }

    /// A viewer is there: opens the screen, or begins anew.
    fn begin(&mut self, rights: Rights, outgoing: &mut Outgoing) -> Option<Command> {
        if self.open().is_err() {
            return Some(Command::CaptureFailed);
        }
        self.look_for_prompts();
        self.obey(rights, outgoing);
        self.begun = true;
        self.begin_anew();
        None
    }

    /// From the first picture on.
    fn look_for_prompts(&mut self) {
        if self.prompts.is_some() {
            return;
        }
        match self.desktop.prompts() {
            Ok(prompts) => self.prompts = prompts,
            Err(error) => tracing::warn!(%error, "nobody looks for prompts"),
        }
        self.prompt = self.prompts.as_ref().map(Prompts::watch);
        self.prompted = self.prompt.as_ref().is_some_and(|open| *open.borrow());
    }

    fn begin_anew(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.tell(ToProjector::Begin { epoch: self.epoch });
    }

    fn seen(&self, sequence: u32, drawing: Duration, outgoing: &mut Outgoing) {
        outgoing.seen(sequence);
        self.tell(ToProjector::Seen { sequence, drawing });
    }

    fn tell(&self, command: ToProjector) {
        if let Some(projector) = &self.projector {
            projector.tell(command);
        }
    }

    /// What the screen says: to the helper on a stream, or through the session.
    fn pass_on(&mut self, projected: Projected, outgoing: &mut Outgoing) -> Option<Command> {
        match projected {
            Projected::Frame {
                bytes,
                sequence,
                quiet,
                epoch,
            } => {
                if epoch == self.epoch {
                    outgoing.frame(sequence, bytes, quiet);
                }
            }
            Projected::GivenUp(sequence) => outgoing.give_up(sequence),
            Projected::Screen {
                size,
                origin,
                window,
                sources,
                source,
            } => {
                self.field.send_modify(|field| {
                    (field.size, field.origin, field.window) = (size, origin, window);
                });
                let sources = sources
                    .into_iter()
                    .map(|shown| schema::Source {
                        id: shown.id,
                        name: shown.name.chars().take(48).collect(),
                        width: shown.size.0.into(),
                        height: shown.size.1.into(),
                    })
                    .collect();
                let (width, height) = (size.0.into(), size.1.into());
                return Some(Command::Media(Body::Screen(schema::Screen {
                    width,
                    height,
                    sources,
                    source,
                })));
            }
            Projected::CursorShape(shape) => outgoing.other(cursor(&shape)),
            Projected::CursorAt(x, y) => {
                let position = schema::CursorPosition {
                    x: x.into(),
                    y: y.into(),
                };
                return Some(Command::Media(Body::CursorPosition(position)));
            }
            Projected::Failed(error) => {
                tracing::warn!(%error, hint = error.hint(), "the screen is lost");
                return Some(Command::CaptureFailed);
            }
        }
        None
    }

    fn overlay(&mut self) -> Option<&Overlay> {
        if self.overlay.is_none() {
            match self.desktop.overlay() {
                Ok(overlay) => self.overlay = overlay,
                Err(error) => tracing::debug!(%error, "no overlay on this display"),
            }
        }
        self.overlay.as_ref()
    }

    fn draw(&mut self, stroke: &schema::PenStroke) {
        self.stroke = self.stroke.wrapping_add(1);
        let (number, field) = (self.stroke, *self.field.borrow());
        if let Some(overlay) = self.overlay() {
            for point in stroke.points.chunks_exact(2).take(128) {
                overlay.draw(number, field.place(point[0], point[1]), stroke.colour);
            }
        }
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        // The projector's thread may be waiting to say something.
        self.projected.close();
    }
}

/// A cursor's shape as its stream carries it.
fn cursor(shape: &CursorShape) -> Bytes {
    use prost::Message as _;
    let straight = |part: u32, alpha: u32| {
        let value = (part * 255).checked_div(alpha).unwrap_or(0).min(255);
        u8::try_from(value).unwrap_or(255)
    };
    let pixels: Vec<u8> = shape
        .argb
        .iter()
        .flat_map(|argb| {
            let alpha = argb >> 24;
            let part = |shift: u32| straight(argb >> shift & 0xff, alpha);
            [
                part(16),
                part(8),
                part(0),
                u8::try_from(alpha).unwrap_or(255),
            ]
        })
        .collect();
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, shape.width.into(), shape.height.into());
    encoder.set_color(png::ColorType::Rgba);
    let written = encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&pixels));
    if let Err(error) = written {
        tracing::warn!(%error, "a cursor without a shape");
    }
    let message = schema::CursorShape {
        hot_x: shape.hot_x.into(),
        hot_y: shape.hot_y.into(),
        png: png.into(),
    };
    let mut bytes = vec![CURSOR_STREAM];
    bytes.extend(message.encode_to_vec());
    bytes.into()
}
