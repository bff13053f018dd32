//! The way to a device, found again whenever it is lost.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use remora_proto::{
    id::{DeviceId, ExchangeId, NodeId},
    invitation::{
        seal::{Broken, Channel, Ringing},
        word::{FromDevice, FromHelper},
    },
    noise::StaticKey,
    wire::message::control::{Reason, Signal, node_to_relay::Body as Request},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    control::{Control, Notice, RequestError, Rung},
    deadline::until,
    error::{Exit, Failure},
    homes::{Homes, attached::Attached},
    node::find_place,
};

/// For a device to answer the ring, in a handshake of one round trip.
const ANSWER: Duration = Duration::from_secs(10);
/// Before it is rung at again.
const AGAIN: Duration = Duration::from_secs(1);
/// The same when it was not there.
const AWAY: Duration = Duration::from_secs(5);
/// For the relay to take what was said last.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What comes of it.
#[derive(Debug)]
pub(super) enum Heard {
    /// The device has been rung at.
    Sent,
    /// It is not there; how long ago it was.
    Away(Option<Duration>),
    /// It has answered, and proven who it is; its node is this one. What is said from now on reaches it.
    Up(NodeId),
    /// It says this.
    Word(FromDevice),
    /// What was said last may not have reached it.
    Lost,
    /// There is no use in trying again.
    Failed(Failure),
}

/// See the module.
pub(super) struct Line {
    pub(super) homes: Homes,
    pub(super) device: DeviceId,
    pub(super) key: StaticKey,
    pub(super) heard: mpsc::Sender<Heard>,
    pub(super) say: mpsc::Receiver<FromHelper>,
}

enum Next {
    /// After so long.
    Again(Duration),
    /// By another relay.
    Elsewhere,
    /// Never.
    Over,
}

impl Line {
    /// Until nobody has anything to say any more.
    pub(super) async fn run(mut self) {
        let mut avoided = BTreeSet::new();
        loop {
            let mut home = tokio::select! {
                home = find_place(&self.homes, &mut avoided) => home,
                () = self.heard.closed() => return,
            };
            loop {
                let after = match self.ring(&mut home).await {
                    Next::Again(after) => after,
                    Next::Elsewhere => break,
                    Next::Over => return home.close().await,
                };
                tokio::select! {
                    () = sleep(after) => {}
                    () = self.heard.closed() => return home.close().await,
                }
            }
            avoided.insert(home.id());
            home.close().await;
        }
    }

    async fn ring(&mut self, home: &mut Attached) -> Next {
        let Ok((ringing, first)) = Ringing::new(self.device, &self.key) else {
            return self.fail(Failure::internal("no randomness", Broken)).await;
        };
        match home.control.ring(self.device, first).await {
            Ok(Rung::Started(exchange)) => {
                self.tell(Heard::Sent).await;
                self.talk(home, exchange, ringing).await
            }
            Ok(Rung::Away(sighted)) => {
                let seen = sighted.seen_ms_ago.map(Duration::from_millis);
                self.tell(Heard::Away(seen)).await;
                Next::Again(AWAY)
            }
            Err(RequestError::Lost) => Next::Elsewhere,
            Err(RequestError::Refused(refused)) => match refused.reason() {
                Reason::Draining => Next::Elsewhere,
                Reason::RateLimited | Reason::Full | Reason::PeerGone => {
                    tracing::info!(text = refused.text, "the device is not rung at");
                    let after = Duration::from_millis(refused.retry_after_ms.into());
                    Next::Again(after.max(AGAIN))
                }
                Reason::Unspecified
                | Reason::Malformed
                | Reason::BadState
                | Reason::VersionTooOld
                | Reason::Taken
                | Reason::BadRecord
                | Reason::UnknownCode
                | Reason::CodeExpired
                | Reason::CodeUsed
                | Reason::CodeBurned
                | Reason::CodeCancelled
                | Reason::NotParked => {
                    let refused = RequestError::Refused(refused);
                    self.fail(refused.into()).await
                }
            },
        }
    }

    /// Within one exchange, until it ends.
    async fn talk(&mut self, home: &mut Attached, exchange: ExchangeId, ringing: Ringing) -> Next {
        let mut ringing = Some(ringing);
        let mut channel: Option<Channel> = None;
        let answer_by = Instant::now() + ANSWER;
        loop {
            let waiting = channel.is_none().then_some(answer_by);
            tokio::select! { biased;
                notice = home.notices.recv() => match notice {
                    None | Some(Notice::Silent | Notice::Draining(_)) => {
                        self.tell(Heard::Lost).await;
                        return Next::Elsewhere;
                    }
                    Some(Notice::Signal(of, payload)) if of == exchange => {
                        let heard = match (ringing.take(), &mut channel) {
                            (Some(ringing), _) => self.answered(&home.control, exchange, ringing, &payload).await.map(|new| channel = Some(new)),
                            (None, Some(channel)) => self.heard(channel, &payload).await,
                            (None, None) => Err(Broken),
                        };
                        if heard.is_err() {
                            return self.fail(not_the_device()).await;
                        }
                    }
                    Some(Notice::Dismissed(of, _)) if of == exchange => {
                        self.tell(Heard::Lost).await;
                        return Next::Again(AGAIN);
                    }
                    Some(Notice::Offer(..) | Notice::Signal(..) | Notice::Dismissed(..) | Notice::Allocated(_) | Notice::Released(..) | Notice::Taken) => {}
                },
                word = self.say.recv(), if channel.is_some() => match (word, &mut channel) {
                    (Some(word), Some(channel)) => {
                        if say(&home.control, exchange, channel, &word).await.is_err() {
                            return self.fail(not_the_device()).await;
                        }
                    }
                    (None, _) | (_, None) => {
                        // Answered in order: by then the relay has taken the last words.
                        if timeout(LAST_WORDS, home.control.here()).await.is_err() {
                            tracing::debug!("the device may not have heard the last words");
                        }
                        return Next::Over;
                    }
                },
                // Only by leaving the relay is the exchange left, and each node has a few.
                () = until(waiting) => {
                    self.tell(Heard::Lost).await;
                    return Next::Elsewhere;
                }
                () = self.heard.closed() => return Next::Over,
            }
        }
    }

    async fn answered(
        &self,
        control: &Control,
        exchange: ExchangeId,
        ringing: Ringing,
        answer: &[u8],
    ) -> Result<Channel, Broken> {
        let (channel, last) = ringing.handle_answer(answer)?;
        control.tell(signal(exchange, last)).await;
        self.tell(Heard::Up(channel.peer())).await;
        Ok(channel)
    }

    async fn heard(&self, channel: &mut Channel, piece: &[u8]) -> Result<(), Broken> {
        if let Some(message) = channel.open(piece)?
            && let Some(word) = FromDevice::from_schema(message)?
        {
            self.tell(Heard::Word(word)).await;
        }
        Ok(())
    }

    async fn fail(&self, failure: Failure) -> Next {
        self.tell(Heard::Failed(failure)).await;
        Next::Over
    }

    async fn tell(&self, heard: Heard) {
        // Nobody wants to know any more: what is to be said still is.
        if self.heard.send(heard).await.is_err() {
            tracing::debug!("nobody listens to the device");
        }
    }
}

fn signal(exchange: ExchangeId, payload: bytes::Bytes) -> Request {
    Request::Signal(Signal {
        exchange: exchange.0,
        payload,
    })
}

async fn say(
    control: &Control,
    exchange: ExchangeId,
    channel: &mut Channel,
    word: &FromHelper,
) -> Result<(), Broken> {
    for piece in channel.seal(&word.to_schema())? {
        control.tell(signal(exchange, piece)).await;
    }
    Ok(())
}

fn not_the_device() -> Failure {
    Failure::new(
        Exit::Verification,
        "AUTH_FAILED",
        "what answers is not that device: its id is another's, or something in between interferes; ask for the id that `remora agent` says there",
    )
}
