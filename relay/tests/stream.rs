//! A whole relay, seen from networks that block UDP: what by UDP is a datagram is a WebSocket's message over TLS.

#[path = "support/node.rs"]
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use remora_proto::{
    id::{SessionId, Side, TlsPin},
    random::Random,
    wire::{
        frame::HEADER_LEN,
        message::control::{Here, node_to_relay::Body as Request},
        reflect,
        stream::{MAX_DATAGRAM_BYTES, PATH},
    },
};
use remora_relay::{admin::metrics::StreamEnd, datapath::DropReason, relay::Relay};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{aws_lc_rs as provider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use support::{Node, admit, code, get, introduce, relay, relay_with, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::watch,
    task::JoinHandle,
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

/// Takes the certificate that the relay's address names.
#[derive(Debug)]
struct Pinned(TlsPin);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        assert_eq!(TlsPin::of(&key), self.0);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        panic!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

async fn tcp(relay: &Relay) -> TcpStream {
    let tcp = TcpStream::connect(relay.stream_addr().expect("a TCP port")).await;
    tcp.expect("connected")
}

async fn tls(relay: &Relay) -> std::io::Result<TlsStream<TcpStream>> {
    let pin = relay.address().tls.expect("its own certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(pin)))
        .with_no_client_auth();
    let name = ServerName::try_from("relay.example").expect("a name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp(relay).await);
    within(connecting).await
}

type Stream = WebSocketStream<TlsStream<TcpStream>>;

async fn stream_at(relay: &Relay, path: &str) -> Result<Stream, tungstenite::Error> {
    let tls = tls(relay).await?;
    let url = format!("wss://relay.example{path}");
    Ok(within(client_async(url, tls)).await?.0)
}

async fn stream(relay: &Relay) -> Stream {
    stream_at(relay, PATH).await.expect("a stream")
}

/// A UDP port on this computer, all of whose datagrams go by a stream.
struct Tunnel {
    port: SocketAddr,
    /// Our end of the TCP connection.
    source: SocketAddr,
    /// Whether they go by UDP instead.
    by_udp: watch::Sender<bool>,
    /// Ends with the stream.
    task: JoinHandle<()>,
}

async fn tunnel(relay: &Relay) -> Tunnel {
    let stream = stream(relay).await;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = udp.local_addr().expect("bound");
    let source = stream
        .get_ref()
        .get_ref()
        .0
        .local_addr()
        .expect("connected");
    let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let relay = relay.local_addr();
    let (by_udp, is_by_udp) = watch::channel(false);
    let (mut sink, mut messages) = stream.split();
    let task = tokio::spawn(async move {
        let (mut buffer, mut from_relay, mut node) = (vec![0; 4096], vec![0; 4096], None);
        loop {
            tokio::select! {
                received = udp.recv_from(&mut buffer) => {
                    let (length, from) = received.expect("works");
                    node = Some(from);
                    let datagram = buffer[..length].to_vec();
                    if *is_by_udp.borrow() {
                        outside.send_to(&datagram, relay).await.expect("sent");
                    } else if sink.send(Message::Binary(datagram.into())).await.is_err() {
                        return;
                    }
                }
                received = outside.recv(&mut from_relay), if node.is_some() => if let Some(node) = node {
                    let length = received.expect("works");
                    udp.send_to(&from_relay[..length], node).await.expect("sent");
                },
                message = messages.next() => match (message, node) {
                    (Some(Ok(Message::Binary(datagram))), Some(node)) => {
                        udp.send_to(&datagram, node).await.expect("sent");
                    }
                    (Some(Ok(_)), _) => {}
                    (None | Some(Err(_)), _) => return,
                },
            }
        }
    });
    Tunnel {
        port,
        source,
        by_udp,
        task,
    }
}

/// A node, all of whose datagrams go by a stream.
async fn node_by_stream(relay: &Relay) -> (Node, Tunnel) {
    let tunnel = tunnel(relay).await;
    let (node, welcome) = Node::welcomed_at(tunnel.port, relay.id().0).await;
    assert_eq!(welcome.observed_address, tunnel.source.to_string());
    (node, tunnel)
}

/// Frames of a session between them arrive byte for byte, both ways.
async fn talk(mut host: Node, mut joiner: Node, seed: u8) {
    let code = code(seed);
    host.done(code.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    let session = SessionId(allocated.session);
    let mut random = Random::seeded(1);
    for _ in 0..200 {
        let packet = [&[7][..], &support::noise_bytes(&mut random, 1400)].concat();
        let there = host.frame(session, Side::Host, &packet).await;
        assert_eq!(joiner.next_frame().await, there);
        let back = joiner.frame(session, Side::Joiner, &packet).await;
        assert_eq!(host.next_frame().await, back);
    }
    // A picture's worth at once: in order, and none is lost on the relay's way to its own port.
    for n in 0..60_u8 {
        host.frame(session, Side::Host, &[n; 1200]).await;
    }
    for n in 0..60_u8 {
        assert_eq!(joiner.next_frame().await[HEADER_LEN..], [n; 1200]);
    }
}

#[tokio::test]
async fn a_node_by_stream_meets_one_by_udp_and_one_by_stream() {
    let relay = relay();
    let (host, _tunnel) = node_by_stream(&relay).await;
    talk(host, Node::new(&relay).await, 1).await;
    let ((host, _one), (joiner, _other)) =
        (node_by_stream(&relay).await, node_by_stream(&relay).await);
    talk(host, joiner, 2).await;
    let (_, metrics) = get(relay.admin_addr(), "/metrics").await;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("remora_relay_stream_datagrams_total{direction=\"sent\"}"));
    let sent = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(sent.is_some_and(|sent| sent > 600), "{metrics}");
}

#[tokio::test]
async fn a_session_goes_on_when_its_node_changes_from_stream_to_udp() {
    let relay = relay();
    let ((mut host, tunnel), mut joiner) = (node_by_stream(&relay).await, Node::new(&relay).await);
    let code = code(1);
    host.done(code.publish()).await;
    let exchange = introduce(&mut host, &mut joiner, &code).await;
    let [allocated, _] = admit(&mut host, &mut joiner, exchange).await;
    let session = SessionId(allocated.session);
    host.frame(session, Side::Host, b"by stream").await;
    assert_eq!(joiner.next_frame().await[HEADER_LEN..], b"by stream"[..]);
    tunnel.by_udp.send_replace(true);
    // What it says next tells the relay where it is; until it has proven that, its frames are another's.
    host.say(0, Some(Request::Here(Here {}))).await;
    within(async {
        loop {
            host.frame(session, Side::Host, b"by UDP").await;
            if time::timeout(Duration::from_millis(20), joiner.next_frame())
                .await
                .is_ok()
            {
                return;
            }
        }
    })
    .await;
    joiner.frame(session, Side::Joiner, b"back").await;
    assert_eq!(host.next_frame().await[HEADER_LEN..], b"back"[..]);
}

#[tokio::test]
async fn whoever_is_at_the_relay_by_stream_hears_that_it_closes() {
    let relay = relay();
    let (node, tunnel) = node_by_stream(&relay).await;
    relay.shutdown().await;
    within(node.closed()).await;
    within(tunnel.task).await.expect("the stream has ended");
}

#[tokio::test]
async fn a_network_has_so_many_streams_and_no_more() {
    let relay = relay_with(|config| config.max_nodes_per_network = 2);
    let streams = [stream(&relay).await, stream(&relay).await];
    // Closed before a word of TLS.
    assert!(tls(&relay).await.is_err());
    assert_eq!(relay.stream_ends(StreamEnd::NetworkFull), 1);
    let [mut one, _other] = streams;
    one.close(None).await.expect("said goodbye");
    ended(&relay, StreamEnd::Left, 1).await;
    stream(&relay).await;
}

/// Waits until so many streams have ended so.
async fn ended(relay: &Relay, why: StreamEnd, count: u64) {
    within(async {
        while relay.stream_ends(why) < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_no_stream_ends_and_is_counted() {
    let relay = relay();
    // Not TLS.
    let mut plain = tcp(&relay).await;
    plain
        .write_all(b"GET /remora HTTP/1.1\r\nhost: relay\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = Vec::new();
    // An alert, or the connection's end.
    within(plain.read_to_end(&mut answer)).await.ok();
    ended(&relay, StreamEnd::Failed, 1).await;
    // Not where streams are.
    let refused = stream_at(&relay, "/").await.expect_err("nothing is there");
    assert!(
        matches!(&refused, tungstenite::Error::Http(answer) if answer.status() == 404),
        "{refused}"
    );
    ended(&relay, StreamEnd::Failed, 2).await;
    // Not datagrams.
    let longest = vec![0x20; MAX_DATAGRAM_BYTES];
    let mut sending = stream(&relay).await;
    sending
        .send(Message::Binary(longest.clone().into()))
        .await
        .expect("sent");
    let too_long = [&longest[..], b"x"].concat();
    sending
        .send(Message::Binary(too_long.into()))
        .await
        .expect("sent");
    ended(&relay, StreamEnd::Malformed, 1).await;
    let mut sending = stream(&relay).await;
    sending.send(Message::text("hello")).await.expect("sent");
    ended(&relay, StreamEnd::Malformed, 2).await;
    assert_eq!(
        dropped(&relay, DropReason::UnknownKind, 1).await,
        1,
        "the longest"
    );
}

/// How many were dropped, once there are `count`.
async fn dropped(relay: &Relay, reason: DropReason, count: u64) -> u64 {
    within(async {
        while relay.dropped(reason) < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
    relay.dropped(reason)
}

#[tokio::test]
async fn a_stream_has_no_address_to_be_told() {
    let relay = relay();
    let mut stream = stream(&relay).await;
    let question = Message::Binary(reflect::request(7).to_vec().into());
    stream.send(question).await.expect("sent");
    assert_eq!(dropped(&relay, DropReason::StreamReflect, 1).await, 1);
}

#[tokio::test]
async fn a_relay_without_a_tcp_port_does_not_name_a_certificate() {
    let relay = relay_with(|config| config.listen_tcp = None);
    assert_eq!((relay.stream_addr(), relay.address().tls), (None, None));
    within(Node::new(&relay)).await;
}

#[tokio::test]
async fn both_ports_have_one_number_on_every_address() {
    for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let listen = listen.parse().expect("an address");
        let relay = relay_with(|config| {
            config.listen = listen;
            config.listen_tcp = Some(listen);
        });
        let (udp, tcp) = (relay.local_addr(), relay.stream_addr().expect("a TCP port"));
        assert_eq!(udp, tcp);
        let (node, _tunnel) = node_by_stream(&relay).await;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, udp.port()));
        let (other, _) = Node::welcomed_at(at, relay.id().0).await;
        talk(node, other, 1).await;
    }
}
