//! `mesh --simulate`: which relays keep what, who is asked and how often, in fleets that no machine has room for.
//!
//! ```text
//!  relays, keys ─▶ tables: 20 of each distance ─▶ codes: kept by the 5 closest that are found ─▶ look-ups ─▶ hops, load
//! ```
//!
//! Keys are hashed as relays hash them, records are kept by the relay's own store with its caps, and who is asked when follows
//! `rendezvous::fleet` and libp2p's `ClosestPeersIter`. There are no sockets; every question is answered, one round trip after it is
//! asked, and that is the clock. What is left out: relays that come and go, and a relay's 512 connections.

// Who knows whom, and Kademlia's walk.
mod tables;

use std::time::Instant;

use bytes::Bytes;
use libp2p::kad::KBucketKey;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use remora::control::unix_ms;
use remora_proto::{
    id::{NodeId, RelayId},
    record::{EPOCH_MS, HostRole, Kind, MAX_LIFETIME_MS, Record, RecordKey, Subject, Waiting},
};
use remora_relay::rendezvous::{Found as Kept, Publication, Store};
use serde_json::{Value, json};

use self::tables::{Tables, Walk};
use crate::{
    cli::Mesh,
    interrupt,
    measure::float,
    report::{self, rounded},
    scenario::Bench,
};

/// What a relay has room for, as relays have it.
const CAPACITY: usize = remora_relay::relay::MAX_RECORDS;
/// Of a code.
const SYMBOLS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Codes of a name space in an epoch, three symbols each: beyond, there are several.
const LOCATORS: usize = 32_768;
/// How often one looks whether somebody wants an end.
const GLANCE: usize = 1000;

/// Counts, the smallest first.
#[derive(Debug, Default)]
struct Counts(Vec<u64>);

#[derive(Debug, Default)]
struct Found {
    table: Counts,
    records: Counts,
    refused: u64,
    /// Codes that the five closest of all relays keep.
    placed_best: u64,
    /// Questions for each code that is shown.
    put_messages: Counts,
    /// Round trips until the live record is known; none when the relay that is asked keeps it.
    hops: Counts,
    /// The same of all three keys that a code may have: so long does a node wait.
    hops_of_three: Counts,
    messages: Counts,
    /// Questions that each relay was asked in all look-ups.
    asked: Counts,
    not_found: u64,
}

/// Works out and prints.
///
/// # Errors
/// When somebody wants an end.
pub(super) fn run(args: &Mesh) -> anyhow::Result<Option<String>> {
    let bench = Bench::alone(false, args.json, 1)?;
    let found = work_out(args, &bench)?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    let missing = found.not_found;
    Ok((missing > 0).then(|| format!("{missing} codes were not found")))
}

struct World {
    relays: Vec<RelayId>,
    tables: Tables,
    stores: Vec<Store>,
    now: Instant,
    unix_ms: u64,
}

fn work_out(args: &Mesh, bench: &Bench) -> anyhow::Result<Found> {
    let mut random = StdRng::seed_from_u64(args.seed);
    let relays: Vec<_> = (0..args.relays).map(|_| RelayId(random.random())).collect();
    bench.progress.show("tables");
    let mut world = World {
        tables: Tables::new(&relays, &mut random)?,
        stores: relays.iter().map(|_| Store::new(CAPACITY)).collect(),
        relays,
        now: Instant::now(),
        unix_ms: unix_ms(),
    };
    let mut found = Found::default();
    for number in 0..args.codes {
        if number % GLANCE == 0 {
            interrupt::check()?;
            bench
                .progress
                .show(&format!("codes {number}/{}", args.codes));
        }
        let host = random.random_range(0..args.relays);
        world.show(number, host, &mut found)?;
    }
    found.table = (0..args.relays)
        .map(|relay| world.tables.size(relay))
        .collect();
    found.records = world
        .stores
        .iter()
        .map(|store| store.len(Kind::Host) as u64)
        .collect();
    world.tables.forget_load();
    for number in 0..args.lookups {
        if number % GLANCE == 0 {
            interrupt::check()?;
            bench
                .progress
                .show(&format!("look-ups {number}/{}", args.lookups));
        }
        let code = random.random_range(0..args.codes);
        let joiner = random.random_range(0..args.relays);
        world.look_up(code, joiner, &mut found);
    }
    found.asked = world.tables.load().collect();
    Ok(found)
}

impl World {
    /// The keys that a code of that number may have: its own, and those of the epochs around it.
    fn keys(&self, number: usize) -> [RecordKey; 3] {
        let realm = format!("realm-{}", number / LOCATORS);
        let symbol = |place: u32| SYMBOLS[number / SYMBOLS.len().pow(place) % SYMBOLS.len()];
        let locator = [2, 1, 0].map(symbol);
        let epoch = self.unix_ms / EPOCH_MS;
        [epoch, epoch - 1, epoch + 1].map(|epoch| RecordKey::of_locator(&locator, &realm, epoch))
    }

    /// Somebody at that relay shows the code.
    fn show(&mut self, number: usize, host: usize, found: &mut Found) -> anyhow::Result<()> {
        let [key, ..] = self.keys(number);
        // Each of a node of its own: what a node may have is not what is looked at here.
        let mut publisher = [0; 32];
        publisher[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let record = Record {
            realm: String::new(),
            key,
            publisher,
            subject: Subject::Waiting(Waiting {
                nonce: [0; 16],
                role: HostRole::Helper,
            }),
            not_before_ms: self.unix_ms,
            expiry_ms: self.unix_ms + MAX_LIFETIME_MS,
            sequence: 1,
        };
        let (node, relay, ms) = (NodeId(publisher), self.relays[host], self.unix_ms);
        // What only takes room is left out.
        let here = Publication::of_node(&record, Bytes::new(), node, relay, ms);
        if self.stores[host].put_if_absent(here, self.now).is_err() {
            found.refused += 1;
            return Ok(());
        }
        let target = hash(&key);
        let Walk {
            closest, messages, ..
        } = self.tables.walk(host, target);
        let best = self.tables.closest_of_all(target);
        let keepers = closest.iter().filter(|&&relay| relay != host);
        let mut asked = messages;
        for &keeper in keepers {
            let there = Publication::of_relay(&record, Bytes::new(), relay, ms);
            asked += 1;
            if self.stores[keeper].put_if_absent(there, self.now).is_err() {
                found.refused += 1;
            }
        }
        found.placed_best += u64::from(closest == best);
        found.put_messages.0.push(asked);
        Ok(())
    }

    /// Somebody at that relay looks it up.
    fn look_up(&mut self, number: usize, joiner: usize, found: &mut Found) {
        let (mut most_hops, mut messages) = (0, 0);
        for (key, is_its_own) in self.keys(number).into_iter().zip([true, false, false]) {
            let looked = self.find(joiner, key);
            most_hops = most_hops.max(looked.hops);
            messages += looked.messages;
            if is_its_own {
                match looked.is_found {
                    true => found.hops.0.push(looked.hops),
                    false => found.not_found += 1,
                }
            }
        }
        found.hops_of_three.0.push(most_hops);
        found.messages.0.push(messages);
    }

    /// As `rendezvous::fleet` does: here, then the closest that are known, then the closest that Kademlia finds.
    fn find(&mut self, at: usize, key: RecordKey) -> Looked {
        let mut looked = Looked::default();
        if self.has(at, key) {
            looked.is_found = true;
            return looked;
        }
        let target = hash(&key);
        let known = self.tables.nearest_known(at, target);
        self.ask(at, key, &known, &mut looked);
        if looked.is_found {
            return looked;
        }
        let Walk {
            closest,
            messages,
            rounds,
        } = self.tables.walk(at, target);
        looked.hops += rounds;
        looked.messages += messages;
        let new: Vec<_> = closest
            .into_iter()
            .filter(|relay| !known.contains(relay))
            .collect();
        self.ask(at, key, &new, &mut looked);
        looked
    }

    fn ask(&mut self, at: usize, key: RecordKey, relays: &[usize], looked: &mut Looked) {
        let others: Vec<_> = relays.iter().filter(|&&relay| relay != at).collect();
        looked.hops += u64::from(!others.is_empty());
        for &&relay in &others {
            looked.messages += 1;
            self.tables.count(relay);
            looked.is_found |= self.has(relay, key);
        }
    }

    fn has(&mut self, relay: usize, key: RecordKey) -> bool {
        matches!(self.stores[relay].find(key, self.now), Kept::Live { .. })
    }
}

/// What became of a look-up of one key.
#[derive(Debug, Default)]
struct Looked {
    is_found: bool,
    hops: u64,
    messages: u64,
}

/// Where a key stands, as relays hash it.
fn hash(key: &RecordKey) -> u128 {
    tables::first(KBucketKey::new(key.0.to_vec()).hashed_bytes())
}

impl FromIterator<u64> for Counts {
    fn from_iter<T: IntoIterator<Item = u64>>(counts: T) -> Self {
        Self(counts.into_iter().collect())
    }
}

impl Counts {
    fn mean(&self) -> f64 {
        float(self.0.iter().sum()) / float(self.0.len().max(1) as u64)
    }

    fn quantiles(&self) -> [u64; 4] {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        [at(50), at(95), at(99), at(100)]
    }

    fn json(&self) -> Value {
        let [p50, p95, p99, max] = self.quantiles();
        json!({"mean": rounded(self.mean(), 2), "p50": p50, "p95": p95, "p99": p99, "max": max})
    }

    fn line(&self, what: &str) -> String {
        let [p50, p95, p99, max] = self.quantiles();
        let mean = self.mean();
        format!("{what:<44}{mean:>10.1}{p50:>9}{p95:>9}{p99:>9}{max:>9}\n")
    }
}

impl Found {
    fn json(&self, args: &Mesh, bench: &Bench) -> Value {
        let mut object = report::fleet_base("mesh", args.seed, bench.began.elapsed());
        report::set(
            &mut object,
            json!({
                "relays": args.relays,
                "simulated": true,
                "codes": args.codes,
                "realms": args.codes.div_ceil(LOCATORS),
                "joins_ok": self.hops.0.len(),
                "joins_failed": self.not_found,
                "hops": self.hops.json(),
                "hops_of_three_keys": self.hops_of_three.json(),
                "messages_per_lookup": self.messages.json(),
                "messages_per_code_shown": self.put_messages.json(),
                "records_per_relay": self.records.json(),
                "records_refused": self.refused,
                "placed_at_the_closest_ratio": rounded(self.placed_best(args), 6),
                "asked_per_relay": self.asked.json(),
                "known_per_relay": self.table.json(),
            }),
        );
        object
    }

    fn placed_best(&self, args: &Mesh) -> f64 {
        float(self.placed_best) / float(args.codes as u64)
    }

    fn table(&self, args: &Mesh) -> String {
        let mut text = format!(
            "mesh, simulated · {} relays · {} codes in {} name spaces · {} look-ups\n\n{:<44}{:>10}{:>9}{:>9}{:>9}{:>9}\n",
            args.relays,
            args.codes,
            args.codes.div_ceil(LOCATORS),
            args.lookups,
            "",
            "mean",
            "p50",
            "p95",
            "p99",
            "max"
        );
        for (what, counts) in [
            ("round trips to a live record", &self.hops),
            ("... until all three keys are known", &self.hops_of_three),
            ("questions of a look-up", &self.messages),
            ("questions of a code that is shown", &self.put_messages),
            ("records of a relay", &self.records),
            ("questions to a relay in all look-ups", &self.asked),
            ("relays that a relay knows", &self.table),
        ] {
            text += &counts.line(what);
        }
        text + &format!(
            "codes at the five closest of all: {:.3} %; records refused {}; not found {}",
            100.0 * self.placed_best(args),
            self.refused,
            self.not_found
        )
    }
}
