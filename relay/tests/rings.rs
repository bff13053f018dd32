//! Rings: a node says something to a device, whichever relay of the fleet each of them is at.

#[path = "support/relays.rs"]
mod relays;
#[path = "support/node.rs"]
mod support;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use relays::fleet;
use remora_proto::{
    id::{DeviceId, RelayId},
    record::{Present, Record, RecordKey, Subject},
    wire::message::{
        MAX_SIGNAL_BYTES,
        control::{
            Admit, Dismiss, Publish, Reason, Ring, Signal, node_to_relay::Body as Request,
            relay_to_node::Body as Reply,
        },
    },
};
use remora_relay::relay::Relay;
use support::{Node, unix_ms, within};

struct Device {
    id: DeviceId,
    key: RecordKey,
    node: Node,
}

impl Device {
    async fn at(relay: &Relay, seed: u8) -> Self {
        let signing = SigningKey::from_bytes(&[seed; 32]);
        let id = DeviceId(signing.verifying_key().to_bytes());
        let key = RecordKey::of_device(id, "default");
        let mut node = Node::new(relay).await;
        let now = unix_ms();
        let record = Record {
            realm: "default".into(),
            key,
            publisher: id.0,
            subject: Subject::Present(Present {
                relay: RelayId(node.relay_key()),
                agents: 1,
            }),
            not_before_ms: now,
            expiry_ms: now + 500_000,
            sequence: now,
        };
        let record = record.encode_signed(&signing);
        node.done(Request::Publish(Publish { record })).await;
        Self { id, key, node }
    }

    /// The exchange of a ring that said `payload`.
    async fn rung(&mut self, payload: &[u8]) -> u64 {
        let Reply::Offer(offer) = self.node.notice().await else {
            panic!("not rung")
        };
        assert_eq!(&offer.locator_key[..], &self.key.0[..]);
        assert_eq!(&offer.payload[..], payload);
        offer.exchange
    }
}

fn ring(device: DeviceId, payload: &[u8]) -> Request {
    Request::Ring(Ring {
        device: Bytes::copy_from_slice(&device.0),
        payload: Bytes::copy_from_slice(payload),
    })
}

fn signal(exchange: u64, payload: &'static [u8]) -> Request {
    let payload = payload.into();
    Request::Signal(Signal { exchange, payload })
}

async fn started(node: &mut Node, device: DeviceId) -> u64 {
    let reply = node.ask(ring(device, b"hello")).await;
    let Reply::Started(started) = reply else {
        panic!("not started: {reply:?}")
    };
    started.exchange
}

async fn heard(node: &mut Node) -> (u64, Bytes) {
    let notice = node.notice().await;
    let Reply::Signal(signal) = notice else {
        panic!("no signal: {notice:?}")
    };
    (signal.exchange, signal.payload)
}

#[tokio::test]
async fn a_device_is_rung_at_from_any_relay_and_the_two_talk_until_one_ends_it() {
    let relays = fleet(3).await;
    for asked in &relays {
        let mut device = Device::at(&relays[0], 1).await;
        let mut helper = Node::new(asked).await;
        let exchange = started(&mut helper, device.id).await;
        assert_eq!(device.rung(b"hello").await, exchange);
        for said in [&b"one"[..], b"two", b"three"] {
            device.node.done(signal(exchange, b"yes?")).await;
            assert_eq!(heard(&mut helper).await, (exchange, b"yes?"[..].into()));
            let payload = Bytes::copy_from_slice(said);
            helper
                .done(Request::Signal(Signal { exchange, payload }))
                .await;
            assert_eq!(heard(&mut device.node).await, (exchange, said.into()));
        }
        let dismiss = Dismiss {
            exchange,
            payload: b"bye"[..].into(),
            wrong_secret: false,
        };
        device.node.done(Request::Dismiss(dismiss.clone())).await;
        assert_eq!(helper.notice().await, Reply::Dismissed(dismiss));
        // The helper's way to end it is to go.
        let exchange = started(&mut helper, device.id).await;
        device.rung(b"hello").await;
        drop(helper);
        let notice = device.node.notice().await;
        let Reply::Dismissed(dismissed) = notice else {
            panic!("still there: {notice:?}")
        };
        assert_eq!(dismissed.exchange, exchange);
    }
}

#[tokio::test]
async fn n_3_whoever_rings_at_a_device_that_is_not_there_hears_so_at_once_and_when_it_was() {
    let relays = fleet(2).await;
    let mut helper = Node::new(&relays[1]).await;
    let device = Device::at(&relays[0], 1).await;
    let id = device.id;
    let exchange = started(&mut helper, id).await;
    drop(device);
    let notice = helper.notice().await;
    let Reply::Dismissed(dismissed) = notice else {
        panic!("still there: {notice:?}")
    };
    assert_eq!(dismissed.exchange, exchange);
    let reply = helper.ask(ring(id, b"")).await;
    let Reply::Sighted(sighted) = reply else {
        panic!("rung at: {reply:?}")
    };
    assert!(!sighted.is_online);
    assert!(sighted.seen_ms_ago.is_some());
    let never = DeviceId([9; 32]);
    let reply = helper.ask(ring(never, b"")).await;
    assert!(
        matches!(&reply, Reply::Sighted(sighted) if sighted.seen_ms_ago.is_none()),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_parked_device_is_woken_and_hears_the_ring() {
    let relays = fleet(2).await;
    let mut device = Device::at(&relays[0], 1).await;
    let mut parked = device.node.park().await;
    let mut helper = Node::new(&relays[1]).await;
    let exchange = started(&mut helper, device.id).await;
    parked.hear().await;
    device.node = parked.back().await;
    assert_eq!(device.rung(b"hello").await, exchange);
    device.node.done(signal(exchange, b"yes?")).await;
    assert_eq!(heard(&mut helper).await.1, b"yes?"[..]);
}

#[tokio::test]
async fn a_ring_brings_no_session_and_a_device_has_only_so_many() {
    let relays = fleet(2).await;
    for asked in &relays {
        let mut device = Device::at(&relays[0], 1).await;
        let mut helper = Node::new(asked).await;
        let exchange = started(&mut helper, device.id).await;
        device.rung(b"hello").await;
        let payload = Bytes::new();
        let admit = Request::Admit(Admit { exchange, payload });
        assert_eq!(device.node.refused(admit).await, Reason::BadState);
        let long = [0; MAX_SIGNAL_BYTES + 1];
        assert_eq!(
            helper.refused(ring(device.id, &long)).await,
            Reason::Malformed
        );
        assert_eq!(
            helper
                .refused(Request::Ring(Ring {
                    device: vec![1; 31].into(),
                    payload: Bytes::new(),
                }))
                .await,
            Reason::Malformed
        );
        let own = device.node.refused(ring(device.id, b"")).await;
        assert_eq!(own, Reason::BadState);
        let mut helpers = vec![helper];
        let full = async {
            loop {
                let mut helper = Node::new(asked).await;
                for _ in 0..4 {
                    let reply = helper.ask(ring(device.id, b"")).await;
                    if let Reply::Refused(refused) = reply {
                        return refused;
                    }
                    assert!(matches!(reply, Reply::Started(_)), "{reply:?}");
                }
                helpers.push(helper);
            }
        };
        let refused = within(full).await;
        assert_eq!(refused.reason(), Reason::Full);
        // Fifteen beside the first.
        assert_eq!(helpers.len(), 4);
    }
}

#[tokio::test]
async fn nobody_rings_all_day() {
    let relay = support::relay();
    let mut nodes = Vec::new();
    let limited = async {
        loop {
            let mut node = Node::new(&relay).await;
            for _ in 0..40 {
                if let Reply::Refused(refused) = node.ask(ring(DeviceId([9; 32]), b"")).await {
                    return refused;
                }
            }
            nodes.push(node);
        }
    };
    let refused = within(limited).await;
    assert_eq!(refused.reason(), Reason::RateLimited);
    assert!(refused.text.contains("invitations"), "{}", refused.text);
}
