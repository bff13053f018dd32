//! What of a session reaches beyond the screen: orders to the sharer's broker, what somebody at a shielded computer reads, and what the
//! sharer is asked on the bar.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a few events are questions, or the end of one, among many"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use remora_proto::{
    elevation::{Order, Orders},
    identity::Profile,
    session::{Command, Event as SessionEvent},
    wire::message::session::{ElevationOrder, control::Body},
};

use crate::share::bar::Question;

/// What concerns the broker.
pub(super) enum Said {
    /// Helper: orders are to be sealed to this one.
    Key(Bytes),
    /// Sharer: to be passed on.
    Order(Bytes),
    /// The helper has no administrator's rights any more.
    Over,
}

/// Said to a helper who orders what only an administrator may.
pub(crate) const NO_RIGHTS: &str = "there are no administrator's rights; /elevate asks for them";

/// The order, as it is said to the sharer.
///
/// # Errors
/// A code, and words, for the helper instead.
pub(super) fn seal(
    orders: Option<&mut Orders>,
    order: &Order,
) -> Result<Command, (&'static str, &'static str)> {
    let orders = orders.ok_or(("NOT_ELEVATED", NO_RIGHTS))?;
    let sealed = orders.seal(order).map_err(|_| {
        let text = "a name has at most 128 bytes and no spaces, a password 511, a command 2048";
        ("INVALID_ORDER", text)
    });
    let order = ElevationOrder {
        sealed: sealed?.1.into(),
    };
    Ok(Command::Elevated(Body::ElevationOrder(order)))
}

/// `Sam Okafor (Contoso)`
pub(super) fn who(person: &Profile) -> String {
    let name = &person.full_name;
    match person.company.trim() {
        "" => name.clone(),
        company => format!("{name} ({company})"),
    }
}

/// What somebody reads who has touched a computer that a helper works at.
pub(super) fn notice(helper: &Profile, within: Duration) -> String {
    let (who, seconds) = (who(helper), within.as_secs());
    format!(
        "{who} is working on this device.\nKeyboard and mouse are paused for {seconds} seconds for both of you."
    )
}

/// What stands on the bar from this event on, if that changes.
pub(super) fn question(event: &SessionEvent) -> Option<Option<Question>> {
    Some(match event {
        SessionEvent::Countdown { mode, within } => Some(Question::Countdown {
            mode: *mode,
            until: Instant::now() + *within,
        }),
        SessionEvent::ElevationPrompt { .. } => Some(Question::Elevation),
        SessionEvent::RestartPrompt { .. } => Some(Question::Restart),
        SessionEvent::HandoverPrompt { .. } => Some(Question::Handover),
        SessionEvent::LeaveWarning { signs_out: true } => Some(Question::SignOut),
        SessionEvent::LeaveWarning { signs_out: false } => Some(Question::Reclaim),
        SessionEvent::Starting { .. }
        | SessionEvent::ElevationGranted
        | SessionEvent::ElevationDeclined
        | SessionEvent::RestartDeclined
        | SessionEvent::HandingOver { .. }
        | SessionEvent::HandoverDeclined
        | SessionEvent::Stayed
        | SessionEvent::Interrupted { .. } => None,
        _ => return None,
    })
}
