//! The control connection's task: connected while there is something to say, parked while there is not.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Endpoint};
use remora_proto::{
    id::RelayAddr,
    noise::{self, Profile},
    park::{Event, FORGOTTEN_AFTER, Parked},
    path::way::Way,
    wire::message::control::{Reason, Welcome},
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, sleep_until, timeout_at},
};

use super::{
    Asked, Notice, Notify, client_config,
    failure::{HelloError, connect_failure, hello_failure},
    stream::{End, Stream},
};
use crate::{
    error::Failure,
    path::{
        socket::{Incoming, MagicSocket},
        virtual_socket::{Outgoing, VirtualSocket},
    },
};

/// A relay that has not answered by then is not there: a stream has had its time (`path::stream`), and a person is told within
/// five seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(4800);
/// A parked node that cannot reach its relay tries again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a node is not connected.
pub(super) struct NotConnected {
    pub(super) failure: Failure,
    /// The relay has said so, and will again. Whatever else went wrong, anybody on the way may have brought about.
    is_final: bool,
}

impl From<Failure> for NotConnected {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            is_final: false,
        }
    }
}

/// See the module.
pub(super) struct Link {
    endpoint: Endpoint,
    /// The node has one key for as long as it runs.
    config: quinn::ClientConfig,
    relay: RelayAddr,
    address: SocketAddr,
    socket: Arc<MagicSocket>,
    /// What comes for it while it is parked.
    parked: mpsc::Receiver<Bytes>,
    park_after: Duration,
}

impl Link {
    /// Nothing is sent yet.
    pub(super) fn new(
        relay: &RelayAddr,
        address: SocketAddr,
        socket: Arc<MagicSocket>,
        incoming: Incoming,
        park_after: Duration,
    ) -> Result<Self, Failure> {
        let Incoming { control, parked } = incoming;
        let outgoing = Outgoing::Direct { relay: address };
        let packets = VirtualSocket::new(Arc::clone(&socket), outgoing, control);
        let config = noise::lone_endpoint_config(&[Profile::Hop]);
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(config, None, packets, runtime)
            .map_err(|error| Failure::internal("cannot start QUIC", error))?;
        Ok(Self {
            endpoint,
            config: client_config(relay),
            relay: relay.clone(),
            address,
            socket,
            parked,
            park_after,
        })
    }

    /// Connects and says Hello, with the ticket of a node that was parked, else 0.
    pub(super) async fn connect(&self, ticket: u64) -> Result<(Stream, Welcome), NotConnected> {
        let connecting = self
            .endpoint
            .connect_with(self.config.clone(), self.address, "relay")
            .map_err(|error| Failure::internal("cannot connect to the relay", error))?;
        let relay = &self.relay;
        let until = tokio::time::Instant::now() + CONNECT_TIMEOUT;
        let connection = timeout_at(until, connecting)
            .await
            .unwrap_or(Err(ConnectionError::TimedOut))
            .map_err(|error| connect_failure(relay, &error))?;
        let hello = Stream::open(connection.clone(), ticket);
        let opened = if ticket == 0 {
            let opened = timeout_at(until, hello).await;
            opened.map_err(|_| connect_failure(relay, &ConnectionError::TimedOut))?
        } else {
            // A ticket is good for once: as long as the connection lives, the Welcome may still come.
            hello.await
        };
        opened.map_err(|error| NotConnected {
            is_final: is_final(&error),
            failure: hello_failure(relay, &connection, error),
        })
    }

    /// Until no handle is left, or the relay is lost.
    pub(super) async fn run(
        mut self,
        mut stream: Stream,
        mut asked: mpsc::Receiver<Asked>,
        notify: Notify,
        connection: watch::Sender<Connection>,
    ) {
        while stream.talk(&mut asked, &notify, self.park_after).await == End::Parked {
            let has_code = stream.has_code;
            let Some(grant) = stream.park() else { return };
            let parked = Parked::new(grant, Instant::now());
            let parked = if has_code { parked.attentive() } else { parked };
            let Some((next, first)) = self.rest(parked, &mut asked, &notify).await else {
                return;
            };
            stream = next;
            stream.has_code = has_code;
            connection.send_replace(stream.connection().clone());
            if let Some(asked) = first {
                // Whether it was said shows in what comes next.
                stream.ask(asked).await;
            }
        }
        stream.finish().await;
        self.endpoint.wait_idle().await;
    }

    /// Parked, until there is something to say; that comes with the new connection. `None` when it is over.
    async fn rest(
        &mut self,
        mut parked: Parked,
        asked: &mut mpsc::Receiver<Asked>,
        notify: &Notify,
    ) -> Option<(Stream, Option<Asked>)> {
        tracing::debug!(ticket = parked.ticket(), "parked");
        let (mut first, mut is_leaving) = (None, false);
        loop {
            while let Some(datagram) = parked.poll_transmit(Instant::now()) {
                self.socket.send_to(&datagram, Way::main(self.address));
            }
            let due = parked.poll_timeout()?;
            let event = tokio::select! { biased;
                datagram = self.parked.recv() => parked.handle(&datagram?, Instant::now()),
                request = asked.recv(), if !is_leaving => match request {
                    Some(request) => {
                        first = Some(request);
                        Some(Event::Wake)
                    }
                    None => {
                        is_leaving = true;
                        parked.leave(Instant::now());
                        None
                    }
                },
                () = sleep_until(due.into()) => {
                    let event = parked.handle_timeout(Instant::now());
                    if event == Some(Event::Wake) {
                        tell_silence(notify);
                    }
                    event
                }
            };
            match event {
                Some(Event::Wake) => break,
                Some(Event::Over) => return None,
                None => {}
            }
        }
        let ticket = parked.ticket();
        let mut datagrams = std::mem::replace(&mut self.parked, mpsc::channel(1).1);
        let gone = async {
            while let Some(datagram) = datagrams.recv().await {
                if parked.handle(&datagram, Instant::now()) == Some(Event::Over) {
                    return;
                }
            }
        };
        let stream = tokio::select! { biased;
            stream = self.come_back(ticket, notify) => stream,
            () = gone => None,
        };
        self.parked = datagrams;
        Some((stream?, first))
    }

    /// Connects again, for as long as the relay keeps the place.
    async fn come_back(&self, ticket: u64, notify: &Notify) -> Option<Stream> {
        let until = Instant::now() + FORGOTTEN_AFTER;
        loop {
            // Without connection ids there is one connection at a time, also of those that are closing.
            self.endpoint.wait_idle().await;
            match self.connect(ticket).await {
                Ok((stream, _)) => return Some(stream),
                Err(NotConnected { failure, is_final }) if is_final || Instant::now() >= until => {
                    tracing::info!(%failure, "cannot come back to the relay");
                    return None;
                }
                Err(NotConnected { failure, .. }) => {
                    tracing::debug!(%failure, "not yet back at the relay");
                    tell_silence(notify);
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}

fn tell_silence(notify: &Notify) {
    if notify.notices.try_send(Notice::Silent).is_err() {
        tracing::debug!("nobody hears that the relay is silent");
    }
}

/// Whether the relay itself has said no, and not only for the moment.
fn is_final(error: &HelloError) -> bool {
    match error {
        HelloError::Refused(refused) => {
            !matches!(refused.reason(), Reason::Full | Reason::RateLimited)
        }
        HelloError::Malformed => true,
        HelloError::Lost => false,
    }
}
