//! Machines of what goes between the two beside picture and words: the clipboard's text, and files. Both are offers: what is
//! offered is sent when the other side asks for it, and neither is offered or asked for without the sharer's grant
//! ([`Rights::grants`](crate::session::Rights)), which may end at any moment.
//!
//! ```text
//!  what is on the clipboard, a file ─▶ offer ──── control ────▶ shown, or lazily on the clipboard
//!                                      send ◀──── control ───── somebody inserts, or accepts
//!                                        └── a stream of its own ──▶ checked, handed over
//! ```

/// The clipboard's text.
pub mod clipboard;
/// Files.
pub mod files;
/// What a file may be called here.
pub mod name;
