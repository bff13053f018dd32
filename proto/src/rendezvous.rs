//! Two machines that turn a code into the keys of an inner connection, through a relay that learns nothing.
//!
//! ```text
//! Host                      relay                     Joiner
//!  WAITING ── Publish ──────▶ │ ◀────────── Lookup ─── LOOKING_UP
//!                             │ ─────────── Found ───▶ JOINING      (record checked)
//!  ANSWERED ◀── Offer: Ya ─── │ ◀───────────── Join ──
//!           ─── Signal: Yb ─▶ │ ── Signal ───────────▶ CONFIRMING
//!           ◀── Signal: Ta ── │ ◀──────────── Signal ──             (Ta is the guess)
//!  USED     ─── Admit: Tb ──▶ │ ── Allocated: Tb ────▶ JOINED
//!     or    ─── Dismiss ────▶ │ ── Dismissed ────────▶ FAILED       (3 wrong tags: BURNED)
//! ```
//!
//! What burns a code is the host's own count, never a relay's word (invariant 8 of `SESSION.md` §1.6).

mod host;
mod joiner;

use bytes::Bytes;
use prost::Message;
use zeroize::Zeroizing;

pub use host::{CodeEnd, Host, HostEvent, HostTransmit, LIFETIME, MAX_TRIES};
pub use joiner::{JoinFailure, Joiner, JoinerEvent, JoinerTransmit, T_JOIN};

use crate::{
    pake::{Inputs, Keys, lv_cat},
    record::{HostRole, Record, Waiting},
    wire::message::session::{self as schema, rendezvous::Body},
};

/// What the rendezvous hands on: the keys of the inner connection, known to these two nodes alone.
pub struct InnerKeys {
    /// Public name of the key, in the first message of the handshake.
    pub psk_id: [u8; 16],
    /// The key.
    pub psk: Zeroizing<[u8; 32]>,
    /// Channel identifier with both roles: goes into the Noise prologue.
    pub context: Vec<u8>,
}

impl InnerKeys {
    fn new(keys: &Keys, record: &Record<Waiting>) -> Self {
        Self {
            psk_id: keys.psk_id(),
            psk: keys.psk(),
            context: channel(record),
        }
    }
}

impl std::fmt::Debug for InnerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InnerKeys(…)")
    }
}

/// CPace's channel identifier: a record moved to another realm, role or key is another channel.
fn channel(record: &Record<Waiting>) -> Vec<u8> {
    let (host, joiner): (&[u8], &[u8]) = match record.subject.role {
        HostRole::Helper => (b"host=helper", b"joiner=sharer"),
        HostRole::Sharer => (b"host=sharer", b"joiner=helper"),
    };
    lv_cat(&[
        b"mnq1",
        record.realm.as_bytes(),
        host,
        joiner,
        &record.publisher,
    ])
}

fn inputs(record: &Record<Waiting>, joiner_nonce: &[u8; 16]) -> Inputs {
    Inputs {
        channel: channel(record),
        session: [record.subject.nonce, *joiner_nonce].concat(),
    }
}

fn encode(body: Body) -> Bytes {
    schema::Rendezvous { body: Some(body) }
        .encode_to_vec()
        .into()
}

fn decode(payload: &[u8]) -> Option<Body> {
    schema::Rendezvous::decode(payload).ok()?.body
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}
