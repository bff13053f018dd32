//! One monitor of a desktop, and no other: what a sharer means who has chosen a screen (guide, A-9).

use std::time::Instant;

use super::{Capture, CaptureError, Changes, Monitor, Pixels, Rect, Source, Waker, WindowInfo};

/// Of what `all` could show, the monitor of one name. The helper is told of no other, and of windows only where they lie within it; when
/// the monitor is gone there is nothing to be seen, whatever else there is.
#[derive(Debug)]
pub(super) struct Chosen {
    all: Box<dyn Capture>,
    name: String,
    /// The one; never another.
    monitors: Vec<Monitor>,
}

impl Chosen {
    /// Shows it.
    ///
    /// # Errors
    /// [`CaptureError::SourceGone`] if there is none of that name.
    pub(super) fn new(mut all: Box<dyn Capture>, name: &str) -> Result<Self, CaptureError> {
        let monitor = find(&*all, name)?;
        all.select(Source::Monitor(monitor.id))?;
        Ok(Self {
            all,
            name: name.to_owned(),
            monitors: vec![monitor],
        })
    }

    fn rect(&self) -> Rect {
        self.monitors
            .first()
            .map_or_else(|| Rect::of_size((0, 0)), |monitor| monitor.rect)
    }

    fn is_within(&self, window: &WindowInfo) -> bool {
        window.rect.intersection(self.rect()) == window.rect
    }
}

fn find(all: &dyn Capture, name: &str) -> Result<Monitor, CaptureError> {
    let found = all.monitors().iter().find(|monitor| monitor.name == name);
    found.cloned().ok_or(CaptureError::SourceGone)
}

impl Capture for Chosen {
    fn kind(&self) -> &'static str {
        self.all.kind()
    }

    fn monitors(&self) -> &[Monitor] {
        &self.monitors
    }

    fn windows(&mut self) -> Result<Vec<WindowInfo>, CaptureError> {
        let windows = self.all.windows()?;
        let within = |window: &WindowInfo| self.is_within(window);
        Ok(windows.into_iter().filter(within).collect())
    }

    fn source(&self) -> Source {
        self.all.source()
    }

    fn select(&mut self, source: Source) -> Result<(), CaptureError> {
        let is_ours = match source {
            Source::Monitor(id) => self.monitors.iter().any(|monitor| monitor.id == id),
            Source::Window(id) => self.windows()?.iter().any(|window| window.id == id),
        };
        match is_ours {
            true => self.all.select(source),
            false => Err(CaptureError::SourceGone),
        }
    }

    fn size(&self) -> (u16, u16) {
        self.all.size()
    }

    fn origin(&self) -> (i16, i16) {
        self.all.origin()
    }

    fn set_masks(&mut self, masks: &[Rect]) {
        self.all.set_masks(masks);
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Result<Changes, CaptureError> {
        let changes = self.all.wait(deadline)?;
        if changes.monitors_changed {
            // What is shown follows its name; whoever looks for it by that must not be led to another.
            self.monitors = vec![find(&*self.all, &self.name)?];
        }
        Ok(changes)
    }

    fn refresh(&mut self, rects: &[Rect]) -> Result<(), CaptureError> {
        self.all.refresh(rects)
    }

    fn pixels(&self) -> Pixels<'_> {
        self.all.pixels()
    }

    fn waker(&self) -> Waker {
        self.all.waker()
    }
}
