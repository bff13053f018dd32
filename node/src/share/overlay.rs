//! What the helper draws on the sharer's screen: a laser pointer and pen strokes, in VIEW as well.
//!
//! Two windows past the window manager, shaped like what they show, with an empty input shape: clicks go through to
//! what is below. A server has no memory of where a line was; the strokes are kept here and their sum is the window's
//! shape. Everything goes by itself, so that a lost connection leaves nothing on the screen.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use x11rb::{
    connection::Connection as _,
    protocol::{
        Event,
        shape::{self, ConnectionExt as _},
        xproto::{
            ChangeGCAux, ClipOrdering, ConfigureWindowAux, ConnectionExt as _, CreateGCAux,
            CreateWindowAux, EventMask, Rectangle, StackMode, WindowClass,
        },
    },
};

use super::{
    capture::CaptureError,
    x11::{Display, Wakeup, no_resources},
};

/// A laser pointer that nobody moves goes: longer than a person rests on a word.
const POINTER_LIFE: Duration = Duration::from_secs(4);
/// A stroke goes: long enough to draw a circle and talk about it.
const STROKE_LIFE: Duration = Duration::from_secs(8);
/// Strokes at a time; the oldest goes first.
const MAX_STROKES: usize = 64;
/// Points of a stroke, as many as a mouse gives in half a minute; then it stays as it is.
const MAX_POINTS: usize = 2048;
/// Of the laser pointer: a ring of the colour around a white disc around a dot, to be seen on any ground.
const POINTER_SIZE: u16 = 25;
const WHITE_RADIUS: i32 = 8;
const DOT_RADIUS: i32 = 5;
/// Half of the pen's width.
const PEN_RADIUS: i32 = 2;
const WHITE: u32 = 0x00ff_ffff;

/// The overlay, from outside. What it shows goes when this is dropped.
pub struct Overlay {
    scene: Arc<Mutex<Scene>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// What is to be seen.
#[derive(Debug, Default)]
struct Scene {
    pointer: Option<Laser>,
    /// By the helper's number.
    strokes: BTreeMap<u32, Stroke>,
    /// The strokes are others than those drawn.
    redraw: bool,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Laser {
    at: (i16, i16),
    colour: u32,
    until: Instant,
}

#[derive(Clone, Debug)]
struct Stroke {
    colour: u32,
    points: Vec<(i16, i16)>,
    until: Instant,
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overlay({} strokes)", lock(&self.scene).strokes.len())
    }
}

impl Overlay {
    /// Connects to the display (by default `DISPLAY`); nothing is seen before something is drawn.
    ///
    /// # Errors
    /// As [`capture::open`](super::capture::open), and without SHAPE 1.1.
    pub fn open(display: Option<&str>) -> Result<Self, CaptureError> {
        let display = Display::open(display)?;
        let wakeup = Wakeup::new().map_err(no_resources)?;
        let (waker, scene) = (wakeup.waker(), Arc::<Mutex<Scene>>::default());
        let mut artist = Artist::new(display, wakeup, Arc::clone(&scene))?;
        let run = move || match artist.run() {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "the overlay is gone"),
        };
        let thread = thread::Builder::new()
            .name("overlay".to_owned())
            .spawn(run)
            .map_err(no_resources)?;
        Ok(Self {
            scene,
            waker,
            thread: Some(thread),
        })
    }

    /// Puts the laser pointer at a place of the desktop, or away. Colours are `0xRRGGBB`.
    pub fn point(&self, at: Option<(i16, i16)>, colour: u32) {
        let until = Instant::now() + POINTER_LIFE;
        lock(&self.scene).pointer = at.map(|at| Laser {
            at,
            colour: colour & WHITE,
            until,
        });
        self.waker.wake_by_ref();
    }

    /// Draws on with the stroke of this number, or begins it; it goes some time after its last point.
    pub fn draw(&self, stroke: u32, to: (i16, i16), colour: u32) {
        lock(&self.scene).draw(stroke, to, colour & WHITE, Instant::now() + STROKE_LIFE);
        self.waker.wake_by_ref();
    }

    /// Takes everything away.
    pub fn clear(&self) {
        let mut scene = lock(&self.scene);
        scene.pointer = None;
        scene.strokes.clear();
        scene.redraw = true;
        drop(scene);
        self.waker.wake_by_ref();
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        lock(&self.scene).over = true;
        self.waker.wake_by_ref();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the overlay's thread panicked");
        }
    }
}

fn lock(scene: &Mutex<Scene>) -> MutexGuard<'_, Scene> {
    scene.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scene {
    fn draw(&mut self, number: u32, to: (i16, i16), colour: u32, until: Instant) {
        if !self.strokes.contains_key(&number) && self.strokes.len() >= MAX_STROKES {
            let oldest = self
                .strokes
                .iter()
                .min_by_key(|(_, stroke)| stroke.until)
                .map(|(number, _)| *number);
            oldest.and_then(|number| self.strokes.remove(&number));
        }
        let empty = || Stroke {
            colour,
            points: Vec::new(),
            until,
        };
        let stroke = self.strokes.entry(number).or_insert_with(empty);
        stroke.until = until;
        if stroke.points.len() < MAX_POINTS && stroke.points.last() != Some(&to) {
            stroke.points.push(to);
            self.redraw = true;
        }
    }

    /// Forgets what has been seen long enough.
    fn expire(&mut self, now: Instant) {
        let before = self.strokes.len();
        self.strokes.retain(|_, stroke| stroke.until > now);
        self.redraw |= self.strokes.len() != before;
        self.pointer = self.pointer.filter(|laser| laser.until > now);
    }

    fn next_expiry(&self) -> Option<Instant> {
        let strokes = self.strokes.values().map(|stroke| stroke.until);
        strokes.chain(self.pointer.map(|laser| laser.until)).min()
    }
}

/// The overlay's thread.
struct Artist {
    display: Display,
    wakeup: Wakeup,
    scene: Arc<Mutex<Scene>>,
    gc: u32,
    laser: u32,
    paper: u32,
    shown: Option<Laser>,
    /// Colour and rectangles of each stroke on the paper.
    drawn: Vec<(u32, Vec<Rectangle>)>,
    paper_mapped: bool,
}

impl Artist {
    fn new(
        display: Display,
        wakeup: Wakeup,
        scene: Arc<Mutex<Scene>>,
    ) -> Result<Self, CaptureError> {
        display.need(shape::X11_EXTENSION_NAME)?;
        // Input shapes came with 1.1; without them the strokes would catch the sharer's clicks.
        let version = display.connection.shape_query_version()?.reply()?;
        if (version.major_version, version.minor_version) < (1, 1) {
            return Err(CaptureError::Lacks("SHAPE 1.1"));
        }
        let root = display.screen().root;
        let laser = ghost(&display, (POINTER_SIZE, POINTER_SIZE))?;
        let desktop = display.connection.get_geometry(root)?.reply()?;
        let paper = ghost(&display, (desktop.width, desktop.height))?;
        let gc = display.connection.generate_id()?;
        display
            .connection
            .create_gc(gc, laser, &CreateGCAux::new())?;
        let centre = i32::from(POINTER_SIZE / 2);
        shape_as(&display, laser, &disc((centre, centre), centre))?;
        Ok(Self {
            display,
            wakeup,
            scene,
            gc,
            laser,
            paper,
            shown: None,
            drawn: Vec::new(),
            paper_mapped: false,
        })
    }

    fn run(&mut self) -> Result<(), CaptureError> {
        loop {
            while let Some(event) = self.display.connection.poll_for_event()? {
                if let Event::Expose(event) = event {
                    if event.window == self.laser {
                        self.paint_laser()?
                    } else {
                        self.paint_strokes()?
                    }
                }
            }
            self.wakeup.take();
            let (laser, strokes, next) = {
                let mut scene = lock(&self.scene);
                if scene.over {
                    return Ok(());
                }
                scene.expire(Instant::now());
                let redraw = std::mem::take(&mut scene.redraw);
                (
                    scene.pointer,
                    redraw.then(|| scene.strokes.values().cloned().collect()),
                    scene.next_expiry(),
                )
            };
            self.show_laser(laser)?;
            if let Some(strokes) = strokes {
                self.show_strokes(strokes)?;
            }
            self.display.connection.flush()?;
            self.wakeup.sleep(&self.display.connection, next)?;
        }
    }

    fn show_laser(&mut self, laser: Option<Laser>) -> Result<(), CaptureError> {
        let old = std::mem::replace(&mut self.shown, laser);
        let connection = &self.display.connection;
        let Some(new) = laser else {
            if old.is_some() {
                connection.unmap_window(self.laser)?;
            }
            return Ok(());
        };
        let corner = |at: i16| i32::from(at) - i32::from(POINTER_SIZE / 2);
        if old.map(|old| old.at) != Some(new.at) {
            let place = ConfigureWindowAux::new()
                .x(corner(new.at.0))
                .y(corner(new.at.1));
            connection.configure_window(self.laser, &place)?;
        }
        if old.is_none() {
            connection.configure_window(
                self.laser,
                &ConfigureWindowAux::new().stack_mode(StackMode::ABOVE),
            )?;
            connection.map_window(self.laser)?;
        } else if old.map(|old| old.colour) != Some(new.colour) {
            self.paint_laser()?;
        }
        Ok(())
    }

    fn paint_laser(&self) -> Result<(), CaptureError> {
        let Some(laser) = self.shown else {
            return Ok(());
        };
        let centre = i32::from(POINTER_SIZE / 2);
        for (colour, radius) in [
            (laser.colour, centre),
            (WHITE, WHITE_RADIUS),
            (laser.colour, DOT_RADIUS),
        ] {
            self.fill(self.laser, colour, &disc((centre, centre), radius))?;
        }
        Ok(())
    }

    fn show_strokes(&mut self, strokes: Vec<Stroke>) -> Result<(), CaptureError> {
        self.drawn = strokes
            .into_iter()
            .map(|stroke| (stroke.colour, line(&stroke.points)))
            .collect();
        let all: Vec<Rectangle> = self
            .drawn
            .iter()
            .flat_map(|(_, rects)| rects.iter().copied())
            .collect();
        let empty = all.is_empty();
        if !empty {
            shape_as(&self.display, self.paper, &all)?;
        }
        if self.paper_mapped == empty {
            self.paper_mapped = !empty;
            let connection = &self.display.connection;
            if empty {
                connection.unmap_window(self.paper)?;
            } else {
                let root = self.display.screen().root;
                let desktop = connection.get_geometry(root)?.reply()?;
                let (width, height) = (u32::from(desktop.width), u32::from(desktop.height));
                let place = ConfigureWindowAux::new()
                    .width(width)
                    .height(height)
                    .stack_mode(StackMode::ABOVE);
                connection.configure_window(self.paper, &place)?;
                connection.map_window(self.paper)?;
            }
        }
        self.paint_strokes()
    }

    fn paint_strokes(&self) -> Result<(), CaptureError> {
        self.drawn
            .iter()
            .try_for_each(|(colour, rects)| self.fill(self.paper, *colour, rects))
    }

    fn fill(&self, window: u32, colour: u32, rects: &[Rectangle]) -> Result<(), CaptureError> {
        self.display
            .connection
            .change_gc(self.gc, &ChangeGCAux::new().foreground(colour))?;
        for part in rects.chunks(RECTS_PER_REQUEST) {
            self.display
                .connection
                .poly_fill_rectangle(window, self.gc, part)?;
        }
        Ok(())
    }
}

/// Rectangles of one request: below the smallest limit that servers have (2¹⁶ units of 4 bytes).
const RECTS_PER_REQUEST: usize = 16_000;

/// A window that is seen and not felt.
fn ghost(display: &Display, (width, height): (u16, u16)) -> Result<u32, CaptureError> {
    let screen = display.screen();
    let (root, depth, visual) = (screen.root, screen.root_depth, screen.root_visual);
    let window = display.connection.generate_id()?;
    let settings = CreateWindowAux::new()
        .override_redirect(1)
        .event_mask(EventMask::EXPOSURE);
    let class = WindowClass::INPUT_OUTPUT;
    let connection = &display.connection;
    connection
        .create_window(
            depth, window, root, 0, 0, width, height, 0, class, visual, &settings,
        )?
        .check()?;
    let (set, input, any) = (shape::SO::SET, shape::SK::INPUT, ClipOrdering::UNSORTED);
    connection.shape_rectangles(set, input, any, window, 0, 0, &[])?;
    Ok(window)
}

fn shape_as(display: &Display, window: u32, rects: &[Rectangle]) -> Result<(), CaptureError> {
    let (bounding, any) = (shape::SK::BOUNDING, ClipOrdering::UNSORTED);
    for (index, part) in rects.chunks(RECTS_PER_REQUEST).enumerate() {
        let how = if index == 0 {
            shape::SO::SET
        } else {
            shape::SO::UNION
        };
        display
            .connection
            .shape_rectangles(how, bounding, any, window, 0, 0, part)?;
    }
    Ok(())
}

/// The rows of a disc.
fn disc((x, y): (i32, i32), radius: i32) -> Vec<Rectangle> {
    let half = |row: i32| {
        (0..=radius)
            .rev()
            .find(|column| column * column + row * row <= radius * radius)
            .unwrap_or(0)
    };
    (-radius..=radius)
        .map(|row| rectangle(x - half(row), y + row, 2 * half(row) + 1, 1))
        .collect()
}

/// A pen's way: squares of its width so close that they are one line.
fn line(points: &[(i16, i16)]) -> Vec<Rectangle> {
    let wide = 2 * PEN_RADIUS + 1;
    let dot = |(x, y): (i32, i32)| rectangle(x - PEN_RADIUS, y - PEN_RADIUS, wide, wide);
    let points: Vec<(i32, i32)> = points
        .iter()
        .map(|(x, y)| (i32::from(*x), i32::from(*y)))
        .collect();
    let mut rects: Vec<Rectangle> = points
        .first()
        .map(|first| dot(*first))
        .into_iter()
        .collect();
    for pair in points.windows(2) {
        let [(x, y), (to_x, to_y)] = [pair[0], pair[1]];
        let steps = (to_x - x)
            .abs()
            .max((to_y - y).abs())
            .div_euclid(PEN_RADIUS)
            .max(1);
        rects.extend(
            (1..=steps)
                .map(|step| dot((x + (to_x - x) * step / steps, y + (to_y - y) * step / steps))),
        );
    }
    rects
}

fn rectangle(x: i32, y: i32, width: i32, height: i32) -> Rectangle {
    let signed = |value: i32| i16::try_from(value).unwrap_or(i16::MAX);
    let unsigned = |value: i32| u16::try_from(value).unwrap_or(0);
    Rectangle {
        x: signed(x),
        y: signed(y),
        width: unsigned(width),
        height: unsigned(height),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_gaps() {
        let rects = line(&[(0, 0), (100, 30), (100, 31)]);
        for pair in rects.windows(2) {
            assert!(
                pair[0].x.abs_diff(pair[1].x) <= 5 && pair[0].y.abs_diff(pair[1].y) <= 5,
                "{pair:?}"
            );
        }
        let last = rects.last().unwrap();
        assert_eq!((last.x, last.y), (98, 29));
        assert_eq!(line(&[(7, 7)]).len(), 1, "a tap leaves a dot");
        assert!(line(&[]).is_empty());
    }

    #[test]
    fn strokes_go_in_time_and_never_pile_up() {
        let (now, mut scene) = (Instant::now(), Scene::default());
        for number in 0..100u32 {
            scene.draw(
                number,
                (1, 1),
                0,
                now + Duration::from_millis(u64::from(number) + 1),
            );
        }
        assert_eq!(scene.strokes.len(), MAX_STROKES);
        assert!(!scene.strokes.contains_key(&0), "the oldest went");
        for at in 0..i16::MAX {
            scene.draw(99, (at, 0), 0, now + Duration::from_millis(100));
        }
        assert_eq!(scene.strokes[&99].points.len(), MAX_POINTS);
        assert_eq!(scene.next_expiry(), Some(now + Duration::from_millis(37)));
        scene.redraw = false;
        scene.expire(now + Duration::from_millis(99));
        assert!(scene.redraw && scene.strokes.keys().eq([&99]));
        scene.expire(now + Duration::from_millis(100));
        assert!(scene.strokes.is_empty() && scene.next_expiry().is_none());
    }
}
