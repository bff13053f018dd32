//! The sharer asks first: `remora request` asks the help desk of this person's organisation, `remora requests` lists who waits, and
//! `remora take` helps one of them.
//!
//! ```text
//!  sharer: waiting ── Publish, QueueUp ──▶ its relay ◀── FetchQueue ── any relay of the fleet ◀── looking :helper
//!             │ ◀──────────────── Ring, Noise: Look ─────────────────────────────────────────────────┤
//!             │ ───── its card, what for, how long; or no, by the person's policy ──────────────────▶│ requests
//!             │ ◀──────────────── Ring, Noise: Offer (`invitation`) ────────────────────────────── take
//!             ▼ the first: opened at once
//!           join, as with any code: card, words, consent
//! ```
//!
//! A request is a device with a key of its own that is thrown away with it (`proto::invitation::asking`). Relays know that somebody waits
//! for help of an organisation, and how long, by a key that means nothing; who it is and what for stays between the person's computer and
//! those that may help there.

/// The helper's list.
pub mod list;
/// Rings at those who wait.
pub(crate) mod looking;
/// The helper takes one.
pub mod take;
/// The sharer's part.
pub mod waiting;

use std::sync::Arc;

use remora_proto::id::OrgId;

use crate::{
    cli,
    error::{Exit, Failure},
    identity::{Identity, Member},
    node::Options,
};

/// The organisation whose desk it is.
fn member(identity: &Identity) -> Result<&Arc<Member>, Failure> {
    identity.member.as_ref().ok_or_else(|| {
        Failure::new(
            Exit::NotPermitted,
            "NO_ORGANISATION",
            "this computer belongs to no organisation, and so to no help desk; sign in at yours with `remora setup https://…`, \
             or call who helps you, and type the code they read out into `remora join`",
        )
    })
}

fn org(member: &Member) -> OrgId {
    member.policy().header.issuer
}

/// All of it goes through the relay: nobody meets anybody yet.
pub(crate) fn options(tcp: &cli::Tcp, member: &Arc<Member>) -> Options {
    let options = match tcp.tcp_only {
        true => Options::tcp_only(),
        false => Options::relay_only(),
    };
    Options {
        member: Some(Arc::clone(member)),
        ..options
    }
}
