//! What an organisation says of its people and devices, and what follows from it for a session.
//!
//! Nothing in here holds a secret of the two people, and a relay needs none of it but the envelope of a policy.

/// What a helper may do: a closed set.
pub mod permission;
