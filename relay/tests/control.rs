//! A whole relay, seen from the control stream.

#[path = "support/node.rs"]
mod support;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use quinn::{ConnectionError, TransportErrorCode};
use remora_proto::{
    noise::StaticKey,
    park::Saying,
    random::Random,
    record::Record,
    wire::{
        message::{
            ALPN_RELAY, ALPN_SESSION, MAX_CONTROL_BYTES, MAX_SIGNAL_BYTES,
            control::{
                Admit, Dismiss, Gone, Lookup, NodeToRelay, Park, Publish, Reason, Release,
                ReleaseCause, Signal, Withdraw, node_to_relay::Body as Request,
                relay_to_node::Body as Reply,
            },
            encode,
        },
        reflect::{self, Load},
    },
};
use remora_relay::{control::connection, datapath::DropReason, rate::Rate, relay::Relay};
use support::{
    Code, Node, Port, admit, code, code_with, connect, connect_to, get, hello, introduce,
    noise_bytes, pair, relay, relay_with, signal, unix_ms, withdraw, within,
};

fn lookup(codes: &[&Code]) -> Request {
    Request::Lookup(Lookup {
        locator_keys: codes.iter().map(|code| code.key_bytes()).collect(),
    })
}

#[tokio::test]
async fn a_node_is_welcomed_and_told_where_it_is_seen() {
    let relay = relay();
    let (node, welcome) = Node::welcomed(&relay).await;
    assert_eq!((welcome.protocol, welcome.minimum_protocol), (1, 1));
    assert_eq!(
        (welcome.realm.as_str(), welcome.relay_name.as_str()),
        ("default", "loopback")
    );
    assert_eq!(
        welcome.observed_address,
        node.port.io.local_addr().expect("bound").to_string()
    );
    assert!(welcome.unix_ms.abs_diff(unix_ms()) < 60_000);
    assert_eq!(welcome.own_address, relay.address().to_string());
    relay.shutdown().await;
    assert_eq!(node.closed().await, connection::CLOSED_DRAINED.into_inner());
}

#[tokio::test]
async fn a_node_that_came_by_another_name_is_told_which_relay_it_has_found() {
    for (listen, advertise) in [
        ("127.0.0.1:0", Some("fra-1.example.org:443")),
        ("[::]:0", None),
    ] {
        let relay = relay_with(|config| {
            config.listen = listen.parse().expect("an address");
            config.advertise = advertise.map(str::to_owned);
        });
        let at = SocketAddr::from(([127, 0, 0, 1], relay.local_addr().port()));
        let (_, welcome) = Node::welcomed_at(at, relay.id().0).await;
        let said = advertise.map_or_else(String::new, |_| relay.address().to_string());
        assert_eq!(welcome.own_address, said);
    }
}

#[tokio::test]
async fn a_node_may_ask_elsewhere_how_it_is_seen() {
    let relay = relay();
    let (node, welcome) = Node::welcomed(&relay).await;
    let [observer] = &welcome.observers[..] else {
        panic!("{:?}", welcome.observers)
    };
    let port = observer.strip_prefix(':').expect("of the relay's address");
    let port: u16 = port.parse().expect("a port");
    assert_ne!(port, relay.local_addr().port());
    let asker = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let observer = (relay.local_addr().ip(), port);
    // What is no question has no answer, and does no harm.
    for bytes in [&b""[..], &[5; 29], &[0; 2000], &reflect::request(7)] {
        asker.send_to(bytes, observer).await.expect("sent");
    }
    let mut answer = [0; 100];
    let (length, _) = asker.recv_from(&mut answer).await.expect("an answer");
    let own = asker.local_addr().expect("bound");
    let reflection = reflect::decode_response(&answer[..length]).expect("an answer");
    let load = Load::of_nodes(1);
    assert_eq!(
        (reflection.transaction, reflection.seen, reflection.load),
        (7, own, load)
    );
    assert_eq!(relay.dropped(DropReason::ReflectMalformed), 3);
    drop(node);
    relay.shutdown().await;
}

#[tokio::test]
async fn two_nodes_meet_by_code_and_part() {
    let relay = relay();
    let (mut host, mut joiner, code) = (Node::new(&relay).await, Node::new(&relay).await, code(1));
    host.done(code.publish()).await;
    let Reply::Found(found) = joiner.ask(lookup(&[&code])).await else {
        panic!("not found")
    };
    assert_eq!(found.record, code.record);
    assert!(Record::decode_signed(&found.record, unix_ms()).is_ok());

    let exchange = introduce(&mut host, &mut joiner, &code).await;
    host.done(signal(exchange, b"pake 2")).await;
    let Reply::Signal(passed) = joiner.notice().await else {
        panic!("no signal")
    };
    assert_eq!(
        (passed.exchange, &passed.payload[..]),
        (exchange, &b"pake 2"[..])
    );
    joiner.done(signal(exchange, b"pake 3")).await;
    assert!(
        matches!(host.notice().await, Reply::Signal(passed) if passed.payload == b"pake 3"[..])
    );

    let [one, two] = admit(&mut host, &mut joiner, exchange).await;
    assert_eq!((one.side, &one.payload[..]), (0, &b""[..]));
    assert_eq!((two.side, &two.payload[..]), (1, &b"welcome"[..]));
    assert_eq!(
        (one.session, one.exchange, one.rate_bytes_per_s),
        (two.session, exchange, 16 << 20)
    );
    assert_eq!(relay.sessions(), 1);

    joiner
        .done(Request::Release(Release {
            session: one.session,
        }))
        .await;
    let Reply::Released(released) = host.notice().await else {
        panic!("not released")
    };
    assert_eq!(
        (released.session, released.cause()),
        (one.session, ReleaseCause::PeerReleased)
    );
    assert_eq!(
        host.refused(Request::Release(Release {
            session: one.session
        }))
        .await,
        Reason::BadState
    );
    assert_eq!(
        host.refused(signal(exchange, b"late")).await,
        Reason::PeerGone
    );
    assert_eq!(relay.sessions(), 0);
}

#[tokio::test]
async fn a_host_that_vanishes_is_told_to_the_joiner() {
    let relay = relay();
    let (host, mut joiner, session) = pair(&relay, 1).await;
    host.connection.close(0_u32.into(), b"");
    let Reply::Released(released) = joiner.notice().await else {
        panic!("not released")
    };
    assert_eq!(
        (released.session, released.cause()),
        (session.0, ReleaseCause::PeerLost)
    );
    assert_eq!(
        joiner.refused(code(1).join("again")).await,
        Reason::PeerGone
    );
}

#[tokio::test]
async fn an_exchange_ends_with_either_node_or_by_the_hosts_word() {
    let relay = relay();
    let (mut host, mut joiner, code) = (Node::new(&relay).await, Node::new(&relay).await, code(1));
    host.done(code.publish()).await;

    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let payload = Bytes::from_static(b"wrong, 2 left");
    host.done(Request::Dismiss(Dismiss {
        exchange,
        payload: payload.clone(),
        wrong_secret: true,
    }))
    .await;
    let Reply::Dismissed(dismissed) = joiner.notice().await else {
        panic!("not dismissed")
    };
    assert_eq!(
        (
            dismissed.exchange,
            dismissed.payload,
            dismissed.wrong_secret
        ),
        (exchange, payload, true)
    );

    let exchange = introduce(&mut host, &mut joiner, &code).await;
    joiner.connection.close(0_u32.into(), b"");
    let Reply::Dismissed(dismissed) = host.notice().await else {
        panic!("not dismissed")
    };
    assert_eq!(
        (dismissed.exchange, dismissed.wrong_secret),
        (exchange, false)
    );

    let mut joiner = Node::new(&relay).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    host.connection.close(0_u32.into(), b"");
    assert!(
        matches!(joiner.notice().await, Reply::Dismissed(dismissed) if dismissed.exchange == exchange)
    );
}

#[tokio::test]
async fn a_third_party_cannot_signal_admit_dismiss_or_release() {
    let relay = relay();
    let (mut host, mut joiner, code) = (Node::new(&relay).await, Node::new(&relay).await, code(1));
    let mut stranger = Node::new(&relay).await;
    host.done(code.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let payload = Bytes::from_static(b"me");
    for request in [
        signal(exchange, b"me"),
        Request::Admit(Admit {
            exchange,
            payload: payload.clone(),
        }),
        Request::Dismiss(Dismiss {
            exchange,
            payload: payload.clone(),
            wrong_secret: true,
        }),
    ] {
        assert_eq!(stranger.refused(request).await, Reason::PeerGone);
    }
    assert_eq!(
        joiner
            .refused(Request::Admit(Admit { exchange, payload }))
            .await,
        Reason::BadState
    );
    assert_eq!(
        stranger.refused(withdraw(&code, Gone::Burned)).await,
        Reason::BadState
    );
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    let release = Request::Release(Release {
        session: allocated.session,
    });
    assert_eq!(stranger.refused(release.clone()).await, Reason::BadState);
    host.done(release).await;
}

#[tokio::test]
async fn a_dead_code_says_how_it_died() {
    let relay = relay();
    let (mut host, mut joiner) = (Node::new(&relay).await, Node::new(&relay).await);
    for (seed, why, reason) in [
        (1, Gone::Used, Reason::CodeUsed),
        (2, Gone::Burned, Reason::CodeBurned),
        (3, Gone::Expired, Reason::CodeExpired),
        (4, Gone::Cancelled, Reason::CodeCancelled),
    ] {
        let code = code(seed);
        host.done(code.publish()).await;
        host.done(withdraw(&code, why)).await;
        assert_eq!(joiner.refused(lookup(&[&code])).await, reason);
        assert_eq!(joiner.refused(code.join("hello")).await, reason);
        assert_eq!(host.refused(code.publish()).await, Reason::Taken);
    }
    let (live, unknown) = (code(5), code(6));
    host.done(live.publish()).await;
    assert!(matches!(
        joiner.ask(lookup(&[&code(1), &unknown, &live])).await,
        Reply::Found(_)
    ));
    assert_eq!(
        joiner.refused(lookup(&[&unknown, &code(2)])).await,
        Reason::CodeBurned
    );
    assert_eq!(
        joiner.refused(lookup(&[&unknown])).await,
        Reason::UnknownCode
    );
    assert_eq!(
        joiner.refused(unknown.join("hello")).await,
        Reason::UnknownCode
    );
    assert_eq!(
        host.refused(withdraw(&unknown, Gone::Used)).await,
        Reason::UnknownCode
    );
}

#[tokio::test]
async fn a_record_that_is_not_in_order_is_refused() {
    let relay = relay();
    let (mut host, mut other) = (Node::new(&relay).await, Node::new(&relay).await);
    let expired = code_with(1, |record| {
        record.not_before_ms -= 600_000;
        record.expiry_ms = record.not_before_ms + 599_000;
    });
    let foreign = code_with(2, |record| record.realm = "elsewhere".into());
    let endless = code_with(3, |record| record.expiry_ms += 600_000);
    for bad in [expired, foreign, endless] {
        assert_eq!(host.refused(bad.publish()).await, Reason::BadRecord);
    }
    let mut forged = code(4).record.to_vec();
    forged[20] ^= 1;
    for record in [forged, vec![], vec![0; 513]] {
        assert_eq!(
            host.refused(Request::Publish(Publish {
                record: record.into()
            }))
            .await,
            Reason::BadRecord
        );
    }

    let code = code(5);
    host.done(code.publish()).await;
    host.done(code.publish()).await;
    let same_place = code_with(6, |record| record.key = code.key);
    assert_eq!(other.refused(same_place.publish()).await, Reason::Taken);
    assert_eq!(
        other.refused(code.publish()).await,
        Reason::Taken,
        "a copy is not its owner's"
    );
    for seed in 10..13 {
        host.done(support::code(seed).publish()).await;
    }
    assert_eq!(
        host.refused(support::code(13).publish()).await,
        Reason::Full
    );
}

#[tokio::test]
async fn a_record_that_expires_says_so_afterwards() {
    let relay = relay();
    let (mut host, mut joiner) = (Node::new(&relay).await, Node::new(&relay).await);
    let brief = code_with(1, |record| record.expiry_ms = unix_ms() + 400);
    host.done(brief.publish()).await;
    let ended = within(async {
        loop {
            if let Reply::Refused(refused) = joiner.ask(lookup(&[&brief])).await
                && refused.reason() != Reason::RateLimited
            {
                return refused.reason();
            }
        }
    });
    assert_eq!(ended.await, Reason::CodeExpired);
}

#[tokio::test]
async fn look_ups_are_limited_by_source() {
    let relay = relay_with(|config| config.lookup_rate = Rate::new(10, Duration::from_secs(60), 5));
    let (mut one, mut two) = (Node::new(&relay).await, Node::new(&relay).await);
    for n in 0..5 {
        let node = if n % 2 == 0 { &mut one } else { &mut two };
        assert_eq!(node.refused(lookup(&[&code(1)])).await, Reason::UnknownCode);
    }
    let Reply::Refused(refused) = two.ask(lookup(&[&code(1)])).await else {
        panic!("not refused")
    };
    assert_eq!(refused.reason(), Reason::RateLimited);
    assert!(
        (1..=6001).contains(&refused.retry_after_ms),
        "{}",
        refused.retry_after_ms
    );
}

#[tokio::test]
async fn joins_are_limited_by_source_so_that_codes_cannot_be_burned_at_will() {
    let relay = relay_with(|config| config.lookup_rate = Rate::new(10, Duration::from_secs(60), 5));
    let (mut one, mut two) = (Node::new(&relay).await, Node::new(&relay).await);
    for n in 0..5 {
        let node = if n % 2 == 0 { &mut one } else { &mut two };
        assert_eq!(
            node.refused(code(1).join("guess")).await,
            Reason::UnknownCode
        );
    }
    assert_eq!(
        two.refused(code(1).join("guess")).await,
        Reason::RateLimited
    );
    assert_eq!(
        one.refused(lookup(&[&code(1)])).await,
        Reason::UnknownCode,
        "counted apart"
    );
}

#[tokio::test]
async fn a_node_that_does_not_read_is_disconnected() {
    let relay = relay();
    let (mut host, code) = (Node::new(&relay).await, code(1));
    host.done(code.publish()).await;
    let mut joiners = Vec::new();
    for _ in 0..6 {
        let mut joiner = Node::new(&relay).await;
        let exchange = introduce(&mut host, &mut joiner, &code).await;
        joiners.push((joiner, exchange));
    }
    // The host reads no more; 16 messages fit into its window, 120 into the relay's, 256 into the queue.
    for (joiner, exchange) in &mut joiners {
        for _ in 0..95 {
            joiner
                .say(0, Some(signal(*exchange, &[7; MAX_SIGNAL_BYTES])))
                .await;
        }
    }
    assert_eq!(
        host.closed().await,
        connection::CLOSED_TOO_SLOW.into_inner()
    );
    for (joiner, exchange) in &mut joiners {
        let notice = joiner.notice().await;
        assert!(matches!(notice, Reply::Dismissed(dismissed) if dismissed.exchange == *exchange));
    }
}

#[tokio::test]
async fn a_node_that_says_nothing_is_disconnected() {
    let relay = relay();
    let node = Node::silent(&relay).await;
    assert_eq!(node.closed().await, connection::CLOSED_SILENT.into_inner());
}

#[tokio::test]
async fn requests_are_limited_by_connection() {
    let relay = relay();
    let (mut greedy, mut other) = (Node::new(&relay).await, Node::new(&relay).await);
    let limited = within(async {
        loop {
            if let Reply::Refused(refused) = greedy.ask(signal(1, b"")).await
                && refused.reason() == Reason::RateLimited
            {
                return refused;
            }
        }
    });
    assert!(limited.await.retry_after_ms > 0);
    assert_eq!(other.refused(signal(1, b"")).await, Reason::PeerGone);
}

#[tokio::test]
async fn malformed_requests_are_refused_one_by_one() {
    let relay = relay();
    let mut node = Node::new(&relay).await;
    let long = Bytes::from(vec![0; MAX_SIGNAL_BYTES + 1]);
    let short_key = Bytes::from_static(&[7; 31]);
    let request = |body| body;
    for body in [
        request(Request::Signal(Signal {
            exchange: 1,
            payload: long.clone(),
        })),
        Request::Admit(Admit {
            exchange: 1,
            payload: long.clone(),
        }),
        Request::Dismiss(Dismiss {
            exchange: 1,
            payload: long,
            wrong_secret: false,
        }),
        Request::Lookup(Lookup {
            locator_keys: vec![],
        }),
        Request::Lookup(Lookup {
            locator_keys: vec![code(1).key_bytes(); 4],
        }),
        Request::Lookup(Lookup {
            locator_keys: vec![short_key.clone()],
        }),
        Request::Withdraw(Withdraw {
            locator_key: short_key,
            why: 1,
        }),
        withdraw(&code(1), Gone::Unspecified),
        Request::Withdraw(Withdraw {
            locator_key: code(1).key_bytes(),
            why: 99,
        }),
    ] {
        assert_eq!(node.refused(body).await, Reason::Malformed);
    }
    assert_eq!(node.refused(hello(1)).await, Reason::BadState);
    // A request of a later version: field 100, length-delimited, empty.
    node.write(&[5, 0x08, 99, 0xa2, 0x06, 0]).await;
    let answer = node.try_message().await.expect("answered");
    assert!(
        matches!(answer.body, Some(Reply::Refused(refused)) if refused.reason() == Reason::Malformed)
    );
    assert_eq!(answer.request, 99);
    node.done(code(1).publish()).await;
}

#[tokio::test]
async fn a_request_without_a_number_gets_no_answer() {
    let relay = relay();
    let mut node = Node::new(&relay).await;
    node.say(0, Some(code(1).publish())).await;
    node.say(0, Some(signal(1, b""))).await;
    let Reply::Found(_) = node.ask(lookup(&[&code(1)])).await else {
        panic!("not published")
    };
}

#[tokio::test]
async fn a_hello_decides_whether_a_node_may_stay() {
    let relay = relay();
    let mut old = Node::silent(&relay).await;
    assert_eq!(old.refused(hello(0)).await, Reason::VersionTooOld);
    assert_eq!(old.closed().await, connection::CLOSED_REFUSED.into_inner());

    let mut newer = Node::silent(&relay).await;
    let Reply::Welcome(welcome) = newer.ask(hello(999)).await else {
        panic!("not welcome")
    };
    assert_eq!(welcome.protocol, 1);

    let mut rude = Node::silent(&relay).await;
    rude.say(1, Some(code(1).publish())).await;
    assert_eq!(
        rude.closed().await,
        connection::CLOSED_MALFORMED.into_inner()
    );
}

#[tokio::test]
async fn a_full_relay_says_so() {
    let relay = relay_with(|config| config.max_nodes = 1);
    let _first = Node::new(&relay).await;
    let mut second = Node::silent(&relay).await;
    assert_eq!(second.refused(hello(1)).await, Reason::Full);
    assert_eq!(
        second.closed().await,
        connection::CLOSED_REFUSED.into_inner()
    );
}

/// How many handshakes had that `result`.
async fn handshakes(relay: &Relay, result: &str) -> u64 {
    let (_, metrics) = get(relay.admin_addr(), "/metrics").await;
    let name = format!("remora_relay_handshakes_total{{profile=\"hop\",result=\"{result}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
    count.map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test]
async fn a_network_gets_no_more_than_its_share() {
    let relay = relay_with(|config| config.max_nodes_per_network = 2);
    let first = Node::new(&relay).await;
    // The second half of the places is for those who prove that they are there.
    let _second = Node::new(&relay).await;
    assert!(handshakes(&relay, "retry").await >= 1);

    let port = Port::new().await;
    let (_endpoint, third) = connect(&relay, &port, StaticKey::generate(), ALPN_RELAY).await;
    let Err(ConnectionError::ConnectionClosed(close)) = third else {
        panic!("{third:?}")
    };
    assert_eq!(close.error_code, TransportErrorCode::CONNECTION_REFUSED);
    assert!(handshakes(&relay, "network_full").await >= 1);

    // Who goes makes room; the relay hears of it when it does.
    first.connection.close(0u32.into(), b"bye");
    within(async {
        while connect(
            &relay,
            &Port::new().await,
            StaticKey::generate(),
            ALPN_RELAY,
        )
        .await
        .1
        .is_err()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn another_protocol_or_another_relays_key_is_refused_in_the_handshake() {
    let relay = relay();
    let port = Port::new().await;
    let (_endpoint, result) = connect(&relay, &port, StaticKey::generate(), ALPN_SESSION).await;
    assert!(result.is_err());
    let port = Port::new().await;
    let other = StaticKey::generate().public();
    let (_endpoint, result) = connect_to(
        relay.local_addr(),
        other,
        &port,
        StaticKey::generate(),
        ALPN_RELAY,
    )
    .await;
    assert!(result.is_err());
    Node::new(&relay).await;
}

#[tokio::test]
async fn a_message_that_is_too_long_closes_the_connection() {
    let relay = relay();
    let mut node = Node::new(&relay).await;
    let record = vec![0; MAX_CONTROL_BYTES].into();
    let body = Some(Request::Publish(Publish { record }));
    node.write(&encode(&NodeToRelay { request: 1, body })).await;
    assert_eq!(
        node.closed().await,
        connection::CLOSED_MALFORMED.into_inner()
    );
}

#[tokio::test]
async fn garbage_never_kills_the_relay() {
    let relay = relay();
    let (host, mut joiner, session) = pair(&relay, 1).await;
    let mut random = Random::seeded(2);
    let mut vandal = Node::new(&relay).await;
    for n in 0..2000_u32 {
        let mut bytes = noise_bytes(&mut random, 1500);
        if let Some(first) = bytes.first_mut() {
            // Every kind of datagram in turn.
            *first = [4, 5, 0xc3, 0x40, *first][n as usize % 5];
        }
        vandal.datagram(&bytes).await;
        if n % 50 == 0 {
            vandal.barrier().await;
        }
    }
    for seed in 0..20 {
        let mut node = if seed % 2 == 0 {
            Node::silent(&relay).await
        } else {
            Node::new(&relay).await
        };
        let mut random = Random::seeded(seed);
        for _ in 0..50 {
            let mut bytes = noise_bytes(&mut random, 200);
            if seed % 3 == 0 {
                // A length that fits, so that what follows is read as a message.
                bytes.insert(0, u8::try_from(bytes.len() % 128).expect("small"));
            }
            node.write(&bytes).await;
        }
    }
    vandal.done(code(2).publish()).await;
    let frame = host
        .frame(session, remora_proto::id::Side::Host, b"still here")
        .await;
    assert_eq!(joiner.next_frame().await, frame);
}

#[tokio::test]
async fn a_parked_host_is_woken_by_a_joiner_and_misses_nothing() {
    let relay = relay();
    let (mut host, mut joiner, code) = (Node::new(&relay).await, Node::new(&relay).await, code(1));
    host.done(code.publish()).await;
    let mut parked = host.park().await;
    assert_eq!(parked.ask(Saying::Keep, 1).await, (Saying::Kept, 1));
    let (_, metrics) = get(relay.admin_addr(), "/metrics").await;
    assert!(metrics.contains("remora_relay_nodes_parked 1\n"));
    assert!(metrics.contains("remora_relay_nodes_connected 2\n"));
    // Both tries come before it is back.
    let mut exchanges = Vec::new();
    for _ in 0..2 {
        let Reply::Started(started) = joiner.ask(code.join("hello")).await else {
            panic!("not started")
        };
        exchanges.push(started.exchange);
    }
    assert_eq!(parked.hear().await, (Saying::Wake, 0));
    let mut host = parked.back().await;
    for exchange in &exchanges {
        let Reply::Offer(offer) = host.notice().await else {
            panic!("no offer")
        };
        assert_eq!(
            (offer.exchange, &offer.payload[..]),
            (*exchange, &b"hello"[..])
        );
    }
    let [to_host, to_joiner] = admit(&mut host, &mut joiner, exchanges[0]).await;
    assert_eq!(to_host.session, to_joiner.session);
    let (_, metrics) = get(relay.admin_addr(), "/metrics").await;
    assert!(metrics.contains("remora_relay_nodes_parked 0\n"));
}

#[tokio::test]
async fn a_node_with_something_to_do_is_not_parked() {
    let relay = relay();
    let (mut host, mut joiner, code) = (Node::new(&relay).await, Node::new(&relay).await, code(1));
    host.done(code.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let park = || Request::Park(Park {});
    assert_eq!(host.refused(park()).await, Reason::BadState);
    assert_eq!(joiner.refused(park()).await, Reason::BadState);
    admit(&mut host, &mut joiner, exchange).await;
    assert_eq!(host.refused(park()).await, Reason::BadState);
}

#[tokio::test]
async fn only_the_node_itself_comes_back_and_only_once() {
    let relay = relay();
    let host = Node::new(&relay).await;
    let mut thief = Node::new(&relay).await.park().await;
    let mut parked = host.park().await;
    // Its ticket is seen by everybody on the way; its key is not.
    thief.grant = parked.grant.clone();
    let (_, refused) = thief.with_key(StaticKey::generate()).refused().await;
    assert_eq!(refused, Reason::NotParked);
    assert_eq!(parked.ask(Saying::Keep, 1).await, (Saying::Kept, 1));
    let grant = parked.grant.clone();
    let mut host = parked.back().await;
    let mut again = Node::new(&relay).await.park().await;
    again.grant = grant;
    again.datagram(&again.grant.seal(Saying::Keep, 2)).await;
    assert_eq!(again.raw().await[1], Saying::Unknown as u8);
    host.done(code(1).publish()).await;
}

#[tokio::test]
async fn a_node_that_is_somewhere_else_is_called_back_from_there() {
    let relay = relay();
    let mut parked = Node::new(&relay).await.park().await;
    parked.port = Port::new().await;
    assert_eq!(parked.ask(Saying::Keep, 1).await, (Saying::Wake, 0));
    let mut node = parked.back().await;
    node.done(code(1).publish()).await;
}

#[tokio::test]
async fn a_parked_node_that_leaves_is_gone_at_once() {
    let relay = relay();
    let (mut host, mut joiner, code) = (Node::new(&relay).await, Node::new(&relay).await, code(1));
    host.done(code.publish()).await;
    let mut parked = host.park().await;
    parked.datagram(&parked.grant.seal(Saying::Bye, 1)).await;
    assert_eq!(parked.raw().await[1], Saying::Unknown as u8);
    assert_eq!(joiner.refused(code.join("hello")).await, Reason::PeerGone);
}

#[tokio::test]
async fn parked_nodes_are_counted_to_their_network_and_all_can_come_back() {
    let relay = relay_with(|config| config.max_nodes_per_network = 3);
    let mut parked = Vec::new();
    for _ in 0..3 {
        parked.push(Node::new(&relay).await.park().await);
    }
    let mut one_more = Node::silent(&relay).await;
    assert_eq!(one_more.refused(hello(1)).await, Reason::Full);
    assert_eq!(
        one_more.closed().await,
        connection::CLOSED_REFUSED.into_inner()
    );
    // For a moment, that one still has a connection.
    let mut back = Vec::new();
    for mut parked in parked {
        back.push(loop {
            match parked.try_back().await {
                Ok(node) => break node,
                Err(again) => parked = again,
            }
        });
    }
}

#[tokio::test]
async fn a_network_cannot_take_anothers_places_by_coming_back_elsewhere() {
    let relay = relay_with(|config| config.max_nodes_per_network = 2);
    let from = |last: u8| Port::of_family(SocketAddr::from(([127, 0, last, 1], 0)));
    let mut parked = Vec::new();
    for last in [1, 1, 2, 2] {
        let node = Node::at(&relay, from(last).await).await;
        parked.push(node.park().await);
    }
    let mut moved = parked.swap_remove(0);
    moved.port = from(2).await;
    assert_eq!(moved.ask(Saying::Keep, 1).await, (Saying::Wake, 0));
    let (mut moved, refused) = moved.refused().await;
    assert_eq!(refused, Reason::Full);
    // It has its place all the same, for when there is room.
    moved.port = from(1).await;
    moved.back().await;
}

#[tokio::test]
async fn a_host_that_has_not_come_back_yet_is_not_signalled() {
    let relay = relay();
    let (mut host, mut joiner, code) = (Node::new(&relay).await, Node::new(&relay).await, code(1));
    host.done(code.publish()).await;
    let parked = host.park().await;
    let Reply::Started(started) = joiner.ask(code.join("hello")).await else {
        panic!("not started")
    };
    let early = signal(started.exchange, b"hello?");
    assert_eq!(joiner.refused(early).await, Reason::BadState);
    let mut host = parked.back().await;
    assert!(matches!(host.notice().await, Reply::Offer(_)));
    joiner.done(signal(started.exchange, b"now")).await;
    assert!(matches!(host.notice().await, Reply::Signal(_)));
}
