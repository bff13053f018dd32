//! The sharer's side of the screen: what is shown, what may be done to it, and what tells the sharer about both.
//!
//! ```text
//!  screen ─▶ capture ─▶ Changes, Pixels ─▶ remora_picture ─▶ outgoing ─▶ helper
//!  screen ◀─ inject  ◀─ permit ◀─ hands ◀─────────────────────── helper's keys and pointer
//!  screen ◀─ overlay ◀────────────────────────────────────────── helper's laser pointer and pen
//!  sharer ◀▶ bar        who, which mode, how long; Pause, Stop control, Leave
//! ```
//!
//! Each part has a connection to the display of its own and knows no other part: a stuck bar does not hold up keys, and
//! a slow grab does not hold up the bar. Linux with X11 is real; Wayland, Windows and macOS say
//! `CaptureError::Platform` until they are written behind the same traits.

/// The sharer's bar on the desktop.
#[cfg(unix)]
pub mod bar;
/// Where pixels come from.
pub mod capture;
/// Which screen is shared.
#[cfg(unix)]
pub mod desktop;
/// The helper's hands on the sharer's screen.
#[cfg(unix)]
pub mod hands;
/// Where keys and pointer go, and what stands before it.
pub mod inject;
/// The picture's frames on their way.
pub mod outgoing;
/// What the helper draws on the sharer's screen.
#[cfg(unix)]
pub mod overlay;
/// What this machine lacks for sharing.
pub mod preflight;
/// Capture and encoder on a thread of their own.
#[cfg(unix)]
pub mod projector;
/// What of the screen must not be seen.
#[cfg(unix)]
pub mod prompts;
/// What one session does to the sharer's screen.
#[cfg(unix)]
pub mod sharing;
/// What the parts on X11 have in common: connecting, and what its errors mean.
#[cfg(unix)]
pub(crate) mod x11;
