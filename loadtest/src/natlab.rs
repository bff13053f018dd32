//! Two nodes, a relay, and real NATs between them: Linux network namespaces in one process, without root.
//!
//! ```text
//!  edge: what stands there ─▶ lab: namespaces, nftables, wires ─▶ classify: it behaves as named ─▶ trial: nodes meet
//! ```

/// What plain sockets say of a NAT.
pub mod classify;
/// Counters in front of a node.
mod counter;
/// What may stand between a node and everybody else.
pub mod edge;
/// The network of two nodes, with a relay in it.
pub mod lab;
/// The system's tools, in a namespace.
mod tool;
/// One session of two real nodes: through the relay, and then?
pub mod trial;
/// Links with a delay.
mod wire;
