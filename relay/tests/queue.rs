//! Who waits for an organisation's help is seen at every relay of the fleet, for as long as they are there.

#[path = "support/relays.rs"]
mod relays;
#[path = "support/node.rs"]
mod support;

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use relays::{Hostile, fleet, member};
use remora_proto::{
    id::{DeviceId, OrgId, RelayId},
    org::signed::Issuer,
    presence::Device,
    wire::message::{
        control::{
            FetchQueue, Publish, PutPolicy, QueueUp, Reason, node_to_relay::Body as Request,
            relay_to_node::Body as Reply,
        },
        mesh::{request::Body as Ask, response::Body as RelayAnswer},
        org as schema,
    },
};
use remora_relay::relay::Relay;
use support::{Node, unix_ms, within};

fn issuer() -> Issuer {
    Issuer::from_bytes(&[7; 32])
}

/// A relay keeps queues of organisations whose policy it has.
async fn bring_policy(relay: &Relay) -> Node {
    let issuer = issuer();
    let now = unix_ms() / 1000;
    let body = schema::Policy {
        version: 1,
        issuer: Bytes::copy_from_slice(&issuer.id().0),
        number: 1,
        issued: now,
        expires: now + 3600,
        domain: "contoso.com".into(),
        ..Default::default()
    };
    let policy = issuer.sign_policy_body(body.encode_to_vec().into());
    let put = PutPolicy {
        size: u32::try_from(policy.len()).expect("small"),
        offset: 0,
        part: policy,
    };
    let mut node = Node::new(relay).await;
    node.done(Request::PutPolicy(put)).await;
    node
}

fn queue_up(org: OrgId, device: DeviceId) -> Request {
    Request::QueueUp(QueueUp {
        org: Bytes::copy_from_slice(&org.0),
        device: Bytes::copy_from_slice(&device.0),
    })
}

fn fetch(org: OrgId) -> FetchQueue {
    FetchQueue {
        org: Bytes::copy_from_slice(&org.0),
    }
}

/// Says there that it is there.
async fn comes_to(relay: &Relay, seed: u8) -> (Node, DeviceId) {
    let mut device = Device::new(&[seed; 32]);
    let mut node = Node::new(relay).await;
    let record = device.say("default", RelayId(node.relay_key()), 1, unix_ms());
    node.done(Request::Publish(Publish { record })).await;
    (node, device.id())
}

async fn waits_at(relay: &Relay, seed: u8) -> (Node, DeviceId) {
    let (mut node, device) = comes_to(relay, seed).await;
    node.done(queue_up(issuer().id(), device)).await;
    (node, device)
}

/// The queue as it is seen there.
async fn seen_from(node: &mut Node) -> Vec<DeviceId> {
    let Reply::Queue(queue) = node.ask(Request::FetchQueue(fetch(issuer().id()))).await else {
        panic!("no queue")
    };
    let devices = queue.places.iter().map(|place| &place.device[..]);
    devices
        .map(|device| DeviceId(device.try_into().expect("a key")))
        .collect()
}

/// As soon as it is this one.
async fn comes_to_be(node: &mut Node, expected: &[DeviceId]) {
    let seen = async {
        // A node may ask fifty times a second.
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        while seen_from(node).await != expected {
            ticks.tick().await;
        }
    };
    within(seen).await;
}

#[tokio::test]
async fn a_2_who_waits_at_one_relay_is_seen_from_all_until_they_go() {
    let relays = fleet(3).await;
    let mut helpers = Vec::new();
    for relay in &relays {
        helpers.push(bring_policy(relay).await);
    }
    assert_eq!(seen_from(&mut helpers[2]).await, []);
    let (first, one) = waits_at(&relays[0], 1).await;
    comes_to_be(&mut helpers[2], &[one]).await;
    let (_second, two) = waits_at(&relays[1], 2).await;
    for helper in &mut helpers {
        comes_to_be(helper, &[one, two]).await;
    }
    drop(first);
    for helper in &mut helpers {
        comes_to_be(helper, &[two]).await;
    }
}

#[tokio::test]
async fn a_2_nobody_puts_another_into_a_queue_nor_makes_one_up() {
    let relay = member(Vec::new(), |_| {});
    let org = issuer().id();
    let (mut node, device) = comes_to(&relay, 1).await;
    let mut stranger = Node::new(&relay).await;
    // Of an organisation that nobody has shown a policy of.
    assert_eq!(node.refused(queue_up(org, device)).await, Reason::BadState);
    let look = || Request::FetchQueue(fetch(org));
    assert_eq!(stranger.refused(look()).await, Reason::BadState);
    let mut helper = bring_policy(&relay).await;
    // In another's name.
    assert_eq!(
        stranger.refused(queue_up(org, device)).await,
        Reason::BadState
    );
    let malformed = Request::QueueUp(QueueUp::default());
    assert_eq!(stranger.refused(malformed).await, Reason::Malformed);
    node.done(queue_up(org, device)).await;
    comes_to_be(&mut helper, &[device]).await;
    // Who is about to stop takes nobody.
    relay.drain();
    assert!(matches!(node.notice().await, Reply::Draining(_)));
    assert_eq!(node.refused(queue_up(org, device)).await, Reason::Draining);
}

#[tokio::test]
async fn a_2_relays_ask_each_other_and_one_that_does_not_answer_holds_nobody_up() {
    let relay = member(Vec::new(), |_| {});
    let mut helper = bring_policy(&relay).await;
    // It is in the fleet, and answers nothing of the kind.
    let other = Hostile::new(&relay).await;
    let (_node, device) = waits_at(&relay, 1).await;
    comes_to_be(&mut helper, &[device]).await;
    let asked = within(
        other
            .mesh
            .insist(relay.id(), Ask::FetchQueue(fetch(issuer().id()))),
    )
    .await;
    let Ok(RelayAnswer::Queue(queue)) = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(queue.places.len(), 1);
    let asked = within(
        other
            .mesh
            .insist(relay.id(), Ask::FetchQueue(FetchQueue::default())),
    )
    .await;
    assert!(asked.is_err(), "{asked:?}");
}
