//! Gateways on loopback addresses, well-behaved and not.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, http::HeaderMap, routing};
use proptest::prelude::*;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::mpsc,
};

use super::*;

const PORT: NonZeroU16 = NonZeroU16::new(41_641).expect("not 0");
const EXTERNAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 7), 51_000);
const NOWHERE: Duration = Duration::from_millis(50);

/// A gateway of this test's own: others run beside it.
fn gateway(number: u8) -> Gateway {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Gateway {
        ip: Ipv4Addr::new(127, 64 | (high & 63), low, number),
        own: Ipv4Addr::LOCALHOST,
    }
}

/// Answers on a UDP port of the gateway, and tells what was asked.
async fn answering(
    at: Ipv4Addr,
    port: u16,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> mpsc::UnboundedReceiver<Vec<u8>> {
    let socket = UdpSocket::bind((at, port)).await.expect("a port");
    let (tell, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut question = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            let question = &question[..length];
            if tell.send(question.to_vec()).is_err() {
                return;
            }
            if let Some(answer) = answer(question) {
                socket.send_to(&answer, from).await.expect("sent");
            }
        }
    });
    asked
}

/// RFC 6887 §11.1: a mapping as it was asked for, at this address.
fn pcp_answer(question: &[u8], external: SocketAddrV4) -> Option<Vec<u8>> {
    if question.len() != 60 || question[..2] != [2, 1] {
        return None;
    }
    let mut answer = vec![2, 0x81, 0, 0];
    answer.extend(&question[4..8]);
    answer.extend([0; 16]);
    answer.extend(&question[24..42]);
    answer.extend(external.port().to_be_bytes());
    answer.extend(external.ip().to_ipv6_mapped().octets());
    Some(answer)
}

/// RFC 6886 §3.2, §3.3, and §3.5 for the version that is not known.
fn nat_pmp_answer(question: &[u8], external: SocketAddrV4) -> Option<Vec<u8>> {
    let mut answer = match question.first()? {
        0 => vec![0, 0x80 | question.get(1)?, 0, 0],
        _ => return Some(vec![0, 0x80, 0, 1, 0, 0, 0, 9]),
    };
    answer.extend([0, 0, 0, 9]);
    if question[1] == 0 {
        answer.extend(external.ip().octets());
        return Some(answer);
    }
    let lifetime = question.get(8..12)?;
    let port = if lifetime == [0; 4] {
        0
    } else {
        external.port()
    };
    answer.extend(&question[4..6]);
    answer.extend(port.to_be_bytes());
    answer.extend(lifetime);
    Some(answer)
}

async fn asks(at: Gateway) -> Result<Mapping, Unmapped> {
    map(at, PORT, &Policy::default()).await
}

#[tokio::test]
async fn what_pcp_gives_is_renewed_and_given_back() {
    let at = gateway(1);
    let mut asked = answering(at.ip, 5351, |question| pcp_answer(question, EXTERNAL)).await;
    let mapping = asks(at).await.expect("a mapping");
    assert_eq!(
        (mapping.protocol, mapping.external),
        (Protocol::Pcp, EXTERNAL)
    );
    let first = asked.recv().await.expect("asked");
    let renewed = mapping.renewed(at).await.expect("again");
    assert_eq!(renewed.external, EXTERNAL);
    let again = asked.recv().await.expect("asked");
    assert_eq!(first[24..42], again[24..42], "the same nonce and port");
    assert_eq!(
        again[42..44],
        EXTERNAL.port().to_be_bytes(),
        "the same, please"
    );
    renewed.delete().await;
    let last = asked.recv().await.expect("told");
    assert_eq!(
        (&last[4..8], &last[24..42]),
        (&[0; 4][..], &first[24..42]),
        "no lifetime"
    );
}

#[tokio::test]
async fn an_older_gateway_gives_it_by_nat_pmp() {
    let at = gateway(2);
    let mut asked = answering(at.ip, 5351, |question| nat_pmp_answer(question, EXTERNAL)).await;
    let mapping = asks(at).await.expect("a mapping");
    assert_eq!(
        (mapping.protocol, mapping.external),
        (Protocol::NatPmp, EXTERNAL)
    );
    mapping.delete().await;
    let mut last = asked.recv().await;
    while let Ok(question) = asked.try_recv() {
        last = Some(question);
    }
    assert_eq!(
        last.expect("told")[4..],
        [&PORT.get().to_be_bytes()[..], &[0; 6]].concat()
    );
}

/// A device as `miniupnpd` describes it, as far as it matters; control and search answer with what they are made with.
struct Device {
    soap: mpsc::UnboundedReceiver<String>,
    _searched: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Device {
    /// `location` and `control` are what it says of itself: `{}` is where it really is.
    async fn start(at: Ipv4Addr, location: &str, control: &str, taken: bool) -> Self {
        let listener = TcpListener::bind((at, 0)).await.expect("a port");
        let here = listener.local_addr().expect("bound").to_string();
        let [location, control] = [location, control].map(|url| url.replace("{}", &here));
        let description = format!(
            "<root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><serviceList><service>\
             <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
             <controlURL>{control}</controlURL><SCPDURL>/actions.xml</SCPDURL></service></serviceList></device></root>"
        );
        let (tell, soap) = mpsc::unbounded_channel();
        let control = move |headers: HeaderMap, body: Bytes| {
            let tell = tell.clone();
            async move {
                let action = headers["soapaction"].to_str().expect("text");
                let action = action.trim_matches('"').rsplit('#').next().expect("a name");
                let body = String::from_utf8_lossy(&body);
                tell.send(format!("{action} {body}")).expect("heard");
                let is_taken = taken
                    && action == "AddPortMapping"
                    && body.contains(">41641</NewExternalPort>");
                let inside = if is_taken {
                    "<s:Fault><detail><UPnPError><errorCode>718</errorCode>\
                     <errorDescription>Conflict</errorDescription></UPnPError></detail></s:Fault>"
                        .to_owned()
                } else {
                    format!(
                        "<u:{action}Response xmlns:u=\"urn:x\"><NewExternalIPAddress>203.0.113.7</NewExternalIPAddress>\
                         </u:{action}Response>"
                    )
                };
                format!(
                    "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{inside}</s:Body></s:Envelope>"
                )
            }
        };
        let mapping = [
            "NewRemoteHost",
            "NewExternalPort",
            "NewProtocol",
            "NewInternalPort",
            "NewInternalClient",
            "NewEnabled",
            "NewPortMappingDescription",
            "NewLeaseDuration",
        ];
        let action = |name: &str, arguments: &[&str]| {
            let one = |name: &&str| {
                format!("<argument><name>{name}</name><direction>in</direction></argument>")
            };
            let arguments: String = arguments.iter().map(one).collect();
            format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
        };
        let actions = format!(
            "<scpd xmlns=\"urn:schemas-upnp-org:service-1-0\"><actionList>{}{}</actionList></scpd>",
            action("AddPortMapping", &mapping),
            action("DeletePortMapping", &mapping[..3])
        );
        let app = Router::new()
            .route("/root.xml", routing::get(description))
            .route("/actions.xml", routing::get(actions))
            .route("/control", routing::post(control));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let answer = format!("HTTP/1.1 200 OK\r\nLOCATION: {location}\r\n\r\n").into_bytes();
        let searched = answering(at, 1900, move |_| Some(answer.clone())).await;
        Self {
            soap,
            _searched: searched,
        }
    }
}

#[tokio::test]
async fn a_gateway_that_knows_upnp_alone_gives_it_too_and_another_port_than_its_own_when_that_is_taken()
 {
    for (number, taken) in [(3, false), (4, true)] {
        let at = gateway(number);
        let mut device = Device::start(at.ip, "http://{}/root.xml", "/control", taken).await;
        let mapping = asks(at).await.expect("a mapping");
        assert_eq!(
            (mapping.protocol, mapping.external.ip()),
            (Protocol::Upnp, EXTERNAL.ip())
        );
        assert_eq!(mapping.external.port() == PORT.get(), !taken);
        let port = mapping.external.port();
        mapping.delete().await;
        let mut said = Vec::new();
        while let Ok(action) = device.soap.try_recv() {
            said.push(action);
        }
        let asked = said
            .iter()
            .rfind(|said| said.starts_with("AddPortMapping"))
            .expect("asked");
        for what in [
            "<NewInternalClient>127.0.0.1</",
            "<NewInternalPort>41641</",
            "<NewProtocol>UDP</",
            "<NewLeaseDuration>1200</",
        ] {
            assert!(asked.contains(what), "{what}: {asked}");
        }
        let last = said.last().expect("told");
        assert!(
            last.starts_with("DeletePortMapping")
                && last.contains(&format!(">{port}</NewExternalPort>")),
            "{last}"
        );
    }
}

#[tokio::test]
async fn what_is_not_at_the_gateways_address_is_not_fetched_and_who_is_not_there_is_not_heard() {
    // A service of somebody else's that must not be asked: on this computer, and on another.
    for (number, elsewhere) in [(5, Ipv4Addr::LOCALHOST), (6, gateway(7).ip)] {
        let at = gateway(number);
        let service = TcpListener::bind((elsewhere, 0)).await.expect("a port");
        let place = service.local_addr().expect("bound");
        let location = format!("http://{place}/root.xml");
        let _device = Device::start(at.ip, &location, "/control", false).await;
        assert_eq!(asks(at).await.expect_err("nothing"), Unmapped::NotGiven);
        assert!(timeout(NOWHERE, service.accept()).await.is_err(), "{place}");
    }
    let at = gateway(8);
    let service = TcpListener::bind((gateway(9).ip, 0)).await.expect("a port");
    let place = service.local_addr().expect("bound");
    let control = format!("http://{place}/control");
    let _device = Device::start(at.ip, "http://{}/root.xml", &control, false).await;
    assert_eq!(asks(at).await.expect_err("nothing"), Unmapped::NotGiven);
    assert!(timeout(NOWHERE, service.accept()).await.is_err(), "{place}");
}

#[tokio::test]
async fn an_address_that_strangers_do_not_reach_is_given_back() {
    for (number, (ip, port)) in (10..).zip([
        ([10, 0, 0, 7], 51_000),
        ([192, 168, 1, 2], 51_000),
        ([100, 64, 3, 4], 51_000),
        ([127, 0, 0, 1], 51_000),
        ([0, 0, 0, 0], 51_000),
        ([239, 255, 255, 250], 51_000),
        ([255, 255, 255, 255], 51_000),
        ([169, 254, 1, 1], 51_000),
        // Somebody's service.
        ([203, 0, 113, 7], 53),
    ]) {
        let (at, external) = (gateway(number), SocketAddrV4::new(ip.into(), port));
        let mut asked =
            answering(at.ip, 5351, move |question| pcp_answer(question, external)).await;
        let error = asks(at).await.expect_err("of no use");
        assert_eq!(error, Unmapped::NotPublic(*external.ip()), "{external}");
        asked.recv().await.expect("asked");
        assert_eq!(asked.recv().await.expect("given back")[4..8], [0; 4]);
    }
}

#[tokio::test]
async fn a_port_is_kept_for_whoever_wants_it_and_asked_for_again_in_another_network() {
    fn at() -> Option<Gateway> {
        Some(gateway(30))
    }
    let mut asked = answering(gateway(30).ip, 5351, |question| {
        pcp_answer(question, EXTERNAL)
    })
    .await;
    let (mut port_map, keep) = port_map(Policy::default(), at);
    let keeper = tokio::spawn(keep);
    let lifetime = |question: Option<Vec<u8>>| {
        let question = question.expect("asked");
        u32::from_be_bytes(*question[4..].first_chunk().expect("a header"))
    };
    for network in 0..2 {
        if network > 0 {
            port_map.want_anew(Some(PORT.get()));
            // That of the network before.
            assert_eq!(lifetime(asked.recv().await), 0);
        } else {
            port_map.want(Some(PORT.get()));
        }
        assert_eq!(lifetime(asked.recv().await), 1200);
        while port_map.mapped() != Some(EXTERNAL) {
            port_map.changed().await;
        }
        // Nothing is asked for twice.
        port_map.want(Some(PORT.get()));
    }
    drop(port_map);
    keeper.await.expect("ended");
    assert_eq!(lifetime(asked.recv().await), 0);
    assert_eq!(asked.try_recv().ok(), None);
}

#[tokio::test]
async fn a_gateway_that_is_not_known_yet_is_looked_for_again_soon() {
    let mut keeper = Keeper {
        policy: Policy::default(),
        gateway: || None,
        maps: watch::channel(None).0,
        wanted: Wanted {
            port: Some(PORT),
            ..Wanted::default()
        },
        at: None,
        held: None,
        expires: Instant::now(),
    };
    assert_eq!(keeper.ask().await, LOOK_AGAIN);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Whatever a gateway answers, be it almost right: it is a port that strangers reach, or none; and soon.
    #[test]
    fn no_answer_does_harm(
        garbage in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..4),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (at, policy) = (gateway(31), Policy::default());
        let began = Instant::now();
        let answers = Arc::new(Mutex::new(garbage.into_iter()));
        let mapped = runtime.block_on(async {
            let asked = answering(at.ip, 5351, move |question| {
                let right = pcp_answer(question, EXTERNAL).or_else(|| nat_pmp_answer(question, EXTERNAL));
                let mut answer = match answers.lock().expect("alone").next() {
                    Some(garbage) if flips.is_empty() => garbage,
                    _ => right.unwrap_or_default(),
                };
                for (at, byte) in &flips {
                    if !answer.is_empty() {
                        let at = at.index(answer.len());
                        answer[at] = *byte;
                    }
                }
                Some(answer)
            }).await;
            let mapped = map(at, PORT, &policy).await;
            drop(asked);
            mapped
        });
        if let Ok(mapping) = mapped {
            prop_assert!(policy.allows(mapping.external.into(), &[]));
            prop_assert!((SHORTEST..=LEASE).contains(&mapping.lifetime));
        }
        prop_assert!(began.elapsed() < 5 * (ASKING + DELETING));
    }
}
