//! What a session has done to the sharer's system, behind traits: each system has its own, and one that has none says so instead
//! of pretending.
//!
//! | system | broker | shield | sign-out | restart |
//! | --- | --- | --- | --- | --- |
//! | Linux with X11 | `remora-broker` | gamma, and a grab of the local devices | logind | logind |
//! | Windows, macOS, Android | – | – | – | – |

/// Not written yet.
#[cfg(target_os = "android")]
mod android;
/// X11, logind, and our broker.
#[cfg(target_os = "linux")]
mod linux;
/// Not written yet.
#[cfg(target_os = "macos")]
mod macos;
/// Not written yet.
#[cfg(windows)]
mod windows;

use std::{fmt, path::PathBuf};

use bytes::Bytes;
use remora_proto::{
    session::{Act, Mode, Platform},
    wire::message::session::control::Body,
};
use tokio::sync::mpsc;

use crate::{
    error::{Exit, Failure},
    share::desktop::Desktop,
};

/// Where a broker listens, if nobody says otherwise.
pub const BROKER_SOCKET: &str = "/run/remora/broker.sock";
/// Reports of a broker that the session has not passed on. Full, the broker waits, and with it the program that says so much.
const QUEUE_REPORTS: usize = 16;
/// That somebody touches keyboard or mouse is news once.
const QUEUE_TOUCHES: usize = 1;

/// Whether the system knows that nobody is signed in at this computer. Blocks for a moment.
#[cfg(target_os = "linux")]
pub fn is_nobody_signed_in() -> bool {
    linux::is_nobody_signed_in()
}

/// Whether the system knows that nobody is signed in at this computer. There is nobody to ask: somebody may be.
#[cfg(not(target_os = "linux"))]
pub fn is_nobody_signed_in() -> bool {
    false
}

/// `remora light-keeper`: waits for the end of the shield's program that has begun it, and lights the screen that is dark even so.
///
/// # Errors
/// The screen may still be dark.
#[cfg(target_os = "linux")]
pub async fn keep_light() -> Result<Exit, Failure> {
    linux::keep_light().await
}

/// No shield darkens this system's screen.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub async fn keep_light() -> Result<Exit, Failure> {
    let line = "no shield darkens this system's screen";
    Err(Failure::new(Exit::Error, "UNSUPPORTED", line))
}

/// The system did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Undone(pub String);

/// What a backend says by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The broker: its key, or what came of an order. For the helper.
    Broker(Body),
    /// The broker is gone: so are the rights.
    BrokerGone,
}

/// Runs what the helper asks for with an administrator's rights.
pub trait Broker: fmt::Debug + Send {
    /// The helper may, from now on; what comes of it is said on `reports`.
    ///
    /// # Errors
    /// It may not.
    fn elevate(&mut self, reports: mpsc::Sender<Report>) -> Result<(), Undone>;

    /// Passes on what only the broker can read.
    ///
    /// # Errors
    /// It does not take it.
    fn order(&mut self, sealed: Bytes) -> Result<(), Undone>;

    /// No more of that: what was started so is killed, with all that it started.
    fn release(&mut self);
}

/// Hides the screen of a computer that nobody attends.
pub trait Shield: fmt::Debug + Send {
    /// Nobody sees the screen, and keyboard and mouse reach nothing, from now on; that somebody uses them is said on `touched`.
    ///
    /// # Errors
    /// Somebody could.
    fn raise(&mut self, touched: mpsc::Sender<()>) -> Result<(), Undone>;

    /// Somebody did: this is shown to them, and nothing else, until it is thawed.
    fn freeze(&mut self, notice: &str);

    /// As before that.
    fn thaw(&mut self);

    /// All is as before.
    fn lower(&mut self);
}

/// Signs the sharer out.
pub trait SignOut: fmt::Debug + Send {
    /// Does; this program may not outlive it.
    ///
    /// # Errors
    /// The sharer is still there.
    fn sign_out(&mut self) -> Result<(), Undone>;
}

/// Restarts the computer, after which the session goes on.
pub trait Restart: fmt::Debug + Send {
    /// Does.
    ///
    /// # Errors
    /// It does not restart.
    fn restart(&mut self) -> Result<(), Undone>;
}

/// Presses the computer's power key, as of a telephone: short, the screen goes dark; long, it asks whether to switch off.
pub trait PowerKey: fmt::Debug + Send {
    /// Does.
    ///
    /// # Errors
    /// Nothing was pressed.
    fn press(&mut self, long: bool) -> Result<(), Undone>;
}

/// What this system has; what it has not is refused as `UNSUPPORTED`.
#[derive(Debug)]
pub struct Backends {
    /// Needed with [`SignOut`]: who used an administrator's rights may have left something running.
    pub broker: Option<Box<dyn Broker>>,
    /// Needed by unattended sessions.
    pub shield: Option<Box<dyn Shield>>,
    /// See [`Self::broker`].
    pub sign_out: Option<Box<dyn SignOut>>,
    /// Restarting.
    pub restart: Option<Box<dyn Restart>>,
    /// Nobody is signed in at the computer, as far as it was asked: that matters where nobody attends it.
    pub nobody_there: bool,
    /// Several people use the computer just now.
    pub multi_user: bool,
    /// None on Linux: what the key does there is its system's to say, and no program's to cause.
    pub power_key: Option<Box<dyn PowerKey>>,
    reports: mpsc::Receiver<Report>,
    touches: (mpsc::Sender<()>, mpsc::Receiver<()>),
}

impl Default for Backends {
    fn default() -> Self {
        Self {
            broker: None,
            shield: None,
            sign_out: None,
            restart: None,
            multi_user: false,
            power_key: None,
            nobody_there: false,
            reports: mpsc::channel(QUEUE_REPORTS).1,
            touches: mpsc::channel(QUEUE_TOUCHES),
        }
    }
}

impl Backends {
    /// Those of this system, for a session that shows `desktop`; `broker` is the socket where one may listen.
    pub fn of_system(desktop: &Desktop, broker: PathBuf) -> Self {
        match desktop {
            Desktop::X11(display) | Desktop::Monitor { display, .. } => {
                Self::of_display(display.clone(), broker)
            }
            // Nobody's computer: a demonstration, a test.
            Desktop::Synthetic(_) | Desktop::None => Self::default(),
        }
    }

    #[cfg(target_os = "linux")]
    fn of_display(display: Option<String>, broker: PathBuf) -> Self {
        linux::backends(display, broker)
    }

    #[cfg(target_os = "android")]
    fn of_display(_: Option<String>, _: PathBuf) -> Self {
        android::backends()
    }

    #[cfg(target_os = "macos")]
    fn of_display(_: Option<String>, _: PathBuf) -> Self {
        macos::backends()
    }

    #[cfg(windows)]
    fn of_display(_: Option<String>, _: PathBuf) -> Self {
        windows::backends()
    }

    /// What may be asked of them.
    pub fn platform(&self) -> Platform {
        Platform {
            mode: Mode::Control,
            elevates: self.broker.is_some() && self.sign_out.is_some(),
            shields: self.shield.is_some(),
            restarts: self.restart.is_some(),
            power_key: self.power_key.is_some(),
        }
    }

    /// What the broker says, and that somebody at a shielded computer uses keyboard or mouse.
    pub fn heard(&mut self) -> (&mut mpsc::Receiver<Report>, &mut mpsc::Receiver<()>) {
        (&mut self.reports, &mut self.touches.1)
    }

    /// For the broker, which alone can read it.
    ///
    /// # Errors
    /// There is none, or it does not take it.
    pub fn order(&mut self, sealed: Bytes) -> Result<(), Undone> {
        self.broker
            .as_mut()
            .map_or_else(unsupported, |broker| broker.order(sealed))
    }

    /// Shows somebody at a shielded computer what is going on there, or, `None`, shows nothing again.
    pub fn notice(&mut self, notice: Option<&str>) {
        match (&mut self.shield, notice) {
            (Some(shield), Some(notice)) => shield.freeze(notice),
            (Some(shield), None) => shield.thaw(),
            (None, _) => {}
        }
    }

    /// Does what the session's machine says.
    ///
    /// # Errors
    /// It is not done.
    pub fn act(&mut self, act: Act) -> Result<(), Undone> {
        match act {
            Act::Elevate => {
                let (to, reports) = mpsc::channel(QUEUE_REPORTS);
                self.reports = reports;
                self.broker
                    .as_mut()
                    .map_or_else(unsupported, |broker| broker.elevate(to))
            }
            Act::Shield => {
                let touched = self.touches.0.clone();
                self.shield
                    .as_mut()
                    .map_or_else(unsupported, |shield| shield.raise(touched))
            }
            Act::SignOut => self
                .sign_out
                .as_mut()
                .map_or_else(unsupported, |sign_out| sign_out.sign_out()),
            Act::Restart => self
                .restart
                .as_mut()
                .map_or_else(unsupported, |restart| restart.restart()),
            Act::PowerKey { long } => self
                .power_key
                .as_mut()
                .map_or_else(unsupported, |key| key.press(long)),
            Act::Unelevate => {
                if let Some(broker) = &mut self.broker {
                    broker.release();
                }
                Ok(())
            }
            Act::Unshield => {
                if let Some(shield) = &mut self.shield {
                    shield.lower();
                }
                Ok(())
            }
        }
    }
}

fn unsupported() -> Result<(), Undone> {
    Err(Undone("UNSUPPORTED".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_system_lacks_it_does_not_pretend() {
        let mut none = Backends::default();
        let platform = none.platform();
        assert!(!platform.elevates && !platform.shields && !platform.restarts);
        assert!(!platform.power_key);
        let key = Act::PowerKey { long: true };
        for act in [Act::Elevate, Act::Shield, Act::SignOut, Act::Restart, key] {
            assert_eq!(none.act(act), Err(Undone("UNSUPPORTED".to_owned())));
        }
        for act in [Act::Unelevate, Act::Unshield] {
            assert_eq!(none.act(act), Ok(()));
        }
    }
}
