//! Remora's relay: introduces nodes by code and forwards frames it cannot read.
//!
//! The way of a datagram, and the modules in that order:
//!
//! ```text
//!             ┌────────── one UDP port, a socket and a thread for each worker ─────────┐
//!  datagrams ─┤ datapath::batch ─▶ demux ─┬─ frames ─▶ table ─▶ forward ─▶ one send ───├─▶ the same bytes
//!             │                           ├─ reflect ─▶ "I see you at …" ──────────────├─▶ to where it came from
//!             │                           ├─ QUIC ─▶ queues ─▶ control::driver ────────├─▶ control::connection
//!             │                           └─ else: dropped, counted                    │            │ requests
//!             └────────────────────────────────────────────────────────────────────────┘            ▼
//!                        table ◀── allocations ── control::registry ◀── exchanges ── rendezvous
//! ```
//!
//! A node's peer may be at another relay: rendezvous, registry and table reach those through [`mesh`].
//!
//! Where UDP does not go, datagrams come by [`stream`]: TCP ─▶ TLS ─▶ WebSocket ─▶ a socket on loopback ─▶ the UDP port.
//!
//! `remora-proto` comes without its feature `end-to-end`: nothing here can even name a code's secret, the PAKE or
//! the session, so nothing here can read one.
//!
//! Only [`relay`] knows all parts; every other part knows the protocol and the channels it was given.

#[cfg(all(feature = "console", not(tokio_unstable)))]
compile_error!("the feature `console` wants RUSTFLAGS=\"--cfg tokio_unstable\"");

// --- what it is told, and who it is ---
// Flags and environment, as typed and as checked.
pub mod config;
// The static key: loaded, created, refused when others could read it.
pub mod identity;
// Keys and tokens in files that nobody else can read.
mod secret_file;
// Lines of JSON, with the relay's name.
pub mod log;
// Sessions as traces.
#[cfg(feature = "otlp")]
pub mod traces;
// Ports below 1024.
pub mod low_ports;
// As many sockets as the system allows.
pub mod open_files;

// --- datagram → demux → session table → forward → datagram ---
// The threads that receive and forward.
pub mod datapath;
// 443/tcp: datagrams by a WebSocket, where UDP does not go.
pub mod stream;
// Other ports that say how they see a node, so that it learns what its NAT does.
pub mod observer;
// Token buckets: bytes of a session, look-ups of a source, requests of a connection.
pub mod rate;

// --- nodes, and how two of them meet ---
// QUIC connections of nodes, and the registry of what they agreed on.
pub mod control;
// Where locator records are kept: here, and at the relays closest to them.
pub mod rendezvous;
// Other relays: who they are, what they ask, what they are asked.
pub mod mesh;

// --- the whole, its life and what an operator sees ---
// Probes, metrics and the operator's orders on a port of their own.
pub mod admin;
// The last lines of the log.
pub mod recent;
// What this program asks a relay that runs beside it.
pub mod ask;
// What is wrong before it runs.
pub mod doctor;
// What keeps it from serving, and what is merely wrong.
pub mod health;
// Machine: serving → draining → done.
pub mod drain;
// Builds the parts; spawns, owns and ends every task.
pub mod relay;
