//! A whole relay, seen from its admin port.

#[path = "support/relays.rs"]
mod relays;
#[path = "support/node.rs"]
mod support;

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use relays::{bridged, fleet, talk};
use remora_proto::{
    id::SessionId,
    wire::message::control::{ReleaseCause, relay_to_node::Body as Reply},
};
use remora_relay::{
    admin::{door::Tls, token::AdminToken},
    relay::Relay,
    stream::certificate::Files,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    version::TLS13,
};
use serde_json::Value;
use support::{Node, get, pair, relay_with, request, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const TOKEN: &str = "0123456789abcdef";

fn with_token() -> Relay {
    relay_with(|config| config.admin_token = AdminToken::parse(TOKEN))
}

async fn ask(relay: &Relay, method: &str, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let headers = format!("authorization: Bearer {TOKEN}\r\ncontent-length: {length}\r\n");
    // The body follows the empty line that ends the head.
    let (status, text) = request_with(relay, method, path, &headers, body).await;
    let object = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    (status, object)
}

async fn request_with(
    relay: &Relay,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, String) {
    if body.is_empty() {
        return request(relay.admin_addr(), method, path, headers).await;
    }
    let mut tcp = TcpStream::connect(relay.admin_addr()).await.expect("there");
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n{headers}\r\n");
    let whole = [head.as_bytes(), body.as_bytes()].concat();
    tcp.write_all(&whole).await.expect("sent");
    answered(tcp).await
}

async fn answered(mut stream: impl tokio::io::AsyncRead + Unpin) -> (u16, String) {
    let mut response = Vec::new();
    let read = within(stream.read_to_end(&mut response)).await;
    assert!(read.is_ok() || !response.is_empty(), "{read:?}");
    let response = String::from_utf8(response).expect("text");
    let status = response
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok());
    let (_, body) = response.split_once("\r\n\r\n").expect("a head");
    (status.expect("a status"), body.to_owned())
}

#[tokio::test]
async fn a_relay_says_who_it_is_and_how_much_it_does_to_who_may_know() {
    let relay = with_token();
    for path in [
        "/v1/relay",
        "/v1/relays",
        "/v1/sessions",
        "/v1/doctor",
        "/v1/bugreport",
    ] {
        let (status, body) = get(relay.admin_addr(), path).await;
        let problem: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, &problem["code"]), (401, &"NOT_PERMITTED".into()));
        assert!(
            problem["what_to_do"]
                .as_str()
                .is_some_and(|text| text.contains("Bearer"))
        );
    }
    let (_host, _joiner, session) = pair(&relay, 1).await;
    let (status, facts) = ask(&relay, "GET", "/v1/relay", "").await;
    assert_eq!(status, 200);
    for (field, expected) in [
        ("name", Value::from("loopback")),
        ("realm", "default".into()),
        ("state", "serving".into()),
        ("sessions", 1.into()),
        ("nodes", 2.into()),
        ("id", relay.id().to_string().into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
    ] {
        assert_eq!(facts[field], expected, "{facts}");
    }
    let (_, listed) = ask(&relay, "GET", "/v1/relays", "").await;
    assert_eq!(listed["relays"][0]["state"], "here", "{listed}");
    let (_, doctor) = ask(&relay, "GET", "/v1/doctor", "").await;
    let findings = doctor["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 10, "{doctor}");
    let (status, nothing) = ask(&relay, "GET", "/v1/nothing", "").await;
    assert_eq!((status, &nothing["code"]), (404, &"NOT_FOUND".into()));
    let (_, sessions) = ask(&relay, "GET", "/v1/sessions", "").await;
    assert_eq!(sessions["sessions"][0]["id"], session.to_string());
}

#[tokio::test]
async fn sessions_are_listed_by_what_they_carry_and_not_by_whose_they_are() {
    let relay = with_token();
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    talk(&mut host, &mut joiner, session).await;
    let (_, listing) = ask(&relay, "GET", "/v1/sessions", "").await;
    let one = &listing["sessions"][0];
    assert_eq!(listing["total"], 1);
    for side in ["host", "joiner"] {
        assert_eq!(one[side]["way"], "udp", "{one}");
        assert_eq!(one[side]["sent_frames"], 1, "{one}");
    }
    assert_eq!(one["rate_limited"], false);
    let text = listing.to_string();
    assert!(!text.contains("127.0.0.1"), "an address: {text}");
    let after = format!("/v1/sessions?after={session}");
    let (_, rest) = ask(&relay, "GET", &after, "").await;
    assert_eq!(rest["sessions"], Value::Array(Vec::new()));
    for bad in ["/v1/sessions?after=x", "/v1/sessions?before=0000"] {
        assert_eq!(ask(&relay, "GET", bad, "").await.0, 400);
    }
}

async fn hears_the_end(node: &mut Node, session: SessionId) {
    let Reply::Released(released) = node.notice().await else {
        panic!("not told")
    };
    assert_eq!(released.session, session.0);
    assert_eq!(released.cause(), ReleaseCause::OperatorEnded);
    assert_eq!(released.why, "wrong device");
}

#[tokio::test]
async fn a_session_that_an_operator_ends_is_over_and_both_nodes_hear_why() {
    let relay = with_token();
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    let end = |id: &str| format!("/v1/sessions/{id}/end");
    let reason = r#"{"reason": "wrong device"}"#;
    let whole = session.to_string();
    for (id, body, expected) in [
        ("zzzz", reason, 400),
        ("123", reason, 400),
        (&whole[..], "{}", 400),
        (&whole, r#"{"reason": "two\nlines"}"#, 400),
    ] {
        let (status, problem) = ask(&relay, "POST", &end(id), body).await;
        assert_eq!(status, expected, "{problem}");
        assert_eq!(relay.sessions(), 1);
    }
    let (status, ended) = ask(&relay, "POST", &end(&whole[..6]), reason).await;
    assert_eq!((status, &ended["session"]), (200, &whole.clone().into()));
    for node in [&mut host, &mut joiner] {
        hears_the_end(node, session).await;
    }
    assert_eq!(relay.sessions(), 0);
    let (status, problem) = ask(&relay, "POST", &end(&whole), reason).await;
    assert_eq!((status, &problem["code"]), (404, &"NO_SUCH_SESSION".into()));
    let (_, metrics) = get(relay.admin_addr(), "/metrics").await;
    let counted = "remora_relay_session_end_total{reason=\"operator\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn a_node_at_another_relay_hears_why_too() {
    let mut relays = fleet(2).await;
    let (mut host, mut joiner, session) = bridged(&relays[0], &relays[1], 1).await;
    // The first has no token; it is read from what changes while it runs.
    let mut live =
        remora_relay::config::Config::loopback(remora_proto::noise::StaticKey::from_bytes([7; 32]))
            .live();
    live.admin_token = AdminToken::parse(TOKEN);
    relays[0].reloaded(Some(live), remora_relay::config::Standing::default());
    let (_, listing) = ask(&relays[0], "GET", "/v1/sessions", "").await;
    assert_eq!(
        listing["sessions"][0]["joiner"]["way"], "relay",
        "{listing}"
    );
    let (_, known) = ask(&relays[0], "GET", "/v1/relays", "").await;
    assert_eq!(known["relays"][1]["state"], "in_touch", "{known}");
    let path = format!("/v1/sessions/{session}/end");
    let (status, ended) = ask(&relays[0], "POST", &path, r#"{"reason": "wrong device"}"#).await;
    assert_eq!(status, 200, "{ended}");
    for node in [&mut host, &mut joiner] {
        hears_the_end(node, session).await;
    }
    relays.clear();
}

#[tokio::test]
async fn a_report_has_all_that_is_known_and_nothing_secret() {
    let key = remora_proto::noise::StaticKey::from_bytes([7; 32]);
    let relay = relay_with(|config| {
        config.admin_token = AdminToken::parse(TOKEN);
        config.key = key.clone();
        config.standing.shown = "name = \"fra-1\"\n".into();
    });
    let (mut host, mut joiner, session) = pair(&relay, 1).await;
    talk(&mut host, &mut joiner, session).await;
    let headers = format!("authorization: Bearer {TOKEN}\r\n");
    let (status, text) = request(relay.admin_addr(), "GET", "/v1/bugreport", &headers).await;
    assert_eq!(status, 200);
    for part in [
        "=== settings ===\nname = \"fra-1\"",
        "=== doctor ===\n",
        "remora_relay_sessions",
        "=== log ===",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let secret: String = [7u8; 32].iter().map(|byte| format!("{byte:02x}")).collect();
    let code = data_encoding::BASE64.encode(&support::code(1).key_bytes());
    for never in [TOKEN, &secret, &code, "127.0.0.1"] {
        assert!(!text.contains(never), "{never} in {text}");
    }
}

/// An authority, and what it signs.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n")
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (certificate, key)
    }

    fn files(&self, directory: &Path) -> Tls {
        let (certificate, key) = self.sign("127.0.0.1");
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        Tls {
            files: Files {
                certificate: write("tls.crt", pem("CERTIFICATE", certificate.der())),
                key: write("tls.key", pem("PRIVATE KEY", &key.serialize_der())),
            },
            client_ca: Some(write("ca.crt", pem("CERTIFICATE", self.certificate.der()))),
        }
    }
}

async fn by_tls(
    relay: &Relay,
    authority: &Authority,
    client: Option<(rcgen::Certificate, KeyPair)>,
    path: &str,
) -> Option<(u16, String)> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.certificate.der().clone())
        .expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("known")
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(chain, key).expect("fits")
        }
    };
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let tcp = TcpStream::connect(relay.admin_addr()).await.expect("there");
    let connector = TlsConnector::from(Arc::new(config));
    let mut tls = within(connector.connect(name, tcp)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.ok()?;
    let mut response = Vec::new();
    // Whose certificate is refused hears of it when it reads.
    within(tls.read_to_end(&mut response)).await.ok();
    let response = String::from_utf8(response).ok()?;
    let status = response.split(' ').nth(1)?.parse().ok()?;
    Some((status, response))
}

#[tokio::test]
async fn a_client_certificate_counts_as_the_token_and_probes_need_neither() {
    let (ours, others) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().expect("a directory");
    let tls = ours.files(directory.path());
    let relay = relay_with(|config| config.admin_tls = Some(tls));
    for path in ["/livez", "/readyz", "/metrics"] {
        let (status, _) = by_tls(&relay, &ours, None, path).await.expect("answered");
        assert_eq!(status, 200, "{path}");
    }
    let (status, said) = by_tls(&relay, &ours, None, "/v1/relay")
        .await
        .expect("answered");
    assert_eq!(status, 401, "{said}");
    let operator = ours.sign("operator");
    let answered = by_tls(&relay, &ours, Some(operator), "/v1/relay").await;
    assert_eq!(answered.expect("answered").0, 200);
    let stranger = others.sign("operator");
    let answered = by_tls(&relay, &ours, Some(stranger), "/livez").await;
    assert_eq!(answered, None, "another authority's");
}
