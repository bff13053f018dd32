//! The screen on X11.
//!
//! | extension | for | without it |
//! |---|---|---|
//! | DAMAGE, XFIXES | what changed, so that an idle screen costs nothing; the cursor's shape | refused |
//! | MIT-SHM 1.2 | pixels without a way through the socket | slower: over the connection |
//! | RANDR 1.5 | monitors, and that they change | one monitor, of fixed size |
//! | XInput 2.1 | that the pointer moves | its position is told with other changes only |
//! | Composite 0.2 | one window alone | `Source::Window` is refused |
//!
//! The damage object stands on the root window, which also hears of its inferiors, and reports `NonEmpty`: one event
//! when the first pixel changes and then silence until the region is taken. Other levels would send an event for each
//! rectangle drawn, thousands a second from a terminal that scrolls, of which all but the sum is thrown away.

/// Pixels from the server into the picture.
mod grab;
/// One window, and nothing but it.
mod window;

use std::{
    fmt, mem,
    task::Waker,
    time::{Duration, Instant},
};

use remora_picture::pixels::Pixels;
use x11rb::{
    connection::Connection as _,
    protocol::{
        Event,
        damage::{self, ConnectionExt as _, ReportLevel},
        randr::{self, ConnectionExt as _},
        shm,
        xfixes::{self, ConnectionExt as _},
        xinput::{self, ConnectionExt as _},
        xproto::{
            AtomEnum, ChangeWindowAttributesAux, ConfigureNotifyEvent, ConnectionExt as _,
            EventMask, MapState, WindowClass,
        },
    },
};

use self::{
    grab::{Grabber, Picture},
    window::WindowTarget,
};
use super::{
    Capture, CaptureError, Changes, CursorShape, Monitor, Platform, Rect, Source, WindowInfo,
    coalesce,
};
use crate::share::x11::{Display, Wakeup, monitors, no_resources, primary};

/// The cursor is told this often at most. A mouse reports up to 1,000 times a second; a viewer's screen shows 60–144.
const CURSOR_GAP: Duration = Duration::from_millis(8);
/// Longest window title that is read, in units of 4 bytes.
const TITLE_WORDS: u32 = 64;
/// Longest list of windows that is read.
const MAX_WINDOWS: u32 = 256;

/// A display, and what of it is shown.
pub struct X11Capture {
    display: Display,
    root: u32,
    wakeup: Wakeup,
    monitors: Vec<Monitor>,
    /// On the root window; what it gathers while a window is shown is left there and costs nothing.
    damage: u32,
    /// Holds what was taken from a damage object until it is read.
    region: u32,
    target: Target,
    grabber: Grabber,
    picture: Picture,
    masks: Vec<Rect>,
    /// For the next `wait`.
    pending: Changes,
    seen: Seen,
    cursor: Cursor,
    composite: bool,
}

enum Target {
    Monitor { id: u16, rect: Rect },
    Window(Box<WindowTarget>),
}

/// What events said; looked into once all are read.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    damage: bool,
    shape: bool,
    motion: bool,
    layout: bool,
    /// The window was moved.
    moved: bool,
    /// The window has another size or came back: its old pixmap is none of its any more.
    renewed: bool,
    /// The window is no more.
    gone: bool,
}

#[derive(Debug)]
struct Cursor {
    at: Option<(i16, i16)>,
    told: Instant,
}

impl fmt::Debug for X11Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X11Capture({:?}, {:?})", self.source(), self.size())
    }
}

impl X11Capture {
    /// Connects, and shows the primary monitor.
    ///
    /// # Errors
    /// What the display lacks, or why it cannot be reached.
    pub fn open(display: Option<&str>) -> Result<Self, CaptureError> {
        let display = Display::open(display)?;
        refuse_wayland(&display)?;
        let screen = display.screen();
        let (root, depth, visual) = (screen.root, screen.root_depth, screen.root_visual);
        display.check_pixels(depth, visual)?;
        let composite = prepare_extensions(&display)?;
        watch(&display, root)?;
        let (damage, region) = (
            display.connection.generate_id()?,
            display.connection.generate_id()?,
        );
        display
            .connection
            .damage_create(damage, root, ReportLevel::NON_EMPTY)?
            .check()?;
        display
            .connection
            .xfixes_create_region(region, &[])?
            .check()?;
        let found = monitors(&display)?;
        let wakeup = Wakeup::new().map_err(no_resources)?;
        let grabber = Grabber::new(&display)?;
        let first = primary(&found);
        let mut capture = Self {
            root,
            wakeup,
            damage,
            region,
            target: Target::Monitor {
                id: first.id,
                rect: first.rect,
            },
            monitors: found,
            grabber,
            picture: Picture::default(),
            masks: Vec::new(),
            pending: Changes::default(),
            seen: Seen::default(),
            cursor: Cursor {
                at: None,
                told: Instant::now(),
            },
            composite,
            display,
        };
        capture.begin()?;
        Ok(capture)
    }

    /// How pixels come: for `preflight` and the statistics.
    pub fn shares_memory(&self) -> bool {
        self.grabber.shares_memory()
    }

    /// The source is another, or has another size: everything is new.
    fn begin(&mut self) -> Result<(), CaptureError> {
        let size = self.rect_of_target();
        self.picture = Picture::new((size.width, size.height));
        self.grabber
            .reserve(&self.display, self.picture.bytes.len())?;
        self.pending.resized = true;
        self.pending.damage = vec![Rect::of_size(self.picture.size)];
        self.cursor.at = None;
        // Also takes what is already there: the events for it have been or will be sent.
        self.seen = Seen {
            damage: true,
            shape: true,
            motion: true,
            ..Seen::default()
        };
        self.cursor.told = Instant::now()
            .checked_sub(CURSOR_GAP)
            .unwrap_or_else(Instant::now);
        Ok(())
    }

    fn rect_of_target(&self) -> Rect {
        match &self.target {
            Target::Monitor { rect, .. } => *rect,
            Target::Window(window) => Rect {
                x: window.origin.0,
                y: window.origin.1,
                ..Rect::of_size(window.size)
            },
        }
    }

    // ---- events --------------------------------------------------------------------------

    fn read_events(&mut self) -> Result<(), CaptureError> {
        while let Some(event) = self.display.connection.poll_for_event()? {
            self.note(&event);
        }
        Ok(())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "X11 has 150 events; these are those that were asked for"
    )]
    fn note(&mut self, event: &Event) {
        match event {
            Event::DamageNotify(event) => {
                self.seen.damage |= event.damage == self.damage_of_target()
            }
            Event::XfixesCursorNotify(_) => self.seen.shape = true,
            Event::XinputRawMotion(_) => self.seen.motion = true,
            Event::RandrScreenChangeNotify(_) | Event::RandrNotify(_) => self.seen.layout = true,
            Event::ConfigureNotify(event) if event.window == self.root => self.seen.layout = true,
            Event::ConfigureNotify(event) => self.note_configured(event),
            Event::MapNotify(event) => self.seen.renewed |= self.is_target(event.window),
            Event::ReparentNotify(event) => self.seen.moved |= self.is_target(event.window),
            Event::DestroyNotify(event) => self.seen.gone |= self.is_target(event.window),
            Event::Error(error) => tracing::debug!(?error, "the display refused a request"),
            _ => {}
        }
    }

    fn note_configured(&mut self, event: &ConfigureNotifyEvent) {
        if let Target::Window(window) = &self.target
            && window.window == event.window
        {
            self.seen.moved = true;
            self.seen.renewed |=
                window.size != (event.width, event.height) || window.border != event.border_width;
        }
    }

    fn is_target(&self, id: u32) -> bool {
        matches!(&self.target, Target::Window(window) if window.window == id)
    }

    fn damage_of_target(&self) -> u32 {
        match &self.target {
            Target::Monitor { .. } => self.damage,
            Target::Window(window) => window.damage,
        }
    }

    /// Asks the server about what the events said.
    fn look(&mut self) -> Result<(), CaptureError> {
        if self.seen.gone {
            return Err(CaptureError::SourceGone);
        }
        if mem::take(&mut self.seen.layout) {
            self.look_at_layout()?;
        }
        if mem::take(&mut self.seen.moved)
            && let Target::Window(window) = &mut self.target
        {
            window.locate(&self.display)?;
        }
        if mem::take(&mut self.seen.renewed) {
            self.renew_window()?;
        }
        if mem::take(&mut self.seen.damage) {
            self.look_at_damage()?;
        }
        if mem::take(&mut self.seen.shape) {
            self.pending.cursor_shape = Some(self.read_shape()?);
        }
        if self.seen.motion && self.cursor.told.elapsed() >= CURSOR_GAP {
            self.look_at_pointer()?;
        }
        Ok(())
    }

    fn look_at_layout(&mut self) -> Result<(), CaptureError> {
        let found = monitors(&self.display)?;
        if found == self.monitors {
            return Ok(());
        }
        let old = mem::replace(&mut self.monitors, found);
        self.pending.monitors_changed = true;
        let Target::Monitor { id, rect } = self.target else {
            return Ok(());
        };
        let name = old
            .iter()
            .find(|monitor| monitor.id == id)
            .map(|monitor| monitor.name.as_str());
        let same = self
            .monitors
            .iter()
            .find(|monitor| Some(monitor.name.as_str()) == name);
        let now = same.unwrap_or_else(|| primary(&self.monitors));
        self.target = Target::Monitor {
            id: now.id,
            rect: now.rect,
        };
        if now.rect == rect {
            Ok(())
        } else {
            self.begin()
        }
    }

    fn renew_window(&mut self) -> Result<(), CaptureError> {
        let Target::Window(window) = &mut self.target else {
            return Ok(());
        };
        // It may be gone before its last event is read.
        if window
            .renew(&self.display, self.region)
            .map_err(CaptureError::or_gone)?
        {
            self.begin()
        } else {
            Ok(())
        }
    }

    fn look_at_damage(&mut self) -> Result<(), CaptureError> {
        let damaged = take_damage(&self.display, self.damage_of_target(), self.region)?;
        let whole = Rect::of_size(self.picture.size);
        let fresh: Vec<Rect> = match &mut self.target {
            Target::Monitor { rect, .. } => {
                let origin = (rect.x, rect.y);
                let rects = damaged
                    .into_iter()
                    .map(|one| one.intersection(*rect).relative_to(origin))
                    .collect();
                without_masks(rects, &self.masks, origin)
            }
            Target::Window(window) => {
                let rects: Vec<Rect> = damaged
                    .into_iter()
                    .map(|one| one.intersection(whole))
                    .collect();
                rects.iter().for_each(|one| window.trust.add(*one));
                rects
            }
        };
        let all = mem::take(&mut self.pending.damage).into_iter().chain(fresh);
        self.pending.damage = coalesce(all);
        Ok(())
    }

    fn read_shape(&self) -> Result<CursorShape, CaptureError> {
        let image = self.display.connection.xfixes_get_cursor_image()?.reply()?;
        Ok(CursorShape {
            width: image.width,
            height: image.height,
            hot_x: image.xhot,
            hot_y: image.yhot,
            serial: image.cursor_serial,
            argb: image.cursor_image,
        })
    }

    fn look_at_pointer(&mut self) -> Result<(), CaptureError> {
        self.seen.motion = false;
        self.cursor.told = Instant::now();
        let pointer = self.display.connection.query_pointer(self.root)?.reply()?;
        let origin = self.origin();
        let at = (
            pointer.root_x.saturating_sub(origin.0),
            pointer.root_y.saturating_sub(origin.1),
        );
        if self.cursor.at.replace(at) != Some(at) {
            self.pending.cursor_moved = Some(at);
        }
        Ok(())
    }

    /// When `wait` has to look again by itself.
    fn due(&self) -> Option<Instant> {
        self.seen.motion.then(|| self.cursor.told + CURSOR_GAP)
    }

    // ---- source --------------------------------------------------------------------------

    fn select_monitor(&mut self, id: u16) -> Result<(), CaptureError> {
        let monitor = self
            .monitors
            .iter()
            .find(|monitor| monitor.id == id)
            .ok_or(CaptureError::SourceGone)?;
        self.replace_target(Target::Monitor {
            id,
            rect: monitor.rect,
        })
    }

    fn select_window(&mut self, id: u32) -> Result<(), CaptureError> {
        if !self.composite {
            return Err(CaptureError::Lacks("Composite"));
        }
        let window =
            WindowTarget::open(&self.display, id, self.region).map_err(CaptureError::or_gone)?;
        self.replace_target(Target::Window(Box::new(window)))
    }

    fn replace_target(&mut self, target: Target) -> Result<(), CaptureError> {
        if let Target::Window(window) = mem::replace(&mut self.target, target) {
            window.close(&self.display)?;
        }
        self.begin()
    }
}

impl Capture for X11Capture {
    fn kind(&self) -> &'static str {
        "x11"
    }

    fn monitors(&self) -> &[Monitor] {
        &self.monitors
    }

    fn windows(&mut self) -> Result<Vec<WindowInfo>, CaptureError> {
        list_windows(&self.display)
    }

    fn source(&self) -> Source {
        match &self.target {
            Target::Monitor { id, .. } => Source::Monitor(*id),
            Target::Window(window) => Source::Window(window.window),
        }
    }

    fn select(&mut self, source: Source) -> Result<(), CaptureError> {
        match source {
            Source::Monitor(id) => self.select_monitor(id),
            Source::Window(id) if self.is_target(id) => self.begin(),
            Source::Window(id) => self.select_window(id),
        }
    }

    fn size(&self) -> (u16, u16) {
        self.picture.size
    }

    fn origin(&self) -> (i16, i16) {
        let rect = self.rect_of_target();
        (rect.x, rect.y)
    }

    fn set_masks(&mut self, masks: &[Rect]) {
        let old = mem::replace(&mut self.masks, masks.to_vec());
        if let Target::Monitor { rect, .. } = &self.target {
            let uncovered = old.into_iter().chain(masks.iter().copied());
            let changed =
                uncovered.map(|mask| mask.intersection(*rect).relative_to((rect.x, rect.y)));
            self.pending.damage = coalesce(
                mem::take(&mut self.pending.damage)
                    .into_iter()
                    .chain(changed),
            );
        }
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Result<Changes, CaptureError> {
        loop {
            self.read_events()?;
            self.look()?;
            if !self.pending.is_empty() {
                return Ok(mem::take(&mut self.pending));
            }
            // Events may have come in behind a reply: poll(2) would not see them.
            if let Some(event) = self.display.connection.poll_for_event()? {
                self.note(&event);
                continue;
            }
            let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if self.wakeup.take() || over {
                return Ok(Changes::default());
            }
            let until = self.due().into_iter().chain(deadline).min();
            self.wakeup.sleep(&self.display.connection, until)?;
        }
    }

    fn refresh(&mut self, rects: &[Rect]) -> Result<(), CaptureError> {
        let whole = Rect::of_size(self.picture.size);
        let rects = rects
            .iter()
            .map(|rect| rect.intersection(whole))
            .filter(|rect| !rect.is_empty());
        let rects: Vec<Rect> = rects.collect();
        let (display, picture) = (&self.display, &mut self.picture);
        let grabbed = match &self.target {
            Target::Monitor { rect, .. } => {
                self.grabber
                    .grab(display, self.root, (rect.x, rect.y), &rects, None, picture)
            }
            Target::Window(window) => match window.pixmap {
                Some(pixmap) => {
                    let inset = i16::try_from(window.border).unwrap_or(0);
                    self.grabber.grab(
                        display,
                        pixmap,
                        (inset, inset),
                        &rects,
                        Some(&window.trust),
                        picture,
                    )
                }
                None => Ok(()),
            },
        };
        match grabbed {
            // The screen has become smaller since: its event is on the way.
            Err(CaptureError::Refused { .. }) => self.seen.layout = true,
            grabbed => grabbed?,
        }
        if let Target::Monitor { rect, .. } = &self.target {
            for mask in &self.masks {
                let mask = mask.intersection(*rect).relative_to((rect.x, rect.y));
                rects
                    .iter()
                    .for_each(|rect| self.picture.blank(rect.intersection(mask)));
            }
        }
        Ok(())
    }

    fn pixels(&self) -> Pixels<'_> {
        self.picture.pixels()
    }

    fn waker(&self) -> Waker {
        self.wakeup.waker()
    }
}

// ---- the server --------------------------------------------------------------------------

/// An X server inside a Wayland session shows X11 programs only, and black where the others are.
pub(in crate::share) fn refuse_wayland(display: &Display) -> Result<(), CaptureError> {
    if display
        .connection
        .query_extension(b"XWAYLAND")?
        .reply()?
        .present
    {
        return Err(CaptureError::Platform(Platform::Wayland));
    }
    // Older ones are known by their monitors' names.
    if monitors(display)?
        .iter()
        .any(|monitor| monitor.name.starts_with("XWAYLAND"))
    {
        return Err(CaptureError::Platform(Platform::Wayland));
    }
    Ok(())
}

/// Says which versions are spoken; true if Composite is there.
fn prepare_extensions(display: &Display) -> Result<bool, CaptureError> {
    display.need(xfixes::X11_EXTENSION_NAME)?;
    display.need(damage::X11_EXTENSION_NAME)?;
    display.connection.xfixes_query_version(5, 0)?.reply()?;
    display.connection.damage_query_version(1, 1)?.reply()?;
    if display.has(shm::X11_EXTENSION_NAME)? {
        shm::query_version(&display.connection)?.reply()?;
    }
    window::has_composite(display)
}

/// Asks for the events that [`X11Capture::note`] knows.
fn watch(display: &Display, root: u32) -> Result<(), CaptureError> {
    let connection = &display.connection;
    connection.xfixes_select_cursor_input(root, xfixes::CursorNotifyMask::DISPLAY_CURSOR)?;
    // The only word that there is of monitors that somebody has named, or named no more (`xrandr --setmonitor`).
    let layout = ChangeWindowAttributesAux::new().event_mask(EventMask::STRUCTURE_NOTIFY);
    connection.change_window_attributes(root, &layout)?;
    if display.has(randr::X11_EXTENSION_NAME)? {
        use randr::NotifyMask as On;
        connection.randr_select_input(
            root,
            On::SCREEN_CHANGE | On::CRTC_CHANGE | On::OUTPUT_CHANGE,
        )?;
    }
    if display.has(xinput::X11_EXTENSION_NAME)? {
        // From 2.1 on, raw events come during another program's grab, too.
        connection.xinput_xi_query_version(2, 2)?.reply()?;
        let mask = vec![xinput::XIEventMask::RAW_MOTION];
        let masks = [xinput::EventMask {
            deviceid: xinput::Device::ALL_MASTER.into(),
            mask,
        }];
        connection.xinput_xi_select_events(root, &masks)?;
    }
    Ok(())
}

/// Empties a damage object and tells what was in it.
fn take_damage(display: &Display, damage: u32, region: u32) -> Result<Vec<Rect>, CaptureError> {
    display
        .connection
        .damage_subtract(damage, x11rb::NONE, region)?;
    let reply = display.connection.xfixes_fetch_region(region)?.reply()?;
    let rects = reply.rectangles.iter();
    Ok(rects
        .map(|one| Rect {
            x: one.x,
            y: one.y,
            width: one.width,
            height: one.height,
        })
        .collect())
}

fn without_masks(rects: Vec<Rect>, masks: &[Rect], origin: (i16, i16)) -> Vec<Rect> {
    masks.iter().fold(rects, |rects, mask| {
        let mask = mask.relative_to(origin);
        rects
            .into_iter()
            .flat_map(|rect| rect.without(mask))
            .filter(|rect| !rect.is_empty())
            .collect()
    })
}

// ---- windows to choose from --------------------------------------------------------------

/// As the window manager lists them; without one, the children of the root window.
fn list_windows(display: &Display) -> Result<Vec<WindowInfo>, CaptureError> {
    let root = display.screen().root;
    let list = atom(display, b"_NET_CLIENT_LIST")?;
    let managed = display
        .connection
        .get_property(false, root, list, AtomEnum::WINDOW, 0, MAX_WINDOWS)?
        .reply()?;
    let ids: Vec<u32> = match managed.value32() {
        Some(ids) if managed.value_len > 0 => ids.collect(),
        _ => display.connection.query_tree(root)?.reply()?.children,
    };
    let name = atom(display, b"_NET_WM_NAME")?;
    let mut windows = Vec::new();
    for id in ids {
        match describe(display, id, name) {
            Ok(found) => windows.extend(found),
            // It was closed meanwhile.
            Err(CaptureError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(windows)
}

fn atom(display: &Display, name: &[u8]) -> Result<u32, CaptureError> {
    Ok(display.connection.intern_atom(false, name)?.reply()?.atom)
}

fn describe(display: &Display, id: u32, name: u32) -> Result<Option<WindowInfo>, CaptureError> {
    let connection = &display.connection;
    let attributes = connection.get_window_attributes(id)?;
    let geometry = connection.get_geometry(id)?;
    let corner = connection.translate_coordinates(id, display.screen().root, 0, 0)?;
    let modern = connection.get_property(false, id, name, AtomEnum::ANY, 0, TITLE_WORDS)?;
    let old =
        connection.get_property(false, id, AtomEnum::WM_NAME, AtomEnum::ANY, 0, TITLE_WORDS)?;
    let (attributes, geometry, corner) = (attributes.reply()?, geometry.reply()?, corner.reply()?);
    let title = [modern.reply()?.value, old.reply()?.value]
        .into_iter()
        .find(|title| !title.is_empty());
    let shown = attributes.class == WindowClass::INPUT_OUTPUT
        && attributes.map_state == MapState::VIEWABLE
        && !attributes.override_redirect;
    let rect = Rect {
        x: corner.dst_x,
        y: corner.dst_y,
        width: geometry.width,
        height: geometry.height,
    };
    let title = title
        .map(|title| String::from_utf8_lossy(&title).into_owned())
        .unwrap_or_default();
    Ok(shown.then_some(WindowInfo { id, title, rect }))
}
