//! What a look at the session table costs a frame: `cargo bench -p remora-relay --bench table`. The table next to what else it
//! could be: a `DashMap`, and a copy for each worker (a `HashMap` that only one thread has). Nanoseconds a charge, with one
//! worker and with two, which is what each of our machines has; `moving` while legs are being changed all the time.
#![expect(clippy::print_stdout, reason = "that is what a benchmark is for")]

use std::{
    collections::HashMap,
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use dashmap::DashMap;
use remora_proto::id::{SessionId, Side};
use remora_relay::{
    datapath::{
        leg::{FarEnd, Leg},
        table::Table,
    },
    rate::{Rate, TokenBucket},
};

const CHARGES: usize = 2_000_000;
const ROUNDS: usize = 5;
const LENGTH: usize = 1200;
const RATE: Rate = Rate::per_second(u64::MAX >> 34, u64::MAX >> 34);

fn leg(n: usize) -> Leg {
    let low = u32::try_from(n).unwrap_or(u32::MAX);
    Leg {
        end: FarEnd::Node,
        remote: SocketAddr::from((Ipv4Addr::from_bits(low), 4433)),
        local: None,
    }
}

fn id(n: usize) -> SessionId {
    SessionId((n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// What the other candidates keep of a session.
#[derive(Clone)]
struct Entry {
    legs: [Leg; 2],
    buckets: [TokenBucket; 2],
    sent: [(u64, u64); 2],
    last_seen: Instant,
}

impl Entry {
    fn new(n: usize, now: Instant) -> Self {
        Self {
            legs: [leg(n), leg(n + 1)],
            buckets: [TokenBucket::new(now); 2],
            sent: [(0, 0); 2],
            last_seen: now,
        }
    }

    fn charge(&mut self, source: SocketAddr, now: Instant) -> Option<Leg> {
        if self.legs[0].remote != source {
            return None;
        }
        self.buckets[0].take(RATE, LENGTH as u64, now).ok()?;
        self.sent[0].0 += 1;
        self.sent[0].1 += LENGTH as u64;
        self.last_seen = now;
        Some(self.legs[1])
    }
}

/// Nanoseconds for each of [`CHARGES`], the best of some rounds: what else runs only adds.
fn measure(
    workers: usize,
    sessions: usize,
    charge: impl Fn(usize, Instant) -> Option<Leg> + Sync,
) -> f64 {
    let round = || {
        let began = Instant::now();
        thread::scope(|scope| {
            for worker in 0..workers {
                let charge = &charge;
                scope.spawn(move || {
                    let mut n = worker;
                    for batch in 0..CHARGES / 16 {
                        let now = Instant::now();
                        for _ in 0..16 {
                            n = (n * 5 + 7 + batch) % sessions;
                            black_box(charge(n, now));
                        }
                    }
                });
            }
        });
        began.elapsed()
    };
    let best = (0..ROUNDS).map(|_| round()).min().unwrap_or(Duration::MAX);
    best.as_secs_f64() * 1e9 / CHARGES as f64
}

fn main() {
    println!("ns a charge            sessions   1 worker  2 workers     moving");
    let now = Instant::now();
    for sessions in [50, 10_000] {
        let table = Table::new(RATE, sessions + 100, now);
        let map = DashMap::new();
        let mut own = HashMap::new();
        for n in 0..sessions {
            assert!(table.insert(id(n), [leg(n), leg(n + 1)], now));
            map.insert(id(n), Entry::new(n, now));
            own.insert(id(n), Entry::new(n, now));
        }
        let ours = |n: usize, now: Instant| {
            table
                .charge(
                    id(n),
                    Side::Host,
                    (1, LENGTH),
                    leg(n).remote.into(),
                    table.moment(now),
                )
                .ok()
                .map(Leg::from)
        };
        let theirs = |n: usize, now: Instant| map.get_mut(&id(n))?.charge(leg(n).remote, now);
        let print = |name: &str, one: f64, two: f64, moving: f64| {
            println!("{name:22} {sessions:8} {one:10.1} {two:10.1} {moving:10.1}");
        };
        let moving = |change: &(dyn Fn(usize) + Sync), measure: &dyn Fn() -> f64| {
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut n = 0;
                    while !done.load(Ordering::Relaxed) {
                        n = (n + 1) % sessions;
                        change(n);
                        thread::sleep(Duration::from_micros(50));
                    }
                });
                let ns = measure();
                done.store(true, Ordering::Relaxed);
                ns
            })
        };
        let still = |n: usize| table.update_leg(id(n), Side::Joiner, leg(n + 1));
        print(
            "table (seqlocks)",
            measure(1, sessions, ours),
            measure(2, sessions, ours),
            moving(&still, &|| measure(1, sessions, ours)),
        );
        let still = |n: usize| {
            if let Some(mut entry) = map.get_mut(&id(n)) {
                entry.legs[1] = leg(n + 1);
            }
        };
        print(
            "DashMap",
            measure(1, sessions, theirs),
            measure(2, sessions, theirs),
            moving(&still, &|| measure(1, sessions, theirs)),
        );
        // Each worker its own; a change has to be sent to each of them, which is not in here.
        let copies = [own.clone(), own];
        let began: Vec<f64> = (1..3)
            .map(|workers| {
                let rounds = (0..ROUNDS).map(|_| {
                    let mut copies = copies.clone();
                    let began = Instant::now();
                    thread::scope(|scope| {
                        for copy in copies.iter_mut().take(workers) {
                            scope.spawn(move || {
                                let mut n = 0;
                                for batch in 0..CHARGES / 16 {
                                    let now = Instant::now();
                                    for _ in 0..16 {
                                        n = (n * 5 + 7 + batch) % sessions;
                                        let entry = copy.get_mut(&id(n));
                                        black_box(
                                            entry
                                                .and_then(|entry| entry.charge(leg(n).remote, now)),
                                        );
                                    }
                                }
                            });
                        }
                    });
                    began.elapsed()
                });
                rounds.min().unwrap_or(Duration::MAX).as_secs_f64() * 1e9 / CHARGES as f64
            })
            .collect();
        print("a copy for each worker", began[0], began[1], f64::NAN);
    }
}
