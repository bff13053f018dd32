//! What one of the two people does and waits for, as a program does it. Failures are words that can be counted.

use std::time::Duration;

use remora::{
    error::Failure,
    event::{Event, Input},
    node::Running,
};
use remora_proto::{identity::Profile, session::Command};
use tokio::time::timeout;

/// Why a node failed, in a word.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn name(failure: Failure) -> String {
    failure.code.to_owned()
}

/// Somebody of this name.
///
/// # Errors
/// When it is no name.
pub fn person(name: &str) -> Result<Profile, String> {
    Profile::new(name, "", "", "").map_err(|_| "PROFILE".to_owned())
}

/// They want this.
///
/// # Errors
/// When the session is over.
pub async fn wish(running: &Running, command: Command) -> Result<(), String> {
    let sent = running.input.send(Input::Session(command)).await;
    sent.map_err(|_| "OVER".to_owned())
}

/// The first event that `wanted` makes something of; what comes before is for people.
///
/// # Errors
/// `step`, when there is none `within` that time.
pub async fn until<T>(
    running: &mut Running,
    within: Duration,
    step: &str,
    wanted: impl Fn(&Event) -> Option<T>,
) -> Result<T, String> {
    let waiting = async {
        while let Some(event) = running.events.recv().await {
            if let Some(found) = wanted(&event) {
                return Some(found);
            }
        }
        None
    };
    let found = timeout(within, waiting).await;
    found.ok().flatten().ok_or_else(|| step.to_owned())
}
