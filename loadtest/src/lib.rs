//! `remora-loadtest`: loads a relay, measures what that costs, and compares it with others under the same load.
//!
//! ```text
//!  cli ─▶ scenario ─▶ subject: relay with real nodes │ plain forwarder │ coturn
//!               │          │ lanes, process
//!               │          ▼
//!               │       traffic: frames in, frames out ─▶ measure: medians ─▶ report: table, JSON
//!               ├─▶ crowd, setup: thousands of nodes, sessions by code ─────────┤
//!               └─▶ natlab: two nodes behind real NATs ─────────────────────────┘
//! ```

// Commands and flags.
pub mod cli;
// The verbs: runs in turns, and what they say.
pub mod scenario;

// --- what is measured ---
// The relay: one of our own, or somebody's.
pub mod relay;
// Several relays, which come and go.
pub mod fleet;
// A relay, a plain forwarder or coturn, with its sessions.
pub mod subject;
// The plain forwarders.
pub mod forwarder;
// One session as the load sees it.
pub mod lane;
// Other processes, and what they cost.
pub mod process;

// --- the load ---
// Many nodes on a few sockets.
pub mod crowd;
// Sessions set up by a crowd.
pub mod setup;
// What one of the two people does and waits for.
pub mod people;
// Two real nodes that talk, whatever happens to their relay.
pub mod talk;
// Many of them, and what became of all.
pub mod talks;
// Many datagrams in one system call.
pub mod mmsg;
// What somebody sends who wants a relay to fail.
pub mod flood;
// A relay of the fleet that wants to fill the others.
pub mod hostile;
// Frames in, frames out, counted.
pub mod traffic;

// Every alert, set off.
pub mod provoke;

// --- networks ---
// Two nodes behind real NATs.
pub mod natlab;
// Places that can be cut off from each other.
pub mod sites;

// --- what is said ---
// Ctrl-C and SIGTERM.
pub mod interrupt;
// Runs become figures.
pub mod measure;
// Progress, table, JSON.
pub mod report;
// All of it on one page.
pub mod page;
