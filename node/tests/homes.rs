//! Nodes that know several relays: which one they are at, and what people notice when it stops, which is next to nothing.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one event is waited for among many"
)]

#[path = "support/far.rs"]
mod far;
mod support;

use std::{net::SocketAddr, time::Duration};

use far::Far;

use remora::{
    event::Event,
    node::{Node, Options},
};
use remora_proto::{
    id::{RelayAddr, RelayId},
    noise::{StaticKey, link::FleetKey},
    path::candidate::Policy,
    rendezvous::LIFETIME,
    session::{Command, EndReason, Mode},
};
use remora_relay::{config::Config, mesh::Settings, rate::Rate, relay::Relay};
use support::{
    people::{Person, invites_with, joins_with, mistyped, start, within},
    process::RelayProcess,
};

/// Sessions leave a drained relay within three seconds, each at a moment of its own; a check by the relay comes every 25.
const EMPTY_WITHIN: Duration = Duration::from_secs(15);
/// Words that are said one after the other while relays come and go.
const WORDS: usize = 60;

fn named(name: &str) -> Relay {
    start_relay(name, None)
}

fn start_relay(name: &str, mesh: Option<Settings>) -> Relay {
    let mut config = Config::loopback(StaticKey::generate());
    config.lookup_rate = Rate::per_second(10_000, 10_000);
    config.name = name.to_owned();
    config.mesh = mesh;
    Relay::start(config).expect("a relay")
}

/// Two relays of one fleet, which know each other.
async fn fleet(names: [&str; 2]) -> [Relay; 2] {
    let settings = |seeds| Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        seeds,
        fleet: FleetKey([7; 32].into()),
    };
    let one = start_relay(names[0], Some(settings(Vec::new())));
    let seed = one.mesh_addr().expect("in a mesh").to_string();
    let other = start_relay(names[1], Some(settings(vec![seed])));
    for relay in [&one, &other] {
        let mut neighbours = relay.neighbours();
        let met = neighbours.wait_for(|neighbours| neighbours.heard() == 1);
        within("meeting", met).await.expect("running");
    }
    [one, other]
}

/// What a relay's metric of that name says, of all that have such a label, or of none.
fn sum(relay: &Relay, name: &str, label: &str) -> f64 {
    let families = relay.registry().gather();
    let named = families.iter().filter(|family| family.name() == name);
    let metrics = named.flat_map(|family| family.get_metric());
    let meant = metrics.filter(|metric| {
        let mut labels = metric.get_label().iter();
        label.is_empty() || labels.any(|other| other.value() == label)
    });
    meant
        .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
        .sum()
}

async fn until(what: &str, done: impl Fn() -> bool) {
    within(what, async {
        while !done() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn process(name: &str) -> RelayProcess {
    RelayProcess::start(&["--name", name])
}

fn addresses(relays: &[RelayProcess]) -> Vec<RelayAddr> {
    let parse = |relay: &RelayProcess| relay.address.parse().expect("an address");
    relays.iter().map(parse).collect()
}

async fn node(relays: &[RelayAddr]) -> Node {
    let node = Node::at_nearest(relays, Options::relay_only());
    within("connecting", node).await.expect("a relay")
}

/// One that is at the first of these relays, although the others are as near.
async fn node_at_first(relays: &[RelayAddr]) -> Node {
    loop {
        let node = node(relays).await;
        if node.relay() == &relays[0] {
            return node;
        }
        node.close().await;
    }
}

/// Two people in a session, who both know these relays; and the name of the one that carries it.
async fn active(relays: &[RelayAddr]) -> (Person, Person, String) {
    active_of([node(relays).await, node(relays).await]).await
}

async fn active_of([helper, sharer]: [Node; 2]) -> (Person, Person, String) {
    let (mut helper, code) = invites_with(helper, "Sam", LIFETIME).await;
    let mut sharer = joins_with(sharer, "Maria", &code)
        .await
        .expect("the code works");
    let carrier = helper
        .until(|event| match event {
            Event::Connected(path) => Some(path.relay.clone()),
            _ => None,
        })
        .await;
    assert_eq!(helper.trust().await.1, sharer.trust().await.1);
    start(&mut helper, &mut sharer, Mode::View).await;
    (helper, sharer, carrier)
}

async fn moved(person: &mut Person) -> String {
    person
        .until(|event| match event {
            Event::Moved(path) => Some(path.relay.clone()),
            _ => None,
        })
        .await
}

/// One says words, the other hears all of them, once and in order.
async fn talk(one: &mut Person, other: &mut Person) {
    for number in 0..WORDS {
        let word = format!("word {number}");
        one.does(Command::Chat(word.clone())).await;
        assert_eq!(other.hears().await, word);
    }
}

async fn part(mut helper: Person, sharer: Person) {
    sharer.does(Command::Leave).await;
    assert_eq!(helper.ended().await, EndReason::SharerLeft);
    for person in [helper, sharer] {
        assert_eq!(person.receipt().await.reason, EndReason::SharerLeft);
    }
}

#[tokio::test]
async fn a_node_is_at_the_first_relay_that_answers_and_says_so() {
    let live = named("live");
    let away = RelayAddr {
        host_port: "127.0.0.1:9".into(),
        id: RelayId([7; 32]),
        tls: None,
    };
    let node = node(&[away, live.address().clone()]).await;
    assert_eq!(node.relay(), live.address());
    let mut helper = node.invite(support::people::profile("Sam"), LIFETIME);
    let first = within("an event", helper.events.recv()).await;
    assert!(
        matches!(&first, Some(Event::Home { relay, .. }) if relay == "live"),
        "{first:?}"
    );
}

#[tokio::test]
async fn a_code_is_found_at_the_relay_where_it_waits() {
    let (here, there) = (named("here"), named("there"));
    let [here, there] = [&here, &there].map(|relay| relay.address().clone());
    let (mut helper, code) =
        invites_with(node(std::slice::from_ref(&there)).await, "Sam", LIFETIME).await;
    let joining = node_at_first(&[here.clone(), there.clone()]).await;
    let mut sharer = joins_with(joining, "Maria", &code).await.expect("found");
    assert_eq!(helper.trust().await.1, sharer.trust().await.1);
    let again = joins_with(node(&[here, there]).await, "Maria", &code).await;
    assert_eq!(again.expect_err("used").code, "CODE_USED");
}

#[tokio::test]
async fn a_wrong_code_is_one_try_however_many_relays_of_a_fleet_know_its_host() {
    let relays = fleet(["one", "other"]).await;
    let known = [&relays[0], &relays[1]].map(|relay| relay.address().clone());
    let (mut helper, code) = invites_with(node(&known).await, "Sam", LIFETIME).await;
    let mut sharer = node(&known).await;
    for left in [2, 1] {
        let wrong = mistyped(&code).parse().expect("a code");
        let failure = sharer.try_code(wrong).await.expect_err("mistyped");
        assert_eq!(failure.code, "WRONG_CODE");
        let tries_left = helper.until(|event| match event {
            Event::WrongCode { tries_left } => Some(*tries_left),
            _ => None,
        });
        assert_eq!(tries_left.await, left);
    }
    let right = code.parse().expect("a code");
    sharer.try_code(right).await.expect("the third try");
}

#[tokio::test]
async fn a_code_goes_on_working_when_its_relay_drains() {
    for [mut old, new] in [[named("old"), named("new")], fleet(["old", "new"]).await] {
        let relays = [&old, &new].map(|relay| relay.address().clone());
        let (mut helper, code) = invites_with(node_at_first(&relays).await, "Sam", LIFETIME).await;
        old.drain();
        let home = helper.until(|event| match event {
            Event::Home { relay, .. } => Some(relay.clone()),
            _ => None,
        });
        assert_eq!(home.await, "new");
        within("drained", old.drained()).await.expect("it is empty");
        within("the end", old.shutdown()).await;
        let mut sharer = joins_with(node(&relays).await, "Maria", &code)
            .await
            .expect("the same code");
        assert_eq!(helper.trust().await.1, sharer.trust().await.1);
    }
}

#[tokio::test]
async fn whoever_is_on_the_way_is_not_turned_away_by_a_relay_that_drains() {
    let (old, new) = (named("old"), named("new"));
    let relays = [&old, &new].map(|relay| relay.address().clone());
    // For these two the relay stays a while: they know no other.
    let others = active(&relays[..1]).await;
    let (mut helper, code) = invites_with(node_at_first(&relays).await, "Sam", LIFETIME).await;
    // Each word takes so long that a slow computer is in time.
    let away = Far::new(old.address(), Duration::from_millis(200)).await;
    let sharer = node(std::slice::from_ref(&away.relay)).await;
    let joining = tokio::spawn(async move { joins_with(sharer, "Maria", &code).await });
    until("somebody on the way", || {
        sum(&old, "remora_relay_control_requests_total", "join") == 2.0
    })
    .await;
    old.drain();
    let mut sharer = joining.await.expect("no panic").expect("works");
    assert_eq!(helper.trust().await.1, sharer.trust().await.1);
    drop(others);
}

#[tokio::test]
async fn a_code_is_not_taken_to_a_relay_that_stops_as_well() {
    let (old, mut other) = (named("old"), named("other"));
    let relays = [&old, &other].map(|relay| relay.address().clone());
    let (mut helper, _) = invites_with(node_at_first(&relays).await, "Sam", LIFETIME).await;
    other.drain();
    within("drained", other.drained())
        .await
        .expect("it is empty");
    old.drain();
    helper
        .until(|event| matches!(event, Event::RelayDraining(_)).then_some(()))
        .await;
    // It is good where it is, and when that is gone, one that takes it is waited for.
    within("the end", old.shutdown()).await;
    helper
        .until(|event| matches!(event, Event::RelayLost).then_some(()))
        .await;
    helper.does(Command::Leave).await;
    let failure = helper.outcome().await.expect_err("it waited");
    assert_eq!(failure.code, "HELPER_CANCELLED");
}

#[tokio::test]
async fn a_code_goes_on_working_when_its_relay_dies() {
    let mut processes = vec![process("old"), process("new")];
    let relays = addresses(&processes);
    let (mut helper, code) = invites_with(node_at_first(&relays).await, "Sam", LIFETIME).await;
    drop(processes.remove(0));
    let home = helper.until(|event| match event {
        Event::Home { relay, .. } => Some(relay.clone()),
        _ => None,
    });
    assert_eq!(home.await, "new");
    let mut sharer = joins_with(node(&relays).await, "Maria", &code)
        .await
        .expect("the same code");
    assert_eq!(helper.trust().await.1, sharer.trust().await.1);
}

#[tokio::test]
async fn a_code_of_a_parked_node_goes_on_working_when_its_relay_dies() {
    let (old, new) = (named("old"), named("new"));
    let relays = [&old, &new].map(|relay| relay.address().clone());
    let options = Options {
        park_after: Duration::from_millis(20),
        ..Options::relay_only()
    };
    let helper = loop {
        let node = Node::at_nearest(&relays, options.clone());
        let node = within("connecting", node).await.expect("a relay");
        if node.relay() == &relays[0] {
            break node;
        }
        node.close().await;
    };
    let (mut helper, code) = invites_with(helper, "Sam", LIFETIME).await;
    until("a parked node", || {
        sum(&old, "remora_relay_nodes_parked", "") == 1.0
    })
    .await;
    // Without a word, as if it had been killed.
    drop(old);
    let home = helper.until(|event| match event {
        Event::Home { relay, .. } => Some(relay.clone()),
        _ => None,
    });
    assert_eq!(home.await, "new");
    let mut sharer = joins_with(node(&relays).await, "Maria", &code)
        .await
        .expect("the same code");
    assert_eq!(helper.trust().await.1, sharer.trust().await.1);
}

#[tokio::test]
async fn a_drained_relay_is_left_before_it_goes_and_nothing_is_lost() {
    let (one, other) = (named("one"), named("other"));
    let relays = [&one, &other].map(|relay| relay.address().clone());
    let (mut helper, mut sharer, carrier) = active(&relays).await;
    let (mut old, new) = if carrier == "one" {
        (one, other)
    } else {
        (other, one)
    };
    old.drain();
    talk(&mut helper, &mut sharer).await;
    talk(&mut sharer, &mut helper).await;
    within("drained", old.drained()).await.expect("it is empty");
    within("the end", old.shutdown()).await;
    talk(&mut helper, &mut sharer).await;
    assert_eq!(new.sessions(), 1);
    part(helper, sharer).await;
}

#[tokio::test]
async fn t_p4_when_its_relay_drains_a_session_is_at_another_first_and_only_the_badge_says_so() {
    let (one, other) = (named("one"), named("other"));
    let relays = [&one, &other].map(|relay| relay.address().clone());
    let (mut helper, mut sharer, carrier) = active(&relays).await;
    let (mut old, new) = if carrier == "one" {
        (one, other)
    } else {
        (other, one)
    };
    old.drain();
    for person in [&mut helper, &mut sharer] {
        let badge = loop {
            match person.event().await {
                Event::Moved(path) => break path,
                Event::RelayDraining(_) => {}
                other => panic!("{} was told {other:?}", person.name),
            }
        };
        assert_ne!(badge.relay, carrier);
        assert_eq!(badge.direct, None);
    }
    // The new way carries it while the old one is still there.
    assert_eq!(new.sessions(), 1);
    talk(&mut helper, &mut sharer).await;
    within("drained", old.drained()).await.expect("it is empty");
    within("the end", old.shutdown()).await;
    talk(&mut sharer, &mut helper).await;
    part(helper, sharer).await;
}

#[tokio::test]
async fn a_relay_of_the_fleet_that_nobody_named_takes_a_session_over() {
    let [mut one, other] = fleet(["one", "other"]).await;
    let named = [one.address().clone()];
    let (mut helper, mut sharer, carrier) = active(&named).await;
    assert_eq!(carrier, "one");
    one.drain();
    talk(&mut helper, &mut sharer).await;
    within("drained", one.drained()).await.expect("it is empty");
    within("the end", one.shutdown()).await;
    assert_eq!(moved(&mut helper).await, "other");
    talk(&mut sharer, &mut helper).await;
    assert_eq!(other.sessions(), 1);
    part(helper, sharer).await;
}

#[tokio::test]
async fn a_node_goes_on_to_a_relay_of_the_fleet_that_has_less_to_do() {
    let [one, other] = fleet(["one", "other"]).await;
    let named = [one.address().clone()];
    let stays = Options {
        only_named: true,
        ..Options::relay_only()
    };
    let mut there = Vec::new();
    // As many as are too few for anybody to go on; this one is one of them.
    for _ in 0..63 {
        let node = Node::at_nearest(&named, stays.clone());
        there.push(within("connecting", node).await.expect("a relay"));
    }
    let next = node(&named).await;
    assert_eq!(next.relay().id, other.address().id);
    let next = Node::at_nearest(&named, stays);
    let next = within("connecting", next).await.expect("a relay");
    assert_eq!(next.relay().id, one.address().id, "it was told to stay");
}

#[tokio::test]
async fn of_two_relays_that_bridge_a_session_either_may_stop() {
    for stops in 0..2 {
        let [one, other] = fleet(["one", "other"]).await;
        let [there, here] = [&one, &other].map(|relay| relay.address().clone());
        let helper = node_at_first(&[there.clone(), here.clone()]).await;
        let sharer = node_at_first(&[here, there]).await;
        let (mut helper, mut sharer, _) = active_of([helper, sharer]).await;
        assert_eq!([one.sessions(), other.sessions()], [1, 1]);
        let (mut old, new, name) = if stops == 0 {
            (one, other, "other")
        } else {
            (other, one, "one")
        };
        old.drain();
        talk(&mut helper, &mut sharer).await;
        within("drained", old.drained()).await.expect("it is empty");
        within("the end", old.shutdown()).await;
        assert_eq!(moved(&mut helper).await, name);
        talk(&mut sharer, &mut helper).await;
        assert_eq!(new.sessions(), 1);
        part(helper, sharer).await;
    }
}

#[tokio::test]
async fn a_drained_relay_is_soon_empty_although_packets_go_directly() {
    let (one, other) = (named("one"), named("other"));
    let relays = [&one, &other].map(|relay| relay.address().clone());
    let options = Options {
        policy: Policy {
            allow_loopback: true,
            ..Policy::default()
        },
        ..Options::default()
    };
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let node = Node::at_nearest(&relays, options.clone());
        nodes.push(within("connecting", node).await.expect("a relay"));
    }
    let nodes = nodes.try_into().expect("two");
    let (mut helper, mut sharer, carrier) = active_of(nodes).await;
    for person in [&mut helper, &mut sharer] {
        let direct = person.running.path.wait_for(|path| path.direct.is_some());
        within("a direct path", direct).await.expect("alive");
    }
    let mut old = if carrier == "one" { one } else { other };
    old.drain();
    let drained = tokio::time::timeout(EMPTY_WITHIN, old.drained()).await;
    drained.expect("in time").expect("it is empty");
    talk(&mut helper, &mut sharer).await;
    part(helper, sharer).await;
}

#[tokio::test]
async fn a_move_to_another_relay_is_told_as_moves_are() {
    let (one, other) = (named("one"), named("other"));
    let relays = [&one, &other].map(|relay| relay.address().clone());
    let (mut helper, mut sharer, carrier) = active(&relays).await;
    let (old, new) = if carrier == "one" {
        (one, "other")
    } else {
        (other, "one")
    };
    old.drain();
    assert_eq!(moved(&mut helper).await, new);
    assert_eq!(moved(&mut sharer).await, new);
    part(helper, sharer).await;
}

#[tokio::test]
async fn behind_one_name_a_node_finds_a_relay_and_reaches_it_and_the_others_again() {
    let [mut one, other] = fleet(["one", "other"]).await;
    let own = [&one, &other].map(|relay| relay.address().clone());
    let name = Far::before(&[&own[0], &own[1]]).await;
    // The same name with each key.
    let known = own.clone().map(|relay| RelayAddr {
        host_port: name.relay.host_port.clone(),
        ..relay
    });
    let mut nodes = Vec::new();
    while nodes.len() < 2 {
        let node = node(&known).await;
        assert!(own.contains(node.relay()), "at its own address: {node:?}");
        if node.relay() == &own[0] {
            nodes.push(node);
        } else {
            node.close().await;
        }
    }
    let nodes = nodes.try_into().expect("two");
    let (mut helper, mut sharer, carrier) = active_of(nodes).await;
    assert_eq!(carrier, "one");
    one.drain();
    talk(&mut helper, &mut sharer).await;
    within("drained", one.drained()).await.expect("it is empty");
    assert_eq!(moved(&mut helper).await, "other");
    talk(&mut sharer, &mut helper).await;
    part(helper, sharer).await;
}

#[tokio::test]
async fn two_meet_at_a_relay_that_is_nearer_and_nothing_is_lost() {
    // So much that a slow computer makes no difference.
    let (near, far) = (Duration::ZERO, Duration::from_millis(60));
    for is_bridged in [false, true] {
        let [one, other] = match is_bridged {
            true => fleet(["one", "other"]).await,
            false => [named("one"), named("other")],
        };
        let to_one = Far::new(one.address(), near).await;
        let to_other = Far::new(other.address(), far).await;
        let known = [&to_one, &to_other].map(|far| far.relay.clone());
        let helper = node(&known).await;
        let (sharer_to_one, sharer_to_other) = match is_bridged {
            true => (far, near),
            false => (near, far),
        };
        let there = Far::new(one.address(), sharer_to_one).await;
        let here = Far::new(other.address(), sharer_to_other).await;
        let known = [&there, &here].map(|far| far.relay.clone());
        let sharer = node(&known).await;
        let (mut helper, mut sharer, carrier) = active_of([helper, sharer]).await;
        assert_eq!(carrier, "one");
        for (to, delay) in [
            (&to_one, far),
            (&there, far),
            (&to_other, near),
            (&here, near),
        ] {
            to.set(delay);
        }
        talk(&mut helper, &mut sharer).await;
        assert_eq!(moved(&mut helper).await, "other");
        talk(&mut sharer, &mut helper).await;
        for person in [&mut helper, &mut sharer] {
            let path = &mut person.running.path;
            let shorter = path.wait_for(|path| path.relay == "other" && path.rtt < far);
            within("a shorter way", shorter).await.expect("a session");
        }
        part(helper, sharer).await;
    }
}

#[tokio::test]
async fn a_session_survives_the_death_of_its_relay_twice() {
    let mut relays = vec![process("one"), process("two"), process("three")];
    let known = addresses(&relays);
    let (mut helper, mut sharer, mut carrier) = active(&known).await;
    for _ in 0..2 {
        talk(&mut helper, &mut sharer).await;
        let names = ["one", "two", "three"];
        let dead = known
            .iter()
            .zip(names)
            .find_map(|(address, name)| (name == carrier).then(|| address.to_string()));
        relays.retain(|relay| Some(&relay.address) != dead.as_ref());
        talk(&mut helper, &mut sharer).await;
        let now = moved(&mut helper).await;
        assert_ne!(now, carrier);
        carrier = now;
        talk(&mut sharer, &mut helper).await;
    }
    part(helper, sharer).await;
}
