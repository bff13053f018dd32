//! One connection's messages: requests with numbers, answers, notices.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the relay may say what we do not know yet"
)]

use std::{collections::BTreeMap, time::Duration};

use quinn::{Connection, ConnectionError, VarInt};
use remora_proto::{
    id::{ExchangeId, SessionId},
    line::Why,
    park::{self, Grant},
    wire::message::{
        Inbox, MAX_CONTROL_BYTES, PROTOCOL,
        control::{
            self as schema, NodeToRelay, RelayToNode, node_to_relay::Body as Request,
            relay_to_node::Body as Answer,
        },
        encode,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{Asked, Notice, Notify, failure::HelloError};

/// Why nothing more comes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing was said for a while, and the relay keeps our place without it.
    Parked,
    /// It is lost, or nobody is left who would say something.
    Over,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    connection: Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    inbox: Inbox,
    pending: BTreeMap<u64, oneshot::Sender<Answer>>,
    next_request: u64,
    /// The last Here that wants an answer: whoever only asks whether the relay is there says nothing.
    here: u64,
    /// A code waits at the relay.
    pub(super) has_code: bool,
}

impl Stream {
    /// Says Hello, with the ticket of a node that was parked, else 0; is welcomed.
    pub(super) async fn open(
        connection: Connection,
        ticket: u64,
    ) -> Result<(Self, schema::Welcome), HelloError> {
        let (send, recv) = connection.open_bi().await.map_err(|_| HelloError::Lost)?;
        let mut stream = Self {
            connection,
            send,
            recv,
            inbox: Inbox::new(MAX_CONTROL_BYTES),
            pending: BTreeMap::new(),
            next_request: 0,
            here: 0,
            has_code: false,
        };
        let hello = Request::Hello(schema::Hello {
            protocol: PROTOCOL,
            agent: concat!("remora/", env!("CARGO_PKG_VERSION")).to_owned(),
            ticket,
        });
        let number = stream.next_number();
        if !stream.say(number, hello).await {
            return Err(HelloError::Lost);
        }
        match stream.next_message().await {
            Some(RelayToNode {
                request,
                body: Some(answer),
            }) if request == number => match answer {
                Answer::Welcome(welcome) => Ok((stream, welcome)),
                Answer::Refused(refused) => Err(HelloError::Refused(refused)),
                _ => Err(HelloError::Malformed),
            },
            Some(_) => Err(HelloError::Malformed),
            None => Err(HelloError::Lost),
        }
    }

    /// What it goes over.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Passes messages both ways; asks to be parked when there were none for `park_after`.
    pub(super) async fn talk(
        &mut self,
        asked: &mut mpsc::Receiver<Asked>,
        notify: &Notify,
        park_after: Duration,
    ) -> End {
        let mut idle_at = Instant::now() + park_after;
        // Refused, it would be again, until something has happened.
        let mut may_park = true;
        let mut parking = None;
        loop {
            tokio::select! { biased;
                message = self.next_message() => match message {
                    Some(message) if Some(message.request) == parking => {
                        if let Some(Answer::Done(_)) = message.body {
                            return End::Parked;
                        }
                        (parking, may_park) = (None, false);
                        continue;
                    }
                    Some(message) => {
                        let is_pulse = message.request != 0 && message.request == self.here;
                        if !self.deliver(message, notify).await {
                            return End::Over;
                        }
                        if is_pulse {
                            continue;
                        }
                    }
                    // The relay may have done it, and its word was lost; if not, it says so to whoever comes back.
                    None if parking.is_some() && self.may_be_parked() => return End::Parked,
                    None => return End::Over,
                },
                request = asked.recv(), if parking.is_none() => {
                    let Some(request) = request else { return End::Over };
                    let is_pulse = matches!(request.message, Request::Here(_));
                    if !self.ask(request).await {
                        return End::Over;
                    }
                    if is_pulse {
                        continue;
                    }
                },
                () = sleep_until(idle_at), if may_park && parking.is_none() && self.pending.is_empty() => {
                    let number = self.next_number();
                    parking = Some(number);
                    if !self.say(number, Request::Park(schema::Park {})).await {
                        return End::Over;
                    }
                    continue;
                }
            }
            (idle_at, may_park) = (Instant::now() + park_after, true);
        }
    }

    /// Whether the relay has not said that it was something else that ended the connection.
    fn may_be_parked(&self) -> bool {
        match self.connection.close_reason() {
            Some(ConnectionError::ApplicationClosed(close)) => {
                close.error_code == VarInt::from_u32(park::CLOSE_CODE)
            }
            _ => true,
        }
    }

    /// What is left of the connection, which ends.
    pub(super) fn park(self) -> Option<Grant> {
        let connection = &self.connection;
        let grant = Grant::export(|out, label, context| {
            connection.export_keying_material(out, label, context)
        });
        connection.close(0u32.into(), b"parked");
        grant.ok()
    }

    /// The next message; `None` when the stream is over. Cancel-safe: what arrived stays in the inbox.
    async fn next_message(&mut self) -> Option<RelayToNode> {
        loop {
            match self.inbox.next() {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "from the relay");
                    return None;
                }
            }
            let chunk = self.recv.read_chunk(MAX_CONTROL_BYTES, true).await.ok()??;
            self.inbox.push(&chunk.bytes);
        }
    }

    /// No handle is left: what was said last is delivered, then the connection closes.
    pub(super) async fn finish(mut self) {
        if self.send.finish().is_ok() && self.send.stopped().await.is_err() {
            tracing::debug!("the connection was lost before the last message was acknowledged");
        }
        self.connection.close(0u32.into(), b"bye");
    }

    /// Asks on somebody's behalf; false when nobody is there.
    pub(super) async fn ask(&mut self, asked: Asked) -> bool {
        let number = match asked.answer {
            Some(answer) => {
                let number = self.next_number();
                self.pending.insert(number, answer);
                number
            }
            None => 0,
        };
        if let Request::Here(_) = asked.message {
            self.here = number;
        }
        self.say(number, asked.message).await
    }

    fn next_number(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    async fn say(&mut self, request: u64, body: Request) -> bool {
        match &body {
            Request::Publish(_) => self.has_code = true,
            Request::Withdraw(_) => self.has_code = false,
            _ => {}
        }
        let body = Some(body);
        let message = encode(&NodeToRelay { request, body });
        self.send.write_all(&message).await.is_ok()
    }

    async fn deliver(&mut self, message: RelayToNode, notify: &Notify) -> bool {
        let Some(body) = message.body else {
            return true;
        };
        if message.request != 0 {
            // Whoever asked may have stopped waiting.
            if let Some(answer) = self.pending.remove(&message.request)
                && answer.send(body).is_err()
            {
                tracing::debug!("an answer nobody waits for");
            }
            return true;
        }
        if let Answer::PolicyChanged(changed) = body {
            notify.policy.send_replace(changed.number);
            return true;
        }
        let Some(notice) = notice(body) else {
            return true;
        };
        notify.notices.send(notice).await.is_ok()
    }
}

fn notice(body: Answer) -> Option<Notice> {
    Some(match body {
        Answer::Offer(offer) => Notice::Offer(ExchangeId(offer.exchange), offer.payload),
        Answer::Signal(signal) => Notice::Signal(ExchangeId(signal.exchange), signal.payload),
        Answer::Dismissed(dismiss) => {
            Notice::Dismissed(ExchangeId(dismiss.exchange), dismiss.payload)
        }
        Answer::Allocated(allocated) => Notice::Allocated(allocated.into()),
        Answer::Released(released) => {
            let why = Why::heard(&released.why);
            Notice::Released(SessionId(released.session), released.cause(), why)
        }
        Answer::Draining(draining) => {
            Notice::Draining(Duration::from_millis(draining.deadline_ms.into()))
        }
        Answer::Taken(_) => Notice::Taken,
        Answer::Refused(refused) => {
            tracing::debug!(reason = refused.reason().as_str_name(), "refused");
            return None;
        }
        Answer::Welcome(_)
        | Answer::Done(_)
        | Answer::Found(_)
        | Answer::Started(_)
        | Answer::PolicyPart(_)
        | Answer::PolicyChanged(_)
        | Answer::Sighted(_)
        | Answer::Queue(_) => {
            return None;
        }
    })
}
