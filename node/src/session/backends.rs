//! What a session has done to the sharer's system, behind traits: each system has its own, and one that has none says so instead
//! of pretending.

use std::fmt;

use remora_proto::session::{Act, Mode, Platform};

/// The system did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Undone(pub String);

/// Runs what the helper asks for with an administrator's rights.
pub trait Broker: fmt::Debug + Send {
    /// The helper may, from now on.
    ///
    /// # Errors
    /// It may not.
    fn elevate(&mut self) -> Result<(), Undone>;

    /// No more of that: what was started so is killed, with all that it started.
    fn release(&mut self);
}

/// Hides the screen of a computer that nobody attends.
pub trait Shield: fmt::Debug + Send {
    /// Nobody sees the screen, and keyboard and mouse reach nothing, from now on.
    ///
    /// # Errors
    /// Somebody could.
    fn raise(&mut self) -> Result<(), Undone>;

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
#[derive(Debug, Default)]
pub struct Backends {
    /// Needed with [`SignOut`]: who used an administrator's rights may have left something running.
    pub broker: Option<Box<dyn Broker>>,
    /// Needed by unattended sessions.
    pub shield: Option<Box<dyn Shield>>,
    /// See [`Self::broker`].
    pub sign_out: Option<Box<dyn SignOut>>,
    /// Restarting.
    pub restart: Option<Box<dyn Restart>>,
    /// None on Linux: what the key does there is its system's to say, and no program's to cause.
    pub power_key: Option<Box<dyn PowerKey>>,
}

impl Backends {
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

    /// Does what the session's machine says.
    ///
    /// # Errors
    /// It is not done.
    pub fn act(&mut self, act: Act) -> Result<(), Undone> {
        match act {
            Act::Elevate => self
                .broker
                .as_mut()
                .map_or_else(unsupported, |broker| broker.elevate()),
            Act::Shield => self
                .shield
                .as_mut()
                .map_or_else(unsupported, |shield| shield.raise()),
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
