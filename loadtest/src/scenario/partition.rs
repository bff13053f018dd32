//! The verb `partition`: a fleet is cut in two for a while, people and all, and heals.
//!
//! ```text
//!  people ─ relays of side A ═╪═ relays of side B ─ people
//!
//!  sessions and codes on each side ─▶ cut ─▶ new codes on each side: shown? found there? ─▶ healed ─▶ found and joined everywhere?
//! ```
//!
//! Each relay is a process with a network of its own; the people of a side have one together, and know all relays. Sessions are of real
//! nodes and talk all the while. Codes are shown and looked up by members of a crowd, who are nodes but for the PAKE.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use remora_proto::{id::RelayAddr, random::Random};
use remora_relay::rendezvous::store::MAX_LIVE_PER_NODE;
use serde_json::{Value, json};
use tokio::{
    runtime::Runtime,
    task::JoinSet,
    time::{sleep, sleep_until},
};

use crate::{
    cli::Partition,
    crowd::{Crowd, Fault, Member},
    fleet::{self, Fleet},
    measure::{Latencies, float},
    relay::{self, Capacity, SessionRate},
    report::{self, failures, reasons, rounded},
    scenario::Bench,
    setup::{self, Prepared, Sizes},
    sites::Sites,
    subject::unless_interrupted,
    talk::Pair,
    talks::{self, Became, Begun, Talks, times},
};

/// All relays know each other by then, at first and after the cut.
const MEET: Duration = Duration::from_secs(60);
/// A session has a second relay warm by then.
const WARM: Duration = Duration::from_secs(12);
/// How often a code is shown or looked up again that could not be.
const AGAIN: Duration = Duration::from_millis(200);
/// After which a code counts as not found, or as not to be shown.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the talk goes on after all is healed.
const TALK_ON: Duration = Duration::from_secs(5);

/// One side of the cut.
struct Half {
    relays: Vec<usize>,
    people: Runtime,
}

/// Somebody at each relay of a side.
#[derive(Debug)]
struct Watchers {
    /// A host, and somebody who looks codes up, at the relay of that number.
    by_relay: Vec<(usize, Member, Member)>,
    /// Its sockets.
    _crowds: Vec<Arc<Crowd>>,
}

/// A code that is shown at a relay of that side.
#[derive(Clone, Debug)]
struct Shown {
    side: usize,
    relay: usize,
    prepared: Prepared,
}

#[derive(Debug)]
struct Found {
    sides: [usize; 2],
    joins_failed: BTreeMap<String, u64>,
    /// Sessions between two relays of a side.
    within: Became,
    /// Sessions that began at a relay of the other side.
    across: Became,
    /// From the cut until a code could be shown, on each side.
    served: [Option<Duration>; 2],
    /// Look-ups on a code's own side while the fleet was cut.
    apart_ok: u64,
    apart_failed: BTreeMap<String, u64>,
    /// From the end of the cut until each code was found at each relay.
    resolved: Latencies,
    unresolved: u64,
    met_again: Duration,
    /// From one side to the other, after the cut.
    joined_across: u64,
    not_joined_across: BTreeMap<String, u64>,
    relays_ended: usize,
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Partition) -> anyhow::Result<Option<String>> {
    let bench = Bench::spread_out(args.json)?;
    let relays = u8::try_from(args.relays).context("too many relays")?;
    let sites = Arc::new(Sites::new(relays + 2)?);
    let larger = args.relays.div_ceil(2);
    let halves = [
        Half {
            relays: (0..larger).collect(),
            people: sites.site(args.relays).runtime()?,
        },
        Half {
            relays: (larger..args.relays).collect(),
            people: sites.site(args.relays + 1).runtime()?,
        },
    ];
    let found = unless_interrupted(&bench.runtime, measure(args, &sites, &halves, &bench))?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.fault())
}

async fn measure(
    args: &Partition,
    sites: &Arc<Sites>,
    halves: &[Half; 2],
    bench: &Bench,
) -> anyhow::Result<Found> {
    let capacity = Capacity {
        nodes: 2 * args.sessions + 2,
        sessions: 2 * args.sessions + 2 * args.codes,
        workers: None,
        session_rate: SessionRate::Ordinary,
    };
    let mut fleet = Fleet::new(true, Some(Arc::clone(sites)), capacity, &bench.cores)?;
    fleet.grow(args.relays)?;
    fleet.whole(MEET).await?;
    let mut lot = Random::seeded(args.seed);
    let Sessions {
        within,
        across,
        failed,
    } = sessions(args, &fleet, halves, bench, &mut lot).await;
    ensure!(
        !within.is_empty(),
        "no session begins within a side: {}",
        reasons(&failed)
    );
    let every = Duration::from_millis(args.every);
    let [within, across] = [within, across].map(|pairs| Talks::new(pairs, every, &mut lot));
    let [one, other] = halves;
    let mut watchers = [
        Watchers::new(&fleet, one).await?,
        Watchers::new(&fleet, other).await?,
    ];
    bench.progress.show("until all are warm");
    sleep(WARM).await;

    within.watch();
    across.watch();
    let cut = Instant::now();
    let of_side = |side: usize| {
        let people = args.relays + side;
        let relays = halves[side].relays.iter().copied();
        relays.chain([people]).collect::<Vec<_>>()
    };
    sites.cut(&of_side(0), &of_side(1))?;
    bench.progress.show("cut");
    let [one, other] = &mut watchers;
    let (one, other) = tokio::join!(apart(0, args, one, cut), apart(1, args, other, cut));
    let apart = [one?, other?];
    sleep_until((cut + Duration::from_secs(args.cut)).into()).await;

    // Before: who waits for the processor notices the end of this late.
    let healed = Instant::now();
    sites.heal()?;
    bench.progress.show("healed");
    let codes: Vec<_> = apart.iter().flat_map(|apart| apart.shown.clone()).collect();
    let [one, other] = &mut watchers;
    let (one, other, met_again) = tokio::join!(
        one.resolve(&codes, healed),
        other.resolve(&codes, healed),
        async { fleet.whole(MEET).await.map(|_| healed.elapsed()) }
    );
    let met_again = met_again.context("after the cut")?;
    let mut resolved = Latencies::new()?;
    let found: Vec<_> = [one, other].concat();
    for &after in found.iter().flatten() {
        resolved.record(after);
    }
    let unresolved = found.iter().filter(|after| after.is_none()).count() as u64;
    let (joined_across, not_joined_across) = join_across(codes, &mut watchers).await?;
    sleep(TALK_ON).await;
    let mut apart_failed = BTreeMap::new();
    for (fault, count) in apart.iter().flat_map(|apart| &apart.failed) {
        *apart_failed.entry(fault.clone()).or_default() += count;
    }
    Ok(Found {
        sides: [halves[0].relays.len(), halves[1].relays.len()],
        joins_failed: failed,
        within: within.end(&bench.progress).await?,
        across: across.end(&bench.progress).await?,
        served: [apart[0].served, apart[1].served],
        apart_ok: apart.iter().map(|apart| apart.found).sum(),
        apart_failed,
        resolved,
        unresolved,
        met_again,
        joined_across,
        not_joined_across,
        relays_ended: fleet.ended()?,
    })
}

/// Those of both sides.
struct Sessions {
    within: Vec<Pair>,
    across: Vec<Pair>,
    failed: BTreeMap<String, u64>,
}

/// Begins half of them on each side. All people know all relays, their own side's first: they are equally near.
async fn sessions(
    args: &Partition,
    fleet: &Fleet,
    halves: &[Half; 2],
    bench: &Bench,
    lot: &mut Random,
) -> Sessions {
    let addresses = fleet.addresses();
    let mut all = Sessions {
        within: Vec::new(),
        across: Vec::new(),
        failed: BTreeMap::new(),
    };
    for (half, other) in halves.iter().zip(halves.iter().rev()) {
        let mut known = || -> Vec<RelayAddr> {
            let mut own = half.relays.clone();
            let [lot] = lot.bytes();
            own.rotate_left(usize::from(lot) % half.relays.len());
            let numbers = own.iter().chain(&other.relays);
            numbers.map(|&number| addresses[number].clone()).collect()
        };
        let count = args.sessions / 2;
        let ways: Vec<_> = (0..count).map(|_| [known(), known()]).collect();
        let Begun { pairs, failed } =
            talks::begin(ways, half.people.handle(), &bench.progress).await;
        for (why, count) in failed {
            *all.failed.entry(why).or_default() += count;
        }
        let names: Vec<_> = half.relays.iter().copied().map(fleet::name).collect();
        let (within, across): (Vec<_>, Vec<_>) = pairs
            .into_iter()
            .partition(|pair| pair.relays.iter().all(|relay| names.contains(relay)));
        all.within.extend(within);
        all.across.extend(across);
    }
    all
}

/// What happened on a side while it was alone.
#[derive(Debug)]
struct Apart {
    served: Option<Duration>,
    shown: Vec<Shown>,
    found: u64,
    failed: BTreeMap<String, u64>,
}

/// Shows codes, as soon as that works, and looks them up at each relay of the side.
async fn apart(
    side: usize,
    args: &Partition,
    watchers: &mut Watchers,
    cut: Instant,
) -> anyhow::Result<Apart> {
    let mut apart = Apart {
        served: None,
        shown: Vec::new(),
        found: 0,
        failed: BTreeMap::new(),
    };
    let relays = watchers.by_relay.len();
    let codes = args.codes.min(MAX_LIVE_PER_NODE * relays);
    let realm = watchers.by_relay[0].1.realm.clone();
    for (number, prepared) in (0..).zip(Prepared::draw_different(codes, &realm)?) {
        let (relay, host, _) = &mut watchers.by_relay[number % relays];
        match shown(host, prepared).await {
            Ok(prepared) => {
                apart.served.get_or_insert_with(|| cut.elapsed());
                let relay = *relay;
                apart.shown.push(Shown {
                    side,
                    relay,
                    prepared,
                });
            }
            Err(fault) => *apart.failed.entry(format!("SHOW_{fault}")).or_default() += 1,
        }
    }
    for (_, _, joiner) in &mut watchers.by_relay {
        for Shown { prepared, .. } in &apart.shown {
            match setup::look_up(joiner, prepared).await {
                Ok(()) => apart.found += 1,
                Err(fault) => *apart.failed.entry(fault.to_string()).or_default() += 1,
            }
        }
    }
    Ok(apart)
}

/// Shows a code, again and again until that works.
async fn shown(host: &mut Member, prepared: Prepared) -> Result<Prepared, Fault> {
    let began = Instant::now();
    loop {
        match setup::publish(host, prepared.clone()).await {
            Err(Fault::Refused(_)) if began.elapsed() < PATIENCE => sleep(AGAIN).await,
            done => return done,
        }
    }
}

/// Lets somebody of the other side join each code.
async fn join_across(
    codes: Vec<Shown>,
    watchers: &mut [Watchers; 2],
) -> anyhow::Result<(u64, BTreeMap<String, u64>)> {
    let sizes = Sizes::of_a_real_exchange()?;
    let [one, other] = watchers;
    let (mut joined, mut failed) = (0, BTreeMap::new());
    for (number, code) in codes.into_iter().enumerate() {
        let (own, far) = match code.side {
            0 => (&mut *one, &mut *other),
            _ => (&mut *other, &mut *one),
        };
        let mut hosts = own.by_relay.iter_mut();
        let Some((_, host, _)) = hosts.find(|(relay, ..)| *relay == code.relay) else {
            continue;
        };
        let all = far.by_relay.len();
        let (_, _, joiner) = &mut far.by_relay[number % all];
        match setup::introduce(host, joiner, code.prepared, sizes).await {
            Ok(session) => {
                joined += 1;
                setup::part(host, joiner, session).await?;
            }
            Err(fault) => *failed.entry(fault.to_string()).or_default() += 1,
        }
    }
    Ok((joined, failed))
}

impl Watchers {
    async fn new(fleet: &Fleet, half: &Half) -> anyhow::Result<Self> {
        let mut watchers = Self {
            by_relay: Vec::new(),
            _crowds: Vec::new(),
        };
        let addresses = fleet.addresses();
        for &number in &half.relays {
            let address = addresses[number].clone();
            let connecting = async move {
                let crowd = Arc::new(Crowd::new(&address, relay::resolve(&address)?)?);
                let (host, joiner) = (crowd.connect().await?, crowd.connect().await?);
                anyhow::Ok((crowd, host, joiner))
            };
            let (crowd, host, joiner) = half.people.spawn(connecting).await??;
            watchers.by_relay.push((number, host, joiner));
            watchers._crowds.push(crowd);
        }
        Ok(watchers)
    }

    /// Looks all codes up at each relay until they are found: how long after that moment each is, relay by relay.
    async fn resolve(&mut self, codes: &[Shown], healed: Instant) -> Vec<Option<Duration>> {
        let mut looking = JoinSet::new();
        for (relay, host, mut joiner) in self.by_relay.drain(..) {
            let codes = codes.to_vec();
            looking.spawn(async move {
                let mut found = Vec::new();
                for Shown { prepared, .. } in &codes {
                    found.push(loop {
                        if setup::look_up(&mut joiner, prepared).await.is_ok() {
                            break Some(healed.elapsed());
                        }
                        if healed.elapsed() > PATIENCE {
                            break None;
                        }
                        sleep(AGAIN).await;
                    });
                }
                (relay, host, joiner, found)
            });
        }
        let mut all = Vec::new();
        for (relay, host, joiner, found) in looking.join_all().await {
            self.by_relay.push((relay, host, joiner));
            all.extend(found);
        }
        all
    }
}

impl Found {
    fn failures(&self) -> u64 {
        self.joins_failed.values().sum()
    }

    fn fault(&self) -> Option<String> {
        let (failed, reasons) = (self.failures(), reasons(&self.joins_failed));
        (failed > 0).then(|| format!("{failed} sessions did not begin: {reasons}"))
    }

    fn json(&self, args: &Partition, bench: &Bench) -> Value {
        let began = self.within.sessions() + self.across.sessions();
        let not_joined: u64 = self.not_joined_across.values().sum();
        let ms = |time: Duration| rounded(1e3 * time.as_secs_f64(), 1);
        let mut object = report::base("partition", args.seed, bench.began.elapsed());
        report::set(&mut object, self.within.json());
        report::set(
            &mut object,
            json!({
                "relays": args.relays,
                "sides": self.sides,
                "cut_s": args.cut,
                "sessions": began + self.failures(),
                "within": self.within.sessions(),
                "across": {"sessions": self.across.sessions(), "ended": self.across.ended},
                "joins_ok": began + self.joined_across,
                "joins_failed": self.failures() + not_joined,
                "failures": self.joins_failed,
                "served_after_ms": self.served.map(|after| after.map(ms)),
                "lookups_apart_ok": self.apart_ok,
                "lookups_apart_failed": self.apart_failed.values().sum::<u64>(),
                "apart_failures": self.apart_failed,
                "resolved": self.resolved.count(),
                "resolved_ms": times(&self.resolved),
                "unresolved": self.unresolved,
                "met_again_ms": ms(self.met_again),
                "joined_across": self.joined_across,
                "not_joined_across": failures(&self.not_joined_across),
                "relays_ended": self.relays_ended,
                "message_every_ms": args.every,
                "cores": bench.cores.json(),
            }),
        );
        object
    }

    fn table(&self, args: &Partition) -> String {
        let [one, other] = self.sides;
        let mut text = format!(
            "partition · {one} relays | {other} relays for {} s · {} sessions within a side, {} that began across\n\nwithin a side\n",
            args.cut,
            self.within.sessions(),
            self.across.sessions(),
        );
        text += &self.within.table();
        text += &format!("began across: ended {}\n", self.across.ended);
        for (served, relays) in self.served.iter().zip(self.sides) {
            text += &match served {
                Some(after) => format!(
                    "a side of {relays} takes codes {:.1} s after the cut\n",
                    after.as_secs_f64()
                ),
                None => format!("a side of {relays} TAKES NO CODES\n"),
            };
        }
        let apart: u64 = self.apart_failed.values().sum();
        text += &format!(
            "looked up on their side while cut: {} found, {apart} not\n",
            self.apart_ok
        );
        let ms = |us: Option<u64>| float(us.unwrap_or_default()) / 1e3;
        text += &format!(
            "found at all relays after it: p50 {:.0} ms, max {:.0} ms; never {}\nrelays know each other again after {:.1} s\n",
            ms(self.resolved.quantile_us(0.5)),
            ms(self.resolved.max_us()),
            self.unresolved,
            self.met_again.as_secs_f64()
        );
        text += &format!(
            "joined from the other side after it: {}, not {}\n",
            self.joined_across,
            self.not_joined_across.values().sum::<u64>()
        );
        for (what, reasons) in [
            ("did not begin", &self.joins_failed),
            ("while cut", &self.apart_failed),
            ("not joined", &self.not_joined_across),
        ] {
            if !reasons.is_empty() {
                text += &format!("{what}: {}\n", report::reasons(reasons));
            }
        }
        text += &format!("relays that ended: {}", self.relays_ended);
        text
    }
}
