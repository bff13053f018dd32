//! Linux with X11: our broker, logind, and the X server.

/// Elevation.
mod broker;
/// Sign-out, restart.
mod logind;
/// What hides the screen.
mod shield;

use std::{env, path::PathBuf};

use self::{
    broker::SystemBroker,
    logind::{Logind, Reboot},
    shield::X11Shield,
};
use super::Backends;

/// What there is on this computer now.
pub(super) fn backends(display: Option<String>, broker: PathBuf) -> Backends {
    let shown = display
        .clone()
        .or_else(|| env::var("DISPLAY").ok())
        .unwrap_or_default();
    let logind = Logind::find();
    let reboot = Reboot::find();
    let shield = X11Shield::find(display);
    Backends {
        broker: SystemBroker::find(broker, shown).map(|broker| Box::new(broker) as _),
        shield: shield.map(|shield| Box::new(shield) as _),
        multi_user: reboot.is_some() && Reboot::is_multi_user(),
        restart: reboot.map(|reboot| Box::new(reboot) as _),
        sign_out: logind.map(|logind| Box::new(logind) as _),
        ..Backends::default()
    }
}
