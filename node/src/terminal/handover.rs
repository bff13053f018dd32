//! The sharer goes on with another helper, whom the first one has named and the sharer let in: the code that came by the first session is
//! joined with as any other, with a trust card, words and a question of its own. Until that session has started the first one goes on
//! behind it, and comes back to the front when nothing comes of it.
//!
//! ```text
//!  first session ──/allow──▶ joining ──▶ first behind, second in front ──started──▶ second alone
//!        ▲                      │failed                │declined, failed, left
//!        └──────────────────────┴──────────────────────┘
//! ```
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one event begins a hand-over"
)]

use remora_proto::{
    code::Code,
    id::RelayAddr,
    session::{Command, Event as SessionEvent},
};
use tokio::task::JoinHandle;

use super::screen::Screen;
use crate::{
    error::Failure,
    event::{Event, Input},
    identity::Identity,
    node::{Node, Options, Outcome, Running},
    share::desktop::Desktop,
};

/// What it takes to join once more.
#[derive(Clone, Debug)]
pub(super) struct Again {
    pub(super) relays: Vec<RelayAddr>,
    pub(super) options: Options,
    pub(super) identity: Identity,
    pub(super) desktop: Desktop,
}

impl Again {
    async fn join(self, code: Code) -> Result<Running, Failure> {
        let mut node = Node::at_nearest(&self.relays, self.options).await?;
        match node.try_code(code).await {
            Ok(introduced) => Ok(node.join(introduced, self.identity, self.desktop)),
            Err(failure) => {
                node.close().await;
                Err(failure)
            }
        }
    }
}

/// A session that goes on behind the one in front.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) running: Running,
    pub(super) screen: Screen,
    pub(super) number: u32,
}

/// Where a hand-over is.
#[derive(Debug, Default)]
pub(super) struct Handover {
    again: Option<Again>,
    joining: Option<JoinHandle<Result<Running, Failure>>>,
    pub(super) behind: Option<Behind>,
    /// Of sessions that are over, but for the last.
    pub(super) over: Vec<JoinHandle<Outcome>>,
}

/// What comes of a hand-over.
#[derive(Debug)]
pub(super) enum Step {
    /// The other helper's code has been joined with, or not.
    Joined(Box<Result<Running, Failure>>),
    /// Something happens in the session behind.
    Behind(Box<Event>),
    /// It is over.
    Over,
}

impl Handover {
    /// Of a sharer.
    pub(super) fn new(again: Option<Again>) -> Self {
        Self {
            again,
            ..Self::default()
        }
    }

    /// The sharer said yes. `elevated`: the helper who hands over had an administrator's rights.
    pub(super) fn begin(&mut self, code: Code, elevated: bool) {
        if let Some(again) = &mut self.again {
            again.options.elevated_before |= elevated;
            self.joining = Some(tokio::spawn(again.clone().join(code)));
        }
    }

    /// The next thing that happens to it; for ever nothing when there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Step {
        if let Some(joining) = &mut self.joining {
            let joined = joining.await;
            self.joining = None;
            let failed = |error| Err(Failure::internal("the hand-over's task", error));
            return Step::Joined(Box::new(joined.unwrap_or_else(failed)));
        }
        match &mut self.behind {
            Some(behind) => match behind.running.events.recv().await {
                Some(event) => Step::Behind(Box::new(event)),
                None => Step::Over,
            },
            None => std::future::pending().await,
        }
    }

    /// The person leaves while the other helper is still looked for; whether it was.
    pub(super) fn give_up(&mut self) -> bool {
        let joining = self.joining.take();
        joining.inspect(JoinHandle::abort).is_some()
    }

    /// Whether there will be another session although the one in front is over.
    pub(super) fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    /// The session in front has started: the first helper's is over.
    pub(super) fn started(&self) {
        self.tell(Command::HandedOver);
    }

    /// To the session behind.
    pub(super) fn tell(&self, command: Command) {
        if let Some(behind) = &self.behind
            && behind
                .running
                .input
                .try_send(Input::Session(command))
                .is_err()
        {
            tracing::debug!("the session behind does not listen");
        }
    }

    /// Waits for what is left of sessions that are over.
    pub(super) async fn close(self) {
        let Self {
            again: _,
            joining,
            behind,
            mut over,
        } = self;
        if let Some(joining) = joining {
            joining.abort();
        }
        // Its input is gone with it, which is leaving.
        over.extend(behind.map(|behind| behind.running.outcome));
        for outcome in over {
            if let Err(error) = outcome.await {
                tracing::debug!(%error, "an earlier session's task");
            }
        }
    }
}

/// The code with which the sharer goes on, when that is what has happened.
pub(super) fn code_of(event: &Event) -> Option<&Code> {
    match event {
        Event::Session(SessionEvent::HandingOver { code }) => code.as_ref(),
        _ => None,
    }
}
