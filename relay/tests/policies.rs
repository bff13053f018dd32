//! An organisation's policy reaches the nodes of all relays of a fleet, at whichever it is brought to one.

#[path = "support/relays.rs"]
mod relays;
#[path = "support/node.rs"]
mod support;

use bytes::Bytes;
use prost::Message as _;
use relays::{fleet, meet, member, seed};
use remora_proto::{
    id::OrgId,
    org::signed::Issuer,
    wire::message::{
        MAX_POLICY_PART_BYTES,
        control::{
            FetchPolicy, PolicyPart, PutPolicy, node_to_relay::Body as Request,
            relay_to_node::Body as Reply,
        },
        org as schema,
    },
};
use support::{Node, unix_ms};

fn issuer() -> Issuer {
    Issuer::from_bytes(&[7; 32])
}

/// Of three parts.
fn policy(number: u64) -> Bytes {
    let issuer = issuer();
    let now = unix_ms() / 1000;
    let body = schema::Policy {
        version: 1,
        issuer: Bytes::copy_from_slice(&issuer.id().0),
        number,
        issued: now,
        expires: now + 3600,
        company: "x".repeat(8000),
        domain: "contoso.com".into(),
        ..Default::default()
    };
    issuer.sign_policy_body(body.encode_to_vec().into())
}

async fn put(node: &mut Node, policy: &Bytes) {
    for (n, part) in policy.chunks(MAX_POLICY_PART_BYTES).enumerate() {
        let put = PutPolicy {
            size: u32::try_from(policy.len()).expect("small"),
            offset: u32::try_from(n * MAX_POLICY_PART_BYTES).expect("small"),
            part: Bytes::copy_from_slice(part),
        };
        node.done(Request::PutPolicy(put)).await;
    }
}

async fn part(node: &mut Node, OrgId(org): OrgId, offset: usize) -> PolicyPart {
    let fetch = FetchPolicy {
        org: Bytes::copy_from_slice(&org),
        have: 0,
        offset: u32::try_from(offset).expect("small"),
    };
    let Reply::PolicyPart(part) = node.ask(Request::FetchPolicy(fetch)).await else {
        panic!("no policy")
    };
    part
}

/// What the node's relay has.
async fn read(node: &mut Node) -> Vec<u8> {
    let mut policy = Vec::new();
    loop {
        let part = part(node, issuer().id(), policy.len()).await;
        policy.extend_from_slice(&part.part);
        if policy.len() == usize::try_from(part.size).expect("small") {
            return policy;
        }
    }
}

/// The number of the policy that the node is told of next.
async fn told(node: &mut Node) -> u64 {
    loop {
        if let Reply::PolicyChanged(changed) = node.notice().await {
            return changed.number;
        }
    }
}

#[tokio::test]
async fn a_policy_that_is_brought_to_one_relay_reaches_the_nodes_of_all() {
    let relays = fleet(3).await;
    let mut admin = Node::new(&relays[0]).await;
    let mut members = Vec::new();
    for relay in &relays {
        let mut member = Node::new(relay).await;
        assert!(read(&mut member).await.is_empty());
        members.push(member);
    }
    for number in [1, 2] {
        let policy = policy(number);
        put(&mut admin, &policy).await;
        for member in &mut members {
            assert_eq!(told(member).await, number);
            assert_eq!(read(member).await, policy);
        }
    }
}

#[tokio::test]
async fn a_relay_that_comes_later_has_it_from_the_others_once_somebody_reads_it() {
    let first = member(Vec::new(), |_| {});
    let mut admin = Node::new(&first).await;
    let one = policy(1);
    put(&mut admin, &one).await;

    let second = member(seed(&first), |_| {});
    let relays = [first, second];
    meet(&relays, 1).await;
    let mut reader = Node::new(&relays[1]).await;
    assert!(
        read(&mut reader).await.is_empty(),
        "nobody here has asked before"
    );
    assert_eq!(told(&mut reader).await, 1);
    assert_eq!(read(&mut reader).await, one);
}
