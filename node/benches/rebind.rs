//! From the moment the sharer's NAT gives it another address to the first letter after it that the helper reads:
//! `cargo bench -p remora --bench rebind`. At most 1 s (issue 4).
#![expect(clippy::print_stdout, reason = "that is what a benchmark is for")]

#[path = "../tests/support/nat.rs"]
mod nat;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use anyhow::bail;
use nat::Nat;
use remora_proto::session::{Command, Mode};
use support::people::{invites, joins, relay, start};

const RUNS: usize = 20;
const LIMIT: Duration = Duration::from_secs(1);
/// A second and a bit: a node says where it is once a second.
const REST: Duration = Duration::from_millis(1_300);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let relay = relay();
    let (mut helper, code) = invites(relay.address(), "Sam").await;
    let nat = Nat::new(relay.address()).await;
    let mut sharer = joins(&nat.relay, "Maria", &code).await?;
    helper.trust().await;
    sharer.trust().await;
    start(&mut helper, &mut sharer, Mode::View).await;
    let mut times = Vec::with_capacity(RUNS);
    for run in 0..RUNS {
        tokio::time::sleep(REST).await;
        nat.forget().await;
        let forgotten = Instant::now();
        let line = format!("after {run}");
        sharer.does(Command::Chat(line.clone())).await;
        if helper.hears().await != line {
            bail!("the helper reads something else");
        }
        times.push(forgotten.elapsed());
    }
    times.sort();
    let at = |percent: usize| times[(RUNS * percent).div_ceil(100) - 1];
    let [p50, max] = [at(50), at(100)].map(|time| time.as_secs_f64() * 1e3);
    println!(
        "another address to the first letter read, {RUNS} runs: p50 {p50:.0} ms, max {max:.0} ms"
    );
    if at(100) > LIMIT {
        bail!("the slowest is over {LIMIT:?}");
    }
    Ok(())
}
