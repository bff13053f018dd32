//! The picture of a session: what changed on the sharer's screen as bytes, and those bytes as pixels again. Pure: no socket,
//! clock, file or thread. A crate of its own because it is nearly all of the node's arithmetic: `./check` optimises it, and
//! not what is around it, which only waits.
//!
//! ```text
//!  pixels, damage, budget ─▶ encode ─▶ frame (bytes) ─ … ─▶ decode ─▶ canvas: pixels
//! ```

/// Frames to pixels.
pub mod decode;
/// Pixels to frames.
pub mod encode;
/// What of the screen goes over the network, as bytes.
pub mod frame;
/// What a screen, or a canvas, shows.
pub mod pixels;
