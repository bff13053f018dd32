//! Many records that one relay has to hand out: it stays in its mesh meanwhile, and nothing is lost.

#[path = "support/relays.rs"]
mod relays;
#[path = "support/node.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use relays::{Bare, fleet, seed, settings, shows};
use remora_proto::{
    id::{DeviceId, NodeId, RelayId},
    noise::StaticKey,
    record::{Present, Record, RecordKey, Subject},
    wire::message::control::{Seek, node_to_relay::Body as Request, relay_to_node::Body as Reply},
};
use remora_relay::{
    relay::MAX_RECORDS,
    rendezvous::{Fleet, Publication},
};
use support::{Node, unix_ms, within};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

const MANY: u32 = 20_000;
/// Fifty seconds at the pace of handing out, and three times as long again for a busy machine.
const LONGEST: Duration = Duration::from_secs(200);

fn device(number: u32) -> SigningKey {
    let mut secret = [5; 32];
    secret[..4].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&secret)
}

/// What a device has said at that relay.
fn publication(number: u32, relay: RelayId) -> Publication {
    let (signing, now) = (device(number), unix_ms());
    let publisher = signing.verifying_key().to_bytes();
    let record = Record {
        realm: "default".into(),
        key: RecordKey::of_device(DeviceId(publisher), "default"),
        publisher,
        subject: Subject::Present(Present { relay, agents: 1 }),
        not_before_ms: now,
        expiry_ms: now + 60_000,
        sequence: 1,
    };
    let bytes = record.encode_signed(&signing);
    Publication::of_node(&record, bytes, NodeId(publisher), relay, now)
}

#[tokio::test]
async fn a_relay_that_leaves_hands_on_when_twenty_thousand_devices_were_there_and_is_heard_all_the_while()
 {
    let relays = fleet(2).await;
    let Bare {
        id,
        mesh,
        task,
        shelf,
        metrics,
    } = Bare::new(
        settings(seed(&relays[0])),
        StaticKey::generate(),
        MAX_RECORDS,
    );
    for number in 0..MANY {
        let publication = publication(number, id);
        let key = publication.key();
        shelf.put(publication).expect("room");
        shelf.leave(key, unix_ms());
    }
    let closing = CancellationToken::new();
    let running = tokio::spawn(task.run(closing.clone()));
    let mut met = Vec::new();
    for relay in &relays {
        let mut neighbours = relay.neighbours();
        let all = within(neighbours.wait_for(|all| all.met(id) > 0)).await;
        met.push(all.expect("running").met(id));
    }
    // The two hear nothing of it before the relay leaves: they might have met after the devices went.
    let (leaving, lost) = (CancellationToken::new(), mpsc::channel(1).0);
    let leaves = Arc::new(Fleet::new(shelf, mesh, lost, metrics));
    let handed_on = leaves.handed_on();
    let (keeping, told, ends) = (Arc::clone(&leaves), leaving.clone(), closing.clone());
    let keeping = tokio::spawn(async move { keeping.run(told, LONGEST, ends).await });
    leaving.cancel();
    time::timeout(LONGEST, handed_on.cancelled())
        .await
        .expect("in time");
    for (relay, met) in relays.iter().zip(met) {
        shows(relay, &format!("dht_devices {MANY}")).await;
        let still = relay.neighbours().borrow().met(id);
        assert_eq!(still, met, "it has been here all the while");
    }
    closing.cancel();
    within(keeping).await.expect("ended");
    within(running).await.expect("ended").expect("no failure");
    let mut asks = Node::new(&relays[1]).await;
    for number in (0..MANY).step_by(1000) {
        let device = device(number).verifying_key().to_bytes();
        let seek = Seek {
            device: Bytes::copy_from_slice(&device),
        };
        let Reply::Sighted(sighted) = asks.ask(Request::Seek(seek)).await else {
            panic!("no answer")
        };
        assert!(
            !sighted.is_online && sighted.seen_ms_ago.is_some(),
            "{number}"
        );
    }
}
