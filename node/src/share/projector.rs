//! Drives capture and encoder on a thread of their own: sleeps until something changes, and sends what is there *then*, as
//! much as the path takes. There is no queue of pictures anywhere: what does not go out now is encoded later from newer
//! pixels, and what is under way too long is given up for newer ones.
//!
//! On a quick path two frames are under way at a time, whatever they show: one travels while the other is drawn. On a slow
//! one as many as fit the window, none touching what another does, so that a lost packet holds up one frame and not the
//! letter after it; and a letter goes even when a film has filled the window.

/// How much the path takes.
mod pace;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        atomic::Ordering,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    task::Waker,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_picture::{
    encode::{Area, Budget, Encoder, Frame, Picture, Scope},
    pixels::Pixels,
};
use remora_proto::wire::message::FIRST_WINDOW;
use tokio::sync::mpsc;

use self::pace::{Pace, Paces};
use super::capture::{Capture, CaptureError, Changes, CursorShape, Rect, Source};
use crate::path::congestion::WayNumber;

/// No display shows more than this many frames a second, and a keystroke's echo is rarely two changes.
const MIN_GAP: Duration = Duration::from_millis(12);
/// A screen that has not changed for so long is resting: approximations become exact.
const REST: Duration = Duration::from_millis(150);
/// For a letter when the window is full: it crosses 2 Mbit/s in 12 ms.
const RARE_BYTES: usize = 3 << 10;
/// A step of making exact: it is encoded in a few milliseconds, so that a change does not wait for it, nor does it arrive
/// too late to be drawn.
const REFINE_BYTES: usize = 96 << 10;
/// A way on which a frame was seen so lately still carries something.
const HEARD: Duration = Duration::from_millis(200);
/// More frames than this are never under way; the viewer's connection takes no more streams.
const MAX_UNDER_WAY: usize = 24;
/// A viewer says at once that it did not draw a frame; a second of letters is more than enough.
const MAX_ARRIVED: usize = 64;
/// Sources in the list the helper gets.
const MAX_SOURCES: usize = 16;

/// What the projector is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToProjector {
    /// A viewer is there and has nothing yet.
    Begin {
        /// See [`Projected::Frame`].
        epoch: u32,
    },
    /// The frame of this sequence is on its screen.
    Seen {
        /// Which.
        sequence: u32,
        /// How long that took the viewer once it had arrived.
        drawing: Duration,
    },
    /// The frame of this sequence came too late and was not drawn.
    Dropped(u32),
    /// Shows nothing, or goes on; frames carry the epoch from now on.
    Pause {
        /// Nothing of the screen leaves.
        paused: bool,
        /// See [`Projected::Frame`].
        epoch: u32,
    },
    /// Shows this one of the list.
    Select(u32),
    /// Frames go another way from now on.
    Moved,
    /// The bar is there: it is not shown, or its clock would be a frame a second.
    Mask(Rect),
}

/// One thing that can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// In [`ToProjector::Select`].
    pub id: u32,
    /// For people.
    pub name: String,
    /// In pixels.
    pub size: (u16, u16),
}

/// What the projector says.
#[derive(Debug)]
pub enum Projected {
    /// For the viewer.
    Frame {
        /// See [`remora_picture::frame`].
        bytes: Bytes,
        /// Acknowledged by [`ToProjector::Seen`].
        sequence: u32,
        /// The viewer does not say that it has drawn it; that it is there is enough.
        quiet: bool,
        /// Of the last command that was heeded and has one: whoever gave a newer one throws the frame away.
        epoch: u32,
    },
    /// That frame is not worth sending any more.
    GivenUp(u32),
    /// What can be shown, and what is; also where it stands on the display.
    Screen {
        /// Of the source, in pixels.
        size: (u16, u16),
        /// Top left corner of the source on the display.
        origin: (i16, i16),
        /// The window, if the source is one.
        window: Option<u32>,
        /// All there are.
        sources: Vec<Shown>,
        /// The one that is shown.
        source: u32,
    },
    /// The cursor looks like this now.
    CursorShape(CursorShape),
    /// The cursor is there now, in the source's pixels.
    CursorAt(i16, i16),
    /// The last thing: it cannot go on.
    Failed(CaptureError),
}

/// A running projector; ends when dropped.
#[derive(Debug)]
pub struct Projector {
    commands: Option<Sender<ToProjector>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Projector {
    /// Starts a thread that shows `capture`; frames go the way of this number.
    pub fn start(capture: Box<dyn Capture>, out: mpsc::Sender<Projected>, way: WayNumber) -> Self {
        let (commands, receiver) = channel();
        let waker = capture.waker();
        let thread = std::thread::spawn(move || {
            let mut running = Running::new(capture, receiver, out.clone(), way);
            if let Err(Stop::Failed(error)) = running.run()
                && out.blocking_send(Projected::Failed(error)).is_err()
            {
                tracing::debug!("nobody waits for the screen any more");
            }
        });
        Self {
            commands: Some(commands),
            waker,
            thread: Some(thread),
        }
    }

    /// Tells it something.
    pub fn tell(&self, command: ToProjector) {
        // It has ended by itself: it said why.
        if let Some(commands) = &self.commands
            && commands.send(command).is_err()
        {
            tracing::debug!("the projector has ended");
        }
        self.waker.wake_by_ref();
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        self.commands = None;
        self.waker.wake_by_ref();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the projector's thread failed");
        }
    }
}

/// Why the thread ends.
enum Stop {
    /// Nobody wants frames any more.
    Wanted,
    Failed(CaptureError),
}

impl From<CaptureError> for Stop {
    fn from(error: CaptureError) -> Self {
        Self::Failed(error)
    }
}

/// A frame that the viewer has not seen yet.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    sent: Instant,
    bytes: usize,
    /// Drawn before it; its own sequence if none has to be.
    after: u32,
    quiet: bool,
}

struct Running {
    capture: Box<dyn Capture>,
    commands: Receiver<ToProjector>,
    out: mpsc::Sender<Projected>,
    encoder: Encoder,
    /// Damage that has not been grabbed yet.
    pending: Vec<Rect>,
    under_way: BTreeMap<u32, UnderWay>,
    /// Quiet frames that arrived of late: the viewer may still say that it did not draw one.
    arrived: VecDeque<u32>,
    pace: Pace,
    paces: Paces,
    way: WayNumber,
    began: bool,
    paused: bool,
    epoch: u32,
    sources: Vec<(u32, Source)>,
    last_change: Instant,
    last_frame: Instant,
    last_seen: Instant,
    started: Instant,
}

fn picture(pixels: Pixels<'_>) -> Picture<'_> {
    Picture {
        bytes: pixels.bytes,
        stride: pixels.stride,
        width: usize::from(pixels.width),
        height: usize::from(pixels.height),
    }
}

fn area(rect: Rect) -> Area {
    let at = |value: i16| usize::try_from(value.max(0)).unwrap_or(0);
    Area {
        x: at(rect.x),
        y: at(rect.y),
        width: rect.width.into(),
        height: rect.height.into(),
    }
}

fn encoder_of(capture: &dyn Capture) -> Encoder {
    let (width, height) = capture.size();
    Encoder::new(width.into(), height.into())
}

impl Running {
    fn new(
        capture: Box<dyn Capture>,
        commands: Receiver<ToProjector>,
        out: mpsc::Sender<Projected>,
        way: WayNumber,
    ) -> Self {
        let now = Instant::now();
        Self {
            encoder: encoder_of(&*capture),
            capture,
            commands,
            out,
            pending: Vec::new(),
            under_way: BTreeMap::new(),
            arrived: VecDeque::new(),
            pace: Pace::new(now),
            paces: Paces::new(way.load(Ordering::Relaxed)),
            way,
            began: false,
            paused: false,
            epoch: 0,
            sources: Vec::new(),
            last_change: now,
            last_frame: now,
            last_seen: now,
            started: now,
        }
    }

    fn run(&mut self) -> Result<(), Stop> {
        self.announce()?;
        loop {
            self.obey()?;
            self.show()?;
            let changes = self.capture.wait(self.deadline())?;
            self.note(changes)?;
        }
    }

    fn say(&self, what: Projected) -> Result<(), Stop> {
        self.out.blocking_send(what).map_err(|_| Stop::Wanted)
    }

    fn obey(&mut self) -> Result<(), Stop> {
        loop {
            match self.commands.try_recv() {
                Ok(ToProjector::Begin { epoch }) => {
                    (self.began, self.epoch) = (true, epoch);
                    self.encoder.request_key();
                    self.whole();
                    self.under_way.clear();
                }
                Ok(ToProjector::Seen { sequence, drawing }) => self.seen(sequence, drawing),
                Ok(ToProjector::Dropped(sequence)) => self.dropped(sequence)?,
                Ok(ToProjector::Pause { paused, epoch }) => self.pause(paused, epoch)?,
                Ok(ToProjector::Select(id)) => self.select(id)?,
                Ok(ToProjector::Moved) => self.moved()?,
                Ok(ToProjector::Mask(bar)) => {
                    self.capture.set_masks(&[bar]);
                    self.encoder
                        .damage(area(Rect::of_size(self.capture.size())));
                    self.whole();
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Stop::Wanted),
            }
        }
    }

    /// It arrived and was not drawn.
    fn dropped(&mut self, sequence: u32) -> Result<(), Stop> {
        if !self.arrived.contains(&sequence) {
            return self.give_up(sequence);
        }
        // Taken for seen: nobody knows any more what was in it.
        self.encoder.request_key();
        self.under_way.clear();
        self.whole();
        Ok(())
    }

    fn seen(&mut self, sequence: u32, drawing: Duration) {
        if let Some(frame) = self.under_way.remove(&sequence) {
            if frame.quiet {
                self.arrived.truncate(MAX_ARRIVED - 1);
                self.arrived.push_front(sequence);
            }
            self.encoder.seen(sequence);
            let now = Instant::now();
            self.last_seen = now;
            self.pace.seen(frame.bytes, frame.sent, now, drawing);
        }
    }

    /// That frame, and what would be drawn after it.
    fn give_up(&mut self, sequence: u32) -> Result<(), Stop> {
        let mut lost = vec![sequence];
        while let Some(sequence) = lost.pop() {
            if self.under_way.remove(&sequence).is_none() {
                continue;
            }
            let waiting = self
                .under_way
                .iter()
                .filter(|(_, frame)| frame.after == sequence);
            lost.extend(waiting.map(|(sequence, _)| *sequence));
            self.encoder.give_up(sequence);
            self.pace.lost(Instant::now());
            self.say(Projected::GivenUp(sequence))?;
        }
        Ok(())
    }

    /// What is under way was made for the old way: on a new one, where QUIC begins with a small window, its rest would hold up all
    /// that comes after it. But on one that is known there is room for it, and most of it has gone the old way already, if that
    /// carries anything.
    fn moved(&mut self) -> Result<(), Stop> {
        let (way, now) = (self.way.load(Ordering::Relaxed), Instant::now());
        if way == self.paces.number() {
            return Ok(());
        }
        let was_heard = now.saturating_duration_since(self.last_seen) < HEARD;
        let may_arrive = was_heard && self.paces.knows(way, now);
        let until_now = std::mem::replace(&mut self.pace, Pace::new(now));
        while !may_arrive && let Some((sequence, _)) = self.oldest() {
            self.give_up(sequence)?;
        }
        self.pace = self.paces.moved(way, until_now, now);
        Ok(())
    }

    /// What is under way for too long is given up: there are newer pixels.
    fn give_up_stale(&mut self) -> Result<(), Stop> {
        let (now, patience) = (Instant::now(), self.pace.patience());
        while let Some((sequence, sent)) = self.oldest()
            && now.duration_since(sent) >= patience
        {
            self.give_up(sequence)?;
        }
        Ok(())
    }

    fn oldest(&self) -> Option<(u32, Instant)> {
        let (sequence, frame) = self.under_way.first_key_value()?;
        Some((*sequence, frame.sent))
    }

    /// One blank frame, then nothing.
    fn pause(&mut self, paused: bool, epoch: u32) -> Result<(), Stop> {
        (self.paused, self.epoch) = (paused, epoch);
        self.under_way.clear();
        let (width, height) = self.capture.size();
        self.encoder.request_key();
        if paused && self.began {
            let blank = vec![0; usize::from(width) * usize::from(height) * 4];
            let (width, height) = (usize::from(width), usize::from(height));
            let blank = Picture {
                bytes: &blank,
                stride: width * 4,
                width,
                height,
            };
            // All of it: tiles of one colour cost next to nothing.
            let whole = Budget {
                bytes: usize::MAX,
                quality: 100,
            };
            let captured_us = self.captured_us();
            if let Some(frame) = self
                .encoder
                .encode(blank, whole, Scope::Overlapping, captured_us)
            {
                self.send(frame)?;
            }
            self.under_way.clear();
            self.encoder.request_key();
        }
        self.whole();
        Ok(())
    }

    fn select(&mut self, id: u32) -> Result<(), Stop> {
        let Some((_, source)) = self.sources.iter().find(|(known, _)| *known == id).copied() else {
            return self.announce();
        };
        match self.capture.select(source) {
            Ok(()) => self.anew(),
            // The window has just been closed: what was shown goes on, and the list is told anew.
            Err(CaptureError::SourceGone) => self.announce(),
            Err(error) => Err(error.into()),
        }
    }

    /// Another picture from now on.
    fn anew(&mut self) -> Result<(), Stop> {
        let sequence = self.encoder.sequence();
        self.encoder = encoder_of(&*self.capture).after(sequence);
        for sequence in std::mem::take(&mut self.under_way).into_keys() {
            self.say(Projected::GivenUp(sequence))?;
        }
        self.whole();
        self.announce()
    }

    fn whole(&mut self) {
        self.pending = vec![Rect::of_size(self.capture.size())];
        self.last_change = Instant::now();
    }

    fn announce(&mut self) -> Result<(), Stop> {
        let shown = self.capture.source();
        let mut sources = Vec::new();
        let mut list = Vec::new();
        for monitor in self.capture.monitors() {
            let id = u32::from(monitor.id);
            list.push((id, Source::Monitor(monitor.id)));
            let size = (monitor.rect.width, monitor.rect.height);
            sources.push(Shown {
                id,
                name: monitor.name.clone(),
                size,
            });
        }
        for (number, window) in (FIRST_WINDOW..).zip(self.capture.windows()?) {
            if list.len() == MAX_SOURCES {
                break;
            }
            list.push((number, Source::Window(window.id)));
            let size = (window.rect.width, window.rect.height);
            sources.push(Shown {
                id: number,
                name: window.title,
                size,
            });
        }
        let source = list
            .iter()
            .find(|(_, source)| *source == shown)
            .map_or(0, |(id, _)| *id);
        self.sources = list;
        let (size, origin) = (self.capture.size(), self.capture.origin());
        let window = match shown {
            Source::Window(window) => Some(window),
            Source::Monitor(_) => None,
        };
        self.say(Projected::Screen {
            size,
            origin,
            window,
            sources,
            source,
        })
    }

    /// What may be sent now, and how much of it.
    fn room(&self) -> Option<(Scope, Budget)> {
        let key = self.under_way.contains_key(&self.encoder.key())
            || (self.encoder.needs_key() && !self.under_way.is_empty());
        if !self.began || self.paused || key {
            return None;
        }
        let bytes = self.under_way.values().map(|frame| frame.bytes).sum();
        if self.pace.is_quick() {
            let room = self.under_way.len() < 2;
            return room.then(|| (Scope::Overlapping, self.pace.budget(bytes)));
        }
        if self.under_way.len() >= MAX_UNDER_WAY {
            return None;
        }
        if self.pace.has_room(bytes) {
            return Some((Scope::Apart, self.pace.budget(bytes)));
        }
        let letter = Budget {
            bytes: RARE_BYTES,
            quality: self.pace.quality(),
        };
        (self.under_way.len() < MAX_UNDER_WAY / 2).then_some((Scope::Rare, letter))
    }

    fn show(&mut self) -> Result<(), Stop> {
        self.give_up_stale()?;
        let Some((scope, budget)) = self.room() else {
            return Ok(());
        };
        if self.last_frame.elapsed() < MIN_GAP {
            return Ok(());
        }
        let captured_us = self.captured_us();
        if self.encoder.has_changes(scope, captured_us) {
            let pending = std::mem::take(&mut self.pending);
            self.capture.refresh(&pending)?;
            let pixels = picture(self.capture.pixels());
            let frame = self.encoder.encode(pixels, budget, scope, captured_us);
            return frame.map_or(Ok(()), |frame| self.send(frame));
        }
        if self.may_rest(scope) && self.last_change.elapsed() >= REST {
            let pixels = picture(self.capture.pixels());
            let step = Budget {
                bytes: budget.bytes.min(REFINE_BYTES),
                ..budget
            };
            let frame = self.encoder.refine(pixels, step, captured_us);
            return frame.map_or(Ok(()), |frame| self.send(frame));
        }
        Ok(())
    }

    /// Whether approximations may be made exact: while a film is on, or the window is full, they are not.
    fn may_rest(&self, scope: Scope) -> bool {
        scope != Scope::Rare && self.pending.is_empty() && self.encoder.can_rest()
    }

    fn send(&mut self, frame: Frame) -> Result<(), Stop> {
        let now = Instant::now();
        let under_way = UnderWay {
            sent: now,
            bytes: frame.bytes.len(),
            after: frame.after,
            quiet: frame.quiet,
        };
        self.under_way.insert(frame.sequence, under_way);
        self.last_frame = now;
        self.say(Projected::Frame {
            bytes: frame.bytes.into(),
            sequence: frame.sequence,
            quiet: frame.quiet,
            epoch: self.epoch,
        })
    }

    fn captured_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// When there is something to do although nothing changes.
    fn deadline(&self) -> Option<Instant> {
        let stale = self.oldest().map(|(_, sent)| sent + self.pace.patience());
        let due = self.room().and_then(|(scope, _)| {
            let next = self.last_frame + MIN_GAP;
            if self.encoder.has_changes(scope, self.captured_us()) {
                return Some(next);
            }
            self.may_rest(scope)
                .then(|| (self.last_change + REST).max(next))
        });
        stale.into_iter().chain(due).min()
    }

    fn note(&mut self, changes: Changes) -> Result<(), Stop> {
        if changes.resized {
            return self.anew();
        }
        if !changes.damage.is_empty() {
            self.last_change = Instant::now();
            for rect in &changes.damage {
                self.encoder.damage(area(*rect));
            }
            self.pending.extend(changes.damage);
        }
        if let Some(shape) = changes.cursor_shape {
            self.say(Projected::CursorShape(shape))?;
        }
        if let Some((x, y)) = changes.cursor_moved
            && !self.paused
        {
            self.say(Projected::CursorAt(x, y))?;
        }
        if changes.monitors_changed {
            self.announce()?;
        }
        Ok(())
    }
}
