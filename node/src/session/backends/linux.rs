//! Linux with X11: our broker, logind, and the X server.

/// Elevation.
mod broker;
/// What lights the screen when the shield cannot any more.
mod light;
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
use crate::error::{Exit, Failure};

/// As logind knows it.
pub(super) fn is_nobody_signed_in() -> bool {
    logind::is_nobody_signed_in()
}

/// See `light`.
pub(super) async fn keep_light() -> Result<Exit, Failure> {
    light::keep().await
}

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
