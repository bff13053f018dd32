//! The helper's side of the screen.
//!
//! ```text
//!  sharer ─▶ streams ─▶ incoming: late ones out ─▶ page
//! ```

/// Frames from the network, as they come.
pub mod incoming;
