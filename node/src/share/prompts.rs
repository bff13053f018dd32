//! Prompts of the sharer's system that must not be seen from elsewhere: for an administrator's password, a key's, a wallet's.
//!
//! They are windows like any other and known by their class (ICCCM §4.1.2.5). A desktop that draws its prompts itself, as GNOME's shell
//! does, shows no window of theirs. Whoever calls a window by such a name hides the screen while it is there, and no more.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    thread::{self, JoinHandle},
};

use tokio::sync::watch;
use x11rb::{
    connection::Connection as _,
    protocol::{
        Event,
        xproto::{AtomEnum, ChangeWindowAttributesAux, ConnectionExt as _, EventMask, MapState},
    },
};

use super::{
    capture::CaptureError,
    x11::{Display, Wakeup, no_resources},
};

/// Parts of classes: polkit's agents of all desktops; GnuPG's, GNOME's and SSH's askers.
const CLASSES: [&str; 5] = ["polkit", "policykit", "pinentry", "gcr-prompter", "askpass"];
/// Of a class, in units of 4 bytes.
const CLASS_WORDS: u32 = 64;
/// Windows that are looked at; who has more open has no prompt among the first.
const MAX_WINDOWS: usize = 1024;

/// Whoever looks whether there is one; ends when dropped.
pub struct Prompts {
    open: watch::Receiver<bool>,
    over: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Prompts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prompts({})", *self.open.borrow())
    }
}

impl Prompts {
    /// Connects to the display (by default `DISPLAY`).
    ///
    /// # Errors
    /// As [`capture::open`](super::capture::open).
    pub fn open(display: Option<&str>) -> Result<Self, CaptureError> {
        let display = Display::open(display)?;
        let root = display.screen().root;
        let watched = ChangeWindowAttributesAux::new().event_mask(EventMask::SUBSTRUCTURE_NOTIFY);
        let connection = &display.connection;
        connection
            .change_window_attributes(root, &watched)?
            .check()?;
        let wakeup = Wakeup::new().map_err(no_resources)?;
        let (say, open) = watch::channel(is_open(&display)?);
        let (waker, over) = (wakeup.waker(), Arc::<AtomicBool>::default());
        let ends = Arc::clone(&over);
        let run = move || match look(&display, &wakeup, &ends, &say) {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "nobody looks for prompts"),
        };
        let thread = thread::Builder::new()
            .name("prompts".to_owned())
            .spawn(run)
            .map_err(no_resources)?;
        Ok(Self {
            open,
            over,
            waker,
            thread: Some(thread),
        })
    }

    /// Whether there is one, from now on whenever that changes.
    pub fn watch(&self) -> watch::Receiver<bool> {
        let mut open = self.open.clone();
        open.mark_changed();
        open
    }
}

impl Drop for Prompts {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.waker.wake_by_ref();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the thread that looks for prompts panicked");
        }
    }
}

fn look(
    display: &Display,
    wakeup: &Wakeup,
    over: &AtomicBool,
    say: &watch::Sender<bool>,
) -> Result<(), CaptureError> {
    loop {
        wakeup.sleep(&display.connection, None)?;
        wakeup.take();
        if over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut changed = false;
        // A window came, went, or is another's child now. One that is dragged is no news.
        while let Some(event) = display.connection.poll_for_event()? {
            changed |= matches!(
                event,
                Event::MapNotify(_)
                    | Event::UnmapNotify(_)
                    | Event::DestroyNotify(_)
                    | Event::ReparentNotify(_)
            );
        }
        if changed {
            let now = is_open(display)?;
            say.send_if_modified(|open| std::mem::replace(open, now) != now);
        }
    }
}

/// Among the windows that are seen: the screen's own, and what a window manager has put into a frame.
fn is_open(display: &Display) -> Result<bool, CaptureError> {
    let connection = &display.connection;
    let children = |window| -> Result<Vec<u32>, CaptureError> {
        match connection.query_tree(window)?.reply() {
            Ok(tree) => Ok(tree.children),
            // It has just gone.
            Err(error) => CaptureError::from(error).or_none(),
        }
    };
    let mut windows = children(display.screen().root)?;
    for frame in windows.clone().into_iter().rev() {
        if windows.len() < MAX_WINDOWS && is_seen(display, frame)? {
            windows.extend(children(frame)?);
        }
    }
    for window in windows.into_iter().rev().take(MAX_WINDOWS) {
        if is_prompt(display, window)? && is_seen(display, window)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_seen(display: &Display, window: u32) -> Result<bool, CaptureError> {
    let connection = &display.connection;
    match connection.get_window_attributes(window)?.reply() {
        Ok(attributes) => Ok(attributes.map_state == MapState::VIEWABLE),
        Err(error) => CaptureError::from(error).or_none(),
    }
}

fn is_prompt(display: &Display, window: u32) -> Result<bool, CaptureError> {
    let (class, text) = (AtomEnum::WM_CLASS, AtomEnum::STRING);
    let connection = &display.connection;
    let class = connection.get_property(false, window, class, text, 0, CLASS_WORDS)?;
    match class.reply() {
        Ok(class) => Ok(is_prompts_class(&class.value)),
        Err(error) => CaptureError::from(error).or_none(),
    }
}

/// Name and class, each with its NUL.
fn is_prompts_class(class: &[u8]) -> bool {
    let class = String::from_utf8_lossy(class).to_lowercase();
    CLASSES.iter().any(|known| class.contains(known))
}

impl CaptureError {
    /// Nothing, of a window that is no more; what is wrong with the display stays wrong.
    fn or_none<T: Default>(self) -> Result<T, Self> {
        match self {
            Self::Refused { .. } => Ok(T::default()),
            error @ (Self::NoDisplay
            | Self::Platform(_)
            | Self::Unreachable { .. }
            | Self::Lacks(_)
            | Self::Depth { .. }
            | Self::SourceGone
            | Self::DisplayLost) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_known_by_their_class() {
        for class in [
            "polkit-gnome-authentication-agent-1\0Polkit-gnome-authentication-agent-1\0",
            "pinentry-gtk-2\0Pinentry-gtk-2\0",
            "lxqt-policykit-agent\0lxqt-policykit-agent\0",
            "ssh-askpass\0SshAskpass\0",
        ] {
            assert!(is_prompts_class(class.as_bytes()), "{class:?}");
        }
        for class in ["", "xterm\0XTerm\0", "bar\0Remora\0"] {
            assert!(!is_prompts_class(class.as_bytes()), "{class:?}");
        }
    }
}
