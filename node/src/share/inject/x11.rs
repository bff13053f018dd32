//! Keys and pointer on X11, through XTEST.
//!
//! A keysym becomes a stroke in one of three ways, the first that works:
//!
//! 1. The sharer's layout has it where the modifiers are now: the key goes down and stays down until it is released.
//! 2. The layout has it with other modifiers or in another group: the modifiers are changed, the key is tapped, the
//!    modifiers are put back. It cannot stay down, because its repetitions would be of something else.
//! 3. The layout does not have it: a key that means nothing is lent the meaning, and tapped.
//!
//! # Lending
//! A program learns of a new meaning by an event and then *asks* what the keyboard is like *now*. One that is busy asks
//! late; if the key had another meaning by then, it would read the first letter as the second. So a lent key keeps its
//! meaning as long as possible: keys are lent in turn, the one unused for longest first, never again within
//! `SETTLE`, and all that a text needs at once, so that programs ask once.

/// The sharer's layout.
pub(crate) mod keymap;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, thread,
    time::{Duration, Instant},
};

use x11rb::{
    NONE,
    connection::Connection as _,
    protocol::{
        Event,
        xkb::{self, ConnectionExt as _, EventType, MapPart},
        xproto::{self, ConnectionExt as _, ModMask},
        xtest::{self, ConnectionExt as _},
    },
};

use self::keymap::{Keymap, Modifiers, Stroke};
use super::{Button, Inject, InjectError, Keysym};
use crate::share::{capture::CaptureError, x11::Display};

/// How long a lent key keeps its meaning at least. A program that does not read its events for longer is stuck to a
/// person's eye, too.
const SETTLE: Duration = Duration::from_millis(400);
/// Keys that are lent at most, of the 50 to 100 that a layout leaves free; the rest is for other programs' lending.
const MAX_LENT: usize = 32;
/// Windows within windows, from the root to what is under the pointer.
const MAX_DEPTH: usize = 32;

/// The wheel is four buttons (X11 convention).
const WHEEL_UP: u8 = 4;
const WHEEL_DOWN: u8 = 5;
const WHEEL_LEFT: u8 = 6;
const WHEEL_RIGHT: u8 = 7;

/// `XkbUseCoreKbd`.
const KEYBOARD: u16 = 0x100;
const CAPS_LOCK: Modifiers = 1 << 1;

/// The sharer's keyboard and pointer.
pub struct X11Inject {
    display: Display,
    root: u32,
    keymap: Keymap,
    stale: bool,
    /// By the keysym that pressed it: its keycode, or none if it was tapped.
    held: BTreeMap<Keysym, Option<u8>>,
    buttons: BTreeSet<u8>,
    spares: Vec<Spare>,
    window: Option<u32>,
}

/// A key without a meaning of its own.
#[derive(Clone, Copy, Debug)]
struct Spare {
    keycode: u8,
    lent: Option<Keysym>,
    used: Option<Instant>,
}

/// What the keyboard's modifiers are.
#[derive(Clone, Copy, Debug)]
struct State {
    /// Held by us: can be let go for a moment.
    ours: Modifiers,
    /// Locked, latched, or held by the sharer: has to be lived with.
    fixed: Modifiers,
    group: u8,
}

impl fmt::Debug for X11Inject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "X11Inject({} keys held, {} buttons)",
            self.held.len(),
            self.buttons.len()
        )
    }
}

impl X11Inject {
    /// Connects to the display (by default `DISPLAY`).
    ///
    /// # Errors
    /// As [`capture::open`](crate::share::capture::open), and without XTEST.
    pub fn open(display: Option<&str>) -> Result<Self, InjectError> {
        let display = Display::open(display)?;
        display.need(xtest::X11_EXTENSION_NAME)?;
        display.need(xkb::X11_EXTENSION_NAME)?;
        let root = display.screen().root;
        prepare(&display)?;
        let keymap = read_keymap(&display)?;
        let spares = spares(&keymap);
        let (held, buttons) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self {
            display,
            root,
            keymap,
            stale: false,
            held,
            buttons,
            spares,
            window: None,
        })
    }

    // ---- the keyboard as it is -----------------------------------------------------------

    /// Reads the layout again if somebody changed it, and takes back what it no longer lends.
    fn renew(&mut self) -> Result<(), CaptureError> {
        while let Some(event) = self.display.connection.poll_for_event()? {
            self.note(&event);
        }
        if !std::mem::take(&mut self.stale) {
            return Ok(());
        }
        self.keymap = read_keymap(&self.display)?;
        let old = std::mem::take(&mut self.spares);
        self.spares = old
            .into_iter()
            .filter(|spare| {
                spare
                    .lent
                    .is_some_and(|lent| self.keymap.means(spare.keycode, lent))
            })
            .collect();
        for free in spares(&self.keymap) {
            if self.spares.len() < MAX_LENT {
                self.spares.push(free);
            }
        }
        Ok(())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "X11 has 150 events; these are those that were asked for"
    )]
    fn note(&mut self, event: &Event) {
        match event {
            Event::MappingNotify(_) | Event::XkbMapNotify(_) | Event::XkbNewKeyboardNotify(_) => {
                self.stale = true
            }
            Event::Error(error) => tracing::debug!(?error, "the display refused a request"),
            _ => {}
        }
    }

    fn state(&self) -> Result<State, CaptureError> {
        let state = self.display.connection.xkb_get_state(KEYBOARD)?.reply()?;
        let ours = self
            .held
            .values()
            .flatten()
            .fold(0, |mods, keycode| mods | self.keymap.modifiers_of(*keycode));
        let all = bits(state.mods);
        let fixed = (all & !ours) | bits(state.locked_mods) | bits(state.latched_mods);
        Ok(State {
            ours,
            fixed,
            group: u8::from(state.group),
        })
    }

    fn find(&self, key: Keysym, state: State) -> Option<Stroke> {
        self.keymap.find(key, state.group, state.ours, state.fixed)
    }

    // ---- strokes -------------------------------------------------------------------------

    fn send(&self, kind: u8, detail: u8, (x, y): (i16, i16)) -> Result<(), CaptureError> {
        let root = if kind == xproto::MOTION_NOTIFY_EVENT {
            self.root
        } else {
            NONE
        };
        self.display
            .connection
            .xtest_fake_input(kind, detail, 0, root, x, y, 0)?;
        Ok(())
    }

    fn strike(&self, keycode: u8, down: bool) -> Result<(), CaptureError> {
        let kind = if down {
            xproto::KEY_PRESS_EVENT
        } else {
            xproto::KEY_RELEASE_EVENT
        };
        self.send(kind, keycode, (0, 0))
    }

    fn tap(&self, keycode: u8) -> Result<(), CaptureError> {
        self.strike(keycode, true)?;
        self.strike(keycode, false)
    }

    /// Taps a key with the modifiers and the group it needs, and puts both back.
    fn tap_with(&self, stroke: Stroke, state: State) -> Result<(), CaptureError> {
        let release: Vec<u8> = self
            .held
            .values()
            .flatten()
            .copied()
            .filter(|key| self.keymap.modifiers_of(*key) & stroke.release != 0)
            .collect();
        let press = self.keymap.keys_for(stroke.press);
        for key in &release {
            self.strike(*key, false)?;
        }
        for key in &press {
            self.strike(*key, true)?;
        }
        if stroke.group != state.group {
            self.lock_group(stroke.group)?;
        }
        self.tap(stroke.keycode)?;
        if stroke.group != state.group {
            self.lock_group(state.group)?;
        }
        for key in press.iter().rev() {
            self.strike(*key, false)?;
        }
        for key in release.iter().rev() {
            self.strike(*key, true)?;
        }
        Ok(())
    }

    /// Taps a lent key. Programs make capitals of its letter while Caps Lock is on: it is off for a moment.
    fn tap_lent(&self, keycode: u8, state: State) -> Result<(), CaptureError> {
        let locked = state.fixed & CAPS_LOCK != 0;
        if locked {
            self.lock_caps(false)?;
        }
        self.tap(keycode)?;
        if locked {
            self.lock_caps(true)?;
        }
        Ok(())
    }

    fn lock_group(&self, group: u8) -> Result<(), CaptureError> {
        let (none, group) = (ModMask::from(0u16), xkb::Group::from(group));
        self.display
            .connection
            .xkb_latch_lock_state(KEYBOARD, none, none, true, group, none, false, 0)?;
        Ok(())
    }

    fn lock_caps(&self, on: bool) -> Result<(), CaptureError> {
        let none = ModMask::from(0u16);
        let locks = if on { ModMask::LOCK } else { none };
        self.display.connection.xkb_latch_lock_state(
            KEYBOARD,
            ModMask::LOCK,
            locks,
            false,
            xkb::Group::M1,
            none,
            false,
            0,
        )?;
        Ok(())
    }

    // ---- lending -------------------------------------------------------------------------

    fn lent(&mut self, key: Keysym) -> Option<u8> {
        let spare = self
            .spares
            .iter_mut()
            .find(|spare| spare.lent == Some(key))?;
        spare.used = Some(Instant::now());
        Some(spare.keycode)
    }

    /// Gives each of these keysyms a key; as many as there are spare ones.
    fn lend(&mut self, keys: &[Keysym]) -> Result<(), CaptureError> {
        let wanted: BTreeSet<Keysym> = keys.iter().copied().collect();
        let missing = wanted
            .iter()
            .filter(|key| self.spares.iter().all(|spare| spare.lent != Some(**key)));
        let missing: Vec<Keysym> = missing.copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.spares.sort_by_key(|spare| spare.used);
        let free = self
            .spares
            .iter_mut()
            .filter(|spare| spare.lent.is_none_or(|lent| !wanted.contains(&lent)));
        let changes: Vec<(&mut Spare, Keysym)> = free.zip(missing).collect();
        if let Some(last) = changes.iter().filter_map(|(spare, _)| spare.used).max() {
            thread::sleep(SETTLE.saturating_sub(last.elapsed()));
        }
        for (spare, key) in changes {
            spare.lent = Some(key);
            // Twice the same: one symbol alone would be taken for a letter with a capital (X11 protocol, §5).
            self.display.connection.change_keyboard_mapping(
                1,
                spare.keycode,
                2,
                &[key.0, key.0],
            )?;
        }
        // Known to the server before a stroke follows on any device.
        self.display.connection.get_input_focus()?.reply()?;
        self.stale = true;
        self.renew()
    }

    /// Takes all meanings back, once programs have had time to ask for them.
    fn take_back(&mut self) -> Result<(), CaptureError> {
        let lent: Vec<Spare> = self
            .spares
            .iter()
            .copied()
            .filter(|spare| spare.lent.is_some())
            .collect();
        if let Some(last) = lent.iter().filter_map(|spare| spare.used).max() {
            thread::sleep(SETTLE.saturating_sub(last.elapsed()));
        }
        for spare in lent {
            self.display
                .connection
                .change_keyboard_mapping(1, spare.keycode, 1, &[NONE])?;
        }
        self.display.connection.get_input_focus()?.reply()?;
        Ok(())
    }

    // ---- keys ----------------------------------------------------------------------------

    fn press(&mut self, key: Keysym) -> Result<(), InjectError> {
        if self.held.get(&key).is_some_and(Option::is_some) {
            return Ok(());
        }
        self.check_focus()?;
        self.renew()?;
        let state = self.state()?;
        let stays = match self.find(key, state) {
            Some(stroke) if stroke.is_plain(state.group) => {
                self.strike(stroke.keycode, true)?;
                Some(stroke.keycode)
            }
            Some(stroke) => {
                self.tap_with(stroke, state)?;
                None
            }
            None => {
                self.lend(&[key])?;
                let keycode = self.lent(key).ok_or(InjectError::NoKey(key))?;
                self.tap_lent(keycode, state)?;
                None
            }
        };
        self.held.insert(key, stays);
        Ok(())
    }

    /// Releases by keysym; a key that went down as another keysym (Shift was released first) is found by its keycode.
    fn release(&mut self, key: Keysym) -> Result<(), CaptureError> {
        if let Some(keycode) = self.held.remove(&key) {
            return keycode.map_or(Ok(()), |keycode| self.strike(keycode, false));
        }
        let twin = self
            .held
            .iter()
            .find(|(_, keycode)| keycode.is_some_and(|code| self.keymap.means(code, key)));
        if let Some((twin, Some(keycode))) = twin.map(|(twin, keycode)| (*twin, *keycode)) {
            self.held.remove(&twin);
            self.strike(keycode, false)?;
        }
        Ok(())
    }

    fn type_some(&mut self, keys: &[Keysym], go_on: &dyn Fn() -> bool) -> Result<(), InjectError> {
        let state = self.state()?;
        let unknown: Vec<Keysym> = keys
            .iter()
            .copied()
            .filter(|key| self.find(*key, state).is_none())
            .collect();
        self.lend(&unknown)?;
        for key in keys {
            // Lending may have slept.
            if !go_on() {
                break;
            }
            match self.find(*key, state).filter(|_| !unknown.contains(key)) {
                Some(stroke) => self.tap_with(stroke, state)?,
                None => {
                    let keycode = self.lent(*key).ok_or(InjectError::NoKey(*key))?;
                    self.tap_lent(keycode, state)?;
                }
            }
        }
        self.display
            .connection
            .flush()
            .map_err(CaptureError::from)?;
        Ok(())
    }

    /// Lets go of the modifiers that are held, for the length of a text.
    fn lift_modifiers(&mut self) -> Result<BTreeMap<Keysym, Option<u8>>, CaptureError> {
        let is_modifier = |keycode: u8| self.keymap.modifiers_of(keycode) != 0;
        let held = std::mem::take(&mut self.held);
        let (modifiers, rest) = held
            .into_iter()
            .partition(|(_, keycode)| keycode.is_some_and(is_modifier));
        self.held = rest;
        let modifiers: BTreeMap<Keysym, Option<u8>> = modifiers;
        modifiers
            .values()
            .flatten()
            .try_for_each(|keycode| self.strike(*keycode, false))?;
        Ok(modifiers)
    }

    fn put_down(&mut self, modifiers: BTreeMap<Keysym, Option<u8>>) -> Result<(), CaptureError> {
        modifiers
            .values()
            .flatten()
            .try_for_each(|keycode| self.strike(*keycode, true))?;
        self.held.extend(modifiers);
        Ok(())
    }

    fn press_button(&mut self, button: u8, down: bool) -> Result<(), CaptureError> {
        let kind = if down {
            xproto::BUTTON_PRESS_EVENT
        } else {
            xproto::BUTTON_RELEASE_EVENT
        };
        self.send(kind, button, (0, 0))
    }

    // ---- one window only -----------------------------------------------------------------

    fn check_pointer(&self) -> Result<(), InjectError> {
        let Some(window) = self.window else {
            return Ok(());
        };
        let mut under = self.root;
        for _ in 0..MAX_DEPTH {
            under = self.query_pointer(under)?.child;
            if under == window {
                return Ok(());
            }
            if under == NONE {
                break;
            }
        }
        Err(InjectError::Elsewhere)
    }

    fn check_focus(&self) -> Result<(), InjectError> {
        let Some(window) = self.window else {
            return Ok(());
        };
        let focus = self
            .display
            .connection
            .get_input_focus()
            .map_err(CaptureError::from)?;
        let mut focused = focus.reply().map_err(CaptureError::from)?.focus;
        if focused == u32::from(xproto::InputFocus::POINTER_ROOT) {
            return self.check_pointer();
        }
        for _ in 0..MAX_DEPTH {
            if focused == window {
                return Ok(());
            }
            if focused == NONE || focused == self.root {
                break;
            }
            let tree = self
                .display
                .connection
                .query_tree(focused)
                .map_err(CaptureError::from)?;
            focused = tree.reply().map_err(CaptureError::from)?.parent;
        }
        Err(InjectError::Elsewhere)
    }

    fn query_pointer(&self, window: u32) -> Result<xproto::QueryPointerReply, CaptureError> {
        Ok(self.display.connection.query_pointer(window)?.reply()?)
    }
}

impl Inject for X11Inject {
    fn key(&mut self, key: Keysym, down: bool) -> Result<(), InjectError> {
        if down {
            self.press(key)?
        } else {
            self.release(key)?
        }
        self.flush()
    }

    fn text(&mut self, text: &str, go_on: &dyn Fn() -> bool) -> Result<(), InjectError> {
        self.check_focus()?;
        self.renew()?;
        // A line's end may be two characters.
        let keys: Vec<Keysym> = text
            .replace("\r\n", "\n")
            .chars()
            .map(Keysym::from)
            .collect();
        let modifiers = self.lift_modifiers()?;
        // In parts, so that what is lent for one fits at once.
        let mut parts = keys.chunks(self.spares.len().max(1));
        let typed = parts.try_for_each(|part| self.type_some(part, go_on));
        self.put_down(modifiers)?;
        typed?;
        self.flush()
    }

    fn pointer(&mut self, x: i16, y: i16) -> Result<(), InjectError> {
        self.send(xproto::MOTION_NOTIFY_EVENT, 0, (x, y))?;
        self.flush()
    }

    fn position(&mut self) -> Result<(i16, i16), InjectError> {
        let pointer = self.query_pointer(self.root)?;
        Ok((pointer.root_x, pointer.root_y))
    }

    fn button(&mut self, button: Button, down: bool) -> Result<(), InjectError> {
        let number = number_of(button);
        if down {
            self.check_pointer()?;
            self.buttons.insert(number);
        } else if !self.buttons.remove(&number) {
            return Ok(());
        }
        self.press_button(number, down)?;
        self.flush()
    }

    fn wheel(&mut self, right: i8, down: i8) -> Result<(), InjectError> {
        self.check_pointer()?;
        let ways = [
            (if right < 0 { WHEEL_LEFT } else { WHEEL_RIGHT }, right),
            (if down < 0 { WHEEL_UP } else { WHEEL_DOWN }, down),
        ];
        for (button, notches) in ways {
            for _ in 0..notches.unsigned_abs() {
                self.press_button(button, true)?;
                self.press_button(button, false)?;
            }
        }
        self.flush()
    }

    fn confine(&mut self, window: Option<u32>) {
        self.window = window;
    }

    fn release_all(&mut self) -> Result<(), InjectError> {
        for keycode in std::mem::take(&mut self.held).into_values().flatten() {
            self.strike(keycode, false)?;
        }
        for button in std::mem::take(&mut self.buttons) {
            self.press_button(button, false)?;
        }
        // An answer comes after what was said before: they are up when this returns.
        self.query_pointer(self.root)?;
        Ok(())
    }
}

impl X11Inject {
    /// Sends what has been said, and hears what the server says: nobody else would empty that socket.
    fn flush(&mut self) -> Result<(), InjectError> {
        self.display
            .connection
            .flush()
            .map_err(CaptureError::from)?;
        while let Some(event) = self
            .display
            .connection
            .poll_for_event()
            .map_err(CaptureError::from)?
        {
            self.note(&event);
        }
        Ok(())
    }
}

impl Drop for X11Inject {
    /// Nothing stays pressed, and the keyboard is the sharer's again.
    fn drop(&mut self) {
        let released = self.release_all();
        if let Err(error) = released.and_then(|()| Ok(self.take_back()?)) {
            tracing::debug!(%error, "keyboard not put back");
        }
    }
}

/// As X11 numbers them; 4 to 7 are the wheel.
fn number_of(button: Button) -> u8 {
    match button {
        Button::Left => 1,
        Button::Middle => 2,
        Button::Right => 3,
        Button::Back => 8,
        Button::Forward => 9,
    }
}

fn bits(mask: ModMask) -> Modifiers {
    u16::from(mask).to_le_bytes()[0]
}

fn prepare(display: &Display) -> Result<(), CaptureError> {
    let connection = &display.connection;
    connection.xtest_get_version(2, 2)?.reply()?;
    // Or a program that has grabbed the server would hold up the helper's keys, and its own end with them.
    connection.xtest_grab_control(true)?;
    follow_keymap(display)
}

/// Hears of every change of the layout, for whoever reads it with [`read_keymap`].
pub(crate) fn follow_keymap(display: &Display) -> Result<(), CaptureError> {
    let connection = &display.connection;
    connection.xkb_use_extension(1, 0)?.reply()?;
    let events = EventType::MAP_NOTIFY | EventType::NEW_KEYBOARD_NOTIFY;
    let parts = MapPart::KEY_SYMS | MapPart::KEY_TYPES | MapPart::MODIFIER_MAP;
    let none = EventType::from(0u16);
    connection
        .xkb_select_events(
            KEYBOARD,
            none,
            events,
            parts,
            parts,
            &xkb::SelectEventsAux::new(),
        )?
        .check()?;
    Ok(())
}

pub(crate) fn read_keymap(display: &Display) -> Result<Keymap, CaptureError> {
    let parts = MapPart::KEY_SYMS | MapPart::KEY_TYPES | MapPart::MODIFIER_MAP;
    let none = MapPart::from(0u16);
    let vmods = xkb::VMod::from(0u16);
    let request = display.connection.xkb_get_map(
        KEYBOARD, parts, none, 0, 0, 0, 0, 0, 0, 0, 0, vmods, 0, 0, 0, 0, 0, 0,
    )?;
    Ok(Keymap::new(request.reply()?))
}

fn spares(keymap: &Keymap) -> Vec<Spare> {
    let free = keymap.unused().into_iter().take(MAX_LENT);
    free.map(|keycode| Spare {
        keycode,
        lent: None,
        used: None,
    })
    .collect()
}
