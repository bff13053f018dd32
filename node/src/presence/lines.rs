//! Exchanges with helpers who ring at a device: who they are is proven, by Noise (`proto::invitation::seal`), and what they say under it
//! is parsed. What follows from that is for whoever has the lines: an agent's office, or somebody who has asked for help.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    id::{ExchangeId, NodeId},
    identity::{Profile, Role},
    invitation::{
        seal::{Answering, Broken, Channel},
        word::{Card, FromDevice, FromHelper, introduction},
    },
    noise::StaticKey,
    org::{
        membership::Papers,
        verdict::{Refusal, Verdict},
    },
    presence::Device,
    wire::message::control::{Dismiss, Signal, node_to_relay::Body as Request},
};

use crate::{
    control::Control,
    identity::{Identity, Member},
};

/// Exchanges at once: as many as a relay opens.
const MAX_LINES: usize = 16;
/// For a helper to prove who it is and to say what it wants.
const HELLO: Duration = Duration::from_secs(10);

/// An exchange with a helper.
#[derive(Debug)]
struct Line {
    state: State,
    /// Until then it has to have said something of use.
    hello_by: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Answering(Option<Answering>),
    Open(Box<Channel>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lines {
    identity: Identity,
    key: StaticKey,
    lines: BTreeMap<ExchangeId, Line>,
}

impl Lines {
    /// Of a device of this person; none yet.
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            key: identity.key(),
            identity,
            lines: BTreeMap::new(),
        }
    }

    /// Somebody rings.
    pub(crate) async fn ring(
        &mut self,
        device: &Device,
        exchange: ExchangeId,
        first: &[u8],
        control: &Control,
    ) {
        let answering = match self.lines.len() < MAX_LINES {
            true => Answering::new(device, &self.key, first),
            false => Err(Broken),
        };
        match answering {
            Ok((answering, answer)) => {
                control.tell(signal(exchange, answer)).await;
                let line = Line {
                    state: State::Answering(Some(answering)),
                    hello_by: Some(Instant::now() + HELLO),
                };
                self.lines.insert(exchange, line);
            }
            Err(Broken) => control.tell(dismiss(exchange)).await,
        }
    }

    /// Takes a piece of what a helper says; all of it, and who says it, when it was the last one.
    ///
    /// # Errors
    /// [`Broken`]: there is no sense in going on.
    pub(crate) fn hear(
        &mut self,
        exchange: ExchangeId,
        piece: &[u8],
    ) -> Result<Option<(NodeId, FromHelper)>, Broken> {
        let Some(line) = self.lines.get_mut(&exchange) else {
            return Ok(None);
        };
        match &mut line.state {
            State::Answering(answering) => {
                let answering = answering.take().ok_or(Broken)?;
                line.state = State::Open(Box::new(answering.handle_last(piece)?));
                Ok(None)
            }
            State::Open(channel) => {
                let (helper, message) = (channel.peer(), channel.open(piece)?);
                let word = message.map(FromHelper::from_schema).transpose()?;
                Ok(word.flatten().map(|word| (helper, word)))
            }
        }
    }

    /// What is to be thought of a helper who has shown this; whoever is let in sees the card, before all else.
    ///
    /// # Errors
    /// [`Broken`]
    pub(crate) async fn judge(
        &mut self,
        exchange: ExchangeId,
        helper: NodeId,
        (profile, papers): (&Profile, Option<&Papers>),
        control: &Control,
    ) -> Result<Result<Verdict, Refusal>, Broken> {
        let shown = introduction(Role::Helper, profile, papers);
        let verdict = self.identity.judge(&shown, helper);
        // Whoever is not let in does not learn whose the device is.
        if self.greet(exchange) && verdict.is_ok() {
            let card = self.card();
            self.say(exchange, &card, control).await?;
        }
        Ok(verdict)
    }

    /// It has said something of use; whether that is new.
    pub(crate) fn greet(&mut self, exchange: ExchangeId) -> bool {
        let line = self.lines.get_mut(&exchange);
        line.is_some_and(|line| line.hello_by.take().is_some())
    }

    fn card(&self) -> FromDevice {
        let member = self.identity.member.as_deref();
        FromDevice::Card(Box::new(Card {
            profile: self.identity.profile.clone(),
            papers: member.map(Member::papers),
        }))
    }

    /// Says something to a helper, if it is still there.
    ///
    /// # Errors
    /// [`Broken`]: it has not proven who it is.
    pub(crate) async fn say(
        &mut self,
        exchange: ExchangeId,
        word: &FromDevice,
        control: &Control,
    ) -> Result<(), Broken> {
        let Some(line) = self.lines.get_mut(&exchange) else {
            return Ok(());
        };
        let State::Open(channel) = &mut line.state else {
            return Err(Broken);
        };
        for piece in channel.seal(&word.to_schema())? {
            control.tell(signal(exchange, piece)).await;
        }
        Ok(())
    }

    /// Ends one from here.
    pub(crate) async fn dismiss(&mut self, exchange: ExchangeId, control: Option<&Control>) {
        self.lines.remove(&exchange);
        if let Some(control) = control {
            control.tell(dismiss(exchange)).await;
        }
    }

    /// One has ended; whether it was there.
    pub(crate) fn remove(&mut self, exchange: ExchangeId) -> bool {
        self.lines.remove(&exchange).is_some()
    }

    /// All have.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = ExchangeId> + use<> {
        std::mem::take(&mut self.lines).into_keys()
    }

    /// When [`Self::late`] is to be looked at.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.lines.values().filter_map(|line| line.hello_by).min()
    }

    /// Those that have said nothing of use until now.
    pub(crate) fn late(&self, now: Instant) -> Vec<ExchangeId> {
        let is_late = |line: &Line| line.hello_by.is_some_and(|by| by <= now);
        let late = self.lines.iter().filter(|(_, line)| is_late(line));
        late.map(|(&exchange, _)| exchange).collect()
    }
}

fn signal(exchange: ExchangeId, payload: Bytes) -> Request {
    Request::Signal(Signal {
        exchange: exchange.0,
        payload,
    })
}

fn dismiss(exchange: ExchangeId) -> Request {
    Request::Dismiss(Dismiss {
        exchange: exchange.0,
        payload: Bytes::new(),
        wrong_secret: false,
    })
}
