//! `remora agent`: for as long as it runs, this device is at the nearest relay that takes it, and says so.
//!
//! ```text
//!  settle ─▶ stay ── renewed every few minutes ──┐
//!             ▲ ▲ ▲──────────────────────────────┘
//!             │ └── at another first ◀── the relay is about to stop
//!             └──── as soon as any is there ◀── the relay is gone
//! ```

use std::{collections::BTreeSet, convert::Infallible, path::Path, time::Duration};

use remora_proto::{
    id::RelayAddr,
    presence::Device,
    random::Random,
    wire::message::control::{Reason, Refused},
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use super::device::Opened;
use crate::{
    cli,
    config::File,
    control::{Notice, RequestError, unix_ms},
    error::{Exit, Failure},
    event::{about, milliseconds},
    homes::{Homes, attached::Attached},
    node::{Options, find_place},
    sign_in,
    terminal::console::{print_data, print_note},
};

/// From what it has said to the next time, and up to a quarter more: two may be lost before that is over.
const RENEW: Duration = Duration::from_secs(180);
/// After a no, unless the relay says when to ask again.
const RETRY: Duration = Duration::from_secs(5);
/// Between two tries to reach a relay at the beginning.
const RECONNECT: Duration = Duration::from_secs(5);
/// People at this device that can be asked: whoever runs this program.
const AGENTS: u32 = 1;

/// `remora agent`
///
/// # Errors
/// What is wrong with the settings, the device's key or the relay; not that none is there.
pub async fn run(file: &File, named: Option<&Path>, args: cli::Agent) -> Result<Exit, Failure> {
    let relays = file.relays(&args.relays.relay)?;
    let opened = Opened::new(named)?;
    let listen = |kind| signal(kind).map_err(|error| Failure::internal("signals", error));
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let voice = Voice { json: args.json };
    let id = opened.device.id();
    voice.tell(
        json!({"event": "device", "device": id.to_string()}),
        &format!(
            "This device is {id}\nWhether it is there, others ask with:  remora presence {id}"
        ),
    )?;
    let options = if args.tcp.tcp_only {
        Options::tcp_only()
    } else {
        Options::relay_only()
    };
    let mut agent = Agent {
        opened,
        voice,
        home: None,
        complained: None,
    };
    let ended = tokio::select! { biased;
        _ = interrupt.recv() => Ok(Exit::Ok),
        _ = terminate.recv() => Ok(Exit::Ok),
        () = sign_in::keep(file) => Ok(Exit::Ok),
        never = agent.live(&relays, options) => never.map(|never| match never {}),
    };
    // With its last word, which says that the device has gone.
    if let Some(home) = agent.home {
        home.close().await;
    }
    ended
}

struct Agent {
    opened: Opened,
    voice: Voice,
    home: Option<Attached>,
    /// What was said last of what does not work: once is enough.
    complained: Option<&'static str>,
}

/// Why it does not stay where it is.
enum Left {
    /// The relay wants to be left.
    Draining,
    /// It is gone.
    Lost,
}

impl Agent {
    async fn live(
        &mut self,
        relays: &[RelayAddr],
        options: Options,
    ) -> Result<Infallible, Failure> {
        let homes = self.settle(relays, &options).await?;
        let mut can_move = true;
        loop {
            match self.stay(can_move).await? {
                Left::Draining => can_move = self.go_elsewhere(&homes).await,
                Left::Lost => {
                    self.come_back(&homes).await?;
                    can_move = true;
                }
            }
        }
    }

    /// At the nearest relay; a network may come later than this program.
    async fn settle(&mut self, relays: &[RelayAddr], options: &Options) -> Result<Homes, Failure> {
        loop {
            let settled = async {
                let mut homes = Homes::find(relays, options.clone()).await?;
                let home = homes.settle(&BTreeSet::new()).await?;
                let home = homes.learn(home).await;
                Ok::<_, Failure>((homes, home))
            };
            match settled.await {
                Ok((homes, home)) => {
                    self.home = Some(home);
                    return Ok(homes);
                }
                Err(failure) if failure.exit == Exit::Offline => self.complain(&failure)?,
                Err(failure) => return Err(failure),
            }
            sleep(RECONNECT).await;
        }
    }

    /// For as long as the relay is there.
    async fn stay(&mut self, can_move: bool) -> Result<Left, Failure> {
        let mut say_at = Instant::now();
        let mut is_known = false;
        loop {
            let Some(home) = &mut self.home else {
                return Ok(Left::Lost);
            };
            let notice = tokio::select! { biased;
                notice = home.notices.recv() => notice,
                () = sleep_until(say_at) => {
                    let said = publish(&mut self.opened.device, home).await;
                    let again = match said {
                        Ok(()) => {
                            if !is_known {
                                self.known()?;
                            }
                            is_known = true;
                            RENEW + RENEW.mul_f64(f64::from(share()) / 4.0)
                        }
                        Err(RequestError::Lost) => return Ok(Left::Lost),
                        Err(RequestError::Refused(refused)) => {
                            if can_move && refused.reason() == Reason::Draining {
                                return Ok(Left::Draining);
                            }
                            self.not_taken(&refused)?
                        }
                    };
                    say_at = Instant::now() + again;
                    continue;
                }
            };
            match notice {
                None => return Ok(Left::Lost),
                // Parked, and the relay does not answer.
                Some(Notice::Silent) if can_move => return Ok(Left::Lost),
                Some(Notice::Draining(_)) if can_move => return Ok(Left::Draining),
                Some(Notice::Taken) => return Err(is_another()),
                Some(
                    Notice::Draining(_)
                    | Notice::Offer(..)
                    | Notice::Signal(..)
                    | Notice::Dismissed(..)
                    | Notice::Allocated(_)
                    | Notice::Released(..)
                    | Notice::Silent,
                ) => {}
            }
        }
    }

    /// At another relay first, so that it is there all the time; whether there is one.
    async fn go_elsewhere(&mut self, homes: &Homes) -> bool {
        let Some(home) = &self.home else { return true };
        let here = BTreeSet::from([home.id()]);
        let other = match homes.settle(&here).await {
            Ok(other) if !other.is_leaving() => other,
            Ok(other) => {
                other.close().await;
                return false;
            }
            Err(failure) => {
                tracing::info!(%failure, "no other relay");
                return false;
            }
        };
        let said = publish(&mut self.opened.device, &other).await;
        if let Err(error) = said {
            tracing::info!(%error, "the other relay does not take the device");
        }
        if let Some(left) = self.home.replace(other) {
            left.close().await;
        }
        true
    }

    /// At any relay, another one first, as soon as there is one.
    async fn come_back(&mut self, homes: &Homes) -> Result<(), Failure> {
        self.voice.tell(
            json!({"event": "relay_lost"}),
            "The relay is gone; looking for one.",
        )?;
        let lost = self.home.take().map(|home| home.id());
        let mut avoided = lost.into_iter().collect();
        self.home = Some(find_place(homes, &mut avoided).await);
        Ok(())
    }

    /// Others find it from now on.
    fn known(&mut self) -> Result<(), Failure> {
        self.complained = None;
        let Some(home) = &self.home else {
            return Ok(());
        };
        let (name, rtt) = (&home.control.welcome.relay_name, home.control.rtt());
        self.voice.tell(
            json!({
                "event": "online", "relay": name, "address": home.relay.host_port, "rtt_ms": milliseconds(rtt),
                "agents": AGENTS,
            }),
            &format!("Online at {name} ({}).", about(rtt)),
        )
    }

    /// The relay does not take what it says; when to say it again.
    fn not_taken(&mut self, refused: &Refused) -> Result<Duration, Failure> {
        let reason = refused.reason();
        if reason == Reason::Taken {
            // Said by a clock that was ahead, and is no more.
            self.opened.device.handle_taken();
        }
        let failure = Failure::new(
            Exit::Error,
            reason.as_str_name(),
            format!("the relay does not take this device: {}", refused.text),
        );
        self.complain(&failure)?;
        let wait = Duration::from_millis(refused.retry_after_ms.into());
        Ok(wait.max(RETRY))
    }

    /// Once, until it is another matter.
    fn complain(&mut self, failure: &Failure) -> Result<(), Failure> {
        if self.complained.replace(failure.code) == Some(failure.code) {
            return Ok(());
        }
        self.voice.tell(
            json!({"event": "offline", "code": failure.code, "text": failure.line}),
            &format!("Not online: {}. Trying again.", failure.line),
        )
    }
}

/// Says at that relay that it is there.
async fn publish(device: &mut Device, home: &Attached) -> Result<(), RequestError> {
    let realm = &home.control.welcome.realm;
    let record = device.say(realm, home.id(), AGENTS, unix_ms());
    home.control.publish(record).await
}

fn is_another() -> Failure {
    Failure::new(
        Exit::Error,
        "DEVICE_ELSEWHERE",
        "another computer says that it is this device: was its key copied? Remove `config.device.key` beside the settings on one of the two, \
         which then has another id",
    )
}

/// A part of the whole, at random.
fn share() -> f32 {
    let [share] = Random::system().bytes();
    f32::from(share) / 255.0
}

/// For whom it says what happens.
#[derive(Clone, Copy)]
struct Voice {
    json: bool,
}

impl Voice {
    fn tell(self, mut event: Value, line: &str) -> Result<(), Failure> {
        if !self.json {
            return print_note(line);
        }
        event["v"] = 1.into();
        print_data(&event.to_string())
    }
}
