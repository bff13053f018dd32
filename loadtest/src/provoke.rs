//! Every alert of `deploy/prometheus` is set off: what each is for is done to real relays, and a Prometheus says that it has noticed.
//!
//! ```text
//!  alert ─▶ cause: relays of its own, on a stage ─▶ scraped by Prometheus, with rules that are faster ─▶ fires?
//!                │
//!                └─▶ people who guess, are slow, go away: at relays of one's own, or at a fleet that runs
//! ```

// Which there are, and what sets each off.
pub mod alert;
// What happens to relays.
pub mod causes;
// What Prometheus remembers of last week.
pub mod history;
// More than a relay can take.
pub mod hose;
// What people do.
pub mod people;
// A server that scrapes, and says what fires.
pub mod prometheus;
// Rules whose time goes faster.
pub mod rules;
// Relays that are started, scraped, ended.
pub mod stage;
