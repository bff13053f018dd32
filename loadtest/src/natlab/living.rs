//! What a session bears while it lives: paths that come and go under it, and networks that change.

/// One session, and what both have seen and heard.
mod session;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use remora::{
    help::view::{View, stroke},
    node::{Node, Options},
    share::capture::{Rect, synthetic::Sheet},
};
use remora_picture::decode::Canvas;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    barrier::{self, Blocked},
    classify,
    edge::{Edge, Pair},
    lab::{Network, address},
    meeting::{lab, named},
};
use crate::{cli::Natlab, measure::float, report::rounded};
use session::Living;

/// How long a session may take to go another way.
const MOVE: Duration = Duration::from_secs(60);
/// Moves of a trial: relayed, direct, relayed, and so on.
const MOVES: usize = 10;
/// Between two moves, and before the first and after the last.
const STEADY: Duration = Duration::from_secs(3);
/// What a move does is seen within this.
const SETTLING: Duration = Duration::from_secs(1);
/// Rows of the film: as many as leave 50 Mbit/s where a picture is left out now and then, and the processors to the rest of the lab.
const FILM: u16 = 264;
/// An idle session, several times as long as mappings live.
const IDLE: Duration = Duration::from_secs(180);
/// What is said after it arrives within this.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Keys of a trial, and how long one may take to be seen.
const KEYS: usize = 100;
const KEY: Duration = Duration::from_secs(10);
/// An error is said within this, whatever the figures say.
const ERROR: Duration = Duration::from_secs(30);

/// What happens to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ordeal {
    /// It moves ten times between the direct path and the relay, as its people want, with a film and a line of chat a second
    Migrate,
    /// The direct path swallows everything
    Blackhole,
    /// The direct path swallows what the sharer sends
    BlackholeOut,
    /// The direct path swallows what is sent to the sharer
    BlackholeIn,
    /// It idles for 3 minutes, behind NATs that forget after 30 s
    Expiry,
    /// The sharer's interface is taken away, and another one comes up in another network
    Interface,
    /// The relay cannot be reached when the node starts
    Unreachable,
    /// Keys are typed, and seen, with the picture moving
    Keys,
}

impl Ordeal {
    /// Where it happens, unless somebody wants another pair.
    pub fn pair(self) -> Pair {
        let edge = if self == Self::Expiry {
            Edge::Home30s
        } else {
            Edge::EimApdf
        };
        Pair { a: edge, b: edge }
    }

    /// As it is typed.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Lets it happen; figures by name: those that end in `_ms` are milliseconds.
///
/// # Errors
/// A short name of what failed.
pub async fn run(network: &Network, ordeal: Ordeal, args: &Natlab) -> Result<Value, String> {
    let relay = address(&network.relay_at).map_err(lab)?;
    match ordeal {
        Ordeal::Migrate => migrate(network).await,
        Ordeal::Blackhole => blackhole(network, relay, Blocked::BothWays).await,
        Ordeal::BlackholeOut => blackhole(network, relay, Blocked::Outwards).await,
        Ordeal::BlackholeIn => blackhole(network, relay, Blocked::Inwards).await,
        Ordeal::Expiry => expiry(network).await,
        Ordeal::Interface => interface(network).await,
        Ordeal::Unreachable => unreachable(network, relay).await,
        Ordeal::Keys => keys(network, args).await,
    }
}

async fn migrate(network: &Network) -> Result<Value, String> {
    let sheet = Sheet::new(1).with_film(FILM);
    let mut living = Living::new(network, &Options::default(), sheet).await?;
    living.watch_picture();
    living.until_direct(true, MOVE).await?;
    // The film is at its full speed first: on a path that is new it comes to it step by step.
    sleep(STEADY).await;
    let (began, bytes) = (Instant::now(), living.bytes());
    living.chat_each_second();
    sleep(STEADY).await;
    let mut steady = living.longest_gap(began);
    let (mut slowest, mut gaps) = ([Duration::ZERO; 2], [Duration::ZERO; 2]);
    for number in 0..MOVES {
        let to_direct = number % 2 == 1;
        let moving = Instant::now();
        // Whoever went is who comes back.
        living.want_relayed(number / 2 % 2, !to_direct).await?;
        living.until_direct(to_direct, MOVE).await?;
        let way = usize::from(to_direct);
        slowest[way] = slowest[way].max(moving.elapsed());
        sleep(STEADY).await;
        let settled = moving + SETTLING;
        gaps[way] = gaps[way].max(living.longest_gap_until(moving, settled));
        steady = steady.max(living.longest_gap(settled));
    }
    let took = began.elapsed();
    let carried = living.bytes().saturating_sub(bytes);
    let chat = living.end_chat().await?;
    let [to_relay, to_direct] = slowest;
    let [gap_to_relay, gap_to_direct] = gaps;
    let pictures = living.pictures();
    living.leave().await?;
    Ok(json!({
        "moves": MOVES,
        "messages": chat.said,
        "lost": chat.lost,
        "doubled": chat.doubled,
        "out_of_order": chat.out_of_order,
        "longest_gap_to_relay_ms": ms(gap_to_relay),
        "longest_gap_to_direct_ms": ms(gap_to_direct),
        "longest_gap_without_move_ms": ms(steady),
        "to_relay_worst_ms": ms(to_relay),
        "to_direct_worst_ms": ms(to_direct),
        "payload_mbit_s": rounded(float(carried) * 8.0 / took.as_secs_f64() / 1e6, 2),
        "pictures": pictures,
    }))
}

async fn blackhole(network: &Network, relay: IpAddr, blocked: Blocked) -> Result<Value, String> {
    let mut living = Living::new(network, &Options::default(), Sheet::new(1)).await?;
    living.watch_picture();
    living.until_direct(true, MOVE).await?;
    sleep(STEADY).await;
    let began = Instant::now();
    barrier::raise(&network.sides[1].device, blocked, relay).map_err(lab)?;
    living.until_direct(false, MOVE).await?;
    let said = began.elapsed();
    sleep(STEADY).await;
    let gap = living.longest_gap(began);
    living.leave().await?;
    barrier::lift(&network.sides[1].device).map_err(lab)?;
    Ok(json!({"longest_gap_ms": ms(gap), "both_say_relayed_ms": ms(said)}))
}

async fn expiry(network: &Network) -> Result<Value, String> {
    let mut living = Living::new(network, &Options::default(), Sheet::new(1)).await?;
    living.sheet().rest(true);
    living.until_direct(true, MOVE).await?;
    let moves = living.moves();
    let (forgets, ()) = tokio::join!(classify::expiry(network), sleep(IDLE));
    let forgets = forgets.map_err(lab)?;
    let now = living.moves();
    let stayed = now.len() == moves.len() && living.is_direct();
    let heard = living.say(AT_ONCE).await?;
    living.leave().await?;
    Ok(json!({
        "idle_s": IDLE.as_secs(),
        "mapping_lives_s": forgets.map(|time| time.as_secs()),
        "stayed_direct": stayed,
        "moves": now,
        "then_heard_ms": heard.map(ms),
    }))
}

async fn interface(network: &Network) -> Result<Value, String> {
    let roaming = network.roaming().await.map_err(lab)?;
    let mut living = Living::new(network, &Options::default(), Sheet::new(1)).await?;
    living.watch_picture();
    living.until_direct(true, MOVE).await?;
    sleep(STEADY).await;
    let began = Instant::now();
    let wire = roaming.go().map_err(lab)?;
    // It may have been relayed for a moment, or not at all.
    sleep(2 * STEADY).await;
    let gap = living.longest_gap(began);
    let heard = living.say(AT_ONCE).await?;
    let direct = living.until_direct(true, MOVE).await;
    let direct_again = began.elapsed();
    living.leave().await?;
    drop(wire);
    Ok(json!({
        "longest_gap_ms": ms(gap),
        "then_heard_ms": heard.map(ms),
        "direct_within_ms": direct.is_ok().then(|| ms(direct_again)),
    }))
}

async fn unreachable(network: &Network, relay: IpAddr) -> Result<Value, String> {
    let device = &network.sides[0].device;
    barrier::raise(device, Blocked::Relay, relay).map_err(lab)?;
    let address = network.relay().clone();
    let began = Instant::now();
    let connecting = device.spawn(move |_| async move {
        let connected = Node::connect(&address, Options::default()).await;
        connected.err().map(|failure| failure.code)
    });
    let connecting = connecting.map_err(lab)?;
    let ended = timeout(ERROR, connecting).await.map_err(named("SILENCE"))?;
    let took = began.elapsed();
    barrier::lift(device).map_err(lab)?;
    let code = ended.map_err(named("PANIC"))?;
    Ok(json!({"error": code, "error_ms": ms(took)}))
}

async fn keys(network: &Network, args: &Natlab) -> Result<Value, String> {
    let is_relayed = args.relay_only || args.tcp_only;
    let options = if is_relayed {
        Options::relay_only()
    } else {
        Options::default()
    };
    let options = Options {
        tcp_only: args.tcp_only,
        ..options
    };
    let mut living = Living::new(network, &options, Sheet::new(1)).await?;
    if !is_relayed {
        living.until_direct(true, MOVE).await?;
    }
    let sheet = living.sheet().clone();
    let mut view = living.take_view()?;
    for _ in 0..KEYS {
        type_letter(&mut view, &sheet).await?;
    }
    let latencies = view.latencies().clone();
    drop(view);
    living.leave().await?;
    Ok(json!({
        "keys": KEYS,
        "p50_ms": ms(latencies.quantile(0.5)),
        "p95_ms": ms(latencies.quantile(0.95)),
        "loss_percent": args.loss,
    }))
}

async fn type_letter(view: &mut View, sheet: &Sheet) -> Result<(), String> {
    let place = sheet.next_letter();
    let before = part(view.canvas(), place);
    let is_seen = |canvas: &Canvas| part(canvas, place) != before;
    let typed = view.key_to_pixel(stroke('m'.into()), KEY, is_seen).await;
    typed.map(|_| ()).map_err(named("KEY"))
}

/// The pixels there.
fn part(canvas: &Canvas, place: Rect) -> Vec<Option<[u8; 3]>> {
    let (left, top) = (place.x.unsigned_abs(), place.y.unsigned_abs());
    let rows = top..top.saturating_add(place.height);
    let row = |y| (left..left.saturating_add(place.width)).map(move |x| canvas.pixel(x, y));
    rows.flat_map(row).collect()
}

fn ms(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3, 1)
}
