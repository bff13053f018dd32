//! `remora request`: drives the machine of somebody who waits for help (`proto::invitation::asking`).
//!
//! ```text
//!  settle ─▶ publish, queue up ─▶ look at the line every few seconds, answer who rings ── taken ─▶ the session
//!    ▲                                  │ the relay is gone, or about to stop                 │ and for a while
//!    └──────────────────────────────────┘                                                    └─▶ "taken" to the others
//! ```

use std::{
    collections::BTreeSet,
    pin::pin,
    time::{Duration, Instant},
};

use remora_proto::{
    id::{ExchangeId, OrgId},
    identity::Role,
    invitation::{
        asking::{Action, Asking},
        desk::Call,
        seal::Broken,
        word::{FromDevice, FromHelper, Offer},
    },
    org::{setting::Setting, verdict::Verdict},
    presence::Device,
    random::Random,
    session::{Entry, T_CONSENT},
    wire::message::control::Reason,
};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep_until, timeout},
};

use super::{member, options, org};
use crate::{
    cli,
    config::File,
    control::{Control, Notice, RequestError, unix_ms},
    deadline::until,
    error::{Exit, Failure},
    event::card,
    homes::{Homes, attached::Attached},
    identity::{Identity, Member},
    node::find_place,
    presence::{agent::Voice, lines::Lines},
    sign_in, terminal,
};

/// Between two looks at the line. It keeps the connection awake, too.
const LOOK: Duration = Duration::from_secs(5);
/// A relay answers within this, or is gone: it may have to ask others, for two seconds at most.
const ANSWER: Duration = Duration::from_secs(5);
/// From what it has said of itself to the next time: well before a record's end.
const RENEW: Duration = Duration::from_secs(180);
/// After a no, unless the relay says when to ask again.
const RETRY: Duration = Duration::from_secs(2);
/// After it is taken, for helpers who had it on their lists to be told so.
const LATE: Duration = Duration::from_secs(15);

/// `remora request`
///
/// # Errors
/// There is no organisation, or no relay; or what went wrong in the session.
pub async fn run(file: &File, args: cli::request::Request) -> Result<Exit, Failure> {
    let relays = file.relays(&args.sharer.common.relays.relay)?;
    sign_in::ensure(file, args.sharer.common.json).await?;
    let identity = file.identity(&args.sharer.profile)?;
    let member = member(&identity)?.clone();
    identity.check(Role::Sharer)?;
    check_enrolled(&member)?;
    let listen = |kind| signal(kind).map_err(|error| Failure::internal("signals", error));
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let options = options(&args.sharer.common.tcp, &member);
    let mut homes = Homes::find(&relays, options).await?;
    let home = homes.settle(&BTreeSet::new()).await?;
    let home = homes.learn(home).await;
    let voice = Voice {
        json: args.sharer.common.json,
    };
    let reason = args.reason.clone().unwrap_or_default();
    let mut waiting = Waiting::new(&identity, org(&member), home, &reason, voice);
    waiting.begin(&member, &reason)?;
    let taken = tokio::select! { biased;
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        () = sign_in::keep(file) => None,
        taken = waiting.until_taken(&homes) => Some(taken?),
    };
    let Some(offer) = taken else {
        waiting.close().await;
        voice.tell(json!({"event": "withdrawn"}), "Your request is withdrawn.")?;
        return Ok(Exit::Ok);
    };
    let within = offer.within.min(T_CONSENT);
    let mut session = pin!(terminal::open(
        file,
        args.sharer,
        offer.code,
        Entry::Request,
        within
    ));
    let ended = tokio::select! { biased;
        ended = &mut session => Some(ended),
        () = waiting.turn_away() => None,
    };
    waiting.close().await;
    match ended {
        Some(ended) => ended,
        None => session.await,
    }
}

/// Nobody could help: better said before somebody waits for it.
fn check_enrolled(member: &Member) -> Result<(), Failure> {
    let allowed = member.policy().settings.is_on(Setting::AllowUnenrolled);
    if allowed || member.papers().device.is_some() {
        return Ok(());
    }
    let line = "this computer is not enrolled, and your organisation helps at enrolled ones only; ask your administrator";
    Err(Failure::new(
        Exit::NotPermitted,
        "UNENROLLED_NOT_ALLOWED",
        line,
    ))
}

struct Waiting {
    device: Device,
    org: OrgId,
    lines: Lines,
    asking: Asking,
    home: Attached,
    voice: Voice,
    /// What was said last of the place in the line, and of how many.
    place: Option<(usize, usize)>,
    /// What was said last of what does not work: once is enough.
    complained: Option<Reason>,
}

/// Why it does not stay where it is.
enum Left {
    Relay,
    Taken(Box<Offer>),
}

impl Waiting {
    fn new(identity: &Identity, org: OrgId, home: Attached, reason: &str, voice: Voice) -> Self {
        Self {
            device: Device::new(&Random::system().bytes()),
            org,
            lines: Lines::new(identity.clone()),
            asking: Asking::new(reason, Instant::now()),
            home,
            voice,
            place: None,
            complained: None,
        }
    }

    fn begin(&self, member: &Member, reason: &str) -> Result<(), Failure> {
        let (id, domain) = (self.device.id().to_string(), member.policy().domain.clone());
        let short = id.get(..6).unwrap_or(&id).to_owned();
        self.voice.tell(
            json!({"event": "request", "id": id, "domain": domain, "reason": reason}),
            &format!(
                "The help desk of {domain} is asked. Your request is {short}; Ctrl-C withdraws it."
            ),
        )
    }

    /// Until somebody has taken it.
    async fn until_taken(&mut self, homes: &Homes) -> Result<Box<Offer>, Failure> {
        loop {
            match self.stay().await? {
                Left::Taken(offer) => return Ok(offer),
                Left::Relay => {
                    self.voice.tell(
                        json!({"event": "relay_lost"}),
                        "The relay is gone; looking for one.",
                    )?;
                    // Helpers ring again, there.
                    drop(self.lines.clear());
                    let mut avoided = BTreeSet::from([self.home.id()]);
                    let place = find_place(homes, &mut avoided).await;
                    std::mem::replace(&mut self.home, place).close().await;
                }
            }
        }
    }

    async fn stay(&mut self) -> Result<Left, Failure> {
        let control = self.home.control.clone();
        let (mut say_at, mut is_said) = (Instant::now(), false);
        let mut look_at = Instant::now();
        loop {
            tokio::select! { biased;
                notice = self.home.notices.recv() => match notice {
                    None | Some(Notice::Silent | Notice::Draining(_)) => return Ok(Left::Relay),
                    Some(notice) => self.handle(notice, &control).await,
                },
                () = until(self.lines.poll_timeout()) => self.dismiss_late(&control).await,
                () = sleep_until(say_at.into()) => match self.say(&control).await {
                    Ok(()) => {
                        is_said = true;
                        say_at = Instant::now() + RENEW;
                        look_at = Instant::now();
                    }
                    Err(RequestError::Lost) => return Ok(Left::Relay),
                    Err(RequestError::Refused(refused)) => {
                        if refused.reason() == Reason::Draining {
                            return Ok(Left::Relay);
                        }
                        self.complain(refused.reason(), &refused.text)?;
                        let wait = Duration::from_millis(refused.retry_after_ms.into());
                        say_at = Instant::now() + wait.max(RETRY);
                    }
                },
                () = sleep_until(look_at.into()), if is_said => {
                    if !self.look(&control).await? {
                        return Ok(Left::Relay);
                    }
                    look_at = Instant::now() + LOOK;
                }
            }
            if let Some(offer) = self.act(&control).await? {
                return Ok(Left::Taken(offer));
            }
        }
    }

    /// That it is there, and waits.
    async fn say(&mut self, control: &Control) -> Result<(), RequestError> {
        let realm = &control.welcome.realm;
        let record = self.device.say(realm, self.home.id(), 1, unix_ms());
        let said = async {
            control.publish(record).await?;
            control.queue_up(self.org, self.device.id()).await
        };
        timeout(ANSWER, said)
            .await
            .unwrap_or(Err(RequestError::Lost))
    }

    /// How far it is from the front; whether the relay answers.
    async fn look(&mut self, control: &Control) -> Result<bool, Failure> {
        let queue = match timeout(ANSWER, control.queue(self.org)).await {
            Ok(Ok(queue)) => queue,
            Ok(Err(RequestError::Refused(_))) => return Ok(true),
            Ok(Err(RequestError::Lost)) | Err(_) => return Ok(false),
        };
        let here = queue.iter().position(|device| *device == self.device.id());
        let place = here.map(|before| (before + 1, queue.len()));
        if let Some((at, of)) = place
            && self.place != place
        {
            let line = match at {
                1 => "You are next.".to_owned(),
                _ => format!("You are {} in line.", ordinal(at)),
            };
            let event = json!({"event": "in_line", "place": at, "of": of});
            self.voice.tell(event, &line)?;
        }
        self.place = place.or(self.place);
        Ok(true)
    }

    async fn handle(&mut self, notice: Notice, control: &Control) {
        match notice {
            Notice::Offer(exchange, first) => {
                self.lines
                    .ring(&self.device, exchange, &first, control)
                    .await;
            }
            Notice::Signal(exchange, piece) => {
                if self.hear(exchange, &piece, control).await.is_err() {
                    tracing::debug!("a ring that is none");
                    self.lines.dismiss(exchange, Some(control)).await;
                }
            }
            Notice::Dismissed(exchange, _) => drop(self.lines.remove(exchange)),
            Notice::Allocated(_)
            | Notice::Released(..)
            | Notice::Draining(_)
            | Notice::Taken
            | Notice::Silent => {}
        }
    }

    async fn hear(
        &mut self,
        exchange: ExchangeId,
        piece: &[u8],
        control: &Control,
    ) -> Result<(), Broken> {
        let Some((helper, word)) = self.lines.hear(exchange, piece)? else {
            return Ok(());
        };
        let call = Call(exchange.0);
        match word {
            FromHelper::Look(look) => {
                let shown = (&look.profile, look.papers.as_ref());
                let verdict = self.lines.judge(exchange, helper, shown, control).await?;
                self.asking
                    .handle_look(call, look.id, verdict, Instant::now());
            }
            FromHelper::Offer(offer) => {
                let shown = (&offer.profile, offer.papers.as_ref());
                let verdict = self.lines.judge(exchange, helper, shown, control).await?;
                self.asking.handle_offer(call, helper, *offer, verdict);
            }
            // It has joined, or does not any more: the session says so, too.
            FromHelper::Withdrawn(..) => self.lines.dismiss(exchange, Some(control)).await,
        }
        Ok(())
    }

    async fn dismiss_late(&mut self, control: &Control) {
        for exchange in self.lines.late(Instant::now()) {
            self.lines.dismiss(exchange, Some(control)).await;
        }
    }

    /// Does what the machine wants; the offer, once it is taken.
    async fn act(&mut self, control: &Control) -> Result<Option<Box<Offer>>, Failure> {
        let mut taken = None;
        while let Some(action) = self.asking.poll_action() {
            match action {
                Action::Tell(Call(exchange), word) => {
                    let exchange = ExchangeId(exchange);
                    // An exchange that has nothing more to say is one that a helper could use.
                    let is_last = matches!(word, FromDevice::Refused(..) | FromDevice::Asks(..));
                    let said = self.lines.say(exchange, &word, control).await;
                    if said.is_err() || is_last {
                        self.lines.dismiss(exchange, Some(control)).await;
                    }
                }
                Action::Seen => self.voice.tell(
                    json!({"event": "seen"}),
                    "The help desk has seen your request.",
                )?,
                Action::Take(offer, verdict) => {
                    self.say_taken(&offer, &verdict)?;
                    taken = Some(offer);
                }
            }
        }
        Ok(taken)
    }

    fn say_taken(&self, offer: &Offer, verdict: &Verdict) -> Result<(), Failure> {
        let profile = &offer.profile;
        let company = match profile.company.as_str() {
            "" => String::new(),
            company => format!(" ({company})"),
        };
        self.voice.tell(
            json!({"event": "taken", "by": card(profile, verdict)}),
            &format!("{}{company} takes it.", profile.full_name),
        )
    }

    /// Whoever comes now is told that it is taken; for a while, or until the relay is gone.
    async fn turn_away(&mut self) {
        let control = self.home.control.clone();
        let over = tokio::time::Instant::now() + LATE;
        loop {
            tokio::select! { biased;
                () = sleep_until(over) => return,
                notice = self.home.notices.recv() => match notice {
                    None | Some(Notice::Silent) => return,
                    Some(notice) => self.handle(notice, &control).await,
                },
                () = until(self.lines.poll_timeout()) => self.dismiss_late(&control).await,
            }
            if let Err(failure) = self.act(&control).await {
                tracing::debug!(%failure, "said to nobody");
            }
        }
    }

    /// Once, until it is another matter.
    fn complain(&mut self, reason: Reason, text: &str) -> Result<(), Failure> {
        // A relay that has just been started does not know the organisation before this node has told it.
        if reason == Reason::BadState || self.complained.replace(reason) == Some(reason) {
            return Ok(());
        }
        self.voice.tell(
            json!({"event": "not_in_line", "code": reason.as_str_name(), "text": text}),
            &format!("Not in line yet: {text}. Trying again."),
        )
    }

    /// Takes leave of the relay, and so of the line.
    async fn close(self) {
        self.home.close().await;
    }
}

/// `2nd`
fn ordinal(n: usize) -> String {
    let ending = match (n % 10, n % 100) {
        (1, ..=10 | 12..) => "st",
        (2, ..=11 | 13..) => "nd",
        (3, ..=12 | 14..) => "rd",
        _ => "th",
    };
    format!("{n}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_said_as_people_say_them() {
        let said = [1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 64].map(ordinal);
        let expected = [
            "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "64th",
        ];
        assert_eq!(said, expected);
    }
}
