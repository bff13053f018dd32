//! How long a look-up takes, from the question of somebody at one relay to the record of somebody at another.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rand::{RngExt as _, rngs::StdRng};
use remora_relay::rendezvous::store::MAX_LIVE_PER_NODE;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::two_of;
use crate::{
    crowd::{self, Crowd, Member},
    fleet::Fleet,
    measure::{Latencies, float},
    relay,
    report::{failures, reasons, rounded},
    setup::{self, Prepared},
};

/// Between two look-ups: a relay lets a node ask fifty times a second, and there are two at least who ask.
const BETWEEN: Duration = Duration::from_millis(10);
/// How often each link is measured.
const KNOCKS: usize = 5;
/// For a link; all of them are on this machine.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// What a look-up may take for the fleet to be called quick: so many times the link's round trip, and this more.
const ROUND_TRIPS: f64 = 3.0;
const SPARE_US: f64 = 20_000.0;

/// Of a fleet of that size.
#[derive(Debug)]
pub(super) struct Lookups {
    relays: usize,
    /// From one relay's machine to another's and back, the median of all.
    link: Latencies,
    took: Latencies,
    faults: BTreeMap<String, u64>,
}

impl Lookups {
    /// Looks codes of people at all relays up, each from another relay than theirs, one after the other.
    ///
    /// # Errors
    /// When somebody cannot connect, or show a code.
    pub(super) async fn measure(
        fleet: &Fleet,
        count: usize,
        random: &mut StdRng,
    ) -> anyhow::Result<Self> {
        let relays = fleet.len();
        let mut lookups = Self {
            relays,
            link: links(fleet)?,
            took: Latencies::new()?,
            faults: BTreeMap::new(),
        };
        let mut people = Vec::with_capacity(relays);
        for address in fleet.addresses() {
            let crowd = Arc::new(Crowd::new(&address, relay::resolve(&address)?)?);
            let host = crowd.connect().await?;
            people.push((crowd.connect().await?, host, crowd));
        }
        let realm = people[0].0.realm.clone();
        let mut codes = Prepared::draw_different(MAX_LIVE_PER_NODE * relays, &realm)?.into_iter();
        let mut shown: Vec<Vec<Prepared>> = Vec::with_capacity(relays);
        for (_, host, _) in &mut people {
            let mut of_host = Vec::with_capacity(MAX_LIVE_PER_NODE);
            for prepared in codes.by_ref().take(MAX_LIVE_PER_NODE) {
                let shown = setup::publish(host, prepared).await;
                of_host.push(shown.context("a code cannot be shown")?);
            }
            shown.push(of_host);
        }
        for _ in 0..count {
            let [host, joiner] = two_of(relays, random);
            let code = &shown[host][random.random_range(0..MAX_LIVE_PER_NODE)];
            lookups.look(&mut people[joiner].0, code).await;
            sleep(BETWEEN).await;
        }
        for (joiner, host, crowd) in people {
            crowd::leave_all(&crowd, [joiner, host].into_iter()).await?;
        }
        Ok(lookups)
    }

    async fn look(&mut self, joiner: &mut Member, code: &Prepared) {
        let began = Instant::now();
        match setup::look_up(joiner, code).await {
            Ok(()) => self.took.record(began.elapsed()),
            Err(fault) => *self.faults.entry(fault.to_string()).or_default() += 1,
        }
    }

    pub(super) fn failed(&self) -> u64 {
        self.faults.values().sum()
    }

    fn link_us(&self) -> f64 {
        float(self.link.quantile_us(0.5).unwrap_or_default())
    }

    fn limit_us(&self) -> f64 {
        ROUND_TRIPS * self.link_us() + SPARE_US
    }

    pub(super) fn json(&self) -> Value {
        let of = |quantile| self.took.quantile_us(quantile);
        json!({
            "relays": self.relays,
            "ok": self.took.count(),
            "failed": self.failed(),
            "failures": failures(&self.faults),
            "us": {"p50": of(0.5), "p95": of(0.95), "p99": of(0.99), "max": self.took.max_us()},
            "link_rtt_us": {"p50": self.link.quantile_us(0.5), "max": self.link.max_us()},
            "limit_us": rounded(self.limit_us(), 0),
        })
    }

    pub(super) fn line(&self) -> String {
        let ms = |us: Option<u64>| float(us.unwrap_or_default()) / 1e3;
        let mut line = format!(
            "look-up in {:>2} relays         {:>5} of {:<5} p50 {:.2} ms, p95 {:.2} ms (at most {:.1}), max {:.2} ms; link {:.2} ms\n",
            self.relays,
            self.took.count(),
            self.took.count() + self.failed(),
            ms(self.took.quantile_us(0.5)),
            ms(self.took.quantile_us(0.95)),
            self.limit_us() / 1e3,
            ms(self.took.max_us()),
            self.link_us() / 1e3,
        );
        if !self.faults.is_empty() {
            line += &format!("  failed: {}\n", reasons(&self.faults));
        }
        line
    }
}

/// How long the system takes to open a connection to each relay's mesh port: a round trip of the link, and nothing of the relay.
fn links(fleet: &Fleet) -> anyhow::Result<Latencies> {
    let mut links = Latencies::new()?;
    for at in (0..fleet.len()).filter_map(|number| fleet.mesh_address(number)) {
        for _ in 0..KNOCKS {
            let began = Instant::now();
            drop(TcpStream::connect_timeout(&at, KNOCK_TIMEOUT)?);
            links.record(began.elapsed());
        }
    }
    Ok(links)
}
