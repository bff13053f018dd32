//! Devices: whether they are there, asked at any relay of their fleet.

#[path = "support/relays.rs"]
mod relays;
#[path = "support/node.rs"]
mod support;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use relays::{Hostile, fleet, member, seed, shows};
use remora_proto::{
    id::{DeviceId, RelayId},
    noise::StaticKey,
    park::Saying,
    record::{HostRole, MAX_RECORD_BYTES, Present, Record, RecordKey, Subject, Waiting},
    wire::message::{
        control::{
            Gone, Join, Lookup, Publish, Reason, Seek, Sighted, node_to_relay::Body as Request,
            relay_to_node::Body as Reply,
        },
        mesh::Reason as RelayReason,
    },
};
use remora_relay::relay::Relay;
use support::{Node, get, unix_ms, within};

/// A device with its key, and what it has said last.
struct Device {
    signing: SigningKey,
    sequence: u64,
}

impl Device {
    fn new(seed: u8) -> Self {
        Self {
            signing: SigningKey::from_bytes(&[seed; 32]),
            sequence: 0,
        }
    }

    fn id(&self) -> DeviceId {
        DeviceId(self.signing.verifying_key().to_bytes())
    }

    fn key(&self) -> RecordKey {
        RecordKey::of_device(self.id(), "default")
    }

    /// What it says next, after `change`.
    fn record(&mut self, at: RelayId, agents: u32, change: impl FnOnce(&mut Record)) -> Bytes {
        self.sequence += 1;
        let now = unix_ms();
        let mut record = Record {
            realm: "default".into(),
            key: self.key(),
            publisher: self.id().0,
            subject: Subject::Present(Present { relay: at, agents }),
            not_before_ms: now,
            expiry_ms: now + 500_000,
            sequence: self.sequence,
        };
        change(&mut record);
        record.encode_signed(&self.signing)
    }

    /// Says at that relay that it is there; what it said.
    async fn say(&mut self, node: &mut Node, agents: u32) -> Bytes {
        let record = self.record(RelayId(node.relay_key()), agents, |_| {});
        node.done(publish(&record)).await;
        record
    }

    /// A connection of its own by which it has said so.
    async fn comes_to(&mut self, relay: &Relay, agents: u32) -> Node {
        let mut node = Node::new(relay).await;
        self.say(&mut node, agents).await;
        node
    }

    async fn seen_from(&self, relay: &Relay) -> Sighted {
        let (mut node, device) = (Node::new(relay).await, self.id());
        let seek = Request::Seek(Seek {
            device: Bytes::copy_from_slice(&device.0),
        });
        let Reply::Sighted(sighted) = node.ask(seek).await else {
            panic!("no answer")
        };
        sighted
    }

    /// As soon as it has gone; when it was there last.
    async fn gone_from(&self, relay: &Relay) -> u64 {
        loop {
            let sighted = self.seen_from(relay).await;
            if !sighted.is_online {
                let seen_ms_ago = sighted.seen_ms_ago.expect("remembered");
                return unix_ms() - seen_ms_ago;
            }
        }
    }
}

fn publish(record: &Bytes) -> Request {
    Request::Publish(Publish {
        record: record.clone(),
    })
}

fn place(sighted: &Sighted) -> (bool, u32, &[u8]) {
    (sighted.is_online, sighted.agents, &sighted.relay)
}

#[tokio::test]
async fn a_device_is_seen_from_all_relays_until_it_goes_and_then_when_it_was_there_last() {
    let first = member(Vec::new(), |config| config.name = "fra-1".into());
    let seeds = seed(&first);
    let relays = [first, member(seeds.clone(), |_| {}), member(seeds, |_| {})];
    relays::meet(&relays, 2).await;
    let mut device = Device::new(1);
    assert_eq!(device.seen_from(&relays[2]).await, Sighted::default());
    let mut node = device.comes_to(&relays[0], 2).await;
    for relay in &relays {
        let sighted = device.seen_from(relay).await;
        assert_eq!(place(&sighted), (true, 2, &relays[0].id().0[..]));
        assert_eq!(
            (sighted.relay_name.as_str(), sighted.seen_ms_ago),
            ("fra-1", Some(0))
        );
        let (_, metrics) = get(relay.admin_addr(), "/metrics").await;
        for line in ["devices 1", "dht_devices 1", "locators 0", "dht_records 0"] {
            assert!(
                metrics.contains(&format!("remora_relay_{line}\n")),
                "{metrics}"
            );
        }
    }
    device.say(&mut node, 3).await;
    assert_eq!(device.seen_from(&relays[2]).await.agents, 3);
    let before = unix_ms();
    drop(node);
    for relay in &relays {
        let seen = device.gone_from(relay).await;
        assert!((before..=unix_ms()).contains(&seen), "{before} {seen}");
    }
    assert_eq!(device.seen_from(&relays[1]).await.agents, 3);
}

#[tokio::test]
async fn a_device_whose_relay_dies_is_not_there_until_it_is_at_another() {
    let mut relays = fleet(3).await;
    let mut device = Device::new(1);
    let node = device.comes_to(&relays[0], 1).await;
    assert!(device.seen_from(&relays[2]).await.is_online);
    drop(relays.remove(0));
    drop(node);
    // Nobody has said that it has gone; nobody says that it is there.
    assert!(device.gone_from(&relays[1]).await <= unix_ms());
    let _node = device.comes_to(&relays[0], 1).await;
    let here = relays[0].id();
    for relay in &relays {
        let sighted = device.seen_from(relay).await;
        assert_eq!(place(&sighted), (true, 1, &here.0[..]));
    }
}

#[tokio::test]
async fn a_device_that_moves_is_there_all_the_time() {
    let relays = fleet(3).await;
    let mut device = Device::new(1);
    let mut there = device.comes_to(&relays[0], 1).await;
    relays[0].drain();
    assert!(matches!(there.notice().await, Reply::Draining(_)));
    let late = device.record(relays[0].id(), 1, |_| {});
    assert_eq!(there.refused(publish(&late)).await, Reason::Draining);
    let _here = device.comes_to(&relays[1], 1).await;
    let sighted = async |relay| {
        let sighted = device.seen_from(relay).await;
        (sighted.is_online, sighted.relay)
    };
    let expected = (true, Bytes::copy_from_slice(&relays[1].id().0));
    assert_eq!(sighted(&relays[2]).await, expected);
    drop(there);
    // Its old relay has noticed by then.
    let mut asker = Node::new(&relays[2]).await;
    let left = async {
        while get(relays[0].admin_addr(), "/metrics")
            .await
            .1
            .contains("nodes_connected 1\n")
        {
            asker.barrier().await;
        }
    };
    within(left).await;
    for relay in &relays[1..] {
        assert_eq!(sighted(relay).await, expected);
    }
}

#[tokio::test]
async fn what_a_relay_alone_knows_of_its_devices_is_known_to_others_when_it_leaves() {
    let mut relays = fleet(2).await;
    let mut device = Device::new(1);
    drop(device.comes_to(&relays[0], 1).await);
    let seen = device.gone_from(&relays[1]).await;
    // Who was told goes; who comes has not been.
    relays.remove(1).shutdown().await;
    relays.push(member(seed(&relays[0]), |_| {}));
    relays::meet(&relays, 1).await;
    shows(&relays[1], "dht_devices 0").await;
    relays[0].drain();
    within(relays[0].drained()).await.expect("nothing failed");
    relays.remove(0).shutdown().await;
    shows(&relays[0], "dht_devices 1").await;
    let still = device.gone_from(&relays[0]).await;
    assert!(still.abs_diff(seen) < 1000, "{seen} {still}");
}

#[tokio::test]
async fn devices_go_with_a_relay_that_is_shut_down_and_others_are_told() {
    let mut relays = fleet(2).await;
    let mut device = Device::new(1);
    let mut node = Node::new(&relays[0]).await;
    let before = unix_ms();
    let record = device.record(relays[0].id(), 1, |record| record.not_before_ms -= 60_000);
    node.done(publish(&record)).await;
    assert!(device.seen_from(&relays[1]).await.is_online);
    relays.remove(0).shutdown().await;
    // Not only when it has said that it is there.
    assert!(device.gone_from(&relays[0]).await >= before);
}

#[tokio::test]
async fn a_device_that_comes_back_is_not_taken_away_by_its_old_connection() {
    let relays = fleet(2).await;
    let mut device = Device::new(1);
    let old = device.comes_to(&relays[0], 1).await;
    let mut new = device.comes_to(&relays[0], 1).await;
    drop(old);
    for _ in 0..3 {
        new.barrier().await;
        assert!(device.seen_from(&relays[1]).await.is_online);
    }
    // A parked one is there as well, until it says goodbye.
    let mut parked = new.park().await;
    assert!(device.seen_from(&relays[1]).await.is_online);
    parked.datagram(&parked.grant.seal(Saying::Bye, 1)).await;
    assert_eq!(parked.raw().await[1], Saying::Unknown as u8);
    device.gone_from(&relays[1]).await;
}

#[tokio::test]
async fn a_relay_that_stands_alone_knows_its_own_devices() {
    let relay = support::relay();
    let mut device = Device::new(1);
    let node = device.comes_to(&relay, 1).await;
    let sighted = device.seen_from(&relay).await;
    assert_eq!(place(&sighted), (true, 1, &relay.id().0[..]));
    drop(node);
    device.gone_from(&relay).await;
}

#[tokio::test]
async fn only_what_a_device_says_itself_is_served_and_nothing_older() {
    let relays = fleet(3).await;
    let [home, keeper, asked] = &relays[..] else {
        panic!("three")
    };
    let hostile = Hostile::new(keeper).await;
    let mut device = Device::new(1);
    let mut node = Node::new(home).await;
    let first = device.say(&mut node, 1).await;
    device.say(&mut node, 2).await;

    let there = RelayId([9; 32]);
    let mut forged = device.record(there, 5, |_| {}).to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let now = unix_ms();
    let expired = device.record(there, 5, |record| {
        (record.not_before_ms, record.expiry_ms) = (now - 500_000, now - 1);
    });
    let early = device.record(there, 5, |record| {
        (record.not_before_ms, record.expiry_ms) = (now + 200_000, now + 300_000);
    });
    let elsewhere = device.record(there, 5, |_| {});
    let key = device.key();
    let another = Device::new(2).record(there, 5, |record| record.key = key);
    for (record, reason) in [
        (forged.into(), RelayReason::BadRecord),
        (expired, RelayReason::BadRecord),
        (early, RelayReason::BadRecord),
        // Signed, but for a relay that is not the one that says so.
        (elsewhere, RelayReason::BadRecord),
        (first.clone(), RelayReason::BadRecord),
        (another, RelayReason::BadRecord),
        (vec![7; MAX_RECORD_BYTES + 1].into(), RelayReason::BadRecord),
    ] {
        for ended in [Gone::Unspecified, Gone::Cancelled] {
            let kept = hostile.keep(keeper, record.clone(), ended).await;
            if kept.is_none() {
                panic!("kept, {ended:?}");
            }
            if ended == Gone::Unspecified {
                assert_eq!(kept, Some(reason));
            }
        }
    }
    // At its own relay, too, what it has said before is not said again.
    assert_eq!(node.refused(publish(&first)).await, Reason::Taken);
    let sighted = device.seen_from(asked).await;
    assert_eq!(place(&sighted), (true, 2, &home.id().0[..]));
}

#[tokio::test]
async fn a_relay_cannot_say_that_a_device_is_at_another_or_has_gone_from_there() {
    // Its old relay, hostile, has what it once said there; and keeps what it says now.
    let relays = fleet(2).await;
    let [home, asked] = &relays[..] else {
        panic!("two")
    };
    let key = StaticKey::generate();
    let old = RelayId(key.public());
    let mut device = Device::new(1);
    let once = device.record(old, 7, |_| {});
    let mut node = Node::new(home).await;
    device.say(&mut node, 1).await;
    let hostile = Hostile::with_key(home, key).await;
    for relay in [home, asked] {
        for ended in [Gone::Unspecified, Gone::Cancelled] {
            let kept = hostile.keep(relay, once.clone(), ended).await;
            assert_eq!(kept, Some(RelayReason::Taken));
        }
        assert!(device.seen_from(relay).await.is_online);
    }
    // One that is not there although its relay, which answers for it, was told to be asked.
    let mut other = Device::new(2);
    let there = other.record(old, 7, |_| {});
    assert_eq!(hostile.keep(asked, there, Gone::Unspecified).await, None);
    assert!(!other.seen_from(asked).await.is_online);
}

#[tokio::test]
async fn nobody_settles_at_a_devices_key_and_nobody_joins_it() {
    let relays = fleet(2).await;
    let mut device = Device::new(1);
    let key = device.key();
    let mut squatter = Node::new(&relays[1]).await;
    let code = support::code_with(5, |record| record.key = key);
    squatter.done(code.publish()).await;
    let _node = device.comes_to(&relays[0], 1).await;
    assert!(device.seen_from(&relays[1]).await.is_online);
    let mut stranger = Node::new(&relays[1]).await;
    let locator_key = Bytes::copy_from_slice(&key.0);
    let lookup = Request::Lookup(Lookup {
        locator_keys: vec![locator_key.clone()],
    });
    assert_eq!(stranger.refused(lookup).await, Reason::UnknownCode);
    let join = Request::Join(Join {
        locator_key,
        payload: Bytes::new(),
    });
    assert_eq!(stranger.refused(join).await, Reason::UnknownCode);
    // Nor is a device's record taken for another's.
    let mut host = Device::new(3).record(relays[1].id(), 1, |record| {
        record.subject = Subject::Waiting(Waiting {
            nonce: [0; 16],
            role: HostRole::Helper,
        });
        record.key = key;
    });
    assert_eq!(stranger.refused(publish(&host)).await, Reason::Taken);
    host = device.record(relays[0].id(), 1, |_| {});
    assert_eq!(stranger.refused(publish(&host)).await, Reason::BadRecord);
}

#[tokio::test]
async fn a_question_for_no_device_is_refused_and_so_are_too_many() {
    let relay = support::relay();
    let mut node = Node::new(&relay).await;
    let seek = |device: Vec<u8>| {
        Request::Seek(Seek {
            device: device.into(),
        })
    };
    assert_eq!(node.refused(seek(vec![1; 31])).await, Reason::Malformed);
    let mut nodes = Vec::new();
    let limited = async {
        loop {
            // Each connection has a limit of its own; this is the source's.
            let mut node = Node::new(&relay).await;
            for _ in 0..90 {
                let reply = node.ask(seek(vec![1; 32])).await;
                if let Reply::Refused(refused) = reply {
                    return refused;
                }
                assert_eq!(reply, Reply::Sighted(Sighted::default()));
            }
            nodes.push(node);
        }
    };
    let refused = within(limited).await;
    assert_eq!(refused.reason(), Reason::RateLimited);
    assert!(refused.text.contains("devices"), "{}", refused.text);
}
