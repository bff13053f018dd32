//! What stands between a node and the core, and what follows from that for two nodes: the prediction that tests of the machine
//! in virtual time, and of nodes behind real NATs, are held to.

use super::internet::{Behaviour, DependsOn};

/// Whether the mapping of a node behind `gateways` is the same for everybody.
fn is_independent(gateways: &[Behaviour]) -> bool {
    let mut mappings = gateways.iter().map(|gateway| gateway.mapping);
    mappings.all(|mapping| mapping == DependsOn::Nothing)
}

/// Whether strangers who know the mapping get in: by address is enough, for theirs does not change.
fn lets_in_any_port(gateways: &[Behaviour]) -> bool {
    let mut filters = gateways.iter().map(|gateway| gateway.filtering);
    filters.all(|filtering| filtering != DependsOn::AddressAndPort)
}

/// Whether ordinary checks make a path between nodes behind these gateways, by what the gateways are alone; each side's from
/// the inside out, no gateway of one the other's.
pub fn reaches(ours: &[Behaviour], theirs: &[Behaviour]) -> bool {
    match (is_independent(ours), is_independent(theirs)) {
        (true, true) => true,
        (false, true) => lets_in_any_port(theirs),
        (true, false) => lets_in_any_port(ours),
        (false, false) => false,
    }
}
