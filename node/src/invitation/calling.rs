//! Drives the helper's machine of an invitation.

use std::time::{Duration, Instant};

use remora_proto::{
    code::Code,
    id::NodeId,
    identity::Role,
    invitation::{
        inviting::{End, Event as Said, Inviting, Transmit},
        word::{Card, FromDevice, FromHelper, InvitationId, Offer, Refusal, introduction},
    },
    random::Random,
    rendezvous::CodeEnd,
    session::{Command, Entry, Kind, T_CONSENT},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    Call,
    line::{Heard, Line},
};
use crate::{
    deadline::until,
    error::{Exit, Failure},
    event::{Event, Input, Notified},
    homes::Homes,
    identity::{Identity, Member},
    presence::ask::offline,
};

/// Words for the device while it cannot hear: an offer, and that it is withdrawn.
const QUEUE_WORDS: usize = 8;
/// What comes from it.
const QUEUE_HEARD: usize = 8;
/// The node's and the person's wishes.
const QUEUE_ORDERS: usize = 8;
/// For the device to be told of the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the node and its person say.
#[derive(Debug)]
enum Order {
    Code(Code),
    Over(Over),
}

/// How waiting with the code ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Over {
    /// Somebody has joined.
    Joined,
    /// Nobody can any more.
    Code(CodeEnd),
}

/// An invitation under way.
#[derive(Debug)]
pub(crate) struct Calling {
    entry: Entry,
    orders: mpsc::Sender<Order>,
    retry: mpsc::Sender<()>,
    has_ended: watch::Receiver<bool>,
    task: JoinSet<Option<Failure>>,
}

struct Task {
    call: Call,
    id: InvitationId,
    identity: Identity,
    code: Option<Code>,
    say: mpsc::Sender<FromHelper>,
    is_up: bool,
    /// The device's node, and its card.
    node: Option<NodeId>,
    events: mpsc::Sender<Event>,
    /// To end the wait; it is none that keeps it open.
    input: mpsc::WeakSender<Input>,
    has_ended: watch::Sender<bool>,
    failure: Option<Failure>,
}

impl Calling {
    /// Rings as soon as there is a code.
    pub(crate) fn begin(
        homes: Homes,
        call: Call,
        identity: &Identity,
        events: mpsc::Sender<Event>,
        input: mpsc::WeakSender<Input>,
    ) -> Self {
        let (orders, mut orders_rx) = mpsc::channel(QUEUE_ORDERS);
        let (retry, mut retries) = mpsc::channel(1);
        let (ended, has_ended) = watch::channel(false);
        let (identity, entry) = (identity.clone(), call.entry);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let Some(Order::Code(code)) = orders_rx.recv().await else {
                return None;
            };
            let (heard, heard_rx) = mpsc::channel(QUEUE_HEARD);
            let (say, words) = mpsc::channel(QUEUE_WORDS);
            let line = Line {
                homes,
                device: call.device,
                key: identity.key(),
                heard,
                say: words,
            };
            let mut lines = JoinSet::new();
            lines.spawn(line.run());
            let task = Task {
                call,
                id: InvitationId::generate(&mut Random::system()),
                identity,
                code: Some(code),
                say,
                is_up: false,
                node: None,
                events,
                input,
                has_ended: ended,
                failure: None,
            };
            let failure = task.run(&mut orders_rx, &mut retries, heard_rx).await;
            let said = async { while lines.join_next().await.is_some() {} };
            if timeout(FAREWELL, said).await.is_err() {
                tracing::debug!("the device was not told of the end");
            }
            failure
        });
        Self {
            entry,
            orders,
            retry,
            has_ended,
            task,
        }
    }

    /// How whoever comes by it has come.
    pub(crate) fn entry(&self) -> Entry {
        self.entry
    }

    /// The code is this one, from now on.
    pub(crate) async fn code(&self, code: Code) {
        self.order(Order::Code(code)).await;
    }

    /// Where a person says that it is to be sent again.
    pub(crate) fn retry(&self) -> mpsc::Sender<()> {
        self.retry.clone()
    }

    /// Whether it has ended by itself, and what follows has been said.
    pub(crate) fn has_ended(&self) -> bool {
        *self.has_ended.borrow()
    }

    /// Waiting is over: the device is told, and what came of it, if that was the reason.
    pub(crate) async fn finish(mut self, over: Over) -> Option<Failure> {
        self.order(Order::Over(over)).await;
        let ended = timeout(2 * FAREWELL, self.task.join_next()).await;
        ended.ok().flatten().and_then(Result::ok).flatten()
    }

    async fn order(&self, order: Order) {
        if self.orders.send(order).await.is_err() {
            tracing::debug!("the invitation is over");
        }
    }
}

impl Task {
    async fn run(
        mut self,
        orders: &mut mpsc::Receiver<Order>,
        retries: &mut mpsc::Receiver<()>,
        mut heard: mpsc::Receiver<Heard>,
    ) -> Option<Failure> {
        let is_unattended = self.call.kind == Kind::Unattended;
        let mut inviting = Inviting::new(is_unattended, T_CONSENT, Instant::now());
        loop {
            while let Some(event) = inviting.poll_event() {
                self.tell(event).await;
            }
            while self.is_up
                && let Some(transmit) = inviting.poll_transmit()
            {
                self.say(transmit).await;
            }
            tokio::select! { biased;
                order = orders.recv() => match order {
                    Some(Order::Code(code)) => {
                        self.code = Some(code);
                        inviting.handle_lost(Instant::now());
                    }
                    over => {
                        match over {
                            Some(Order::Over(Over::Joined)) => inviting.handle_joined(),
                            Some(Order::Over(Over::Code(end))) => inviting.handle_code_end(end),
                            Some(Order::Code(_)) | None => inviting.handle_code_end(CodeEnd::Cancelled),
                        }
                        while self.is_up && let Some(transmit) = inviting.poll_transmit() {
                            self.say(transmit).await;
                        }
                        return self.failure;
                    }
                },
                Some(()) = retries.recv() => {
                    if let Err(refused) = inviting.retry(Instant::now()) {
                        let (code, text) = (refused.name(), refused.to_string());
                        self.emit(Event::NotPossible { code, text }).await;
                    }
                }
                Some(heard) = heard.recv() => self.handle(heard, &mut inviting).await,
                () = until(inviting.poll_timeout()) => inviting.handle_timeout(Instant::now()),
            }
        }
    }

    async fn handle(&mut self, heard: Heard, inviting: &mut Inviting) {
        match heard {
            Heard::Sent => inviting.handle_sent(),
            Heard::Away(seen) => inviting.handle_offline(seen),
            Heard::Up(node) => {
                self.is_up = true;
                self.node = Some(node);
            }
            Heard::Lost => {
                self.is_up = false;
                inviting.handle_lost(Instant::now());
            }
            Heard::Failed(failure) => self.fail(failure).await,
            Heard::Word(word) => self.word(word, inviting).await,
        }
    }

    async fn word(&mut self, word: FromDevice, inviting: &mut Inviting) {
        let now = Instant::now();
        match word {
            FromDevice::Card(card) => self.card(*card, inviting).await,
            FromDevice::Delivered(id, agents) if id == self.id => {
                inviting.handle_delivered(agents, now);
            }
            FromDevice::Refused(id, refusal) if id == self.id => inviting.handle_refused(refusal),
            FromDevice::Opened(id) if id == self.id => inviting.handle_opened(),
            FromDevice::Declined(id) if id == self.id => inviting.handle_declined(),
            FromDevice::Delivered(..)
            | FromDevice::Refused(..)
            | FromDevice::Opened(_)
            | FromDevice::Declined(_)
            | FromDevice::Asks(..) => tracing::debug!("of another invitation"),
        }
    }

    /// Whose device it is, with the warnings, before anybody hears how the invitation fares.
    async fn card(&mut self, card: Card, inviting: &mut Inviting) {
        let Some(node) = self.node else { return };
        let shown = introduction(Role::Sharer, &card.profile, card.papers.as_ref());
        match self.identity.judge(&shown, node) {
            Ok(verdict) => {
                let device = card.papers.and_then(|papers| papers.device);
                let name = device.map(|device| device.name.to_string());
                let profile = card.profile;
                self.emit(Event::Device {
                    profile,
                    name,
                    verdict: Box::new(verdict),
                })
                .await;
            }
            Err(refusal) => inviting.handle_refused(refusal.into()),
        }
    }

    async fn say(&mut self, transmit: Transmit) {
        let word = match transmit {
            Transmit::Offer => {
                let Some(code) = &self.code else { return };
                let member = self.identity.member.as_deref();
                FromHelper::Offer(Box::new(Offer {
                    id: self.id,
                    code: code.clone(),
                    kind: self.call.kind,
                    mode: self.call.mode,
                    reason: self.call.reason.clone(),
                    profile: self.identity.profile.clone(),
                    papers: member.map(Member::papers),
                    within: T_CONSENT,
                }))
            }
            Transmit::Withdraw(why) => FromHelper::Withdrawn(self.id, why),
        };
        if self.say.send(word).await.is_err() {
            tracing::debug!("the way to the device is gone");
        }
    }

    async fn tell(&mut self, said: Said) {
        let notified = match said {
            Said::Sent => Notified::Sent,
            Said::Delivered(agents, within) => Notified::Delivered { agents, within },
            Said::NotReceived => Notified::NotReceived,
            Said::Opened => Notified::Opened,
            Said::Ended(end) => {
                if let Some(failure) = failure(end, self.call.entry) {
                    self.fail(failure).await;
                }
                return;
            }
        };
        self.emit(Event::Notification(notified)).await;
    }

    /// Nobody waits any more.
    async fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
        self.has_ended.send_replace(true);
        if let Some(input) = self.input.upgrade()
            && input.send(Input::Session(Command::Leave)).await.is_err()
        {
            tracing::debug!("nobody waits any more");
        }
    }

    async fn emit(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            tracing::debug!("nobody listens");
        }
    }
}

/// What the person is told of the end; nothing of their own.
fn failure(end: End, entry: Entry) -> Option<Failure> {
    Some(match end {
        End::Code(_) => return None,
        End::Offline(_) if entry == Entry::Request => {
            let line = "the person does not wait any more: somebody else helps, or the request was withdrawn";
            Failure::new(Exit::Error, "REQUEST_GONE", line)
        }
        End::Offline(seen) => {
            let seen_ms = seen.map(|seen| u64::try_from(seen.as_millis()).unwrap_or(u64::MAX));
            let line = format!(
                "{}; ask the person to start `remora agent`, or invite them with a code",
                offline(seen_ms)
            );
            Failure::new(Exit::Offline, "DEVICE_OFFLINE", line)
        }
        End::Declined => {
            let line = "nobody at the device wants help now";
            Failure::new(Exit::Declined, "DECLINED", line)
        }
        End::ConsentTimeout => {
            let line = "nobody at the device opened the invitation in time; call the person, then try again";
            Failure::new(Exit::TimedOut, "CONSENT_TIMEOUT", line)
        }
        End::Refused(refusal) => {
            let exit = match refusal {
                Refusal::Limit(_)
                | Refusal::OrgMismatch
                | Refusal::UnenrolledNotAllowed
                | Refusal::PrerequisiteMissing(_)
                | Refusal::LeaseHeld(_) => Exit::NotPermitted,
                Refusal::AuthFailed => Exit::Verification,
                Refusal::Full | Refusal::Taken => Exit::Error,
            };
            Failure::new(exit, refusal.name(), refusal.to_string())
        }
    })
}
