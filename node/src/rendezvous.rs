//! Drives the rendezvous machines through the relay: code in, allocation and keys out.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the reasons that end the try at once, among many"
)]

use std::{
    collections::BTreeSet,
    future::pending,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    code::Code,
    id::ExchangeId,
    random::Random,
    record::HostRole,
    rendezvous::{
        CodeEnd, Host, HostEvent, HostTransmit, InnerKeys, Joiner, JoinerEvent, JoinerTransmit,
        LIFETIME,
    },
    session::{Command, Entry},
    wire::message::control::{
        Admit, Dismiss, Gone, Reason, Signal, Withdraw, node_to_relay::Body as Request,
    },
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    control::{Allocation, Control, Notice, RequestError, relay_lost, unix_ms},
    deadline::until,
    error::{Exit, Failure},
    event::{Event, Input},
};

/// How often a taken locator is drawn again before the relay counts as broken: of 32,768, half in use, which is as many as one relay
/// of the fleet can hold, twenty misses in a row come once in a million times.
const MAX_DRAWS: usize = 20;
/// From the host's admission to the relay's allocation.
const ALLOCATION_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the relay is asked whether it is there, while somebody reads the code out, or a device has just said that it is there: QUIC
/// alone would notice after a minute. From then on the node may be parked, which costs the relay less.
const PULSE: Duration = Duration::from_secs(3);
/// For its answer; it may have to be said again, or by TCP.
const PULSE_TIMEOUT: Duration = Duration::from_secs(3);
/// So many in a row without an answer, and the relay is lost.
const MAX_MISSED: u32 = 2;

/// Records that a code was tried at, as relays keep them.
#[derive(Debug, Default)]
pub struct Tried(Mutex<BTreeSet<Bytes>>);

impl Tried {
    /// False when somebody else has.
    fn claim(&self, record: &Bytes) -> bool {
        self.lock().insert(record.clone())
    }

    fn forget(&self, record: &Bytes) {
        self.lock().remove(record);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both nodes know each other's keys; the inner connection may begin.
#[derive(Debug)]
pub struct Introduced {
    /// The session on the relay.
    pub allocation: Allocation,
    /// Known to the two nodes alone.
    pub keys: InnerKeys,
    /// How the sharer came: as far as this side knows.
    pub entry: Entry,
}

/// How waiting with a code ended.
#[derive(Debug)]
pub enum Waited {
    /// Somebody with the code is there.
    Introduced(Introduced),
    /// The person wants another code.
    NewCode,
    /// The relay stops by then. The code is good elsewhere.
    Draining(Duration),
    /// The relay is gone.
    Lost,
    /// It admits nobody any more.
    Ended(CodeEnd),
}

/// Waits for the one who has the published code. From a relay that is about to stop, if it `can_move`, or is gone, the host is to be
/// taken elsewhere.
///
/// # Errors
/// Whoever has the code is there, but the relay opens no session.
pub async fn wait(
    host: &mut Host,
    control: &Control,
    notices: &mut mpsc::Receiver<Notice>,
    events: &mpsc::Sender<Event>,
    input: &mut mpsc::Receiver<Input>,
    can_move: bool,
) -> Result<Waited, Failure> {
    let mut silence = pin!(silence(control));
    let mut joined: Option<(ExchangeId, InnerKeys)> = None;
    // When it goes, and how long the relay stays.
    let mut leaving: Option<(Instant, Duration)> = None;
    loop {
        flush(control, host).await;
        while let Some(event) = host.poll_event() {
            match event {
                HostEvent::WrongCode { tries_left } => {
                    tell(events, Event::WrongCode { tries_left }).await
                }
                HostEvent::Joined(exchange, keys) => joined = Some((exchange, keys)),
                HostEvent::Ended(CodeEnd::Used) => {}
                HostEvent::Ended(end) => return Ok(Waited::Ended(end)),
            }
        }
        if let Some((exchange, keys)) = joined.take() {
            let allocation = await_allocation(notices, exchange).await?;
            let entry = Entry::default();
            return Ok(Waited::Introduced(Introduced {
                allocation,
                keys,
                entry,
            }));
        }
        if let Some((at, within)) = leaving
            && (!host.is_asked() || at <= Instant::now())
        {
            return Ok(Waited::Draining(within));
        }
        tokio::select! { biased;
            notice = notices.recv() => match notice {
                None => return Ok(Waited::Lost),
                Some(Notice::Offer(exchange, payload)) => host.handle_offer(exchange, &payload, Instant::now()),
                Some(Notice::Signal(exchange, payload)) => host.handle_signal(exchange, &payload, Instant::now()),
                Some(Notice::Dismissed(exchange, _)) => host.handle_joiner_gone(exchange),
                // Whoever is on the way is not turned away: a session that begins here moves as all do.
                Some(Notice::Draining(within)) if can_move => {
                    leaving = Some((Instant::now() + within / 4, within));
                }
                Some(Notice::Silent) if can_move => return Ok(Waited::Lost),
                Some(Notice::Draining(within)) => tell(events, Event::RelayDraining(within)).await,
                // Two relays of its fleet had given it away when they could not reach each other: the person has to read out a new one.
                Some(Notice::Taken) => return Ok(Waited::NewCode),
                Some(Notice::Allocated(_) | Notice::Released(..) | Notice::Silent) => {}
            },
            () = until(leaving.map(|(at, _)| at)) => {}
            wanted = input.recv() => match wanted {
                None | Some(Input::Session(Command::Leave)) => host.cancel(),
                Some(Input::NewCode) => {
                    host.cancel();
                    flush(control, host).await;
                    return Ok(Waited::NewCode);
                }
                Some(Input::Session(_) | Input::Keys(_) | Input::Order(_) | Input::Relayed(_) | Input::Exchange(_)) => tell(events, not_yet("nobody is here yet")).await,
            },
            () = until(host.poll_timeout()) => host.handle_timeout(Instant::now()),
            () = &mut silence => return Ok(Waited::Lost),
        }
    }
}

/// Waits while there is no relay, until the code ends by itself or the person wants no more.
pub async fn wait_without_relay(
    host: &mut Host,
    events: &mpsc::Sender<Event>,
    input: &mut mpsc::Receiver<Input>,
) -> CodeEnd {
    loop {
        // Nobody is there who could be told.
        while host.poll_transmit().is_some() {}
        while let Some(event) = host.poll_event() {
            if let HostEvent::Ended(end) = event {
                return end;
            }
        }
        tokio::select! { biased;
            wanted = input.recv() => match wanted {
                None | Some(Input::Session(Command::Leave)) => host.cancel(),
                Some(Input::NewCode) => tell(events, not_yet("there is no relay that could keep one")).await,
                Some(Input::Session(_) | Input::Keys(_) | Input::Order(_) | Input::Relayed(_) | Input::Exchange(_)) => tell(events, not_yet("nobody is here yet")).await,
            },
            () = until(host.poll_timeout()) => host.handle_timeout(Instant::now()),
        }
    }
}

/// Ends when the relay does not answer any more, be it dead or its machine gone; never once the node may be parked.
pub(crate) async fn silence(control: &Control) {
    let (began, mut missed) = (Instant::now(), 0);
    // It is parked then, and asks by itself whether the relay is there.
    while began.elapsed() + PULSE < control.park_after {
        sleep(PULSE).await;
        let answered = timeout(PULSE_TIMEOUT, control.here()).await;
        let is_there = answered.is_ok_and(|answer| answer.is_ok());
        missed = if is_there { 0 } else { missed + 1 };
        if missed == MAX_MISSED {
            return;
        }
    }
    pending().await
}

async fn flush(control: &Control, host: &mut Host) {
    while let Some(transmit) = host.poll_transmit() {
        control.tell(host_request(transmit)).await;
    }
}

/// Draws a code that is free at the relay, publishes it and shows it.
///
/// # Errors
/// The relay refuses, or is gone.
pub async fn publish(
    control: &Control,
    lifetime: Duration,
    events: &mpsc::Sender<Event>,
) -> Result<Host, Failure> {
    let host = draw(control, lifetime).await?;
    let shown = Event::Code {
        code: host.code().to_string(),
        valid: lifetime.min(LIFETIME),
    };
    tell(events, shown).await;
    Ok(host)
}

/// The same without showing it.
///
/// # Errors
/// The relay refuses, or is gone.
pub async fn draw(control: &Control, lifetime: Duration) -> Result<Host, Failure> {
    let realm = &control.welcome.realm;
    for _ in 0..MAX_DRAWS {
        let host = Host::new(
            realm,
            HostRole::Helper,
            lifetime,
            Instant::now(),
            unix_ms(),
            Random::system(),
        );
        if try_publish(control, &host).await? {
            return Ok(host);
        }
    }
    Err(Failure::new(
        Exit::Error,
        "TAKEN",
        "the relay has no free code; try again in a minute, or use another relay",
    ))
}

/// Publishes a host's code; false when it is another's.
///
/// # Errors
/// The relay refuses, or is gone.
pub async fn try_publish(control: &Control, host: &Host) -> Result<bool, Failure> {
    match control.publish(host.signed_record()).await {
        Ok(()) => Ok(true),
        Err(RequestError::Refused(refused)) if refused.reason() == Reason::Taken => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn host_request(transmit: HostTransmit) -> Request {
    match transmit {
        HostTransmit::Signal(exchange, payload) => Request::Signal(Signal {
            exchange: exchange.0,
            payload,
        }),
        HostTransmit::Admit(exchange, payload) => Request::Admit(Admit {
            exchange: exchange.0,
            payload,
        }),
        HostTransmit::Dismiss {
            exchange,
            payload,
            wrong_secret,
        } => Request::Dismiss(Dismiss {
            exchange: exchange.0,
            payload,
            wrong_secret,
        }),
        HostTransmit::Withdraw(key, end) => {
            let why = match end {
                CodeEnd::Used => Gone::Used,
                CodeEnd::Burned => Gone::Burned,
                CodeEnd::Expired => Gone::Expired,
                CodeEnd::Cancelled => Gone::Cancelled,
            };
            let locator_key = Bytes::copy_from_slice(&key.0);
            Request::Withdraw(Withdraw {
                locator_key,
                why: why.into(),
            })
        }
    }
}

async fn await_allocation(
    notices: &mut mpsc::Receiver<Notice>,
    exchange: ExchangeId,
) -> Result<Allocation, Failure> {
    let allocated = async {
        while let Some(notice) = notices.recv().await {
            if let Notice::Allocated(allocation) = notice
                && allocation.exchange == exchange
            {
                return Ok(allocation);
            }
        }
        Err(relay_lost())
    };
    timeout(ALLOCATION_TIMEOUT, allocated)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::new(
                Exit::Error,
                "RELAY_FULL",
                "the relay did not open a session; try another relay",
            ))
        })
}

/// Finds the host of `code` and proves to have it; makes it prove the same.
/// `tried` are the records that the code was tried at: relays of one fleet know the same host, who counts wrong tries.
///
/// # Errors
/// Why the code did not work, or that the relay is gone.
pub async fn join(
    control: &Control,
    notices: &mut mpsc::Receiver<Notice>,
    code: Code,
    tried: &Tried,
) -> Result<Introduced, Failure> {
    let mut claim = None;
    let joined = try_once(control, notices, code, tried, &mut claim).await;
    // Whoever was not reached may be by another relay.
    if let Err(failure) = &joined
        && let Some(record) = claim
        && !may_retry(failure)
    {
        tried.forget(&record);
    }
    joined
}

async fn try_once(
    control: &Control,
    notices: &mut mpsc::Receiver<Notice>,
    code: Code,
    tried: &Tried,
    claim: &mut Option<Bytes>,
) -> Result<Introduced, Failure> {
    let realm = &control.welcome.realm;
    let mut joiner = Joiner::new(
        code,
        realm,
        HostRole::Helper,
        Instant::now(),
        unix_ms(),
        Random::system(),
    );
    let mut allocation = None;
    loop {
        while let Some(transmit) = joiner.poll_transmit() {
            ask(control, &mut joiner, transmit, tried, claim).await?;
        }
        match (joiner.poll_event(), allocation.take()) {
            (Some(JoinerEvent::Joined(keys)), Some(allocation)) => {
                let entry = Entry::default();
                return Ok(Introduced {
                    allocation,
                    keys,
                    entry,
                });
            }
            (Some(JoinerEvent::Failed(failure)), _) => return Err(failure.into()),
            (Some(JoinerEvent::Joined(_)), None) | (None, _) => {}
        }
        tokio::select! { biased;
            notice = notices.recv() => match notice.ok_or_else(relay_lost)? {
                Notice::Signal(exchange, payload) => joiner.handle_signal(exchange, &payload),
                Notice::Dismissed(exchange, payload) => joiner.handle_dismissed(exchange, &payload),
                Notice::Allocated(allocated) => {
                    joiner.handle_allocated(allocated.exchange, &allocated.payload);
                    allocation = Some(allocated);
                }
                Notice::Offer(..)
                | Notice::Released(..)
                | Notice::Draining(_)
                | Notice::Taken
                | Notice::Silent => {}
            },
            () = until(joiner.poll_timeout()) => joiner.handle_timeout(Instant::now()),
        }
    }
}

async fn ask(
    control: &Control,
    joiner: &mut Joiner,
    transmit: JoinerTransmit,
    tried: &Tried,
    claim: &mut Option<Bytes>,
) -> Result<(), Failure> {
    let answer = match transmit {
        JoinerTransmit::Lookup(keys) => {
            let keys = keys
                .iter()
                .map(|key| Bytes::copy_from_slice(&key.0))
                .collect();
            control.look_up(keys).await.map(|record| {
                if tried.claim(&record) {
                    joiner.handle_found(&record, unix_ms());
                    *claim = Some(record);
                } else {
                    joiner.handle_refused(Reason::UnknownCode);
                }
            })
        }
        JoinerTransmit::Join(key, payload) => {
            let joined = control.join(Bytes::copy_from_slice(&key.0), payload).await;
            joined.map(|exchange| joiner.handle_started(exchange))
        }
        JoinerTransmit::Signal(exchange, payload) => {
            control
                .tell(Request::Signal(Signal {
                    exchange: exchange.0,
                    payload,
                }))
                .await;
            Ok(())
        }
    };
    match answer {
        Ok(()) => Ok(()),
        Err(RequestError::Lost) => Err(relay_lost()),
        Err(RequestError::Refused(refused)) => match refused.reason() {
            Reason::RateLimited | Reason::Draining | Reason::Full | Reason::Malformed => {
                Err(RequestError::Refused(refused).into())
            }
            reason => {
                joiner.handle_refused(reason);
                Ok(())
            }
        },
    }
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    // Nobody looks any more: the commands' channel is closed, too, and ends the wait.
    if events.send(event).await.is_err() {
        tracing::debug!("nobody listens");
    }
}

/// The failure of a code that ended before anybody came.
pub fn code_ended(end: CodeEnd) -> Failure {
    let (exit, line) = match end {
        CodeEnd::Expired => (
            Exit::TimedOut,
            "the code has expired; run `remora invite` for a new one",
        ),
        CodeEnd::Burned => (
            Exit::Verification,
            "the code was tried wrongly three times and is blocked; run `remora invite` for a new one",
        ),
        CodeEnd::Cancelled => (Exit::Ok, "cancelled"),
        CodeEnd::Used => (Exit::Error, "the code was used, but no session came of it"),
    };
    Failure::new(exit, crate::event::code_end_name(end), line)
}

/// Outcome of a join that a person may try again.
pub fn may_retry(failure: &Failure) -> bool {
    matches!(
        failure.code,
        "WRONG_CODE" | "UNKNOWN_CODE" | "CODE_EXPIRED" | "CODE_USED" | "CODE_BURNED"
    )
}
/// Something that is too early.
fn not_yet(text: &str) -> Event {
    Event::NotPossible {
        code: "BAD_STATE",
        text: text.into(),
    }
}
