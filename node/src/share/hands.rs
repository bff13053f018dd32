//! The helper's hands on the sharer's screen, on a thread of their own: a text that waits for keys to be lent holds up
//! nothing else, and nothing else holds up a key.
//!
//! ```text
//!  input stream ─▶ admit: Rights ─▶ batches ─▶ thread: Rights again ─▶ Gated ─▶ display
//! ```
//!
//! Rights are read for every event, not sent along with it: what the sharer takes back is gone for what already waits, too.

use std::{
    collections::BTreeSet,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use remora_proto::{
    session::{Command, Mode, Rights},
    wire::message::{
        InvalidMessage,
        session::{self as schema, control::Body, input_event::Event as Key},
    },
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    capture::Rect,
    desktop::Desktop,
    inject::{Button, Gated, Inject, InjectError, Keysym, Permit},
    sharing::ToSession,
};

/// Batches between the stream and the display. Full, they wait on the stream, whose flow control holds the helper.
const QUEUE_BATCHES: usize = 16;
/// Events of one message that are looked at.
const MAX_BATCH: usize = 64;
/// Keys and buttons that the helper holds down, as many as are told apart.
const MAX_HELD: usize = 256;
/// How often the session is told that the helper does something.
const SAY_ACTIVE: Duration = Duration::from_secs(1);
/// What a mouse wheel's notch counts.
const NOTCH: i32 = 120;

/// Whether hands are at work on the sharer's screen: what is pressed in the sharer's own windows meanwhile may be theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtWork {
    /// Something is being pressed, or is held down.
    Now,
    /// They rest, from then on; `None`: they have never done anything.
    Until(Option<Instant>),
}

impl AtWork {
    /// When they last were.
    pub fn last(self, now: Instant) -> Option<Instant> {
        match self {
            Self::Now => Some(now),
            Self::Until(at) => at,
        }
    }
}

impl Default for AtWork {
    fn default() -> Self {
        Self::Until(None)
    }
}

/// What is held down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    Key(u32),
    Button(u32),
}

/// Where hands reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Of what is shown, in pixels.
    pub size: (u16, u16),
    /// Its corner on the display.
    pub origin: (i16, i16),
    /// The sharer's alone: no button is pressed there.
    pub bar: Rect,
    /// The window that is shown, if only one is.
    pub window: Option<u32>,
}

impl Default for Field {
    fn default() -> Self {
        Self {
            size: (1, 1),
            origin: (0, 0),
            bar: Rect::default(),
            window: None,
        }
    }
}

impl Field {
    /// From 0–65,535 across the source to a place on the display.
    pub fn place(&self, x: u32, y: u32) -> (i16, i16) {
        let along = |part: u32, length: u16, origin: i16| {
            let pixel = u64::from(part.min(0xffff)) * u64::from(length) / 0x1_0000;
            origin.saturating_add(i16::try_from(pixel).unwrap_or(i16::MAX))
        };
        (
            along(x, self.size.0, self.origin.0),
            along(y, self.size.1, self.origin.1),
        )
    }
}

/// Takes the helper's messages from the stream until it is over: what is not allowed is refused, the rest goes on.
pub async fn admit(
    mut messages: mpsc::Receiver<Result<schema::InputBatch, InvalidMessage>>,
    rights: watch::Receiver<Rights>,
    hands: mpsc::Sender<schema::InputBatch>,
    session: mpsc::Sender<ToSession>,
) {
    let mut active = None;
    while let Some(message) = messages.recv().await {
        let now = *rights.borrow();
        let gone = match (message, now.input_refusal()) {
            (Err(_), _) => session.send(ToSession::Malformed).await.is_err(),
            (Ok(_), Some(reason)) => {
                let left = now
                    .frozen_until
                    .map(|until| until.saturating_duration_since(Instant::now()));
                session
                    .send(refused(reason, left.unwrap_or_default()))
                    .await
                    .is_err()
            }
            (Ok(batch), None) => {
                if active.is_none_or(|at: Instant| at.elapsed() > SAY_ACTIVE) {
                    active = Some(Instant::now());
                    if session.send(ToSession::Activity).await.is_err() {
                        return;
                    }
                }
                hands.send(batch).await.is_err()
            }
        };
        if gone {
            return;
        }
    }
}

fn refused(reason: &str, left: Duration) -> ToSession {
    let refused = schema::InputRefused {
        reason: reason.to_owned(),
        left_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
    };
    ToSession::Wish(Command::Media(Body::InputRefused(refused)))
}

/// Running hands; they let go of everything and end when dropped.
#[derive(Debug)]
pub struct Hands {
    batches: mpsc::Sender<schema::InputBatch>,
    /// Others hold the channels, too: they alone would not end the thread.
    over: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Hands {
    /// Starts the thread; the display is opened with the first event that is allowed. To be called in a tokio runtime.
    pub fn start(
        desktop: Desktop,
        rights: watch::Receiver<Rights>,
        field: watch::Receiver<Field>,
        session: mpsc::Sender<ToSession>,
        at_work: watch::Sender<AtWork>,
    ) -> Self {
        let (batches, receiver) = mpsc::channel(QUEUE_BATCHES);
        let over = CancellationToken::new();
        let work = Work {
            over: over.clone(),
            desktop,
            rights,
            field,
            session,
            injector: None,
            at_work,
            held: BTreeSet::new(),
            wheel: (0, 0),
        };
        let runtime = Handle::current();
        let thread = std::thread::spawn(move || runtime.block_on(work.run(receiver)));
        Self {
            batches,
            over,
            thread: Some(thread),
        }
    }

    /// Where admitted messages go.
    pub fn batches(&self) -> mpsc::Sender<schema::InputBatch> {
        self.batches.clone()
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.over.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the helper's hands failed");
        }
    }
}

struct Work {
    over: CancellationToken,
    desktop: Desktop,
    rights: watch::Receiver<Rights>,
    field: watch::Receiver<Field>,
    session: mpsc::Sender<ToSession>,
    injector: Option<Gated<Box<dyn Inject>>>,
    at_work: watch::Sender<AtWork>,
    held: BTreeSet<Held>,
    /// What is left of a notch, in 120ths.
    wheel: (i32, i32),
}

fn permit(rights: Rights) -> Permit {
    Permit {
        control: rights.mode == Some(Mode::Control),
        frozen: rights.frozen_until.is_some(),
        // For whatever else: the sharer's pause, silence, a prompt of the system.
        paused: !matches!(rights.input_refusal(), None | Some("VIEW")),
    }
}

impl Work {
    async fn run(mut self, mut batches: mpsc::Receiver<schema::InputBatch>) {
        loop {
            tokio::select! { biased;
                () = self.over.cancelled() => break,
                changed = self.rights.changed() => {
                    self.obey();
                    if changed.is_err() {
                        break;
                    }
                }
                batch = batches.recv() => match batch {
                    Some(batch) => self.take(batch).await,
                    None => break,
                },
            }
        }
        if let Some(injector) = &mut self.injector {
            warn_of(injector.set_permit(Permit::default()));
        }
    }

    /// What is not allowed any more is let go of.
    fn obey(&mut self) {
        let now = permit(*self.rights.borrow());
        if let Some(injector) = &mut self.injector {
            warn_of(injector.set_permit(now));
        }
        if !now.allows_input() && !self.held.is_empty() {
            self.held.clear();
            self.rest();
        }
    }

    /// Nothing is pressed any more, unless something is held.
    fn rest(&self) {
        if self.held.is_empty() {
            let until = AtWork::Until(Some(Instant::now()));
            self.at_work.send_replace(until);
        }
    }

    async fn take(&mut self, batch: schema::InputBatch) {
        if self.injector.is_none() {
            match self.desktop.injector() {
                Ok(injector) => self.injector = Some(Gated::new(injector)),
                Err(error) => {
                    tracing::warn!(%error, "no input on this display");
                    if self
                        .session
                        .send(refused("UNSUPPORTED", Duration::ZERO))
                        .await
                        .is_err()
                    {
                        tracing::debug!("the session is over");
                    }
                    return;
                }
            }
        }
        // Before anything can come of it, and until nothing comes any more: a text may take seconds.
        self.at_work.send_replace(AtWork::Now);
        for event in batch
            .events
            .iter()
            .take(MAX_BATCH)
            .filter_map(|event| event.event.as_ref())
        {
            self.hold(event);
            self.obey();
            warn_of(self.inject(event));
        }
        self.rest();
    }

    fn hold(&mut self, event: &Key) {
        let (held, down) = match event {
            Key::Key(key) => (Held::Key(key.keysym), key.down),
            Key::Button(button) => (Held::Button(button.button), button.down),
            Key::ReleaseAll(_) => return self.held.clear(),
            Key::Text(_) | Key::Pointer(_) | Key::Wheel(_) => return,
        };
        if !down {
            self.held.remove(&held);
        } else if self.held.len() < MAX_HELD {
            self.held.insert(held);
        }
    }

    fn inject(&mut self, event: &Key) -> Result<(), InjectError> {
        let Some(injector) = &mut self.injector else {
            return Ok(());
        };
        let field = *self.field.borrow();
        injector.set_shield(field.bar);
        injector.confine(field.window);
        match event {
            Key::Key(key) => injector.key(Keysym(key.keysym), key.down),
            Key::Text(text) => {
                let rights = &self.rights;
                injector.text(text, &|| permit(*rights.borrow()).allows_input())
            }
            Key::Pointer(pointer) => {
                let (x, y) = field.place(pointer.x, pointer.y);
                injector.pointer(x, y)
            }
            Key::Button(button) => match button_of(button.button) {
                Some(known) => injector.button(known, button.down),
                None => Ok(()),
            },
            Key::Wheel(wheel) => {
                let right = notches(&mut self.wheel.0, wheel.dx);
                let down = notches(&mut self.wheel.1, wheel.dy);
                injector.wheel(right, down)
            }
            Key::ReleaseAll(_) => injector.release_all(),
        }
    }
}

fn warn_of(done: Result<(), InjectError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "input");
    }
}

fn button_of(number: u32) -> Option<Button> {
    match number {
        1 => Some(Button::Left),
        2 => Some(Button::Middle),
        3 => Some(Button::Right),
        8 => Some(Button::Back),
        9 => Some(Button::Forward),
        _ => None,
    }
}

/// Whole notches of what has come together; a touch pad gives parts of one.
fn notches(left: &mut i32, part: i32) -> i8 {
    *left += part.clamp(-16 * NOTCH, 16 * NOTCH);
    let whole = *left / NOTCH;
    *left -= whole * NOTCH;
    i8::try_from(whole).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_notch_add_up() {
        let mut left = 0;
        assert_eq!(notches(&mut left, 120), 1);
        assert_eq!(
            [
                notches(&mut left, 50),
                notches(&mut left, 50),
                notches(&mut left, 50)
            ],
            [0, 0, 1]
        );
        assert_eq!(notches(&mut left, -150), -1);
        assert_eq!(
            notches(&mut left, i32::MAX),
            16,
            "no peer scrolls a day's worth at once"
        );
    }

    #[test]
    fn a_place_is_within_the_source() {
        let field = Field {
            size: (1920, 1080),
            origin: (100, 50),
            ..Field::default()
        };
        assert_eq!(field.place(0, 0), (100, 50));
        assert_eq!(field.place(0xffff, 0xffff), (2019, 1129));
        assert_eq!(field.place(u32::MAX, 0), (2019, 50));
    }
}
