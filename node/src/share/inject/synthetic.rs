//! Keyboard and pointer of the synthetic sheet.

use std::collections::BTreeSet;

use xkeysym::key;

use super::{Button, Inject, InjectError, Keysym};
use crate::share::capture::synthetic::Sheet;

/// Keys that make a shortcut of a letter.
const SHORTCUT: [u32; 6] = [
    key::Control_L,
    key::Control_R,
    key::Alt_L,
    key::Alt_R,
    key::Super_L,
    key::Super_R,
];

/// Types on a [`Sheet`].
#[derive(Debug)]
pub struct SyntheticInject {
    sheet: Sheet,
    held: BTreeSet<Keysym>,
}

impl SyntheticInject {
    /// With no key down.
    pub fn new(sheet: Sheet) -> Self {
        Self {
            sheet,
            held: BTreeSet::new(),
        }
    }

    fn press(&self, pressed: Keysym) {
        let shortcut = SHORTCUT.iter().any(|key| self.held.contains(&Keysym(*key)));
        match pressed.0 {
            _ if shortcut => {}
            key::BackSpace => self.sheet.erase(),
            other => {
                if let Some(letter) = xkeysym::Keysym::new(other).key_char() {
                    self.sheet.write(letter);
                }
            }
        }
    }
}

impl Inject for SyntheticInject {
    fn key(&mut self, key: Keysym, down: bool) -> Result<(), InjectError> {
        if !down {
            self.held.remove(&key);
        } else if self.held.insert(key) {
            self.press(key);
        }
        Ok(())
    }

    fn text(&mut self, text: &str, _: &dyn Fn() -> bool) -> Result<(), InjectError> {
        text.chars().for_each(|letter| self.sheet.write(letter));
        Ok(())
    }

    fn pointer(&mut self, x: i16, y: i16) -> Result<(), InjectError> {
        self.sheet.point(x, y);
        Ok(())
    }

    fn position(&mut self) -> Result<(i16, i16), InjectError> {
        Ok(self.sheet.pointer())
    }

    /// The left one leaves a mark.
    fn button(&mut self, button: Button, down: bool) -> Result<(), InjectError> {
        if down && button == Button::Left {
            self.sheet.mark();
        }
        Ok(())
    }

    /// There is nothing to scroll.
    fn wheel(&mut self, _: i8, _: i8) -> Result<(), InjectError> {
        Ok(())
    }

    /// The sheet is the only window.
    fn confine(&mut self, _: Option<u32>) {}

    fn release_all(&mut self) -> Result<(), InjectError> {
        self.held.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stroke(inject: &mut SyntheticInject, keysym: Keysym) {
        inject.key(keysym, true).unwrap();
        inject.key(keysym, false).unwrap();
    }

    #[test]
    fn keys_and_texts_are_letters_and_shortcuts_are_not() {
        let sheet = Sheet::new(1);
        let mut inject = SyntheticInject::new(sheet.clone());
        "äß€漢字x"
            .chars()
            .for_each(|letter| stroke(&mut inject, letter.into()));
        stroke(&mut inject, Keysym(key::BackSpace));
        // As keyboards name it.
        stroke(&mut inject, Keysym(key::EuroSign));
        inject.text("é\n", &|| true).unwrap();
        assert_eq!(sheet.typed(), "äß€漢字€é\n");
        inject.key(Keysym(key::Control_L), true).unwrap();
        stroke(&mut inject, 'v'.into());
        inject.release_all().unwrap();
        inject.key('v'.into(), true).unwrap();
        inject.key('v'.into(), true).unwrap();
        assert_eq!(sheet.typed(), "äß€漢字€é\nv", "a key that is down is down");
    }

    #[test]
    fn the_pointer_is_where_it_was_moved() {
        let mut inject = SyntheticInject::new(Sheet::new(1));
        inject.pointer(30, 40).unwrap();
        assert_eq!(inject.position().unwrap(), (30, 40));
    }
}
