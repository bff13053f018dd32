//! Remora's node: the program on either person's machine. A shell around `remora-proto`: it owns
//! sockets, tasks and time, and lets the machines decide.
//!
//! The way of a session through the modules, in that order:
//!
//! ```text
//!  cli ─▶ config ─▶ node ─▶ control ───── Noise-QUIC ─────▶ relay
//!                    │         │ notices
//!                    ▼         ▼
//!                 rendezvous (code → keys) ─▶ session/inner (inner connection) ─▶ session ─▶ event
//!                                                │ packets                                     │
//!                                  path/socket ◀─┘ frames                        terminal ◀────┘
//! ```
//!
//! Parts know `remora-proto` and the channels they were given; only `node.rs` knows all parts.

// --- what the person typed ---
/// Commands and flags.
pub mod cli;
/// What was typed, found in the environment or in the settings file, checked.
pub mod config;
/// One line that says what went wrong and what to do, and the exit code for it.
pub mod error;
/// A question over HTTP, and its answer.
mod http;
/// Who this node's person is in a session.
pub mod identity;
/// The provider's side of that: OpenID Connect.
mod oidc;
/// A member's policy, kept up to date.
mod policing;
/// Keys in files.
mod secret_file;
/// Signing in at an organisation's desk, by its provider.
pub mod sign_in;

// --- the node ---
/// The control connection to the relay.
pub mod control;
/// Waiting for a machine's next deadline.
mod deadline;
/// What a person or a script is told, step by step.
pub mod event;
/// Clipboard and files.
pub mod exchange;
/// The helper's side of the screen.
pub mod help;
/// The relays that the node knows, and its place at one of them.
pub mod homes;
/// A code as a link.
pub mod link;
/// Builds the parts and runs one session.
pub mod node;
/// One UDP socket; virtual sockets for quinn; frames through the relay.
pub mod path;
/// The picture on somebody's card.
pub mod portrait;
/// Drives the machines that turn a code into keys.
pub mod rendezvous;
/// Drives the session's machine over the inner connection.
pub mod session;
/// The sharer's screen: what of it is shown, and what may be done to it.
pub mod share;

// --- a help desk ---
/// Its page: devices, and the sessions that were begun there.
pub mod lobby;

// --- with an administrator's rights ---
/// The program that runs what a helper orders, as root.
#[cfg(target_os = "linux")]
pub mod broker;

// --- devices ---
/// A code that goes to a device.
pub mod invitation;
/// Says that this one is there, and asks whether another is.
pub mod presence;
/// Help that is asked for first.
pub mod request;

// --- what operators do ---
/// Orders to a relay's admin port; an organisation's key, people and policy.
pub mod admin;

// --- what people see ---
/// Plays a whole session in one process.
pub mod demo;
/// What is wrong here, and what somebody else needs to know of it.
pub mod doctor;
/// What the network lets through.
pub mod netcheck;
/// The relay, and the sessions that live on this machine.
pub mod status;
/// `invite` and `join` in a terminal, in a pipe, and for scripts.
pub mod terminal;
/// The page in the browser: loopback only, opened by a one-time token.
pub mod ui;
