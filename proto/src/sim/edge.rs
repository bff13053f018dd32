//! What stands between a node and the core, and what follows from that for two nodes: the prediction that tests of the machine
//! in virtual time, and of nodes behind real NATs, are held to.

use super::internet::{Behaviour, DependsOn, Ports};
use crate::{
    id::Side,
    path::{
        nat::{Allocation, Mapping, Nat},
        plan::{Choice, Plan},
    },
};

/// How two nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Each asks the other a few times.
    Checks,
    /// By this plan.
    Plan(Plan),
    /// Not at all, but through the relay.
    Relay,
}

impl Reach {
    /// Of nodes behind these gateways, by what the gateways are alone; each side's from the inside out, no gateway of one the
    /// other's.
    pub fn between(ours: &[Behaviour], theirs: &[Behaviour]) -> Self {
        if reaches(ours, theirs) {
            return Self::Checks;
        }
        match Plan::choose(&nat(ours), &nat(theirs), Side::Host) {
            Choice::Plan(plan, _) => Self::Plan(plan),
            Choice::Checks | Choice::Hopeless => Self::Relay,
        }
    }

    /// Most questions that a side sends until it is reached or given up, within ten seconds: of its plan, and while it looks
    /// for ways by ordinary checks, to a few addresses.
    pub fn checks(self) -> u32 {
        match self {
            Self::Checks => ORDINARY,
            Self::Plan(plan) => ORDINARY + plan.checks(),
            Self::Relay => ORDINARY,
        }
    }
}

/// Questions to two addresses in ten seconds, and to three that a plan has found.
const ORDINARY: u32 = 80;

/// What a survey finds of gateways in a row: the outermost one chooses the ports that others see.
pub fn nat(gateways: &[Behaviour]) -> Nat {
    let ports = gateways.iter().rev().map(|gateway| gateway.ports);
    let ports = { ports }.find(|ports| *ports != Ports::Preserved);
    let mapping = if is_independent(gateways) {
        Mapping::Independent
    } else {
        Mapping::Dependent(match ports {
            Some(Ports::Sequential(_)) => Allocation::Sequential { step: 1 },
            // Where it begins does not matter to what is chosen.
            Some(Ports::Block(size)) => Allocation::Block { first: 1024, size },
            Some(Ports::Random | Ports::Preserved) | None => Allocation::Random,
        })
    };
    Nat { mapping }
}

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
