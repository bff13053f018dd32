//! Drives capture and encoder on a thread of their own: sleeps until something changes, sends what is there *then*, and
//! never has more than two frames under way that the viewer has not seen. There is no queue of pictures anywhere: what
//! does not go out now is encoded later from newer pixels.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    task::Waker,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::wire::message::FIRST_WINDOW;
use tokio::sync::mpsc;

use super::{
    capture::{Capture, CaptureError, Changes, CursorShape, Pixels, Rect, Source},
    encode::{Area, Budget, Encoder, Frame, Picture},
};

/// One on the way, one being drawn: a third would only be older than it needs to be.
const MAX_UNSEEN: usize = 2;
/// No display shows more than this many frames a second, and a keystroke's echo is rarely two changes.
const MIN_GAP: Duration = Duration::from_millis(12);
/// A screen that has not changed for so long is resting: approximations become exact.
const REST: Duration = Duration::from_millis(150);
/// Queueing that a frame may add to the path's own delay before frames are made smaller.
const QUEUEING: Duration = Duration::from_millis(60);
/// A frame small enough to cross 2 Mbit/s in 16 ms, and one that holds a whole screen of text.
const MIN_BUDGET_BYTES: usize = 4 << 10;
const MAX_BUDGET_BYTES: usize = 2 << 20;
/// Before anything is known of the path: 64 KiB cross 10 Mbit/s in 50 ms.
const FIRST_BUDGET_BYTES: usize = 64 << 10;
/// Sources in the list the helper gets.
const MAX_SOURCES: usize = 16;

/// What the projector is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToProjector {
    /// A viewer is there and has nothing yet.
    Begin,
    /// The frame of this sequence is on its screen.
    Seen(u32),
    /// Shows nothing, or goes on; frames carry the epoch from now on.
    Pause {
        /// Nothing of the screen leaves.
        paused: bool,
        /// See [`Projected::Frame`].
        epoch: u32,
    },
    /// Shows this one of the list.
    Select(u32),
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
        /// See [`super::encode`].
        bytes: Bytes,
        /// The last [`ToProjector::Pause`] that was heeded: whoever paused later throws the frame away.
        epoch: u32,
    },
    /// What can be shown, and what is; also where it stands on the display.
    Screen {
        /// Of the source, in pixels.
        size: (u16, u16),
        /// Top left corner of the source on the display.
        origin: (i16, i16),
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
    /// Starts a thread that shows `capture`.
    pub fn start(capture: Box<dyn Capture>, out: mpsc::Sender<Projected>) -> Self {
        let (commands, receiver) = channel();
        let waker = capture.waker();
        let thread = std::thread::spawn(move || {
            let mut running = Running::new(capture, receiver, out.clone());
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

/// What the path takes, learned from how long frames are under way.
#[derive(Debug)]
struct Pace {
    bytes: usize,
    fastest: Duration,
}

impl Pace {
    fn budget(&self) -> Budget {
        let quality = match self.bytes {
            ..0x4000 => 40,
            0x4000..0x10000 => 60,
            _ => 82,
        };
        Budget {
            bytes: self.bytes,
            quality,
        }
    }

    fn seen(&mut self, bytes: usize, took: Duration) {
        self.fastest = self.fastest.min(took);
        if took > self.fastest + QUEUEING {
            self.bytes = (self.bytes / 2).max(MIN_BUDGET_BYTES);
        } else if bytes * 2 > self.bytes {
            self.bytes = (self.bytes * 3 / 2).min(MAX_BUDGET_BYTES);
        }
    }
}

struct Running {
    capture: Box<dyn Capture>,
    commands: Receiver<ToProjector>,
    out: mpsc::Sender<Projected>,
    encoder: Encoder,
    /// Damage that has not been grabbed yet.
    pending: Vec<Rect>,
    unseen: VecDeque<(u32, Instant, usize)>,
    pace: Pace,
    began: bool,
    paused: bool,
    epoch: u32,
    sources: Vec<(u32, Source)>,
    last_change: Instant,
    last_frame: Instant,
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
    Encoder::new(0, width.into(), height.into())
}

impl Running {
    fn new(
        capture: Box<dyn Capture>,
        commands: Receiver<ToProjector>,
        out: mpsc::Sender<Projected>,
    ) -> Self {
        let now = Instant::now();
        let pace = Pace {
            bytes: FIRST_BUDGET_BYTES,
            fastest: Duration::from_secs(1),
        };
        Self {
            encoder: encoder_of(&*capture),
            capture,
            commands,
            out,
            pending: Vec::new(),
            unseen: VecDeque::new(),
            pace,
            began: false,
            paused: false,
            epoch: 0,
            sources: Vec::new(),
            last_change: now,
            last_frame: now,
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
                Ok(ToProjector::Begin) => {
                    self.began = true;
                    self.encoder.request_key();
                    self.whole();
                    self.unseen.clear();
                }
                Ok(ToProjector::Seen(sequence)) => self.seen(sequence),
                Ok(ToProjector::Pause { paused, epoch }) => self.pause(paused, epoch)?,
                Ok(ToProjector::Select(id)) => self.select(id)?,
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

    fn seen(&mut self, sequence: u32) {
        while let Some((sent, at, bytes)) = self.unseen.front().copied() {
            if sequence.wrapping_sub(sent) > u32::MAX / 2 {
                break;
            }
            self.unseen.pop_front();
            self.pace.seen(bytes, at.elapsed());
        }
    }

    /// One blank frame, then nothing.
    fn pause(&mut self, paused: bool, epoch: u32) -> Result<(), Stop> {
        (self.paused, self.epoch) = (paused, epoch);
        self.unseen.clear();
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
            let captured_us = self.captured_us();
            if let Some(frame) = self.encoder.encode(blank, self.pace.budget(), captured_us) {
                self.send(frame)?;
            }
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
        self.unseen.clear();
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
        self.say(Projected::Screen {
            size,
            origin,
            sources,
            source,
        })
    }

    fn may_send(&self) -> bool {
        self.began && !self.paused && self.unseen.len() < MAX_UNSEEN
    }

    fn show(&mut self) -> Result<(), Stop> {
        if !self.may_send() || self.last_frame.elapsed() < MIN_GAP {
            return Ok(());
        }
        if self.encoder.has_changes() {
            let pending = std::mem::take(&mut self.pending);
            self.capture.refresh(&pending)?;
            let captured_us = self.captured_us();
            let frame = self.encoder.encode(
                picture(self.capture.pixels()),
                self.pace.budget(),
                captured_us,
            );
            return frame.map_or(Ok(()), |frame| self.send(frame));
        }
        if self.unseen.is_empty()
            && self.encoder.has_approximations()
            && self.last_change.elapsed() >= REST
        {
            let captured_us = self.captured_us();
            let frame = self.encoder.refine(
                picture(self.capture.pixels()),
                self.pace.budget(),
                captured_us,
            );
            return frame.map_or(Ok(()), |frame| self.send(frame));
        }
        Ok(())
    }

    fn send(&mut self, frame: Frame) -> Result<(), Stop> {
        let now = Instant::now();
        self.unseen
            .push_back((frame.sequence, now, frame.bytes.len()));
        self.last_frame = now;
        self.say(Projected::Frame {
            bytes: frame.bytes.into(),
            epoch: self.epoch,
        })
    }

    fn captured_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// When there is something to do although nothing changes.
    fn deadline(&self) -> Option<Instant> {
        if !self.may_send() {
            return None;
        }
        if self.encoder.has_changes() {
            return Some(self.last_frame + MIN_GAP);
        }
        let resting = self.unseen.is_empty() && self.encoder.has_approximations();
        resting.then_some((self.last_change + REST).max(self.last_frame + MIN_GAP))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_shrink_when_they_queue_and_grow_when_they_do_not() {
        let mut pace = Pace {
            bytes: FIRST_BUDGET_BYTES,
            fastest: Duration::from_secs(1),
        };
        pace.seen(60_000, Duration::from_millis(20));
        assert!(pace.bytes > FIRST_BUDGET_BYTES);
        for _ in 0..20 {
            pace.seen(60_000, Duration::from_millis(300));
        }
        assert_eq!(pace.bytes, MIN_BUDGET_BYTES);
        let small = pace.bytes;
        pace.seen(100, Duration::from_millis(20));
        assert_eq!(
            pace.bytes, small,
            "a frame that did not use its budget says nothing"
        );
    }
}
