//! Nodes that are parked while nobody says anything: what people notice of that, which is nothing.
#[path = "support/nat.rs"]
mod nat;
mod support;

use std::time::Duration;

use nat::Nat;
use remora::{
    error::{Exit, Failure},
    event::{Event, Input},
    node::{Node, Options},
};
use remora_proto::{
    id::RelayAddr,
    rendezvous::LIFETIME,
    session::{Command, EndReason, Mode},
};
use remora_relay::relay::Relay;
use support::people::{Person, invites_with, joins, relay, start, within};
use tokio::time::timeout;

/// A node that leaves without a word is forgotten after a minute.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Silence after which the nodes here are parked.
const SOON: Duration = Duration::from_millis(20);

async fn node(relay: &RelayAddr) -> Node {
    let options = Options {
        park_after: SOON,
        ..Options::relay_only()
    };
    within("connecting", Node::connect(relay, options))
        .await
        .expect("a relay")
}

async fn invites(relay: &RelayAddr) -> (Person, String) {
    invites_with(node(relay).await, "Sam", LIFETIME).await
}

fn gauge(relay: &Relay, name: &str) -> f64 {
    let families = relay.registry().gather();
    let family = families.iter().find(|family| family.name() == name);
    family.expect("a metric").get_metric()[0]
        .get_gauge()
        .get_value()
}

async fn until(what: &str, done: impl Fn() -> bool) {
    within(what, async {
        while !done() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn until_parked(relay: &Relay) {
    until("a parked node", || {
        gauge(relay, "remora_relay_nodes_parked") == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_helper_whose_node_is_parked_is_found_and_holds_a_session() {
    let relay = relay();
    let (mut helper, code) = invites(relay.address()).await;
    until_parked(&relay).await;
    let mut sharer = joins(relay.address(), "Maria", &code).await.expect("works");
    assert_eq!(sharer.trust().await.1, helper.trust().await.1);
    start(&mut helper, &mut sharer, Mode::View).await;
    for line in ["one", "two"] {
        helper.does(Command::Chat(line.into())).await;
        assert_eq!(sharer.hears().await, line);
    }
    sharer.does(Command::Leave).await;
    assert_eq!(helper.ended().await, EndReason::SharerLeft);
}

#[tokio::test]
async fn whoever_asks_something_of_a_parked_node_gets_it() {
    let relay = relay();
    let (mut helper, old) = invites(relay.address()).await;
    let mut codes = vec![old];
    for _ in 0..3 {
        until_parked(&relay).await;
        helper.wishes(Input::NewCode).await;
        codes.push(helper.code().await);
    }
    let newest = codes.pop().expect("some");
    for code in codes {
        let refused = joins(relay.address(), "Maria", &code).await;
        assert_eq!(refused.expect_err("withdrawn").code, "CODE_CANCELLED");
    }
    let sharer = joins(relay.address(), "Maria", &newest).await;
    sharer.expect("works");
}

#[tokio::test]
async fn a_node_whose_nat_forgot_it_comes_back_from_elsewhere() {
    let relay = relay();
    let nat = Nat::new(relay.address()).await;
    let (mut helper, _) = invites(&nat.relay).await;
    until_parked(&relay).await;
    nat.forget().await;
    helper.wishes(Input::NewCode).await;
    let code = helper.code().await;
    let mut sharer = joins(relay.address(), "Maria", &code).await.expect("works");
    assert_eq!(sharer.trust().await.1, helper.trust().await.1);
}

#[tokio::test]
async fn a_parked_node_that_is_closed_is_gone_at_once() {
    let relay = relay();
    let node = node(relay.address()).await;
    until_parked(&relay).await;
    within("closing", node.close()).await;
    let gone = until("nobody", || {
        gauge(&relay, "remora_relay_nodes_connected") == 0.0
    });
    timeout(AT_ONCE, gone).await.expect("it said so");
}

#[tokio::test]
async fn a_relay_that_stops_or_drains_is_told_to_whoever_is_parked() {
    let mut relay = relay();
    let (mut helper, _) = invites(relay.address()).await;
    until_parked(&relay).await;
    relay.drain();
    helper
        .until(|event| matches!(event, Event::RelayDraining(_)).then_some(()))
        .await;
    until_parked(&relay).await;
    within("drained", relay.drained())
        .await
        .expect("nothing failed");
    within("the end", relay.shutdown()).await;
    helper
        .until(|event| matches!(event, Event::RelayLost).then_some(()))
        .await;
    helper.does(Command::Leave).await;
    let failure: Failure = helper.outcome().await.expect_err("cancelled");
    assert_eq!((failure.code, failure.exit), ("HELPER_CANCELLED", Exit::Ok));
}
