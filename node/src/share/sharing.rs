//! What a session does to the sharer's screen: shows it once a viewer asks, lets keys through while the sharer allows it,
//! draws the helper's pointer. Everything here belongs to one session and goes with it.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a few messages concern the screen, among many"
)]

use std::time::Instant;

use bytes::Bytes;
use remora_proto::{
    session::{Command, Mode, Session},
    wire::message::{
        CURSOR_STREAM,
        session::{self as schema, control::Body, input_event::Event as Key},
    },
};
use tokio::sync::{mpsc, watch};

use super::{
    bar::{Bar, BarEvent, BarText},
    capture::{CaptureError, CursorShape, Rect},
    desktop::Desktop,
    inject::{Button, Gated, Inject, InjectError, Keysym, Permit},
    overlay::Overlay,
    projector::{Projected, Projector, ToProjector},
};

/// Between the projector's thread and the session: it never has more than two frames under way.
const QUEUE_PROJECTED: usize = 8;
/// Events of one message that are looked at.
const MAX_BATCH: usize = 64;
/// What a mouse wheel's notch counts.
const NOTCH: i32 = 120;

/// The sharer's screen in one session.
#[derive(Debug)]
pub struct Sharing {
    desktop: Desktop,
    projector: Option<Projector>,
    projected: mpsc::Receiver<Projected>,
    projected_tx: mpsc::Sender<Projected>,
    injector: Option<Gated<Box<dyn Inject>>>,
    overlay: Option<Overlay>,
    bar: Option<Bar>,
    bar_rect: Option<watch::Receiver<Rect>>,
    text: BarText,
    /// Counts pauses: frames of an earlier epoch are thrown away.
    epoch: u32,
    size: (u16, u16),
    origin: (i16, i16),
    stroke: u32,
    /// What is left of a notch, in 120ths.
    wheel: (i32, i32),
}

/// What comes out of the sharer's screen.
#[derive(Debug)]
pub enum Next {
    /// For the helper.
    Projected(Projected),
    /// What the sharer wants.
    Wish(Command),
    /// Nothing that concerns anybody else.
    Nothing,
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

/// What the session has to do about something projected.
#[derive(Debug)]
pub enum ForHelper {
    /// On a stream of its own.
    Stream(Bytes),
    /// Through the session's machine.
    Say(Command),
    /// Nothing.
    Nothing,
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
            injector: None,
            overlay: None,
            bar: None,
            bar_rect: None,
            text: BarText {
                name: String::new(),
                control: false,
                paused: false,
                since: Instant::now(),
                path: String::new(),
            },
            epoch: 0,
            size: (1, 1),
            origin: (0, 0),
            stroke: 0,
            wheel: (0, 0),
        }
    }

    /// The next thing from the screen, or what the sharer pressed on the bar. Cancel-safe.
    pub async fn next(&mut self) -> Next {
        tokio::select! { biased;
            pressed = pressed(&mut self.bar) => Next::Wish(match pressed {
                Some(BarEvent::Pause) => Command::Pause(true),
                Some(BarEvent::Resume) => Command::Pause(false),
                Some(BarEvent::StopControl) => Command::DropMode,
                Some(BarEvent::Chat) => return Next::Nothing,
                // Without its bar the sharer could not see that somebody looks.
                Some(BarEvent::Leave) | None => Command::Leave,
            }),
            rect = moved(&mut self.bar_rect) => {
                self.mask(rect);
                Next::Nothing
            }
            projected = self.projected.recv() => projected.map_or(Next::Nothing, Next::Projected),
        }
    }

    fn mask(&mut self, bar: Rect) {
        self.tell(ToProjector::Mask(bar));
        if let Some(injector) = &mut self.injector {
            injector.set_shield(bar);
        }
    }

    /// Opens the bar, without which nothing is shown where somebody could see it.
    fn open_bar(&mut self) -> Result<(), CaptureError> {
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

    /// Who looks: on the bar.
    pub fn name(&mut self, name: &str) {
        name.clone_into(&mut self.text.name);
        self.text.since = Instant::now();
    }

    /// What the bar says about the path.
    pub fn path(&mut self, badge: String) {
        if self.text.path != badge {
            self.text.path = badge;
            self.show_bar();
        }
    }

    fn show_bar(&self) {
        if let Some(bar) = &self.bar {
            bar.show(self.text.clone());
        }
    }

    /// What the helper's program says about the picture.
    pub fn handle(&mut self, body: &Body, session: &Session) -> Option<Command> {
        match body {
            Body::KeyFrameRequest(_) if session.may_show() => return self.begin(),
            Body::FrameAck(ack) => self.tell(ToProjector::Seen(ack.sequence)),
            Body::SelectSource(select) => self.tell(ToProjector::Select(select.source)),
            Body::Pointer(pointer) => {
                let at = pointer.visible.then(|| self.place(pointer.x, pointer.y));
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
        None
    }

    /// A viewer is there: opens the screen, or begins anew.
    fn begin(&mut self) -> Option<Command> {
        if self.projector.is_none() {
            match self.desktop.capture() {
                Ok(capture) => {
                    self.projector = Some(Projector::start(capture, self.projected_tx.clone()));
                    if let Err(error) = self.open_bar() {
                        tracing::warn!(%error, hint = error.hint(), "there is no bar");
                        return Some(Command::CaptureFailed);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, hint = error.hint(), "the screen cannot be shared");
                    return Some(Command::CaptureFailed);
                }
            }
        }
        self.tell(ToProjector::Begin);
        None
    }

    fn tell(&self, command: ToProjector) {
        if let Some(projector) = &self.projector {
            projector.tell(command);
        }
    }

    /// What the screen says, for the helper.
    pub fn for_helper(&mut self, projected: Projected) -> ForHelper {
        match projected {
            Projected::Frame { bytes, epoch } if epoch == self.epoch => ForHelper::Stream(bytes),
            Projected::Frame { .. } => ForHelper::Nothing,
            Projected::Screen {
                size,
                origin,
                sources,
                source,
            } => {
                (self.size, self.origin) = (size, origin);
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
                ForHelper::Say(Command::Media(Body::Screen(schema::Screen {
                    width,
                    height,
                    sources,
                    source,
                })))
            }
            Projected::CursorShape(shape) => ForHelper::Stream(cursor(&shape)),
            Projected::CursorAt(x, y) => {
                let position = schema::CursorPosition {
                    x: x.into(),
                    y: y.into(),
                };
                ForHelper::Say(Command::Media(Body::CursorPosition(position)))
            }
            Projected::Failed(error) => {
                tracing::warn!(%error, hint = error.hint(), "the screen is lost");
                ForHelper::Say(Command::CaptureFailed)
            }
        }
    }

    /// The sharer paused or went on.
    pub fn pause(&mut self, paused: bool) {
        self.epoch = self.epoch.wrapping_add(1);
        self.tell(ToProjector::Pause {
            paused,
            epoch: self.epoch,
        });
    }

    /// What the session allows now; taking control away lets go of every key.
    pub fn permit(&mut self, session: &Session) {
        let permit = Permit {
            control: session.mode() == Some(Mode::Control),
            frozen: false,
            paused: !session.may_show(),
        };
        (self.text.control, self.text.paused) = (permit.control, permit.paused);
        self.show_bar();
        if let Some(injector) = &mut self.injector {
            warn_of(injector.set_permit(permit));
        }
    }

    /// The helper's keys and pointer; the reason when they may not be used.
    pub fn input(&mut self, batch: &schema::InputBatch, session: &Session) -> Option<&'static str> {
        if let Some(reason) = session.input_refusal() {
            return Some(reason);
        }
        if self.injector.is_none() {
            match self.desktop.injector() {
                Ok(injector) => {
                    let mut injector = Gated::new(injector);
                    if let Some(rect) = &self.bar_rect {
                        injector.set_shield(*rect.borrow());
                    }
                    self.injector = Some(injector);
                }
                Err(error) => {
                    tracing::warn!(%error, "no input on this display");
                    return Some("UNSUPPORTED");
                }
            }
        }
        self.permit(session);
        for event in batch
            .events
            .iter()
            .take(MAX_BATCH)
            .filter_map(|event| event.event.as_ref())
        {
            let done = self.inject(event);
            warn_of(done);
        }
        None
    }

    fn inject(&mut self, event: &Key) -> Result<(), InjectError> {
        let place = |x, y| self.place(x, y);
        let at = match event {
            Key::Pointer(pointer) => place(pointer.x, pointer.y),
            _ => (0, 0),
        };
        let Some(injector) = &mut self.injector else {
            return Ok(());
        };
        match event {
            Key::Key(key) => injector.key(Keysym(key.keysym), key.down),
            Key::Text(text) => injector.text(text),
            Key::Pointer(_) => injector.pointer(at.0, at.1),
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

    /// From 0–65,535 across the source to a place on the display.
    fn place(&self, x: u32, y: u32) -> (i16, i16) {
        let along = |part: u32, length: u16, origin: i16| {
            let pixel = u64::from(part.min(0xffff)) * u64::from(length) / 0x1_0000;
            origin.saturating_add(i16::try_from(pixel).unwrap_or(i16::MAX))
        };
        (
            along(x, self.size.0, self.origin.0),
            along(y, self.size.1, self.origin.1),
        )
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
        let number = self.stroke;
        let points: Vec<_> = stroke
            .points
            .chunks_exact(2)
            .take(128)
            .map(|p| self.place(p[0], p[1]))
            .collect();
        if let Some(overlay) = self.overlay() {
            for point in points {
                overlay.draw(number, point, stroke.colour);
            }
        }
    }
}

impl Drop for Sharing {
    /// No key stays down when the session is over.
    fn drop(&mut self) {
        if let Some(injector) = &mut self.injector {
            warn_of(injector.set_permit(Permit::default()));
        }
        // The projector's thread may be waiting to say something.
        self.projected.close();
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
        let mut sharing = Sharing::new(Desktop::X11(None));
        (sharing.size, sharing.origin) = ((1920, 1080), (100, 50));
        assert_eq!(sharing.place(0, 0), (100, 50));
        assert_eq!(sharing.place(0xffff, 0xffff), (2019, 1129));
        assert_eq!(sharing.place(u32::MAX, 0), (2019, 50));
    }
}
