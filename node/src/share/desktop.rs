//! Which screen a session shares: where its pixels come from, where keys go, and what is shown on it beside them.

use super::{
    bar::Bar,
    capture::{
        self, Capture, CaptureError,
        synthetic::{Sheet, Synthetic},
    },
    inject::{Inject, InjectError, synthetic::SyntheticInject, x11::X11Inject},
    overlay::Overlay,
    prompts::Prompts,
};

/// A screen that can be shared. Nothing is opened before it is asked for.
#[derive(Clone, Debug)]
pub enum Desktop {
    /// The X11 display of this name; the one in `DISPLAY` when there is no name.
    X11(Option<String>),
    /// One monitor of an X11 display, and no other.
    Monitor {
        /// As for [`X11`](Self::X11).
        display: Option<String>,
        /// As the system calls it.
        name: String,
    },
    /// A sheet that nobody's screen is behind, for machines without a display.
    Synthetic(Sheet),
    /// None: the two can talk.
    None,
}

impl Desktop {
    /// Opens the pixels.
    ///
    /// # Errors
    /// Why not; never a picture that is not the screen.
    pub fn capture(&self) -> Result<Box<dyn Capture>, CaptureError> {
        match self {
            Self::X11(display) => capture::open(display.as_deref()),
            Self::Monitor { display, name } => capture::open_monitor(display.as_deref(), name),
            Self::Synthetic(sheet) => Ok(Box::new(Synthetic::new(sheet.clone()))),
            Self::None => Err(CaptureError::NoDisplay),
        }
    }

    /// Opens keyboard and pointer.
    ///
    /// # Errors
    /// [`InjectError::Display`].
    pub fn injector(&self) -> Result<Box<dyn Inject>, InjectError> {
        Ok(match self {
            Self::X11(display) | Self::Monitor { display, .. } => {
                Box::new(X11Inject::open(display.as_deref())?)
            }
            Self::Synthetic(sheet) => Box::new(SyntheticInject::new(sheet.clone())),
            Self::None => return Err(CaptureError::NoDisplay.into()),
        })
    }

    /// Opens the sharer's bar; `None` where nobody sits in front of the screen.
    ///
    /// # Errors
    /// As [`Bar::open`].
    pub fn bar(&self) -> Result<Option<Bar>, CaptureError> {
        match self {
            Self::X11(display) | Self::Monitor { display, .. } => {
                Bar::open(display.as_deref()).map(Some)
            }
            Self::Synthetic(_) | Self::None => Ok(None),
        }
    }

    /// Looks for prompts that must not be seen; `None` where there are none.
    ///
    /// # Errors
    /// As [`Prompts::open`].
    pub fn prompts(&self) -> Result<Option<Prompts>, CaptureError> {
        match self {
            Self::X11(display) | Self::Monitor { display, .. } => {
                Prompts::open(display.as_deref()).map(Some)
            }
            Self::Synthetic(_) | Self::None => Ok(None),
        }
    }

    /// Opens what the helper's laser pointer and pen are drawn on; `None` where nobody sits in front of the screen.
    ///
    /// # Errors
    /// As [`Overlay::open`].
    pub fn overlay(&self) -> Result<Option<Overlay>, CaptureError> {
        match self {
            Self::X11(display) | Self::Monitor { display, .. } => {
                Overlay::open(display.as_deref()).map(Some)
            }
            Self::Synthetic(_) | Self::None => Ok(None),
        }
    }
}
