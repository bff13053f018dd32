//! A relay that answers every question for a policy with the next of its lies, whatever was asked; otherwise it does what a node needs to
//! believe that it is at a relay.

use std::{
    net::UdpSocket,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use quinn::{Endpoint, Incoming, RecvStream, SendStream, ServerConfig, TokioRuntime};
use remora_proto::{
    id::RelayId,
    noise::{self, Profile, StaticKey},
    wire::message::{
        ALPN_RELAY, Inbox, MAX_CONTROL_BYTES, PROTOCOL,
        control::{
            Done, NodeToRelay, PolicyChanged, PolicyPart, RelayToNode, Welcome,
            node_to_relay::Body as Request, relay_to_node::Body as Answer,
        },
        encode,
    },
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn},
};

/// Which number each of them is said to have: greater than any that a node has seen.
const NUMBER: u64 = 1_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct LyingRelay {
    /// `HOST:PORT/KEY`
    pub(crate) address: String,
    asked: mpsc::Receiver<u64>,
    _task: JoinSet<()>,
}

impl LyingRelay {
    /// With these, each for once.
    pub(crate) fn start(lies: Vec<Vec<u8>>) -> Self {
        let key = StaticKey::generate();
        let id = RelayId(key.public());
        let config = noise::restartable_endpoint_config(&[Profile::Hop], &key);
        let noise = noise::ServerConfig::new(&[Profile::Hop], key, ALPN_RELAY);
        let server = ServerConfig::with_crypto(Arc::new(noise));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let host_port = socket.local_addr().expect("bound");
        let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime));
        let endpoint = endpoint.expect("an endpoint");
        let (tell, asked) = mpsc::channel(64);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                spawn(serve(incoming, lies.clone(), tell.clone()));
            }
        });
        Self {
            address: format!("{host_port}/{id}"),
            asked,
            _task: task,
        }
    }

    /// The number of the policy that the node has when it next asks for one.
    pub(crate) async fn asked(&mut self) -> u64 {
        self.asked.recv().await.expect("a node")
    }
}

async fn serve(incoming: Incoming, lies: Vec<Vec<u8>>, tell: mpsc::Sender<u64>) {
    let connection = incoming.await.expect("a node");
    let (mut send, mut recv) = connection.accept_bi().await.expect("its stream");
    let mut inbox = Inbox::new(MAX_CONTROL_BYTES);
    let mut lies = lies.into_iter();
    while let Some(NodeToRelay { request, body }) = next(&mut recv, &mut inbox).await {
        let answer = match body {
            Some(Request::Hello(_)) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let unix_ms = now.expect("after 1970").as_millis();
                Answer::Welcome(Welcome {
                    protocol: PROTOCOL,
                    minimum_protocol: PROTOCOL,
                    unix_ms: u64::try_from(unix_ms).expect("a time"),
                    observed_address: connection.remote_address().to_string(),
                    realm: "test".into(),
                    relay_name: "liar".into(),
                    ..Welcome::default()
                })
            }
            Some(Request::FetchPolicy(fetch)) => {
                tell.send(fetch.have).await.expect("the test listens");
                let lie = lies.next().map(Bytes::from).unwrap_or_default();
                let size = u32::try_from(lie.len()).expect("small");
                let part = PolicyPart {
                    number: NUMBER,
                    size,
                    part: lie,
                };
                say(&mut send, request, Answer::PolicyPart(part)).await;
                // Look again: what it has then shows what it has made of it.
                let number = NUMBER;
                Answer::PolicyChanged(PolicyChanged { number })
            }
            _ => Answer::Done(Done {}),
        };
        let request = match answer {
            Answer::PolicyChanged(_) => 0,
            _ => request,
        };
        say(&mut send, request, answer).await;
    }
}

async fn say(send: &mut SendStream, request: u64, answer: Answer) {
    let body = Some(answer);
    let message = encode(&RelayToNode { request, body });
    // Whoever is gone hears nothing.
    send.write_all(&message).await.ok();
}

async fn next(recv: &mut RecvStream, inbox: &mut Inbox) -> Option<NodeToRelay> {
    loop {
        if let Some(message) = inbox.next().expect("messages") {
            return Some(message);
        }
        let chunk = recv.read_chunk(MAX_CONTROL_BYTES, true).await.ok()??;
        inbox.push(&chunk.bytes);
    }
}
