//! What is done when one NAT at least has another port for each destination, and checks alone find nothing.
//!
//! | one side × the other | plan | the side that leads | the side that follows |
//! |---|---|---|---|
//! | ports in turn × the same address for all | predict | a fresh sample; 16 sockets, three rounds | the next 48 ports, four rounds |
//! | ports of a block × the same | block | 64 sockets, or 128, three rounds | the block's ports, then those next to it, up to 1,024 |
//! | any port × the same | spray | 256 sockets, six rounds | 1,536 ports |
//! | ports in turn × ports in turn | bursts | a fresh sample each, 64 checks | the same |
//! | any other two | none: the relay | | |
//!
//! Who has the harder NAT leads, or the host of two equal ones. It says with its candidates that an attempt begins, and the
//! port of its sample; the other one follows then. So nobody sends what the other does not wait for.

use std::time::Duration;

use super::nat::{Allocation, Mapping, Nat};
use crate::id::Side;

/// A run of a plan.
mod run;
/// The checks of an attempt.
mod volley;

pub(super) use run::{Planner, Situation};

/// A plan, with what it has to know of the NATs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// One NAT gives ports in turn.
    Predict {
        /// From one to the next.
        step: u16,
    },
    /// One NAT gives ports of a block.
    Block {
        /// The lowest.
        first: u16,
        /// How many.
        size: u16,
    },
    /// One NAT gives any port.
    Spray,
    /// Both give ports in turn.
    Bursts {
        /// Ours.
        own: u16,
        /// The peer's.
        peer: u16,
    },
}

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This side.
    Leads,
    /// The other one.
    Follows,
}

/// What there is to do beyond checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Nothing, or nothing is known.
    Checks,
    /// A plan.
    Plan(Plan, Role),
    /// Nothing: it would take some 2^16 checks.
    Hopeless,
}

impl Plan {
    /// By both sides' NATs; the other side chooses the same.
    pub fn choose(own: &Nat, peer: &Nat, side: Side) -> Choice {
        match (own.mapping, peer.mapping) {
            (Mapping::Unknown, _)
            | (_, Mapping::Unknown)
            | (Mapping::Independent, Mapping::Independent) => Choice::Checks,
            (Mapping::Dependent(allocation), Mapping::Independent) => {
                Choice::Plan(Self::against(allocation), Role::Leads)
            }
            (Mapping::Independent, Mapping::Dependent(allocation)) => {
                Choice::Plan(Self::against(allocation), Role::Follows)
            }
            (
                Mapping::Dependent(Allocation::Sequential { step: own }),
                Mapping::Dependent(Allocation::Sequential { step: peer }),
            ) => {
                let role = match side {
                    Side::Host => Role::Leads,
                    Side::Joiner => Role::Follows,
                };
                Choice::Plan(Self::Bursts { own, peer }, role)
            }
            (Mapping::Dependent(_), Mapping::Dependent(_)) => Choice::Hopeless,
        }
    }

    fn against(allocation: Allocation) -> Self {
        match allocation {
            Allocation::Sequential { step } => Self::Predict { step },
            Allocation::Block { first, size } => Self::Block { first, size },
            Allocation::Random => Self::Spray,
        }
    }

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predict { .. } => "predict",
            Self::Block { .. } => "block",
            Self::Spray => "spray",
            Self::Bursts { .. } => "bursts",
        }
    }

    /// Sockets that the leading side sends from.
    pub const fn sockets(self) -> u16 {
        match self {
            Self::Predict { .. } => 16,
            // So that one of some 64 checks hits, in blocks of 4,096.
            Self::Block { size, .. } if size <= 2048 => 64,
            Self::Block { .. } => 128,
            Self::Spray => 256,
            Self::Bursts { .. } => 1,
        }
    }

    /// How often the leading side sends from each.
    const fn rounds(self) -> u16 {
        match self {
            Self::Predict { .. } | Self::Block { .. } => 3,
            Self::Spray => 6,
            Self::Bursts { .. } => 1,
        }
    }

    /// Checks of the following side in an attempt.
    const fn followed_by(self) -> u16 {
        match self {
            Self::Predict { .. } => volley::AHEAD * 4,
            Self::Block { .. } => 1024,
            // Of 64,512 ports: none of 256 is among so many in 0.2 % of cases; 1.7 % with 1,024.
            Self::Spray => 1536,
            Self::Bursts { .. } => volley::BURST,
        }
    }

    /// How long the two sides' checks of an attempt take, once both have begun.
    fn lasts(self) -> Duration {
        match self {
            Self::Bursts { .. } => volley::LEAD_PACE * u32::from(volley::BURST),
            Self::Predict { .. } | Self::Block { .. } | Self::Spray => {
                volley::FOLLOW_PACE * u32::from(self.followed_by())
            }
        }
    }

    /// Attempts of a run.
    pub const fn attempts(self) -> u32 {
        match self {
            Self::Predict { .. } => 3,
            Self::Block { .. } => 2,
            Self::Spray => 1,
            Self::Bursts { .. } => 6,
        }
    }

    /// Most checks that a side sends in a run.
    pub const fn checks(self) -> u32 {
        let leads = match self {
            Self::Bursts { .. } => volley::BURST,
            Self::Predict { .. } | Self::Block { .. } | Self::Spray => {
                self.sockets() * self.rounds()
            }
        };
        let follows = self.followed_by();
        let most = if leads > follows { leads } else { follows };
        most as u32 * self.attempts()
    }
}
