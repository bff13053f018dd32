//! Where the helper's keys and pointer go, and what stands before it.
//!
//! ```text
//!  helper's input ─▶ Gated { Permit } ─▶ Inject ─▶ the sharer's screen
//!                        └ not allowed: counted, and gone
//! ```
//!
//! The gate is here, at the sharer, and in front of every backend: what the helper's program believes about its rights
//! makes no difference (SESSION.md §1.6, invariants 4 and 5).

use std::fmt;

use super::capture::Rect;

/// The twin of the synthetic picture.
pub mod synthetic;
/// X11.
#[cfg(unix)]
pub mod x11;

/// A key or a character by its X11 keysym, whatever keyboard it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keysym(pub u32);

impl From<char> for Keysym {
    /// X11 protocol, appendix A: Latin-1 as it is, everything else is Unicode plus `0x0100_0000`.
    fn from(char: char) -> Self {
        match u32::from(char) {
            latin @ (0x20..=0x7e | 0xa0..=0xff) => Self(latin),
            // Control characters are keys.
            0x0a | 0x0d => Self(0xff0d),
            control @ (0x08 | 0x09 | 0x1b) => Self(0xff00 | control),
            0x7f => Self(0xffff),
            other => Self(0x0100_0000 | other),
        }
    }
}

impl Keysym {
    /// Whether it may press a button where the pointer is: a key of the keypad does while mouse keys are on, as `Pointer_Button1` does
    /// at any time (XKB protocol, §10.5).
    fn may_click(self) -> bool {
        matches!(self.0, 0xfee0..=0xfeff | 0xff80..=0xffbf)
    }
}

/// A pointer's button as X11 numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Button {
    /// 1.
    Left,
    /// 2.
    Middle,
    /// 3.
    Right,
    /// 8.
    Back,
    /// 9.
    Forward,
}

/// Moves the sharer's pointer and presses the sharer's keys.
pub trait Inject: Send + fmt::Debug {
    /// Presses or releases a key. Pressing one that is down does nothing: the sharer's system repeats keys itself.
    ///
    /// # Errors
    /// [`InjectError::NoKey`] if the keyboard has no such key and none can be lent to it.
    fn key(&mut self, key: Keysym, down: bool) -> Result<(), InjectError>;

    /// Types a text, whether or not the keyboard has keys for it. Modifiers that are held are let go meanwhile: a text
    /// is no shortcut. May sleep a second for each few dozen letters that the keyboard lacks; what is left when `go_on`
    /// says no is not typed.
    ///
    /// # Errors
    /// [`InjectError::NoKey`]; what stands before that character has been typed.
    fn text(&mut self, text: &str, go_on: &dyn Fn() -> bool) -> Result<(), InjectError>;

    /// Moves the pointer to a place on the desktop (source's origin + place in the source).
    ///
    /// # Errors
    /// [`InjectError::Display`].
    fn pointer(&mut self, x: i16, y: i16) -> Result<(), InjectError>;

    /// Where the pointer is, whoever moved it there.
    ///
    /// # Errors
    /// [`InjectError::Display`].
    fn position(&mut self) -> Result<(i16, i16), InjectError>;

    /// Presses or releases a button.
    ///
    /// # Errors
    /// [`InjectError::Display`], [`InjectError::Elsewhere`].
    fn button(&mut self, button: Button, down: bool) -> Result<(), InjectError>;

    /// Turns the wheel by notches: right and down are positive.
    ///
    /// # Errors
    /// [`InjectError::Display`].
    fn wheel(&mut self, right: i8, down: i8) -> Result<(), InjectError>;

    /// From now on keys and buttons are pressed only while they go to this window: for
    /// [`Source::Window`](super::capture::Source::Window), whose helper sees nothing else.
    fn confine(&mut self, window: Option<u32>);

    /// Releases every key and button that was pressed here: after a lost focus, an interruption, a smaller mode.
    ///
    /// # Errors
    /// [`InjectError::Display`].
    fn release_all(&mut self) -> Result<(), InjectError>;
}

impl<I: Inject + ?Sized> Inject for Box<I> {
    fn key(&mut self, key: Keysym, down: bool) -> Result<(), InjectError> {
        (**self).key(key, down)
    }

    fn text(&mut self, text: &str, go_on: &dyn Fn() -> bool) -> Result<(), InjectError> {
        (**self).text(text, go_on)
    }

    fn pointer(&mut self, x: i16, y: i16) -> Result<(), InjectError> {
        (**self).pointer(x, y)
    }

    fn position(&mut self) -> Result<(i16, i16), InjectError> {
        (**self).position()
    }

    fn button(&mut self, button: Button, down: bool) -> Result<(), InjectError> {
        (**self).button(button, down)
    }

    fn wheel(&mut self, right: i8, down: i8) -> Result<(), InjectError> {
        (**self).wheel(right, down)
    }

    fn confine(&mut self, window: Option<u32>) {
        (**self).confine(window);
    }

    fn release_all(&mut self) -> Result<(), InjectError> {
        (**self).release_all()
    }
}

/// Why input did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// Neither the keyboard nor a spare key can produce it.
    #[error("the sharer's keyboard has no key for it")]
    NoKey(Keysym),
    /// One window is shared, and the keyboard or the place under the pointer is another's.
    #[error("another window than the shared one would get it")]
    Elsewhere,
    /// The session allows no input, so that there is nobody to ask where the pointer is.
    #[error("the session does not allow input at present")]
    NotAllowed,
    /// The display cannot be reached, lacks XTEST, or is gone.
    #[error(transparent)]
    Display(#[from] super::capture::CaptureError),
}

/// What the session allows at this moment. Nothing, until it is said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// The mode is CONTROL, not VIEW.
    pub control: bool,
    /// Keyboard and mouse are paused for both.
    pub frozen: bool,
    /// The sharer has paused.
    pub paused: bool,
}

impl Permit {
    /// Input may reach the screen: CONTROL ∧ ¬FROZEN ∧ ¬PAUSED (SESSION.md §1.5).
    pub fn allows_input(self) -> bool {
        self.control && !self.frozen && !self.paused
    }
}

/// A backend that is reached only as far as the [`Permit`] goes.
#[derive(Debug)]
pub struct Gated<I> {
    inner: I,
    permit: Permit,
    /// Where buttons are not pressed: the sharer's bar, which is the sharer's alone.
    shield: Rect,
    refused: u64,
}

impl<I: Inject> Gated<I> {
    /// Allows nothing yet.
    pub fn new(inner: I) -> Self {
        Self {
            inner,
            permit: Permit::default(),
            shield: Rect::default(),
            refused: 0,
        }
    }

    /// From now on. When input is no longer allowed, everything held is released first.
    ///
    /// # Errors
    /// As [`Inject::release_all`]; the permit is the new one in any case.
    pub fn set_permit(&mut self, permit: Permit) -> Result<(), InjectError> {
        let ends = self.permit.allows_input() && !permit.allows_input();
        self.permit = permit;
        if ends {
            self.inner.release_all()
        } else {
            Ok(())
        }
    }

    /// What is allowed now.
    pub fn permit(&self) -> Permit {
        self.permit
    }

    /// Where the helper must not press a button: the bar's rectangle on the desktop. Empty: nowhere.
    pub fn set_shield(&mut self, bar: Rect) {
        self.shield = bar;
    }

    /// Events that were not let through so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The backend if the permit allows input; the event is counted otherwise.
    fn admitted(&mut self) -> Option<&mut I> {
        if self.permit.allows_input() {
            return Some(&mut self.inner);
        }
        self.refused += 1;
        None
    }

    /// The backend if it may be pressed where the pointer is.
    fn admitted_here(&mut self) -> Result<Option<&mut I>, InjectError> {
        let shield = self.shield;
        let Some(inner) = self.admitted() else {
            return Ok(None);
        };
        let shielded = !shield.is_empty() && {
            let (x, y) = inner.position()?;
            shield.contains(x, y)
        };
        self.refused += u64::from(shielded);
        Ok((!shielded).then_some(&mut self.inner))
    }
}

impl<I: Inject> Inject for Gated<I> {
    fn key(&mut self, key: Keysym, down: bool) -> Result<(), InjectError> {
        let inner = if down && key.may_click() {
            self.admitted_here()?
        } else {
            self.admitted()
        };
        inner.map_or(Ok(()), |inner| inner.key(key, down))
    }

    fn text(&mut self, text: &str, go_on: &dyn Fn() -> bool) -> Result<(), InjectError> {
        self.admitted()
            .map_or(Ok(()), |inner| inner.text(text, go_on))
    }

    fn pointer(&mut self, x: i16, y: i16) -> Result<(), InjectError> {
        self.admitted().map_or(Ok(()), |inner| inner.pointer(x, y))
    }

    fn position(&mut self) -> Result<(i16, i16), InjectError> {
        if self.permit.allows_input() {
            self.inner.position()
        } else {
            Err(InjectError::NotAllowed)
        }
    }

    fn button(&mut self, button: Button, down: bool) -> Result<(), InjectError> {
        let inner = if down {
            self.admitted_here()?
        } else {
            self.admitted()
        };
        inner.map_or(Ok(()), |inner| inner.button(button, down))
    }

    fn wheel(&mut self, right: i8, down: i8) -> Result<(), InjectError> {
        self.admitted_here()?
            .map_or(Ok(()), |inner| inner.wheel(right, down))
    }

    /// Only narrows: allowed at any time.
    fn confine(&mut self, window: Option<u32>) {
        self.inner.confine(window);
    }

    /// Always let through to a backend that may have something to release, and to no other.
    fn release_all(&mut self) -> Result<(), InjectError> {
        if self.permit.allows_input() {
            self.inner.release_all()
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what reaches it.
    #[derive(Debug, Default)]
    struct Recorder(Vec<String>, (i16, i16));

    impl Recorder {
        fn note(&mut self, what: String) -> Result<(), InjectError> {
            self.0.push(what);
            Ok(())
        }
    }

    impl Inject for Recorder {
        fn key(&mut self, key: Keysym, down: bool) -> Result<(), InjectError> {
            self.note(format!("key {:x} {down}", key.0))
        }
        fn text(&mut self, text: &str, _: &dyn Fn() -> bool) -> Result<(), InjectError> {
            self.note(format!("text {text}"))
        }
        fn pointer(&mut self, x: i16, y: i16) -> Result<(), InjectError> {
            self.1 = (x, y);
            self.note(format!("pointer {x} {y}"))
        }
        fn position(&mut self) -> Result<(i16, i16), InjectError> {
            Ok(self.1)
        }
        fn confine(&mut self, _: Option<u32>) {}
        fn button(&mut self, button: Button, down: bool) -> Result<(), InjectError> {
            self.note(format!("{button:?} {down}"))
        }
        fn wheel(&mut self, right: i8, down: i8) -> Result<(), InjectError> {
            self.note(format!("wheel {right} {down}"))
        }
        fn release_all(&mut self) -> Result<(), InjectError> {
            self.note("release".to_owned())
        }
    }

    const CONTROL: Permit = Permit {
        control: true,
        frozen: false,
        paused: false,
    };
    const EVENTS: u64 = 6;

    /// One of each.
    fn everything(gated: &mut Gated<Recorder>) {
        gated.pointer(5, 6).unwrap();
        gated.key(Keysym::from('a'), true).unwrap();
        gated.text("ä", &|| true).unwrap();
        gated.button(Button::Left, true).unwrap();
        gated.wheel(0, 1).unwrap();
        gated.button(Button::Left, false).unwrap();
    }

    #[test]
    fn input_passes_in_control_only_and_neither_frozen_nor_paused() {
        for bits in 0..8u8 {
            let permit = Permit {
                control: bits & 1 != 0,
                frozen: bits & 2 != 0,
                paused: bits & 4 != 0,
            };
            let mut gated = Gated::new(Recorder::default());
            gated.set_permit(permit).unwrap();
            everything(&mut gated);
            gated.release_all().unwrap();
            let allowed = permit == CONTROL;
            assert_eq!(permit.allows_input(), allowed);
            assert_eq!(
                gated.inner.0.len() as u64,
                if allowed { EVENTS + 1 } else { 0 },
                "{permit:?}"
            );
            assert_eq!(
                gated.refused(),
                if allowed { 0 } else { EVENTS },
                "{permit:?}"
            );
        }
    }

    #[test]
    fn nothing_is_allowed_until_it_is_said() {
        let mut gated = Gated::new(Recorder::default());
        everything(&mut gated);
        assert!(gated.inner.0.is_empty());
    }

    #[test]
    fn a_thousand_events_in_view_call_nothing() {
        let mut gated = Gated::new(Recorder::default());
        gated.set_permit(Permit::default()).unwrap();
        for _ in 0..200 {
            everything(&mut gated);
        }
        assert!(gated.inner.0.is_empty());
        assert_eq!(gated.refused(), 200 * EVENTS);
    }

    #[test]
    fn what_is_held_is_released_once_when_the_mode_drops() {
        for drop in [
            Permit::default(),
            Permit {
                frozen: true,
                ..CONTROL
            },
            Permit {
                paused: true,
                ..CONTROL
            },
        ] {
            let mut gated = Gated::new(Recorder::default());
            gated.set_permit(CONTROL).unwrap();
            gated.key(Keysym(0xffe1), true).unwrap();
            gated.set_permit(drop).unwrap();
            gated
                .set_permit(Permit {
                    paused: true,
                    ..drop
                })
                .unwrap();
            assert_eq!(gated.inner.0, ["key ffe1 true", "release"], "{drop:?}");
        }
    }

    #[test]
    fn the_helper_cannot_press_the_bar_but_can_let_go_over_it() {
        let mut gated = Gated::new(Recorder::default());
        gated.set_permit(CONTROL).unwrap();
        gated.set_shield(Rect {
            x: 100,
            y: 0,
            width: 50,
            height: 20,
        });
        gated.pointer(120, 10).unwrap();
        gated.button(Button::Left, true).unwrap();
        gated.wheel(0, 1).unwrap();
        // With mouse keys on, the keypad's 5 is a click; a letter is none anywhere.
        gated.key(Keysym(0xffb5), true).unwrap();
        gated.key(Keysym(0xfee9), true).unwrap();
        gated.key(Keysym(0x61), true).unwrap();
        gated.button(Button::Left, false).unwrap();
        gated.pointer(120, 20).unwrap();
        gated.button(Button::Left, true).unwrap();
        assert_eq!(
            gated.inner.0,
            [
                "pointer 120 10",
                "key 61 true",
                "Left false",
                "pointer 120 20",
                "Left true"
            ]
        );
        assert_eq!(gated.refused(), 4);
    }

    #[test]
    fn characters_are_keysyms_by_the_rule_of_the_protocol() {
        for (char, keysym) in [
            ('a', 0x61),
            ('ä', 0xe4),
            ('€', 0x0100_20ac),
            ('漢', 0x0100_6f22),
            ('\n', 0xff0d),
        ] {
            assert_eq!(Keysym::from(char), Keysym(keysym), "{char:?}");
        }
        assert_eq!(Keysym::from('\t'), Keysym(0xff09));
        assert_eq!(Keysym::from('\u{7f}'), Keysym(0xffff));
    }
}
