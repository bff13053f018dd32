//! A helper's view of who waits: rings once at each device that waits for its organisation's help, and keeps what it said.
//!
//! Whether somebody is within the helper's scope is for their own computer to say: whoever refuses, or does not answer, or shows papers
//! that are not in order, is not on the list, and is asked again only after a while.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::{DeviceId, ExchangeId, OrgId, RelayAddr},
    identity::Role,
    invitation::{
        seal::{Broken, Channel, Ringing},
        word::{Card, FromDevice, FromHelper, InvitationId, Look, introduction},
    },
    org::verdict::Verdict,
    random::Random,
    wire::message::control::{Reason, Signal, node_to_relay::Body as Message},
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::org;
use crate::{
    control::{Control, Notice, RequestError, Rung},
    deadline::until,
    error::{Exit, Failure},
    event::card,
    homes::{Homes, attached::Attached},
    identity::{Identity, Member},
    node::{Options, find_place},
};

/// For a relay, which asks others for two seconds at most, and for a device, in a handshake and a word.
const ANSWER: Duration = Duration::from_secs(4);
/// Rung at together: a relay lets a node have four exchanges as the one who rings.
const AT_ONCE: usize = 3;
/// Before somebody who has refused, or not answered, is rung at again: what the policy says may have changed.
const AGAIN: Duration = Duration::from_secs(60);
/// For a relay that does not know the organisation yet: this node is about to bring its policy.
const BRINGING: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);

/// Somebody who waits, and may be helped by this helper.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    /// The request's id.
    pub(crate) device: DeviceId,
    /// Who.
    pub(crate) card: Card,
    /// What is to be thought of that.
    pub(crate) verdict: Verdict,
    /// What for; may be empty.
    pub(crate) reason: String,
    /// Since when they have been waiting.
    since: Instant,
}

impl Open {
    /// For how long they have been.
    pub(crate) fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// The enrolled device's name.
    pub(crate) fn device_name(&self) -> Option<String> {
        let device = self.card.papers.as_ref()?.device.as_ref()?;
        Some(device.name.to_string())
    }

    /// For scripts and the page.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "id": self.device.to_string(), "from": card(&self.card.profile, &self.verdict), "device": self.device_name(),
            "reason": self.reason, "waited_s": self.waited().as_secs(),
        })
    }
}

#[derive(Debug)]
enum Known {
    Open(Box<Open>),
    /// Nothing for this helper, until then.
    Not(Instant),
}

/// See the module.
pub(crate) struct Looking {
    homes: Homes,
    home: Attached,
    identity: Identity,
    org: OrgId,
    known: BTreeMap<DeviceId, Known>,
}

/// A ring that has not been answered.
struct Ring {
    device: DeviceId,
    look: InvitationId,
    ringing: Option<Ringing>,
    channel: Option<Channel>,
    card: Option<Card>,
    by: Instant,
}

/// Why a look is not complete.
enum Trouble {
    /// The relay is gone, or the node has exchanges there that only leaving it ends.
    Leave,
    /// Too much has been asked of it for now.
    Later,
}

impl Looking {
    /// For this helper, a member.
    ///
    /// # Errors
    /// There is no relay.
    pub(crate) async fn new(
        relays: &[RelayAddr],
        options: Options,
        identity: Identity,
        member: &Member,
    ) -> Result<Self, Failure> {
        let mut homes = Homes::find(relays, options).await?;
        let home = homes.settle(&BTreeSet::new()).await?;
        let home = homes.learn(home).await;
        Ok(Self {
            homes,
            home,
            identity,
            org: org(member),
            known: BTreeMap::new(),
        })
    }

    /// Who waits now, whoever has waited longest first.
    ///
    /// # Errors
    /// The relay does not say.
    pub(crate) async fn look(&mut self) -> Result<Vec<Open>, Failure> {
        let queue = self.queue().await?;
        self.known.retain(|device, _| queue.contains(device));
        let now = Instant::now();
        let is_new = |device: &&DeviceId| match self.known.get(device) {
            None => true,
            Some(Known::Not(again)) => *again <= now,
            Some(Known::Open(_)) => false,
        };
        let new = queue.iter().filter(is_new).copied().collect();
        match self.ring_at(new).await {
            Ok(()) | Err(Trouble::Later) => {}
            Err(Trouble::Leave) => self.leave().await,
        }
        let open = queue
            .iter()
            .filter_map(|device| match self.known.get(device) {
                Some(Known::Open(open)) => Some((**open).clone()),
                Some(Known::Not(_)) | None => None,
            });
        let mut open: Vec<_> = open.collect();
        open.sort_by_key(|open| open.since);
        Ok(open)
    }

    /// Takes leave of the relay.
    pub(crate) async fn close(self) {
        self.home.close().await;
    }

    /// To another relay first, or the same one again.
    async fn leave(&mut self) {
        let mut avoided = BTreeSet::from([self.home.id()]);
        let place = find_place(&self.homes, &mut avoided).await;
        std::mem::replace(&mut self.home, place).close().await;
    }

    async fn queue(&mut self) -> Result<Vec<DeviceId>, Failure> {
        let by = Instant::now() + BRINGING;
        loop {
            let asked = timeout(ANSWER, self.home.control.queue(self.org)).await;
            match asked.unwrap_or(Err(RequestError::Lost)) {
                Ok(queue) => return Ok(queue),
                Err(RequestError::Refused(refused))
                    if refused.reason() == Reason::BadState && Instant::now() < by =>
                {
                    sleep(RETRY).await;
                }
                Err(RequestError::Lost) if Instant::now() < by => self.leave().await,
                Err(RequestError::Lost) => {
                    let line = "the relay does not say who waits; try again";
                    return Err(Failure::new(Exit::Offline, "RELAY_LOST", line));
                }
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    /// All of these, a few at a time; what they say is known from then on.
    async fn ring_at(&mut self, devices: Vec<DeviceId>) -> Result<(), Trouble> {
        let control = self.home.control.clone();
        let mut waiting = VecDeque::from(devices);
        let mut rings = BTreeMap::new();
        loop {
            while rings.len() < AT_ONCE
                && let Some(device) = waiting.pop_front()
            {
                if let Some((exchange, ring)) = self.ring(&control, device).await? {
                    rings.insert(exchange, ring);
                }
            }
            let Some(by) = rings.values().map(|ring| ring.by).min() else {
                return Ok(());
            };
            tokio::select! { biased;
                notice = self.home.notices.recv() => match notice {
                    None | Some(Notice::Silent | Notice::Draining(_)) => return Err(Trouble::Leave),
                    Some(Notice::Signal(exchange, payload)) => {
                        let Some(ring) = rings.get_mut(&exchange) else { continue };
                        let heard = ring.hear(&self.identity, &control, exchange, &payload).await;
                        if let Some(known) = heard.unwrap_or_else(|Broken| Some(not_for_us())) {
                            self.known.insert(ring.device, known);
                        }
                    }
                    Some(Notice::Dismissed(exchange, _)) => {
                        if let Some(ring) = rings.remove(&exchange) {
                            self.known.entry(ring.device).or_insert_with(not_for_us);
                        }
                    }
                    Some(Notice::Offer(..) | Notice::Allocated(_) | Notice::Released(..) | Notice::Taken) => {}
                },
                () = until(Some(by)) => {
                    for ring in rings.into_values() {
                        self.known.entry(ring.device).or_insert_with(not_for_us);
                    }
                    return Err(Trouble::Leave);
                }
            }
        }
    }

    async fn ring(
        &mut self,
        control: &Control,
        device: DeviceId,
    ) -> Result<Option<(ExchangeId, Ring)>, Trouble> {
        let key = self.identity.key();
        let (ringing, first) = Ringing::new(device, &key).map_err(|Broken| Trouble::Later)?;
        let rung = timeout(ANSWER, control.ring(device, first)).await;
        match rung.unwrap_or(Err(RequestError::Lost)) {
            Ok(Rung::Started(exchange)) => {
                // Of a time before.
                self.known.remove(&device);
                let ring = Ring {
                    device,
                    look: InvitationId::generate(&mut Random::system()),
                    ringing: Some(ringing),
                    channel: None,
                    card: None,
                    by: Instant::now() + ANSWER,
                };
                Ok(Some((exchange, ring)))
            }
            Ok(Rung::Away(_)) => {
                self.known.insert(device, not_for_us());
                Ok(None)
            }
            Err(RequestError::Lost) => Err(Trouble::Leave),
            Err(RequestError::Refused(refused)) if refused.reason() == Reason::PeerGone => Ok(None),
            Err(RequestError::Refused(refused)) => {
                tracing::info!(text = refused.text, "who waits is not rung at");
                Err(Trouble::Later)
            }
        }
    }
}

fn not_for_us() -> Known {
    Known::Not(Instant::now() + AGAIN)
}

impl Ring {
    /// Takes a piece of what the device says; what is known of it then.
    async fn hear(
        &mut self,
        identity: &Identity,
        control: &Control,
        exchange: ExchangeId,
        piece: &[u8],
    ) -> Result<Option<Known>, Broken> {
        if let Some(ringing) = self.ringing.take() {
            let (mut channel, last) = ringing.handle_answer(piece)?;
            let look = FromHelper::Look(Box::new(Look {
                id: self.look,
                profile: identity.profile.clone(),
                papers: identity.member.as_deref().map(Member::papers),
            }));
            control.tell(signal(exchange, last)).await;
            for piece in channel.seal(&look.to_schema())? {
                control.tell(signal(exchange, piece)).await;
            }
            self.channel = Some(channel);
            return Ok(None);
        }
        let channel = self.channel.as_mut().ok_or(Broken)?;
        let Some(message) = channel.open(piece)? else {
            return Ok(None);
        };
        match FromDevice::from_schema(message)? {
            Some(FromDevice::Card(card)) => {
                self.card = Some(*card);
                Ok(None)
            }
            Some(FromDevice::Asks(look, reason, waited)) if look == self.look => {
                let card = self.card.take().ok_or(Broken)?;
                let shown = introduction(Role::Sharer, &card.profile, card.papers.as_ref());
                let verdict = identity.judge(&shown, channel.peer());
                // Whom nobody vouches for does not belong to the desk's people.
                let verdict = verdict.ok().filter(|verdict| verdict.verified);
                Ok(Some(match verdict {
                    Some(verdict) => Known::Open(Box::new(Open {
                        device: self.device,
                        card,
                        verdict,
                        reason,
                        since: Instant::now()
                            .checked_sub(waited)
                            .unwrap_or_else(Instant::now),
                    })),
                    None => not_for_us(),
                }))
            }
            Some(FromDevice::Refused(look, refusal)) if look == self.look => {
                tracing::debug!(%refusal, "somebody waits for other helpers");
                Ok(Some(not_for_us()))
            }
            Some(
                FromDevice::Asks(..)
                | FromDevice::Refused(..)
                | FromDevice::Delivered(..)
                | FromDevice::Opened(_)
                | FromDevice::Declined(_),
            )
            | None => Ok(None),
        }
    }
}

fn signal(exchange: ExchangeId, payload: Bytes) -> Message {
    Message::Signal(Signal {
        exchange: exchange.0,
        payload,
    })
}
