//! The checks of one attempt: when each is due, and by which way it goes.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::Plan;
use crate::{
    id::Side,
    path::way::{Base, Way},
};

/// Ports after the last one seen that are tried: the peer's sockets, and others' in between.
pub(super) const AHEAD: u16 = 48;
/// Checks of a matched burst.
pub(super) const BURST: u16 = 64;
/// So many ports, at most, others may have taken between the samples and the bursts.
const DRIFT: u16 = 16;
/// Between two checks of the leading side, each from another socket, and of a burst.
pub(super) const LEAD_PACE: Duration = Duration::from_millis(1);
/// Between two checks of the following side: 500 a second. At 200, as few as it takes at the median are a second.
pub(super) const FOLLOW_PACE: Duration = Duration::from_millis(2);
/// Between the beginnings of the leading side's rounds, if they are short; six of the longest last as long as the other's ports.
const ROUND: Duration = Duration::from_millis(100);
const LONG_ROUND: Duration = Duration::from_millis(550);
/// What is later than this is not caught up with: all that comes after it is later, too.
const LATE: Duration = Duration::from_millis(10);
/// The lowest port that NATs give.
const FIRST_PORT: u16 = 1024;

/// Where the checks go.
#[derive(Debug)]
enum Order {
    /// From each of some sockets to one address, and again.
    Rounds {
        first: Base,
        sockets: u16,
        to: SocketAddr,
        every: Duration,
    },
    /// From the main socket to ports of one host.
    Ports { ip: IpAddr, ports: Ports },
    /// From one socket to ports of one host in turn.
    Burst {
        base: Base,
        ip: IpAddr,
        port: u16,
        step: u16,
        is_host: bool,
    },
}

/// Ports of one host, by number.
#[derive(Clone, Copy, Debug)]
enum Ports {
    /// The next ones.
    Next { port: u16, step: u16 },
    /// Those of a block, each once, then those on both sides of it.
    Block { first: u16, size: u16 },
}

/// The machine of it.
#[derive(Debug)]
pub(super) struct Volley {
    began: Instant,
    sent: u16,
    total: u16,
    order: Order,
}

impl Volley {
    /// The leading side's: from sockets numbered from `first` to the other's one address.
    pub(super) fn lead(plan: Plan, first: Base, to: SocketAddr, now: Instant) -> Self {
        let sockets = plan.sockets();
        let every = if plan == Plan::Spray {
            LONG_ROUND
        } else {
            ROUND
        };
        let order = Order::Rounds {
            first,
            sockets,
            to,
            every,
        };
        Self::new(order, sockets * plan.rounds(), now)
    }

    /// The following side's, to `ip`, where `port` has just been given; `None` when nothing comes of it.
    pub(super) fn follow(plan: Plan, ip: IpAddr, port: u16, now: Instant) -> Self {
        let ports = match plan {
            Plan::Predict { step } => Ports::Next { port, step },
            Plan::Block { first, size } => Ports::Block { first, size },
            Plan::Spray | Plan::Bursts { .. } => Ports::Block {
                first: FIRST_PORT,
                size: u16::MAX - FIRST_PORT,
            },
        };
        Self::new(Order::Ports { ip, ports }, plan.followed_by(), now)
    }

    /// A matched burst's, from `base`, to `ip`, where `port` has just been given.
    pub(super) fn burst(base: Base, to: SocketAddr, step: u16, side: Side, now: Instant) -> Self {
        let order = Order::Burst {
            base,
            ip: to.ip(),
            port: to.port(),
            step,
            is_host: side == Side::Host,
        };
        Self::new(order, BURST, now)
    }

    fn new(order: Order, total: u16, now: Instant) -> Self {
        Self {
            began: now,
            sent: 0,
            total,
            order,
        }
    }

    /// When the next check is; `None` when there is no more.
    pub(super) fn due(&self) -> Option<Instant> {
        let number = u32::from(self.sent);
        let after = match &self.order {
            Order::Ports { .. } => FOLLOW_PACE * number,
            Order::Burst { .. } => LEAD_PACE * number,
            Order::Rounds { sockets, every, .. } => {
                let sockets = u32::from(*sockets);
                *every * (number / sockets) + LEAD_PACE * (number % sockets)
            }
        };
        (self.sent < self.total).then(|| self.began + after)
    }

    /// The next check that is due, if it goes anywhere.
    pub(super) fn next(&mut self, now: Instant) -> Option<Way> {
        let late = now.saturating_duration_since(self.due()?);
        if late > LATE {
            self.began += late;
        }
        let number = self.sent;
        self.sent += 1;
        match &self.order {
            Order::Rounds {
                first, sockets, to, ..
            } => Some(Way {
                base: Base(first.0 + number % sockets),
                to: *to,
            }),
            Order::Ports { ip, ports } => {
                let port = ports.port(number)?;
                Some(Way::main(SocketAddr::new(*ip, port)))
            }
            Order::Burst {
                base,
                ip,
                port,
                step,
                is_host,
            } => {
                // Both count what others have taken as one sum: one of the host's checks fits whatever it is.
                let number = number + 1;
                let drift = if *is_host { (number - 1) % DRIFT } else { 0 };
                let port = port.checked_add((number + drift).checked_mul(*step)?)?;
                let to = SocketAddr::new(*ip, port);
                Some(Way { base: *base, to })
            }
        }
    }
}

impl Ports {
    fn port(self, number: u16) -> Option<u16> {
        let port = match self {
            Self::Next { port, step } => {
                let step = if step <= 2 { step } else { 1 };
                port.checked_add((number % AHEAD + 1) * step)
            }
            Self::Block { first, size } if number < size => {
                first.checked_add(scattered(number, size))
            }
            Self::Block { first, size } => {
                // Below and above it, as far as it is wide.
                let around = size.checked_mul(2)?;
                let number = number - size;
                if number >= around {
                    return None;
                }
                let at = scattered(number, around);
                if at < size {
                    first.checked_sub(size - at)
                } else {
                    first.checked_add(at)
                }
            }
        };
        port.filter(|port| *port >= FIRST_PORT)
    }
}

/// The `number`th of 0 to `size - 1` in an order in which any that follow each other are spread over all of them: by the golden
/// ratio (Knuth, TAOCP 3, §6.4). Which ports a NAT gives does not depend on it, so that it is as good as any at random.
fn scattered(number: u16, size: u16) -> u16 {
    let (number, size) = (u32::from(number), u32::from(size));
    let golden = (size * 618 / 1000).max(1);
    let stride = (golden..).find(|stride| gcd(*stride, size) == 1);
    let at = number * stride.unwrap_or(1) % size;
    u16::try_from(at).unwrap_or(u16::MAX)
}

fn gcd(one: u32, other: u32) -> u32 {
    if other == 0 {
        one
    } else {
        gcd(other, one % other)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_port_of_a_block_comes_once_before_any_other(first in 1024..50_000_u16, size in 1..10_000_u16) {
            let ports = Ports::Block { first, size };
            let within: BTreeSet<_> = (0..size).filter_map(|n| ports.port(n)).collect();
            prop_assert_eq!(within.len(), usize::from(size));
            prop_assert!(within.iter().all(|port| (first..first + size).contains(port)));
            let around: Vec<_> = (size..u16::MAX).map_while(|n| (n < size.saturating_mul(3)).then(|| ports.port(n)))
                .flatten().collect();
            let distinct: BTreeSet<_> = around.iter().copied().collect();
            prop_assert_eq!(distinct.len(), around.len());
            prop_assert!(distinct.is_disjoint(&within));
        }
    }

    #[expect(clippy::disallowed_methods, reason = "any moment is a start")]
    fn start() -> Instant {
        Instant::now()
    }

    /// The ports of a burst by the number of the check, from 1.
    fn burst(side: Side, seen: u16, step: u16) -> Vec<u16> {
        let to = SocketAddr::from(([203, 0, 113, 1], seen));
        let mut volley = Volley::burst(Base(1), to, step, side, start());
        let ways = std::iter::from_fn(|| volley.due().map(|due| volley.next(due)));
        ways.flatten().map(|way| way.to.port()).collect()
    }

    #[test]
    fn bursts_match_whatever_others_take_up_to_fifteen_in_all() {
        let (host_seen, joiner_seen) = (20_000, 30_000);
        for (host_step, joiner_step) in [(1, 1), (2, 1), (4, 8)] {
            let host = burst(Side::Host, joiner_seen, joiner_step);
            let joiner = burst(Side::Joiner, host_seen, host_step);
            assert_eq!((host.len(), joiner.len()), (64, 64));
            for taken in 0..16_u16 {
                for by_host in 0..=taken {
                    let own = |seen, step, taken: u16, number: usize| {
                        seen + (u16::try_from(number).expect("64") + 1 + taken) * step
                    };
                    let matches = (0..64).any(|i| {
                        (0..64).any(|j| {
                            host[i] == own(joiner_seen, joiner_step, taken - by_host, j)
                                && joiner[j] == own(host_seen, host_step, by_host, i)
                        })
                    });
                    assert!(matches, "{host_step} {joiner_step} {taken} {by_host}");
                }
            }
        }
    }

    #[test]
    fn what_is_late_is_not_caught_up_with() {
        let start = start();
        let mut volley = Volley::follow(Plan::Spray, IpAddr::from([203, 0, 113, 1]), 0, start);
        let later = start + Duration::from_secs(2);
        let sent = std::iter::from_fn(|| {
            volley.due().filter(|due| *due <= later)?;
            volley.next(later)
        });
        assert!(sent.count() <= 6);
    }
}
