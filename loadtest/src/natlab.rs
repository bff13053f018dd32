//! Two nodes, a relay, and real NATs between them: Linux network namespaces in one process, without root.
//!
//! ```text
//!  edge: what stands there ─▶ lab: namespaces, gateways, wires ─▶ classify: it behaves as named ─▶ trial: nodes meet
//!                                                                                                     └▶ living: what a session bears
//! ```

/// What is kept from a node.
mod barrier;
/// What plain sockets say of a NAT.
pub mod classify;
/// Counters in front of a node.
mod counter;
/// What may stand between a node and everybody else.
pub mod edge;
/// What a gateway does, in nftables.
mod gateway;
/// The network of two nodes, with a relay in it.
pub mod lab;
/// What a session bears while it lives.
pub mod living;
/// Two nodes' meeting.
mod meeting;
/// A site's HTTP proxy.
mod proxy;
/// Tasks in a router's namespace.
mod service;
/// The system's tools, in a namespace.
pub(crate) mod tool;
/// One session of two real nodes: through the relay, and then?
pub mod trial;
/// Links with a delay.
mod wire;
