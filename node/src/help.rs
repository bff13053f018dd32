//! The helper's side of the screen.
//!
//! ```text
//!  sharer ─▶ streams ─▶ incoming: late ones out ─▶ page
//!                                              └─▶ view ─▶ remora_picture: a canvas, for programs
//! ```

/// Frames from the network, as they come.
pub mod incoming;
/// The picture of a session, looked at by a program: the demo, tests, measurements.
pub mod view;
