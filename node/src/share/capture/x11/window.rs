//! One window, and nothing but it.
//!
//! Composite gives the window a pixmap of its own, which has its pixels where other windows lie over it. A new pixmap,
//! however, begins as a copy of the *screen* under it, so that until the program has drawn there, it holds pixels of
//! whatever was there before. So pixels are trusted one by one:
//!
//! * what is visible of the window in the moment before it is redirected (a new damage object begins with exactly that),
//! * what has been drawn since (the damage).
//!
//! All other pixels stay black in the picture. When the window gets another size or comes back after it was hidden, it
//! has another pixmap: all trust is lost, and its program is asked to draw again.

use x11rb::{
    connection::Connection as _,
    protocol::{
        composite::{self, ConnectionExt as _, Redirect},
        damage::{ConnectionExt as _, ReportLevel},
        xproto::{ChangeWindowAttributesAux, ConnectionExt as _, EventMask, MapState, WindowClass},
    },
};

use super::take_damage;
use crate::share::{
    capture::{CaptureError, Rect},
    x11::Display,
};

/// Windows within the window that are asked to draw again: more than any toolkit makes, few enough for one pause.
const MAX_INFERIORS: usize = 512;

/// True if windows can be had alone (`NameWindowPixmap` came with 0.2).
pub(super) fn has_composite(display: &Display) -> Result<bool, CaptureError> {
    if !display.has(composite::X11_EXTENSION_NAME)? {
        return Ok(false);
    }
    let version = display.connection.composite_query_version(0, 4)?.reply()?;
    Ok((version.major_version, version.minor_version) >= (0, 2))
}

/// A window that is shown alone.
pub(super) struct WindowTarget {
    pub(super) window: u32,
    pub(super) damage: u32,
    /// None until it is on the screen for the first time.
    pub(super) pixmap: Option<u32>,
    pub(super) size: (u16, u16),
    pub(super) border: u16,
    pub(super) origin: (i16, i16),
    pub(super) trust: Trust,
}

impl WindowTarget {
    pub(super) fn open(display: &Display, window: u32, region: u32) -> Result<Self, CaptureError> {
        let attributes = display.connection.get_window_attributes(window)?.reply()?;
        let geometry = display.connection.get_geometry(window)?.reply()?;
        if attributes.class != WindowClass::INPUT_OUTPUT || window == display.screen().root {
            return Err(CaptureError::SourceGone);
        }
        display.check_pixels(geometry.depth, attributes.visual)?;
        let events = ChangeWindowAttributesAux::new().event_mask(EventMask::STRUCTURE_NOTIFY);
        display
            .connection
            .change_window_attributes(window, &events)?
            .check()?;
        let mut target = Self {
            window,
            damage: display.connection.generate_id()?,
            pixmap: None,
            size: (geometry.width, geometry.height),
            border: geometry.border_width,
            origin: (0, 0),
            trust: Trust::none((geometry.width, geometry.height)),
        };
        undisturbed(display, || target.begin(display, region))?;
        target.locate(display)?;
        Ok(target)
    }

    /// With the server held: what is visible is its own; then it gets a pixmap.
    fn begin(&mut self, display: &Display, region: u32) -> Result<(), CaptureError> {
        display
            .connection
            .damage_create(self.damage, self.window, ReportLevel::NON_EMPTY)?
            .check()?;
        let visible = take_damage(display, self.damage, region)?;
        display
            .connection
            .composite_redirect_window(self.window, Redirect::AUTOMATIC)?
            .check()?;
        let viewable = self.measure(display)?;
        if viewable {
            self.name_pixmap(display)?;
            visible.into_iter().for_each(|rect| self.trust.add(rect));
        }
        Ok(())
    }

    /// It has another size, or came back; false if it is hidden, and what was last seen of it stays.
    pub(super) fn renew(&mut self, display: &Display, region: u32) -> Result<bool, CaptureError> {
        let viewable = undisturbed(display, || {
            if !self.measure(display)? {
                return Ok(false);
            }
            self.name_pixmap(display)?;
            // A new one: what the old one holds may have been drawn into the old pixmap.
            display.connection.damage_destroy(self.damage)?;
            self.damage = display.connection.generate_id()?;
            display
                .connection
                .damage_create(self.damage, self.window, ReportLevel::NON_EMPTY)?
                .check()?;
            take_damage(display, self.damage, region)?;
            self.trust = Trust::none(self.size);
            Ok(true)
        })?;
        if viewable {
            self.locate(display)?;
            ask_to_draw(display, self.window)?;
        }
        Ok(viewable)
    }

    /// Its place on the desktop.
    pub(super) fn locate(&mut self, display: &Display) -> Result<(), CaptureError> {
        let root = display.screen().root;
        let corner = display
            .connection
            .translate_coordinates(self.window, root, 0, 0)?
            .reply()?;
        self.origin = (corner.dst_x, corner.dst_y);
        Ok(())
    }

    /// The window is as it was before. Whatever of it is gone by now was ours anyway.
    pub(super) fn close(self, display: &Display) -> Result<(), CaptureError> {
        let connection = &display.connection;
        connection.damage_destroy(self.damage)?.ignore_error();
        connection
            .composite_unredirect_window(self.window, Redirect::AUTOMATIC)?
            .ignore_error();
        if let Some(pixmap) = self.pixmap {
            connection.free_pixmap(pixmap)?.ignore_error();
        }
        let events = ChangeWindowAttributesAux::new().event_mask(EventMask::NO_EVENT);
        connection
            .change_window_attributes(self.window, &events)?
            .ignore_error();
        connection.flush()?;
        Ok(())
    }

    /// Size and border; true if it is on the screen.
    fn measure(&mut self, display: &Display) -> Result<bool, CaptureError> {
        let attributes = display.connection.get_window_attributes(self.window)?;
        let geometry = display.connection.get_geometry(self.window)?;
        let (attributes, geometry) = (attributes.reply()?, geometry.reply()?);
        let viewable = attributes.map_state == MapState::VIEWABLE;
        if viewable {
            self.size = (geometry.width, geometry.height);
            self.border = geometry.border_width;
        }
        Ok(viewable)
    }

    fn name_pixmap(&mut self, display: &Display) -> Result<(), CaptureError> {
        if let Some(old) = self.pixmap.take() {
            display.connection.free_pixmap(old)?;
        }
        let pixmap = display.connection.generate_id()?;
        display
            .connection
            .composite_name_window_pixmap(self.window, pixmap)?
            .check()?;
        self.pixmap = Some(pixmap);
        Ok(())
    }
}

/// Runs `work` while the server listens to nobody else: between its requests, nothing is drawn and no window moves.
fn undisturbed<T>(
    display: &Display,
    work: impl FnOnce() -> Result<T, CaptureError>,
) -> Result<T, CaptureError> {
    display.connection.grab_server()?;
    let result = work();
    display.connection.ungrab_server()?;
    display.connection.flush()?;
    result
}

/// Sends Expose to the window and those in it.
fn ask_to_draw(display: &Display, window: u32) -> Result<(), CaptureError> {
    let mut waiting = vec![window];
    let mut asked = 0;
    while let Some(window) = waiting.pop().filter(|_| asked < MAX_INFERIORS) {
        asked += 1;
        // All of it (0 × 0); one that only listens refuses, and one that is gone does, too.
        display
            .connection
            .clear_area(true, window, 0, 0, 0, 0)?
            .ignore_error();
        match display
            .connection
            .query_tree(window)?
            .reply()
            .map_err(CaptureError::from)
        {
            Ok(tree) => waiting.extend(tree.children),
            Err(CaptureError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    display.connection.flush()?;
    Ok(())
}

/// Which pixels of the pixmap are the window's own.
pub(super) struct Trust {
    width: usize,
    own: Vec<bool>,
    missing: usize,
}

impl Trust {
    fn none((width, height): (u16, u16)) -> Self {
        let pixels = usize::from(width) * usize::from(height);
        Self {
            width: usize::from(width),
            own: vec![false; pixels],
            missing: pixels,
        }
    }

    /// The window was drawn there.
    pub(super) fn add(&mut self, rect: Rect) {
        if self.is_whole() || self.width == 0 {
            return;
        }
        let height = self.own.len() / self.width;
        let span = |start: i16, end: i32, most: usize| {
            let start = usize::try_from(start).unwrap_or(0).min(most);
            start..usize::try_from(end).unwrap_or(0).clamp(start, most)
        };
        let (columns, rows) = (
            span(rect.x, rect.right(), self.width),
            span(rect.y, rect.bottom(), height),
        );
        for row in self
            .own
            .chunks_mut(self.width)
            .skip(rows.start)
            .take(rows.len())
        {
            for own in &mut row[columns.clone()] {
                self.missing -= usize::from(!*own);
                *own = true;
            }
        }
    }

    /// Every pixel is the window's own.
    pub(super) fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// A row's pixels; `None` if all are trusted anyway.
    pub(super) fn row(&self, y: usize) -> Option<&[bool]> {
        (!self.is_whole()).then(|| &self.own[y * self.width..][..self.width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_grows_to_the_whole_and_not_beyond() {
        let mut trust = Trust::none((4, 3));
        trust.add(Rect {
            x: -2,
            y: -1,
            width: 4,
            height: 2,
        });
        assert_eq!(trust.row(0), Some(&[true, true, false, false][..]));
        assert_eq!(trust.row(1), Some(&[false; 4][..]));
        trust.add(Rect {
            x: 2,
            y: 0,
            width: 9,
            height: 9,
        });
        trust.add(Rect {
            x: 1,
            y: 1,
            width: 1,
            height: 1,
        });
        assert_eq!(trust.row(1), Some(&[false, true, true, true][..]));
        trust.add(Rect {
            x: 0,
            y: 1,
            width: 1,
            height: 9,
        });
        assert!(!trust.is_whole() || trust.row(2).is_none());
        trust.add(Rect {
            x: 0,
            y: 0,
            width: 4,
            height: 3,
        });
        assert!(trust.is_whole());
        assert_eq!(trust.row(0), None);
        trust.add(Rect {
            x: 100,
            y: 100,
            width: 4,
            height: 3,
        });
    }
}
