//! `mesh --flood`: a relay that has the fleet's key asks every other to keep as many records as it can sign, and takes nobody's place.
//!
//! ```text
//!  people   codes at all relays ─▶ found at others? ─────────────────────────────────────▶ still found?
//!  flood    every locator of this epoch, of the next, … ─▶ all relays, as fast as they answer
//!  meanwhile                    one more code a second: shown at one relay, found at another
//! ```
//!
//! Its records are signed as a code's are, and stand where codes would: nothing but how many they are tells them from honest ones.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use remora::control::unix_ms;
use remora_proto::{
    code::ALPHABET,
    id::RelayId,
    record::{EPOCH_MS, RecordKey},
};
use remora_relay::rendezvous::store::{MAX_LIVE_PER_NODE, MAX_PER_RELAY};
use serde_json::{Value, json};
use tokio::time;

use super::{MEET, two_of};
use crate::{
    cli::Mesh,
    crowd::{Crowd, Fault, Member},
    fleet::{self, Fleet},
    hostile::{Hostile, Pushed},
    measure::float,
    relay::{self, Capacity, SessionRate},
    report::{self, failures, mib, reasons, rounded},
    scenario::Bench,
    setup::{self, Prepared},
    subject::unless_interrupted,
};

/// How long the flood may take: codes that were shown before it live ten minutes.
const LONGEST: Duration = Duration::from_secs(280);
/// Between two codes that are shown meanwhile.
const EVERY: Duration = Duration::from_secs(1);
/// Between two look-ups: a relay lets a node ask fifty times a second.
const BETWEEN: Duration = Duration::from_millis(25);

#[derive(Debug)]
struct Victim {
    id: RelayId,
    records_before: u64,
    records_after: u64,
    rss_before: u64,
    rss_peak: u64,
    rss_after: u64,
    pushed: Pushed,
}

/// Codes, and whether they were found.
#[derive(Debug, Default)]
struct Codes {
    found: u64,
    faults: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Found {
    before: Codes,
    meanwhile: Codes,
    after: Codes,
    victims: Vec<Victim>,
    took: Duration,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub(super) fn run(args: &Mesh, records: usize) -> anyhow::Result<Option<String>> {
    let bench = Bench::spread_out(args.json)?;
    let found = unless_interrupted(&bench.runtime, measure(args, records, &bench))?;
    bench.print(
        || found.json(args, records, &bench),
        || found.table(args, records),
    )?;
    Ok(found.fault())
}

async fn measure(args: &Mesh, records: usize, bench: &Bench) -> anyhow::Result<Found> {
    let capacity = Capacity {
        nodes: args.sessions + 64,
        sessions: 1,
        workers: Some(1),
        session_rate: SessionRate::Ordinary,
    };
    let mut fleet = Fleet::new(true, None, capacity, &bench.cores)?;
    fleet.grow(args.relays)?;
    fleet.whole(MEET).await?;
    let mut random = StdRng::seed_from_u64(args.seed);
    let mut people = People::new(&fleet, args.sessions).await?;
    let before = people.all_found().await;

    bench.progress.show("the flood is signed");
    let realm = people.realm();
    let flood: Vec<_> = locators(records, &realm, unix_ms(), &mut random)
        .into_iter()
        .map(|key| setup::record_under(key, &realm))
        .collect();
    let hostile = Hostile::join(&fleet, &realm).await?;
    let mut victims = Vec::with_capacity(args.relays);
    for (number, address) in fleet.addresses().into_iter().enumerate() {
        let meter = fleet.meter(number);
        meter.forget_peak()?;
        let rss_before = meter.rss_bytes()?;
        victims.push(Victim {
            id: address.id,
            records_before: fleet.records(number)?,
            records_after: 0,
            rss_before,
            rss_peak: rss_before,
            rss_after: rss_before,
            pushed: Pushed::default(),
        });
    }
    bench.progress.show("the flood");
    let (began, until) = (Instant::now(), time::Instant::now() + LONGEST);
    let pushing = victims
        .iter()
        .map(|victim| hostile.push(victim.id, &flood, until));
    let mut meanwhile = Codes::default();
    let pushed = tokio::select! {
        pushed = join_all(pushing) => pushed,
        never = people.show_more(&mut random, &mut meanwhile) => match never {},
    };
    let took = began.elapsed();
    bench.progress.show("after the flood");
    for (number, (victim, pushed)) in victims.iter_mut().zip(pushed).enumerate() {
        let meter = fleet.meter(number);
        victim.pushed = pushed;
        victim.records_after = fleet.records(number)?;
        victim.rss_peak = meter.peak_rss_bytes()?;
        victim.rss_after = meter.rss_bytes()?;
    }
    Ok(Found {
        before,
        meanwhile,
        after: people.all_found().await,
        victims,
        took,
    })
}

/// Who shows codes, and who looks for them.
#[derive(Debug)]
struct People {
    crowds: Vec<Arc<Crowd>>,
    /// One at each relay.
    joiners: Vec<Member>,
    /// As long as they are there, their codes are.
    _hosts: Vec<Member>,
    /// With the number of the relay where it was shown.
    shown: Vec<(usize, Prepared)>,
}

impl People {
    async fn new(fleet: &Fleet, codes: usize) -> anyhow::Result<Self> {
        let (mut crowds, mut joiners) = (Vec::new(), Vec::new());
        for address in fleet.addresses() {
            let crowd = Arc::new(Crowd::new(&address, relay::resolve(&address)?)?);
            joiners.push(crowd.connect().await?);
            crowds.push(crowd);
        }
        let realm = joiners[0].realm.clone();
        let mut prepared = Prepared::draw_different(codes, &realm)?
            .into_iter()
            .peekable();
        let (mut hosts, mut shown) = (Vec::new(), Vec::with_capacity(codes));
        while prepared.peek().is_some() {
            let at = hosts.len() % crowds.len();
            let mut host = crowds[at].connect().await?;
            for prepared in prepared.by_ref().take(MAX_LIVE_PER_NODE) {
                shown.push((at, setup::publish(&mut host, prepared).await?));
            }
            hosts.push(host);
        }
        Ok(Self {
            crowds,
            joiners,
            _hosts: hosts,
            shown,
        })
    }

    fn realm(&self) -> String {
        self.joiners[0].realm.clone()
    }

    /// Each of the codes is looked up at the next relay.
    async fn all_found(&mut self) -> Codes {
        let mut codes = Codes::default();
        for (at, prepared) in &self.shown {
            let elsewhere = (at + 1) % self.joiners.len();
            let joiner = &mut self.joiners[elsewhere];
            codes.note(setup::look_up(joiner, prepared).await);
            time::sleep(BETWEEN).await;
        }
        codes
    }

    /// Codes of people who come for that.
    async fn show_more(&self, random: &mut StdRng, codes: &mut Codes) -> Infallible {
        let mut ticks = time::interval(EVERY);
        loop {
            ticks.tick().await;
            let at = two_of(self.crowds.len(), random);
            codes.note(self.show_one(at).await);
        }
    }

    async fn show_one(&self, [host, joiner]: [usize; 2]) -> Result<(), Fault> {
        let mut host = self.crowds[host].connect().await?;
        let mut joiner = self.crowds[joiner].connect().await?;
        let prepared = Prepared::draw(&host.realm).map_err(|_| Fault::Unexpected)?;
        let prepared = setup::publish(&mut host, prepared).await?;
        setup::look_up(&mut joiner, &prepared).await?;
        setup::withdraw(&mut host, &prepared).await?;
        host.leave().await;
        joiner.leave().await;
        Ok(())
    }
}

/// So many places for codes: those of this epoch by lot, then those of the next, and so on.
fn locators(count: usize, realm: &str, unix_ms: u64, random: &mut StdRng) -> Vec<RecordKey> {
    let symbols = || ALPHABET.iter().copied();
    let mut all: Vec<_> = symbols()
        .flat_map(|one| symbols().map(move |two| (one, two)))
        .flat_map(|(one, two)| symbols().map(move |three| [one, two, three]))
        .collect();
    let mut keys = Vec::with_capacity(count);
    for epoch in unix_ms / EPOCH_MS.. {
        all.shuffle(random);
        let more = all.iter().take(count - keys.len());
        keys.extend(more.map(|locator| RecordKey::of_locator(locator, realm, epoch)));
        if keys.len() == count {
            break;
        }
    }
    keys
}

impl Codes {
    fn note(&mut self, found: Result<(), Fault>) {
        match found {
            Ok(()) => self.found += 1,
            Err(fault) => *self.faults.entry(fault.to_string()).or_default() += 1,
        }
    }

    fn missed(&self) -> u64 {
        self.faults.values().sum()
    }

    fn json(&self) -> Value {
        json!({
            "found": self.found,
            "not_found": self.missed(),
            "failures": failures(&self.faults),
        })
    }

    fn line(&self, when: &str) -> String {
        let mut line = format!(
            "codes of others {when:<10} {:>5} of {:<5} found\n",
            self.found,
            self.found + self.missed()
        );
        if !self.faults.is_empty() {
            line += &format!("  not found: {}\n", reasons(&self.faults));
        }
        line
    }
}

impl Found {
    fn all_pushed(&self) -> Pushed {
        let mut sum = Pushed::default();
        for victim in &self.victims {
            sum.add(victim.pushed);
        }
        sum
    }

    fn fault(&self) -> Option<String> {
        let greedy = |victim: &&Victim| victim.pushed.kept > MAX_PER_RELAY as u64;
        if let Some(victim) = self.victims.iter().find(greedy) {
            return Some(format!(
                "{:?} keeps {} records of one relay, and {MAX_PER_RELAY} are its share",
                victim.id, victim.pushed.kept
            ));
        }
        let missed = self.after.missed() + self.meanwhile.missed();
        (missed > 0).then(|| format!("{missed} codes of others were not found"))
    }

    fn json(&self, args: &Mesh, records: usize, bench: &Bench) -> Value {
        let mut object = report::fleet_base("mesh", args.seed, bench.began.elapsed());
        let victims = self.victims.iter().enumerate().map(|(number, victim)| {
            json!({
                "relay": fleet::name(number),
                "records_before": victim.records_before,
                "records_after": victim.records_after,
                "rss_bytes_before": victim.rss_before,
                "rss_bytes_peak": victim.rss_peak,
                "rss_bytes_after": victim.rss_after,
                "flood": victim.pushed.json(),
            })
        });
        report::set(
            &mut object,
            json!({
                "relays": args.relays,
                "flood": records,
                "flood_took_s": rounded(self.took.as_secs_f64(), 1),
                "flood_at_all": self.all_pushed().json(),
                "codes_before": self.before.json(),
                "codes_meanwhile": self.meanwhile.json(),
                "codes_after": self.after.json(),
                "victims": victims.collect::<Vec<_>>(),
                "relay_rss_bytes": self.victims.iter().map(|victim| victim.rss_peak).max(),
            }),
        );
        object
    }

    fn table(&self, args: &Mesh, records: usize) -> String {
        let all = self.all_pushed();
        let answered = all.kept + all.refused();
        let mut text = format!(
            "mesh · a flood of {records} locators by one relay, at {} others each · seed {}\n\n",
            args.relays, args.seed
        );
        text += &format!(
            "flood                        {answered} answers in {:.0} s, {:.0} a second: {} kept, {} refused ({} full, {} taken); {} not answered, {} not asked; told to ask again {} times\n",
            self.took.as_secs_f64(),
            float(answered) / self.took.as_secs_f64(),
            all.kept,
            all.refused(),
            all.full,
            all.taken,
            all.unanswered,
            all.left,
            all.busy,
        );
        for (when, codes) in [
            ("before", &self.before),
            ("meanwhile", &self.meanwhile),
            ("after", &self.after),
        ] {
            text += &codes.line(when);
        }
        for (number, victim) in self.victims.iter().enumerate() {
            let [before, peak, after] =
                [victim.rss_before, victim.rss_peak, victim.rss_after].map(mib);
            text += &format!(
                "{:<9} records {} -> {}, of the flood {} of {MAX_PER_RELAY}   {before} MiB before, {peak} at most, {after} after\n",
                fleet::name(number),
                victim.records_before,
                victim.records_after,
                victim.pushed.kept,
            );
        }
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_flood_begins_with_the_places_of_this_epoch_and_has_none_twice() {
        let mut random = StdRng::seed_from_u64(1);
        let keys = locators(100_000, "default", EPOCH_MS, &mut random);
        let now: BTreeSet<_> = keys[..1 << 15].iter().collect();
        let code = RecordKey::of_locator(b"z0z", "default", 1);
        assert!(now.contains(&code), "all places that a code may draw");
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 100_000);
    }
}
