//! Where the relay that a node is at is itself, if it was reached by a name that leads to others, too. And other relays of its fleet, which
//! it names: one of them is gone to when this one has much more to do, and when it is gone. Nobody has to tell the nodes that there is
//! one more.

use std::time::Duration;

use remora_proto::{
    id::{RelayAddr, RelayId, may_be_relay},
    random::Random,
    wire::reflect::Load,
};

use super::{Homes, Near, attached::Attached, measure, resolve};

/// So many are heard of: as many as a relay names.
const MAX_LEARNED: usize = 8;
/// A relay with fewer nodes than this has nothing to share.
const MANY: usize = 64;
/// Somebody else is as near if he is no farther away than this more, or a quarter more.
const AS_NEAR: Duration = Duration::from_millis(10);

impl Homes {
    /// Who else there is, as the relay at `home` says; and a place at one of those, or at its own address, if that is better.
    pub(crate) async fn learn(&mut self, home: Attached) -> Attached {
        let is_here = home.socket.relay().ip().to_canonical().is_loopback();
        let welcome = &home.control.welcome;
        // Nobody says where another one is.
        let own = welcome.own_address.parse().ok();
        let own = own.filter(|own: &RelayAddr| own.id == home.id());
        let others = welcome.others.iter().take(MAX_LEARNED);
        let others = others.filter_map(|text| text.parse::<RelayAddr>().ok());
        let told: Vec<_> = own
            .into_iter()
            .chain(others.filter(|other| other.id != home.id()))
            .filter(|told| self.is_worth_knowing(told.id))
            .collect();
        // Whoever cannot be found is nobody to go to.
        let mut learned = resolve(&told, &self.options).await.unwrap_or_default();
        learned.retain(|near| {
            near.address
                .is_some_and(|at| may_be_relay(at.ip(), is_here))
        });
        let is_named = |near: &Near| {
            self.near
                .iter()
                .any(|named| named.relay.id == near.relay.id)
        };
        if learned.iter().any(is_named) && !self.options.tcp_only {
            // How far away the name is says nothing.
            measure::measure(&mut learned).await;
            learned.sort_by_key(Near::rank);
        }
        self.learned = learned;
        let home = self.at_its_own_address(home).await;
        if self.options.only_named {
            return home;
        }
        let load = u8::try_from(home.control.welcome.load).map_or(Load::FULL, Load::from_byte);
        let has_little = load < Load::of_nodes(MANY);
        if has_little || self.options.tcp_only || home.socket.is_by_stream() {
            return home;
        }
        self.share(home).await
    }

    /// Whether it is news where that relay is: nobody has named it, or only by a name that leads to others, too.
    fn is_worth_knowing(&self, relay: RelayId) -> bool {
        let mut named = self.near.iter().filter(|near| near.relay.id == relay);
        match self.options.only_named {
            true => named.any(|near| self.is_shared(near)),
            false => named.all(|near| self.is_shared(near)),
        }
    }

    /// At the same relay, so that whatever has to reach it again does.
    async fn at_its_own_address(&self, mut home: Attached) -> Attached {
        let Some(own) = self.learned.iter().find(|near| near.relay.id == home.id()) else {
            return home;
        };
        if own.address == Some(home.control.relay) {
            home.relay = own.relay.clone();
            return home;
        }
        match Attached::connect(own, &self.options).await {
            Ok(direct) => {
                tracing::debug!(relay = %own.relay.host_port, "at its own address");
                home.close().await;
                direct
            }
            Err(failure) => {
                tracing::info!(relay = %own.relay.host_port, %failure, "not reached at its own address");
                home
            }
        }
    }

    /// A place at a relay that is as near and has clearly less to do, or where we are.
    async fn share(&mut self, home: Attached) -> Attached {
        // Those that there was a choice of were asked a moment ago.
        for known in [&mut self.near, &mut self.learned] {
            if known.iter().any(|near| !near.is_asked) {
                measure::measure(known).await;
            }
        }
        for known in [&mut self.near, &mut self.learned] {
            known.sort_by_key(Near::rank);
        }
        let at_home = |near: &&Near| near.relay.id == home.id() && near.rtt.is_some();
        let all = self.own_first();
        let Some(ours) = all.iter().copied().find(at_home) else {
            return home;
        };
        let all = all.into_iter().filter(|near| !self.is_shared(near));
        let less = all.filter(|near| is_better(near, ours)).collect();
        let Some(chosen) = less_of_two(less, &mut Random::system()) else {
            return home;
        };
        match Attached::connect(chosen, &self.options).await {
            Ok(other) if !other.is_leaving() => {
                tracing::info!(relay = %chosen.relay.host_port, "has less to do, and is as near");
                home.close().await;
                other
            }
            Ok(_) => home,
            Err(failure) => {
                tracing::info!(relay = %chosen.relay.host_port, %failure, "not taken");
                home
            }
        }
    }
}

fn is_better(other: &Near, ours: &Near) -> bool {
    let (Some(there), Some(here)) = (other.rtt, ours.rtt) else {
        return false;
    };
    other.relay.id != ours.relay.id
        && there <= here + AS_NEAR.max(here / 4)
        && ours.load.is_more_than(other.load)
}

/// Of two at random the one with less to do: if all went to the least loaded, all who come at once would (Mitzenmacher, The Power
/// of Two Choices in Randomized Load Balancing, 2001).
fn less_of_two<'a>(mut among: Vec<&'a Near>, random: &mut Random) -> Option<&'a Near> {
    let mut draw = || {
        let place = usize::from_ne_bytes(random.bytes()).checked_rem(among.len())?;
        Some(among.swap_remove(place))
    };
    let (one, other) = (draw(), draw());
    one.into_iter().chain(other).min_by_key(|near| near.load)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(number: u8, rtt_ms: Option<u64>, nodes: usize) -> Near {
        Near {
            relay: RelayAddr {
                host_port: format!("192.0.2.{number}:4433"),
                id: RelayId([number; 32]),
                tls: None,
            },
            address: None,
            is_asked: true,
            rtt: rtt_ms.map(Duration::from_millis),
            load: Load::of_nodes(nodes),
        }
    }

    #[test]
    fn better_is_who_is_as_near_and_has_clearly_less_to_do() {
        for (rtt_ms, better_up_to) in [(1, 11), (40, 50), (100, 125)] {
            let ours = near(1, Some(rtt_ms), 300);
            assert!(is_better(&near(2, Some(better_up_to), 200), &ours));
            assert!(!is_better(&near(2, Some(better_up_to + 1), 0), &ours));
            assert!(!is_better(&near(2, Some(1), 280), &ours), "a little less");
            assert!(!is_better(&near(2, None, 0), &ours), "no answer");
            assert!(
                !is_better(&near(1, Some(1), 0), &ours),
                "our own, by another address"
            );
        }
    }

    #[test]
    fn of_two_the_one_with_less_to_do_is_taken_and_each_is_taken_sometimes() {
        let relays = [
            near(1, Some(1), 10),
            near(2, Some(1), 100),
            near(3, Some(1), 1000),
        ];
        let mut taken = [0; 3];
        for seed in 0..300 {
            let mut random = Random::seeded(seed);
            let chosen = less_of_two(relays.iter().collect(), &mut random).expect("three");
            taken[usize::from(chosen.relay.id.0[0]) - 1] += 1;
        }
        assert_eq!(taken[2], 0, "there is always a better one");
        assert!(
            (150..=250).contains(&taken[0]) && taken[1] > 50,
            "{taken:?}"
        );
        let mut random = Random::seeded(1);
        assert!(less_of_two(vec![&relays[2]], &mut random).is_some());
        assert!(less_of_two(Vec::new(), &mut random).is_none());
    }
}
