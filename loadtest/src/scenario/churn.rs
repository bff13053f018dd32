//! The verb `churn`: nodes, codes, sessions and relays come and go, and the relays' memory must not.
//!
//! ```text
//!  fill    records that stay, nodes that do nothing ─▶ memory of each relay
//!  people  connect ─▶ code ─▶ left alone │ withdrawn │ joined from another relay ─▶ session ─▶ parted ─▶ leave, over and over
//!  relays  one is killed (-9) and started again, now and then
//!  memory  every second, relay by relay ─▶ a line through it: growth an hour, and how sure that is
//! ```
//!
//! People are members of a crowd, who are nodes but for the PAKE; they do not look for another relay when theirs is gone. What fails
//! while one of their relays is away is counted apart.

// Records that stay, and nodes that do nothing.
mod fill;
// What relays have resident, over time.
mod memory;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use remora_proto::id::Side;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, sleep_until},
};

use self::{fill::Fill, memory::Memory};
use crate::{
    cli::Churn,
    crowd::{Crowd, Fault},
    fleet::Fleet,
    interrupt,
    relay::{self, Capacity, SessionRate},
    report::{self, failures, reasons},
    scenario::Bench,
    setup::{self, Prepared, Sizes},
    subject::unless_interrupted,
};

/// All relays know each other by then: one that goes as often as here is avoided for a while.
const MEET: Duration = Duration::from_secs(60);
/// How often memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// A session is kept so often.
const TOUCH_EVERY: Duration = Duration::from_secs(1);
/// Longest that a session lasts, and that people wait before their next.
const LONGEST_SESSION: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Of a hundred codes, so many are left alone by whoever showed them, and so many withdrawn; the others are joined.
const LEFT_ALONE: u32 = 20;
const WITHDRAWN: u32 = 10;

/// What people share.
#[derive(Debug)]
struct World {
    crowds: Vec<Arc<Crowd>>,
    /// Of each relay: how often it went or came; odd while it is away.
    changes: Vec<AtomicU64>,
    realm: String,
    sizes: Sizes,
    ends: Instant,
}

/// What people did.
#[derive(Debug, Default)]
struct Tally {
    left_alone: u64,
    withdrawn: u64,
    joins_ok: u64,
    joins_failed: BTreeMap<String, u64>,
    /// The same while a relay of theirs was away.
    disturbed: BTreeMap<String, u64>,
    /// Sessions that ended before anybody wanted that, though both relays were there.
    ended: u64,
}

#[derive(Debug)]
struct Found {
    fill: Fill,
    tally: Tally,
    memory: Memory,
    restarts: u64,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Churn) -> anyhow::Result<Option<String>> {
    let bench = Bench::alone(false, args.json, 1)?;
    let capacity = Capacity {
        nodes: 2 * args.sessions + fill::nodes(args),
        sessions: 2 * args.sessions,
        workers: Some(1),
        session_rate: SessionRate::Ordinary,
    };
    let mut fleet = Fleet::new(true, None, capacity, &bench.cores)?;
    fleet.grow(args.relays)?;
    let found = unless_interrupted(&bench.runtime, measure(args, &mut fleet, &bench))?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(None)
}

async fn measure(args: &Churn, fleet: &mut Fleet, bench: &Bench) -> anyhow::Result<Found> {
    fleet.whole(MEET).await?;
    let mut crowds = Vec::with_capacity(args.relays);
    for address in fleet.addresses() {
        crowds.push(Arc::new(Crowd::new(&address, relay::resolve(&address)?)?));
    }
    let first = crowds[0].connect().await?;
    let realm = first.realm.clone();
    first.leave().await;
    let fill = Fill::new(args, fleet, &crowds, &realm, bench).await?;
    let [warm_up, lasts] = [args.warm_up, args.seconds].map(Duration::from_secs);
    let world = Arc::new(World {
        changes: crowds.iter().map(|_| AtomicU64::new(0)).collect(),
        crowds,
        realm,
        sizes: Sizes::of_a_real_exchange()?,
        ends: Instant::now() + warm_up + lasts,
    });
    let mut random = StdRng::seed_from_u64(args.seed);
    let mut people = JoinSet::new();
    for _ in 0..args.sessions {
        let lot = StdRng::seed_from_u64(random.random());
        people.spawn(Arc::clone(&world).live(lot));
    }
    let mut memory = Memory::new(args.relays);
    let mut restarts = 0;
    let between = lasts / (args.restarts + 1);
    let measured_at = Instant::now() + warm_up;
    let (mut restart_at, mut is_warm) = (measured_at + between, false);
    let mut ticks = interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < world.ends {
        ticks.tick().await;
        interrupt::check()?;
        if !is_warm && measured_at <= Instant::now() {
            memory.warm();
            is_warm = true;
        }
        memory.sample(fleet);
        let left = world.ends.saturating_duration_since(Instant::now());
        bench
            .progress
            .show(&format!("{} s to go, {restarts} restarts", left.as_secs()));
        if args.restarts > restarts && restart_at <= Instant::now() {
            let number = random.random_range(0..args.relays);
            world.changes[number].fetch_add(1, Ordering::Relaxed);
            fleet.kill(number)?;
            fleet.start_again(number)?;
            memory.restart(number);
            fleet.whole(MEET).await?;
            world.changes[number].fetch_add(1, Ordering::Relaxed);
            restarts += 1;
            restart_at += between;
        }
    }
    let mut tally = Tally::default();
    while let Some(one) = people.join_next().await {
        tally.add(one?);
    }
    Ok(Found {
        fill,
        tally,
        memory,
        restarts: restarts.into(),
    })
}

impl World {
    /// Two people, over and over.
    async fn live(self: Arc<Self>, mut lot: StdRng) -> Tally {
        let mut tally = Tally::default();
        while Instant::now() < self.ends {
            sleep(LONGEST_PAUSE.mul_f64(lot.random())).await;
            let relays = self.crowds.len();
            let at = [(); 2].map(|()| lot.random_range(0..relays));
            let before = at.map(|relay| self.changes[relay].load(Ordering::Relaxed));
            let did = self.once(at, &mut lot, &mut tally).await;
            let after = at.map(|relay| self.changes[relay].load(Ordering::Relaxed));
            let is_disturbed = before != after || before.iter().any(|changes| changes % 2 == 1);
            match did {
                Ok(()) => {}
                Err((step, fault)) if is_disturbed => {
                    let fault = format!("{step}_{fault}");
                    *tally.disturbed.entry(fault).or_default() += 1;
                }
                Err((PART, _)) => tally.ended += 1,
                Err((step, fault)) => {
                    let fault = format!("{step}_{fault}");
                    *tally.joins_failed.entry(fault).or_default() += 1;
                }
            }
        }
        tally
    }

    async fn once(
        &self,
        at: [usize; 2],
        lot: &mut StdRng,
        tally: &mut Tally,
    ) -> Result<(), (&'static str, Fault)> {
        let [host, joiner] = at.map(|relay| &self.crowds[relay]);
        let mut host = step(CONNECT, host.connect().await)?;
        let prepared = Prepared::draw(&self.realm).map_err(|_| (SHOW, Fault::Unexpected))?;
        let fate = lot.random_range(0..100);
        if fate < LEFT_ALONE + WITHDRAWN {
            let prepared = step(SHOW, setup::publish(&mut host, prepared).await)?;
            sleep(LONGEST_PAUSE.mul_f64(lot.random())).await;
            if fate < LEFT_ALONE {
                tally.left_alone += 1;
            } else {
                step(SHOW, setup::withdraw(&mut host, &prepared).await)?;
                tally.withdrawn += 1;
            }
            host.leave().await;
            return Ok(());
        }
        let mut joiner = step(CONNECT, joiner.connect().await)?;
        let joined = setup::introduce(&mut host, &mut joiner, prepared, self.sizes).await;
        let session = step(JOIN, joined)?;
        tally.joins_ok += 1;
        let ends = Instant::now() + LONGEST_SESSION.mul_f64(lot.random());
        while Instant::now() < ends {
            // One that is lost is made up for by the next.
            host.touch(session, Side::Host).ok();
            joiner.touch(session, Side::Joiner).ok();
            sleep_until(ends.min(Instant::now() + TOUCH_EVERY).into()).await;
        }
        step(PART, setup::part(&mut host, &mut joiner, session).await)?;
        host.leave().await;
        joiner.leave().await;
        Ok(())
    }
}

/// What can fail.
const CONNECT: &str = "CONNECT";
const SHOW: &str = "SHOW";
const JOIN: &str = "JOIN";
const PART: &str = "PART";

fn step<T>(step: &'static str, done: Result<T, Fault>) -> Result<T, (&'static str, Fault)> {
    done.map_err(|fault| (step, fault))
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.left_alone += other.left_alone;
        self.withdrawn += other.withdrawn;
        self.joins_ok += other.joins_ok;
        self.ended += other.ended;
        for (sum, more) in [
            (&mut self.joins_failed, other.joins_failed),
            (&mut self.disturbed, other.disturbed),
        ] {
            for (fault, count) in more {
                *sum.entry(fault).or_default() += count;
            }
        }
    }
}

impl Found {
    fn json(&self, args: &Churn, bench: &Bench) -> Value {
        let tally = &self.tally;
        let mut object = report::fleet_base("churn", args.seed, bench.began.elapsed());
        report::set(
            &mut object,
            json!({
                "relays": args.relays,
                "sessions": args.sessions,
                "warm_up": args.warm_up,
                "seconds": args.seconds,
                "restarts": self.restarts,
                "codes_left_alone": tally.left_alone,
                "codes_withdrawn": tally.withdrawn,
                "joins_ok": tally.joins_ok,
                "joins_failed": tally.joins_failed.values().sum::<u64>(),
                "failures": failures(&tally.joins_failed),
                "while_a_relay_was_away": failures(&tally.disturbed),
                "ended": tally.ended,
                "fill": self.fill.json(),
                "memory": self.memory.json(),
                "relay_rss_bytes": self.memory.most(),
            }),
        );
        object
    }

    fn table(&self, args: &Churn) -> String {
        let tally = &self.tally;
        let failed: u64 = tally.joins_failed.values().sum();
        let disturbed: u64 = tally.disturbed.values().sum();
        let mut text = format!(
            "churn · {} relays, {} restarts · {} pairs of people · {} s · seed {}\n\n",
            args.relays, self.restarts, args.sessions, args.seconds, args.seed
        );
        text += &self.fill.table();
        text += &format!(
            "joined {}, not {failed} (and {disturbed} while a relay was away)   codes left alone {}, withdrawn {}   sessions ended {}\n",
            tally.joins_ok, tally.left_alone, tally.withdrawn, tally.ended
        );
        for (what, faults) in [
            ("not joined", &tally.joins_failed),
            ("while a relay was away", &tally.disturbed),
        ] {
            if !faults.is_empty() {
                text += &format!("  {what}: {}\n", reasons(faults));
            }
        }
        text + "\n" + &self.memory.table()
    }
}
