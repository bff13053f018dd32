//! `remora agent`: for as long as it runs, this device is at the nearest relay that takes it, and says so; invitations to it come in.
//!
//! ```text
//!  settle ─▶ stay ── renewed every few minutes ──┐
//!             ▲ ▲ ▲──────────────────────────────┘
//!             │ └── at another first ◀── the relay is about to stop
//!             └──── as soon as any is there ◀── the relay is gone
//! ```
//!
//! Of several log-ins of one device, the agent that has the device's key does all that; the others have their seat at its desk, and take
//! its place when it ends.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use remora_proto::{
    id::RelayAddr,
    invitation::desk::Unattended,
    presence::Device,
    random::Random,
    wire::message::control::{Reason, Refused},
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use super::{
    child::Command,
    device::Opened,
    inbox::Inbox,
    office::Office,
    seats::{self, Seats, meeting_place},
};
use crate::{
    cli::{self, Switch},
    config::{self, File},
    control::{Notice, RequestError, unix_ms},
    error::{Exit, Failure},
    event::{about, milliseconds},
    homes::{Homes, attached::Attached},
    identity::Member,
    node::{Options, find_place},
    rendezvous::silence,
    session::backends::Backends,
    share::desktop::Desktop,
    sign_in,
    terminal::console::{print_data, print_note},
};

/// From what it has said to the next time, and up to a quarter more: two may be lost before that is over.
const RENEW: Duration = Duration::from_secs(180);
/// After a no, unless the relay says when to ask again.
const RETRY: Duration = Duration::from_secs(5);
/// Between two tries to reach a relay at the beginning.
const RECONNECT: Duration = Duration::from_secs(5);
/// How long another agent may take to open its desk, or to end.
const TAKING_OVER: Duration = Duration::from_secs(5);
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(200);

/// `remora agent`
///
/// # Errors
/// What is wrong with the settings, the device's key or the relay; not that none is there.
pub async fn run(file: &File, named: Option<&Path>, args: cli::Agent) -> Result<Exit, Failure> {
    let relays = file.relays(&args.relays.relay)?;
    let listen = |kind| signal(kind).map_err(|error| Failure::internal("signals", error));
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let voice = Voice { json: args.json };
    let command = Command {
        settings: named.map(Path::to_path_buf),
        relays: args.relays.relay.clone(),
        tcp_only: args.tcp.tcp_only,
    };
    let beside = meeting_place(&config::path(named)?);
    let service = Service {
        file,
        named,
        relays,
        is_shared: args.socket.is_some(),
        socket: args.socket.unwrap_or(beside),
        tcp_only: args.tcp.tcp_only,
        unattended: unattended(file, args.unattended)?,
        command: command.clone(),
        voice,
    };
    let mut inbox = Inbox::open(voice, command.clone())?;
    let mut agent = None;
    // This computer may have been restarted in a session.
    let token = file.place().and_then(|place| place.read().ok());
    let resumed = token.map(|token| tokio::spawn(command.resume(token.kind)));
    let ended = tokio::select! { biased;
        _ = interrupt.recv() => Ok(Exit::Ok),
        _ = terminate.recv() => Ok(Exit::Ok),
        () = sign_in::keep(file) => Ok(Exit::Ok),
        never = service.run(&mut inbox, &mut agent) => never.map(|never| match never {}),
    };
    if let Some(resumed) = resumed {
        // Its program goes on without it.
        resumed.abort();
    }
    // With its last word, which says that the device has gone.
    if let Some(Agent {
        home: Some(home), ..
    }) = agent
    {
        home.close().await;
    }
    ended
}

/// What may be had here while nobody is there.
///
/// # Errors
/// That is wanted, and not the person's to say.
fn unattended(file: &File, wanted: Switch) -> Result<Unattended, Failure> {
    if wanted == Switch::Off {
        return Ok(Unattended::Off);
    }
    let identity = file.identity(&cli::ProfileArgs::default())?;
    let papers = identity.member.as_deref().map(Member::papers);
    let device = papers.and_then(|papers| papers.device);
    if device.is_none_or(|device| device.personal) {
        let line = "only at a device that its organisation has enrolled, and that is nobody's own, can somebody help while nobody is there; \
                    ask your administrator";
        return Err(Failure::new(
            Exit::NotPermitted,
            "UNENROLLED_NOT_ALLOWED",
            line,
        ));
    }
    // Of the display that the agent is at; the broker has no part in that.
    let backends = Backends::of_system(&Desktop::X11(None), PathBuf::new());
    Ok(match backends.platform().shields {
        true => Unattended::On,
        false => Unattended::Lacks("a way to hide its screen".into()),
    })
}

/// An agent, whichever part it has.
struct Service<'a> {
    file: &'a File,
    named: Option<&'a Path>,
    relays: Vec<RelayAddr>,
    socket: PathBuf,
    is_shared: bool,
    tcp_only: bool,
    unattended: Unattended,
    command: Command,
    voice: Voice,
}

impl Service<'_> {
    async fn run(
        &self,
        inbox: &mut Inbox,
        agent: &mut Option<Agent>,
    ) -> Result<Infallible, Failure> {
        let mut since = Instant::now();
        loop {
            if let Some((device, place)) = seats::attach(&self.socket).await? {
                self.say_device(&device, true)?;
                inbox.run(place).await?;
                since = Instant::now();
                continue;
            }
            match Opened::new(self.named) {
                Ok(opened) => return self.hold(opened, inbox, agent).await,
                // It is about to open its desk, or has just ended.
                Err(failure) if failure.code == "AGENT_RUNS" && since.elapsed() < TAKING_OVER => {
                    sleep(LOOK).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// With the device's key.
    async fn hold(
        &self,
        opened: Opened,
        inbox: &mut Inbox,
        agent: &mut Option<Agent>,
    ) -> Result<Infallible, Failure> {
        let identity = self.file.identity(&cli::ProfileArgs::default())?;
        let member = identity.member.clone();
        let options = if self.tcp_only {
            Options::tcp_only()
        } else {
            Options::relay_only()
        };
        let options = Options { member, ..options };
        let id = opened.device.id();
        let (seats, place) = Seats::open(self.socket.clone(), self.is_shared, id)?;
        let (unattended, command) = (self.unattended.clone(), self.command.clone());
        let agent = agent.insert(Agent {
            office: Office::new(identity, unattended, seats, command),
            opened,
            voice: self.voice,
            home: None,
            complained: None,
        });
        self.say_device(&id.to_string(), false)?;
        tokio::select! { biased;
            never = agent.live(&self.relays, options) => never,
            ended = inbox.run(place) => {
                ended?;
                Err(Failure::internal("the agent's desk", "closed"))
            }
        }
    }

    fn say_device(&self, id: &str, is_seat: bool) -> Result<(), Failure> {
        let how = match is_seat {
            true => "\nAnother agent keeps it online; invitations come here, too.",
            false => "",
        };
        self.voice.tell(
            json!({"event": "device", "device": id, "attached": is_seat}),
            &format!(
                "This device is {id}\nWhether it is there, others ask with:  remora presence {id}\n\
                 Helpers invite it with:  remora invite --device {id}{how}"
            ),
        )
    }
}

struct Agent {
    opened: Opened,
    office: Office,
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
        let Some(control) = self.home.as_ref().map(|home| home.control.clone()) else {
            return Ok(Left::Lost);
        };
        let mut silent = pin!(silence(&control));
        loop {
            let Some(home) = &mut self.home else {
                return Ok(Left::Lost);
            };
            let notice = tokio::select! { biased;
                notice = home.notices.recv() => notice,
                happening = self.office.next() => {
                    if self.office.handle(happening, Some(&home.control)).await {
                        say_at = Instant::now();
                    }
                    continue;
                }
                () = &mut silent => return Ok(Left::Lost),
                () = sleep_until(say_at) => {
                    let agents = self.office.seats();
                    let said = publish(&mut self.opened.device, home, agents).await;
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
            let (office, control) = (&mut self.office, &home.control);
            match notice {
                None => return Ok(Left::Lost),
                Some(Notice::Offer(exchange, first)) => {
                    let device = &self.opened.device;
                    office.handle_ring(device, exchange, &first, control).await;
                }
                Some(Notice::Signal(exchange, piece)) => {
                    office.handle_signal(exchange, &piece, control).await;
                }
                Some(Notice::Dismissed(exchange, _)) => {
                    office.handle_dismissed(exchange, control).await;
                }
                // Parked, and the relay does not answer.
                Some(Notice::Silent) if can_move => return Ok(Left::Lost),
                Some(Notice::Draining(_)) if can_move => return Ok(Left::Draining),
                Some(Notice::Taken) => return Err(is_another()),
                Some(
                    Notice::Draining(_)
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
        let agents = self.office.seats();
        let said = publish(&mut self.opened.device, &other, agents).await;
        if let Err(error) = said {
            tracing::info!(%error, "the other relay does not take the device");
        }
        // Helpers ring again, there.
        self.office.handle_relay_lost();
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
        self.office.handle_relay_lost();
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
                "agents": agents(self.office.seats()),
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
async fn publish(device: &mut Device, home: &Attached, seats: u32) -> Result<(), RequestError> {
    let realm = &home.control.welcome.realm;
    let record = device.say(realm, home.id(), agents(seats), unix_ms());
    home.control.publish(record).await
}

/// People that can be asked: this agent's own is there before it has taken its seat.
fn agents(seats: u32) -> u32 {
    seats.max(1)
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    /// For scripts.
    pub(crate) json: bool,
}

impl Voice {
    /// An event, or a line.
    pub(crate) fn tell(self, mut event: Value, line: &str) -> Result<(), Failure> {
        if !self.json {
            return print_note(line);
        }
        event["v"] = 1.into();
        print_data(&event.to_string())
    }
}
