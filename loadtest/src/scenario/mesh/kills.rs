//! A code is shown, any two relays die, be it the host's own, and the code is used.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one event is waited for among many"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error};
use rand::{RngExt as _, rngs::StdRng};
use remora::{
    error::Failure,
    event::Event,
    node::{Node, Options, Running},
};
use remora_proto::{code::Code, id::RelayAddr, rendezvous::LIFETIME};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::MEET;
use crate::{
    fleet::Fleet,
    measure::{Latencies, float},
    people::{name, person, until},
    report::{failures, reasons},
};

/// That are killed at a time.
const VICTIMS: usize = 2;
/// For a host to show a code.
const SHOW: Duration = Duration::from_secs(30);
/// Somebody who has read the code right types it again after so long, and gives up after this.
const AGAIN: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug)]
pub(super) struct Kills {
    /// From the code typed in to the introduction, tries that failed included.
    took: Latencies,
    /// Of those joins, with the first try.
    at_once: u64,
    /// Joins whose host's own relay was among the killed: those that succeeded, those that did not.
    hosts_own: [u64; 2],
    faults: BTreeMap<String, u64>,
    /// What tries that were not the last said.
    tries: BTreeMap<String, u64>,
    /// From starting killed relays until all know each other again.
    healed: Latencies,
}

impl Kills {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            took: Latencies::new()?,
            at_once: 0,
            hosts_own: [0; 2],
            faults: BTreeMap::new(),
            tries: BTreeMap::new(),
            healed: Latencies::new()?,
        })
    }

    /// Once more; the killed are started again.
    ///
    /// # Errors
    /// When they do not start, or not meet.
    pub(super) async fn try_once(
        &mut self,
        fleet: &mut Fleet,
        random: &mut StdRng,
    ) -> anyhow::Result<()> {
        let mut numbers: Vec<_> = (0..fleet.len()).collect();
        let victims = VICTIMS.min(numbers.len() - 1);
        let victims: Vec<_> = (0..victims)
            .map(|_| numbers.swap_remove(random.random_range(0..numbers.len())))
            .collect();
        if let Err(error) = self.join(fleet, &victims, random).await {
            *self.faults.entry(format!("{error:#}")).or_default() += 1;
        }
        let began = Instant::now();
        for &victim in &victims {
            fleet.start_again(victim)?;
        }
        fleet.whole(MEET).await.context("after a kill")?;
        self.healed.record(began.elapsed());
        Ok(())
    }

    async fn join(
        &mut self,
        fleet: &mut Fleet,
        victims: &[usize],
        random: &mut StdRng,
    ) -> anyhow::Result<()> {
        let addresses = fleet.addresses();
        let mut known = || {
            let mut known = addresses.clone();
            known.rotate_left(random.random_range(0..addresses.len()));
            known
        };
        let [hosts, joiners] = [known(), known()];
        let (host, home, code) = show(&hosts).await?;
        for &victim in victims {
            fleet.kill(victim)?;
        }
        let joined = self.try_code(&joiners, code).await;
        let is_home = |&victim: &usize| addresses[victim].id == home.id;
        if victims.iter().any(is_home) {
            self.hosts_own[usize::from(joined.is_err())] += 1;
        }
        drop(host);
        joined
    }

    /// Types it in, again and again until it works.
    async fn try_code(&mut self, relays: &[RelayAddr], code: Code) -> anyhow::Result<()> {
        let typed = Instant::now();
        let joiner = Node::at_nearest(relays, Options::relay_only()).await;
        let mut joiner = joiner.map_err(failed)?;
        let mut is_first = true;
        while let Err(failure) = joiner.try_code(code.clone()).await {
            if typed.elapsed() > PATIENCE {
                return Err(failed(failure));
            }
            *self.tries.entry(name(failure)).or_default() += 1;
            is_first = false;
            sleep(AGAIN).await;
        }
        self.took.record(typed.elapsed());
        self.at_once += u64::from(is_first);
        joiner.close().await;
        Ok(())
    }

    pub(super) fn ok(&self) -> u64 {
        self.took.count()
    }

    pub(super) fn failed(&self) -> u64 {
        self.faults.values().sum()
    }

    pub(super) fn healed(&self) -> Value {
        self.healed.json()
    }

    pub(super) fn json(&self) -> Value {
        let [own_ok, own_failed] = self.hosts_own;
        json!({
            "joins_ok": self.ok(),
            "joins_failed": self.failed(),
            "failures": failures(&self.faults),
            "at_first_try": self.at_once,
            "hosts_own_relay_killed": {"joins_ok": own_ok, "joins_failed": own_failed},
            "tries_failed": failures(&self.tries),
            "join_us": self.took.json(),
        })
    }

    pub(super) fn lines(&self) -> String {
        let ms = |us: Option<u64>| float(us.unwrap_or_default()) / 1e3;
        let mut text = format!(
            "any two killed before        {:>5} of {:<5} join p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms; {} at the first try; of those with the host's own relay killed {} of {}\n",
            self.ok(),
            self.ok() + self.failed(),
            ms(self.took.quantile_us(0.5)),
            ms(self.took.quantile_us(0.99)),
            ms(self.took.max_us()),
            self.at_once,
            self.hosts_own[0],
            self.hosts_own[0] + self.hosts_own[1],
        );
        for (what, faults) in [("failed", &self.faults), ("tries", &self.tries)] {
            if !faults.is_empty() {
                text += &format!("  {what}: {}\n", reasons(faults));
            }
        }
        if let Some(us) = self.healed.quantile_us(0.5) {
            text += &format!(
                "killed relays are back       p50 {} ms, max {} ms after they were started\n",
                us / 1000,
                self.healed.max_us().unwrap_or_default() / 1000
            );
        }
        text
    }
}

/// Somebody who knows these relays and shows a code; at which relay.
async fn show(relays: &[RelayAddr]) -> anyhow::Result<(Running, RelayAddr, Code)> {
    let host = Node::at_nearest(relays, Options::relay_only()).await;
    let host = host.map_err(failed)?;
    let home = host.relay().clone();
    let mut running = host.invite(person("Sam").map_err(Error::msg)?, LIFETIME);
    let code = until(&mut running, SHOW, "CODE", |event| match event {
        Event::Code { code, .. } => Some(code.clone()),
        _ => None,
    });
    let code = code.await.map_err(Error::msg)?;
    Ok((running, home, code.parse().context("no code")?))
}

fn failed(failure: Failure) -> Error {
    Error::msg(name(failure))
}
