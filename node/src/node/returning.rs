//! Helper: waits for a sharer whose computer restarts, where the two will look for each other, until it is there or the session is over.

use std::{
    collections::BTreeSet,
    pin::{Pin, pin},
    time::{Duration, Instant},
};

use remora_proto::{
    code::Code,
    line::Why,
    random::Random,
    record::HostRole,
    rendezvous::{Host, LIFETIME},
    session::{Command, Event as SessionEvent, Receipt, Refusal, Session},
};
use tokio::{sync::mpsc, time::sleep};

use super::{find_place, tell};
use crate::{
    control::unix_ms,
    deadline::until,
    event::{Asked, Event, Input},
    homes::{Homes, attached::Attached},
    rendezvous::{self, Introduced, Waited},
    session::{Channels, resume::Waiting},
};

/// Between two tries to wait at a relay that does not take the code.
const AGAIN: Duration = Duration::from_secs(1);
/// Said to whoever wants anything else.
const AWAY: Refusal = Refusal::BadState("anything but leaving, while the computer restarts,");

/// Where the sharer has come to.
pub(super) type Met = (Attached, Introduced);

/// Until the sharer is there; `number` is of the code that is tried next.
///
/// # Errors
/// The session is over: nobody came in time, or the person did not want to wait.
pub(super) async fn meet(
    waiting: &mut Waiting,
    homes: &Homes,
    channels: &mut Channels,
    number: &mut u32,
) -> Result<Met, Receipt> {
    let Waiting {
        session,
        resumption,
        ..
    } = waiting;
    let events = channels.events.clone();
    let mut over = pin!(mind(session, channels));
    let mut avoided = BTreeSet::new();
    loop {
        let mut home = tokio::select! { biased;
            receipt = over.as_mut() => return Err(receipt),
            home = find_place(homes, &mut avoided) => home,
        };
        loop {
            let code = resumption.code(*number);
            let met = at(&mut home, code, &events, over.as_mut()).await;
            match met {
                Here::Over(receipt) => {
                    home.close().await;
                    return Err(receipt);
                }
                // Used up, whatever comes of it.
                Here::Met(introduced) => {
                    *number = number.wrapping_add(1);
                    return Ok((home, introduced));
                }
                Here::Next => *number = number.wrapping_add(1),
                Here::Elsewhere => break,
            }
        }
        avoided.insert(home.id());
        home.close().await;
    }
}

/// What comes of waiting at one relay with one code.
enum Here {
    Met(Introduced),
    Over(Receipt),
    /// The code is another's, or used up.
    Next,
    /// The relay is gone, or going.
    Elsewhere,
}

async fn at(
    home: &mut Attached,
    code: Code,
    events: &mpsc::Sender<Event>,
    mut over: Pin<&mut impl Future<Output = Receipt>>,
) -> Here {
    let realm = &home.control.welcome.realm;
    let (now, unix_ms) = (Instant::now(), unix_ms());
    let mut host = Host::with_code(
        code,
        realm,
        HostRole::Helper,
        LIFETIME,
        now,
        unix_ms,
        Random::system(),
    );
    match rendezvous::try_publish(&home.control, &host).await {
        Ok(true) => {}
        Ok(false) => return Here::Next,
        Err(failure) => {
            tracing::info!(%failure, "the relay does not take the code");
            return tokio::select! { biased;
                receipt = over.as_mut() => Here::Over(receipt),
                () = sleep(AGAIN) => Here::Elsewhere,
            };
        }
    }
    // Whatever the person wants is heard elsewhere.
    let (_open, mut nothing) = mpsc::channel(1);
    let waited = tokio::select! { biased;
        receipt = over.as_mut() => return Here::Over(receipt),
        waited = rendezvous::wait(&mut host, &home.control, &mut home.notices, events, &mut nothing, true) => waited,
    };
    match waited {
        Ok(Waited::Introduced(introduced)) => Here::Met(introduced),
        Ok(Waited::Draining(_) | Waited::Lost) => Here::Elsewhere,
        Ok(Waited::NewCode | Waited::Ended(_)) => Here::Next,
        Err(failure) => {
            tracing::info!(%failure, "somebody came, and nothing came of it");
            Here::Next
        }
    }
}

/// Ends it, as an administrator wants.
pub(super) async fn end(waiting: &mut Waiting, why: Why, channels: &mut Channels) -> Receipt {
    if let Err(error) = waiting.session.handle_kill(why, Instant::now()) {
        tracing::debug!(%error, "it has ended already");
    }
    mind(&mut waiting.session, channels).await
}

/// The session meanwhile: its time runs, and its person may leave it.
async fn mind(session: &mut Session, channels: &mut Channels) -> Receipt {
    loop {
        while session.poll_transmit().is_some() {}
        while let Some(event) = session.poll_event() {
            let receipt = if let SessionEvent::Ended(receipt) = &event {
                Some(receipt.clone())
            } else {
                None
            };
            tell(&channels.events, Event::Session(event)).await;
            if let Some(receipt) = receipt {
                return receipt;
            }
        }
        let command = tokio::select! { biased;
            () = until(session.poll_timeout()) => {
                session.handle_timeout(Instant::now());
                continue;
            }
            wanted = channels.input.recv() => match wanted {
                None | Some(Input::Session(Command::Leave)) => Command::Leave,
                Some(_) => {
                    let (code, text) = (AWAY.code(), AWAY.to_string());
                    tell(&channels.events, Event::NotPossible { code, text }).await;
                    continue;
                }
            },
            Some(asked) = channels.asked.recv() => match asked {
                Asked::Command(Command::Leave, told) => {
                    // Whoever has gone meanwhile hears of it as all do.
                    told.send(session.handle_command(Command::Leave, Instant::now())).ok();
                    continue;
                }
                Asked::Command(_, told) => {
                    told.send(Err(AWAY)).ok();
                    continue;
                }
                Asked::Way(_) => continue,
            },
        };
        if let Err(error) = session.handle_command(command, Instant::now()) {
            tracing::debug!(%error, "leaving");
        }
    }
}
