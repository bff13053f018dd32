//! A session's picture, in a program: draws what the sharer sends, says what was seen, asks for what is missing, and
//! measures how long a key takes to become pixels.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use remora_picture::decode::{Canvas, Drawn, Undrawn};
use remora_proto::{
    session::Command,
    wire::message::{
        CURSOR_STREAM,
        session::{
            CursorShape, FrameAck, InputEvent, KeyEvent, KeyFrameRequest, control::Body,
            input_event,
        },
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant as Deadline, timeout_at},
};

use crate::{event::Input, share::inject::Keysym};

/// What was wanted did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The session is over.
    #[error("the session is over")]
    Over,
    /// The picture did not become what it was waited for.
    #[error("the picture did not come to show it in time")]
    TooLate,
}

/// What came from the sharer.
#[derive(Debug)]
pub enum Seen {
    /// A frame; these are in the picture now: none if it waits for another, more if others waited for it.
    Drawn(Vec<Drawn>),
    /// A frame that will not be.
    Undrawn(Undrawn),
    /// The cursor looks otherwise.
    Cursor,
}

/// What has come so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Drawn.
    pub frames: u64,
    /// Among them, those that began anew.
    pub key_frames: u64,
    /// Not drawn.
    pub undrawn: u64,
    /// Of all frames and cursor shapes.
    pub bytes: u64,
}

/// How long keys took to become pixels.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The least that so large a share did not exceed; zero when there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among samples in memory; what is outside is cut off"
        )]
        let index = (rank as usize).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(index).copied().unwrap_or_default()
    }

    /// In the order in which they were measured.
    pub fn samples(&self) -> &[Duration] {
        &self.0
    }
}

/// A viewer without a window.
pub struct View {
    canvas: Canvas,
    cursor: Option<CursorShape>,
    frames: mpsc::Receiver<Bytes>,
    input: mpsc::Sender<Input>,
    /// For the session, as soon as it takes it.
    unsaid: VecDeque<Input>,
    /// A key frame was asked for and has not come.
    key_asked: bool,
    counts: Counts,
    latencies: Latencies,
    beside: Option<Box<dyn FnMut(Bytes) + Send>>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({:?}, {:?})", self.canvas, self.counts)
    }
}

impl View {
    /// Looks at what comes out of `frames` ([`Running::frames`](crate::node::Running::frames)), and asks for the first
    /// picture: to be made once the session has started.
    pub fn new(frames: mpsc::Receiver<Bytes>, input: mpsc::Sender<Input>) -> Self {
        let mut view = Self {
            canvas: Canvas::new(),
            cursor: None,
            frames,
            input,
            unsaid: VecDeque::new(),
            key_asked: false,
            counts: Counts::default(),
            latencies: Latencies::default(),
            beside: None,
        };
        view.ask_for_key();
        view
    }

    /// Hands everything that comes to somebody else, too: a page that shows the same.
    #[must_use]
    pub fn beside(mut self, also: impl FnMut(Bytes) + Send + 'static) -> Self {
        self.beside = Some(Box::new(also));
        self
    }

    /// The picture as it is now.
    pub fn canvas(&self) -> &Canvas {
        &self.canvas
    }

    /// How the cursor looks.
    pub fn cursor(&self) -> Option<&CursorShape> {
        self.cursor.as_ref()
    }

    /// What has come so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Of [`key_to_pixel`](Self::key_to_pixel).
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Nothing more will come.
    pub fn is_over(&self) -> bool {
        self.frames.is_closed() && self.frames.is_empty()
    }

    /// The next thing from the sharer, after it was drawn and acknowledged. Cancel-safe.
    ///
    /// # Errors
    /// [`ViewError::Over`].
    pub async fn next(&mut self) -> Result<Seen, ViewError> {
        while !self.unsaid.is_empty() {
            let room = self.input.reserve().await.map_err(|_| ViewError::Over)?;
            if let Some(input) = self.unsaid.pop_front() {
                room.send(input);
            }
        }
        let bytes = self.frames.recv().await.ok_or(ViewError::Over)?;
        let seen = self.take(&bytes);
        if let Some(beside) = &mut self.beside {
            beside(bytes);
        }
        Ok(seen)
    }

    /// Looks until the picture is as wanted; looks at the present one first. Cancel-safe.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn wait_until(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&Canvas) -> bool,
    ) -> Result<(), ViewError> {
        let deadline = Deadline::now() + limit;
        while !wanted(&self.canvas) {
            let next = timeout_at(deadline, self.next()).await;
            next.map_err(|_| ViewError::TooLate)??;
        }
        Ok(())
    }

    /// Keys and pointer for the sharer's screen.
    ///
    /// # Errors
    /// [`ViewError::Over`].
    pub async fn send(&self, events: Vec<InputEvent>) -> Result<(), ViewError> {
        let sent = self.input.send(Input::Keys(events)).await;
        sent.map_err(|_| ViewError::Over)
    }

    /// Sends keys and looks until the picture is as wanted; how long that took.
    ///
    /// # Errors
    /// [`ViewError`].
    pub async fn key_to_pixel(
        &mut self,
        events: Vec<InputEvent>,
        limit: Duration,
        wanted: impl FnMut(&Canvas) -> bool,
    ) -> Result<Duration, ViewError> {
        let sent = Instant::now();
        self.send(events).await?;
        self.wait_until(limit, wanted).await?;
        let took = sent.elapsed();
        self.latencies.0.push(took);
        Ok(took)
    }

    fn take(&mut self, bytes: &Bytes) -> Seen {
        self.counts.bytes += bytes.len() as u64;
        if bytes.first() == Some(&CURSOR_STREAM) {
            match CursorShape::decode(bytes.slice(1..)) {
                Ok(shape) => self.cursor = Some(shape),
                Err(error) => tracing::debug!(%error, "a cursor's shape"),
            }
            return Seen::Cursor;
        }
        let arrived = Instant::now();
        match self.canvas.draw(bytes) {
            Ok(drawn) => {
                let took = arrived.elapsed().as_millis();
                let decode_ms = u32::try_from(took).unwrap_or(u32::MAX);
                for frame in &drawn {
                    self.counts.frames += 1;
                    self.counts.key_frames += u64::from(frame.key);
                    self.key_asked &= !frame.key;
                    if !frame.quiet {
                        self.say(Body::FrameAck(FrameAck {
                            sequence: frame.sequence,
                            dropped: false,
                            decode_ms,
                        }));
                    }
                }
                Seen::Drawn(drawn)
            }
            Err(why) => {
                tracing::debug!(%why, "a frame was not drawn");
                self.counts.undrawn += 1;
                if why != Undrawn::Stale {
                    self.ask_for_key();
                }
                Seen::Undrawn(why)
            }
        }
    }

    /// Frames that were under way when the first one was asked for do not ask again.
    fn ask_for_key(&mut self) {
        if !std::mem::replace(&mut self.key_asked, true) {
            self.say(Body::KeyFrameRequest(KeyFrameRequest {}));
        }
    }

    /// At once if the session takes it, or before the next frame is looked at.
    fn say(&mut self, body: Body) {
        self.unsaid.push_back(Input::Session(Command::Media(body)));
        while let Ok(room) = self.input.try_reserve()
            && let Some(input) = self.unsaid.pop_front()
        {
            room.send(input);
        }
    }
}

/// A key that is pressed and let go.
pub fn stroke(key: Keysym) -> Vec<InputEvent> {
    let event = |down| InputEvent {
        event: Some(input_event::Event::Key(KeyEvent {
            keysym: key.0,
            down,
        })),
    };
    vec![event(true), event(false)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_picture::encode::{Budget, Encoder, Picture, Scope};

    const PLENTY: Budget = Budget {
        bytes: usize::MAX,
        quality: 80,
    };

    /// A picture of one colour, 100 × 80.
    fn picture(bytes: &[u8]) -> Picture<'_> {
        Picture {
            bytes,
            stride: 400,
            width: 100,
            height: 80,
        }
    }

    fn frame(encoder: &mut Encoder, colour: u8) -> Bytes {
        let bytes = vec![colour; 400 * 80];
        encoder.request_key();
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 1)
            .expect("a key");
        frame.bytes.into()
    }

    fn media(input: Input) -> Body {
        match input {
            Input::Session(Command::Media(body)) => body,
            other @ (Input::NewCode
            | Input::Relayed(_)
            | Input::Session(_)
            | Input::Order(_)
            | Input::Exchange(_)
            | Input::Keys(_)) => {
                panic!("{other:?}")
            }
        }
    }

    fn view() -> (View, mpsc::Sender<Bytes>, mpsc::Receiver<Input>) {
        let (to_view, frames) = mpsc::channel(8);
        let (input, said) = mpsc::channel(8);
        (View::new(frames, input), to_view, said)
    }

    #[tokio::test]
    async fn it_asks_draws_and_acknowledges() {
        let (mut view, frames, mut said) = view();
        let mut encoder = Encoder::new(100, 80);
        frames.send(frame(&mut encoder, 7)).await.unwrap();
        frames.send(frame(&mut encoder, 9)).await.unwrap();
        let request = said.recv().await.unwrap();
        assert!(matches!(media(request), Body::KeyFrameRequest(_)));
        let wanted = |canvas: &Canvas| canvas.pixel(99, 79) == Some([9, 9, 9]);
        let looking = view.wait_until(Duration::from_secs(10), wanted);
        let hearing = async {
            let mut acknowledged = Vec::new();
            while acknowledged.len() < 2 {
                if let Body::FrameAck(ack) = media(said.recv().await.unwrap()) {
                    acknowledged.push(ack.sequence);
                }
            }
            acknowledged
        };
        let (looked, acknowledged) = tokio::join!(looking, hearing);
        assert_eq!((looked, acknowledged), (Ok(()), vec![1, 2]));
        let counts = view.counts();
        assert_eq!(
            (counts.frames, counts.key_frames, counts.undrawn),
            (2, 2, 0)
        );
        drop(frames);
        assert_eq!(view.next().await.unwrap_err(), ViewError::Over);
    }

    #[tokio::test]
    async fn rubbish_asks_for_a_key_frame_once() {
        let (mut view, frames, mut said) = view();
        let mut encoder = Encoder::new(100, 80);
        said.recv().await.unwrap();
        frames.send(frame(&mut encoder, 7)).await.unwrap();
        assert!(matches!(view.next().await, Ok(Seen::Drawn(_))));
        assert!(matches!(
            media(said.recv().await.unwrap()),
            Body::FrameAck(_)
        ));
        for _ in 0..3 {
            frames.send(Bytes::from_static(&[1, 2, 3])).await.unwrap();
            assert!(matches!(view.next().await, Ok(Seen::Undrawn(_))));
        }
        let request = said.recv().await.unwrap();
        assert!(matches!(media(request), Body::KeyFrameRequest(_)));
        assert!(said.try_recv().is_err());
    }

    #[test]
    fn quantiles_are_samples() {
        let ms = Duration::from_millis;
        let latencies = Latencies((1..=20).rev().map(ms).collect());
        assert_eq!(latencies.quantile(0.5), ms(10));
        assert_eq!(latencies.quantile(0.95), ms(19));
        assert_eq!(latencies.quantile(1.0), ms(20));
        assert_eq!(Latencies::default().quantile(0.5), Duration::ZERO);
    }
}
