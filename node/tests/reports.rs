//! What a relay's operator can count of real sessions' paths, by the word of whoever invited.
mod support;

use remora::node::{Node, Options};
use remora_proto::{
    id::RelayAddr, noise::StaticKey, path::candidate::Policy, rendezvous::LIFETIME, session::Mode,
};
use remora_relay::{config::Config, relay::Relay};
use support::people::{Person, invites_with, joins_with, start, within};

fn relay() -> Relay {
    Relay::start(Config::loopback(StaticKey::generate())).expect("a relay")
}

async fn active(relays: &[RelayAddr], policy: Policy) -> [Person; 2] {
    let options = Options {
        policy,
        ..Options::default()
    };
    let node = async || {
        let node = Node::at_nearest(relays, options.clone());
        within("connecting", node).await.expect("a relay")
    };
    let (mut helper, code) = invites_with(node().await, "Sam", LIFETIME).await;
    let joined = joins_with(node().await, "Maria", &code).await;
    let mut sharer = joined.expect("works");
    assert_eq!(sharer.trust().await.1, helper.trust().await.1);
    start(&mut helper, &mut sharer, Mode::View).await;
    [helper, sharer]
}

/// Of all relays, what the samples of this metric say that have all these labels.
fn sum(relays: &[&Relay], name: &str, labels: &[&str]) -> f64 {
    let families = relays.iter().flat_map(|relay| relay.registry().gather());
    let named = families.filter(|family| family.name() == format!("remora_relay_{name}"));
    let mut sum = 0.0;
    for family in named {
        for metric in family.get_metric() {
            let is = |value: &&str| {
                let mut its = metric.get_label().iter();
                its.any(|label| label.value() == *value)
            };
            if labels.iter().all(is) {
                sum += metric.get_counter().get_value() + metric.get_gauge().get_value();
                sum += metric.get_histogram().get_sample_count() as f64;
            }
        }
    }
    sum
}

/// Waits until they say so.
async fn shows(relays: &[&Relay], name: &str, labels: &[&str], value: f64) {
    within(name, async {
        while sum(relays, name, labels) != value {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_direct_path_is_counted_once_a_session() {
    let relay = relay();
    let policy = Policy {
        allow_loopback: true,
        ..Policy::default()
    };
    let _people = active(&[relay.address().clone()], policy).await;
    let relays = [&relay];
    shows(&relays, "paths_total", &["direct"], 1.0).await;
    shows(&relays, "path_moves_total", &["relay", "direct"], 1.0).await;
    shows(&relays, "direct_ratio", &[], 1.0).await;
    assert_eq!(sum(&relays, "time_to_direct_seconds", &[]), 1.0);
    assert_eq!(sum(&relays, "paths_total", &[]), 1.0, "not by both");
    assert_eq!(
        sum(
            &relays,
            "control_requests_total",
            &["path_report", "refused"]
        ),
        0.0
    );
}

#[tokio::test]
async fn who_wants_the_relay_and_where_it_goes_when_that_one_stops_are_counted() {
    let (one, other) = (relay(), relay());
    let addresses = [&one, &other].map(|relay| relay.address().clone());
    let policy = Policy {
        relay_only: true,
        ..Policy::default()
    };
    let _people = active(&addresses, policy).await;
    let relays = [&one, &other];
    shows(&relays, "paths_total", &["relay_only"], 1.0).await;
    let (old, new) = match one.sessions() {
        1 => (&one, &other),
        _ => (&other, &one),
    };
    old.drain();
    shows(&[new], "sessions_moved_total", &["ok"], 1.0).await;
    shows(&[new], "session_gap_seconds", &[], 1.0).await;
    assert_eq!(sum(&[old], "sessions_moved_total", &["cut_off"]), 0.0);
}
