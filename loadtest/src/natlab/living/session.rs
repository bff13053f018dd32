//! One session that is looked at from both ends: the picture moves, somebody talks, and everything that both hear is kept.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use remora::{
    event::{Event, Input, PathSnapshot},
    help::view::{Seen, View},
    node::{Options, Outcome, Running},
    share::capture::synthetic::Sheet,
};
use remora_proto::{
    path::machine::WhyRelayed,
    session::{Command, Event as SessionEvent, Mode},
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::natlab::{
    lab::Network,
    meeting::{Met, STEP, finish, named},
};

/// Between two lines of chat.
const LINE: Duration = Duration::from_secs(1);

/// What one node has said of itself.
#[derive(Clone, Debug, Default)]
struct Heard {
    trusts: bool,
    is_asked: bool,
    has_started: bool,
    is_direct: bool,
    moves: Vec<String>,
    lines: Vec<String>,
}

impl Heard {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Moved(path) => {
                self.is_direct = path.direct.is_some();
                let why = path.why_relayed.map_or("", WhyRelayed::name);
                self.moves.push(format!("{} {why}", path.badge()));
            }
            Event::Session(SessionEvent::Trust { .. }) => self.trusts = true,
            Event::Session(SessionEvent::ConsentPrompt { .. }) => self.is_asked = true,
            Event::Session(SessionEvent::Started { .. }) => self.has_started = true,
            Event::Session(SessionEvent::Chat { text, .. }) => self.lines.push(text),
            Event::Session(_)
            | Event::Connected(_)
            | Event::Code { .. }
            | Event::WrongCode { .. }
            | Event::CodeEnded(_)
            | Event::Home { .. }
            | Event::RelayWish { .. }
            | Event::RelayDraining(_)
            | Event::RelayLost
            | Event::RelayBack { .. }
            | Event::ChatWanted
            | Event::Exchange(_)
            | Event::Device { .. }
            | Event::Notification(_)
            | Event::NotPossible { .. } => {}
        }
    }
}

/// One of the two.
struct End {
    input: mpsc::Sender<Input>,
    path: watch::Receiver<PathSnapshot>,
    heard: watch::Receiver<Heard>,
    outcome: JoinHandle<Outcome>,
}

impl End {
    /// Listens to `events` in `tasks`.
    fn new(
        mut events: mpsc::Receiver<Event>,
        (input, path, outcome): (
            mpsc::Sender<Input>,
            watch::Receiver<PathSnapshot>,
            JoinHandle<Outcome>,
        ),
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (hearing, heard) = watch::channel(Heard::default());
        tasks.spawn(async move {
            while let Some(event) = events.recv().await {
                hearing.send_modify(|heard| heard.hear(event));
            }
        });
        Self {
            input,
            path,
            heard,
            outcome,
        }
    }

    async fn tell(&self, input: Input) -> Result<(), String> {
        self.input.send(input).await.map_err(named("OVER"))
    }

    async fn wish(&self, command: Command) -> Result<(), String> {
        self.tell(Input::Session(command)).await
    }

    /// `step` is its name, if it does not come to that.
    async fn until(
        &mut self,
        step: &'static str,
        limit: Duration,
        wanted: impl Fn(&Heard) -> bool,
    ) -> Result<(), String> {
        let waiting = timeout(limit, self.heard.wait_for(wanted)).await;
        waiting
            .map_err(named(step))?
            .map(|_| ())
            .map_err(named("OVER"))
    }
}

/// What became of the lines that were said, both ways.
#[derive(Debug, Default)]
pub(super) struct Chat {
    pub(super) said: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) out_of_order: u64,
}

impl Chat {
    /// By the numbers of the lines that have arrived, of so many from 0 on.
    fn add(&mut self, said: u64, lines: &[String]) {
        let numbers: Vec<u64> = lines.iter().filter_map(|line| line.parse().ok()).collect();
        let mut each = numbers.clone();
        each.sort_unstable();
        each.dedup();
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        self.said += said;
        self.lost += said.saturating_sub(count(each.len()));
        self.doubled += count(numbers.len() - each.len());
        self.out_of_order += count(numbers.windows(2).filter(|two| two[1] < two[0]).count());
    }
}

/// A session with control, whose picture moves.
pub(super) struct Living {
    helper: End,
    sharer: End,
    sheet: Sheet,
    view: Option<View>,
    /// When frames were drawn.
    drawn: Arc<Mutex<Vec<Instant>>>,
    /// Set to end the talk, which says how much it was.
    talking: Option<(watch::Sender<bool>, JoinHandle<u64>)>,
    tasks: JoinSet<()>,
}

impl Living {
    /// By code, and allowed; the second node shows its screen to the first.
    ///
    /// # Errors
    /// A short name of what failed.
    pub(super) async fn new(
        network: &Network,
        options: &Options,
        sheet: Sheet,
    ) -> Result<Self, String> {
        let [inviting, joining] = &network.sides;
        let met = Met::new(network, [inviting, joining], options, sheet.clone()).await?;
        let mut tasks = JoinSet::new();
        let Running {
            events,
            input,
            path,
            frames,
            outcome,
            asked: _,
            retry: _,
        } = met.helper;
        let mut helper = End::new(events, (input, path, outcome), &mut tasks);
        let Running {
            events,
            input,
            path,
            outcome,
            frames: _,
            asked: _,
            retry: _,
        } = met.sharer;
        let mut sharer = End::new(events, (input, path, outcome), &mut tasks);
        for end in [&mut helper, &mut sharer] {
            end.until("TRUST", STEP, |heard| heard.trusts).await?;
            end.wish(Command::SasChecked(true)).await?;
        }
        helper.wish(Command::AskMode(Mode::Control)).await?;
        sharer
            .until("CONSENT", STEP, |heard| heard.is_asked)
            .await?;
        sharer.wish(Command::Allow(Mode::Control)).await?;
        for end in [&mut helper, &mut sharer] {
            end.until("LIVE", STEP, |heard| heard.has_started).await?;
        }
        let mut view = View::new(frames, helper.input.clone());
        let seen = view.wait_until(STEP, |canvas| canvas.pixels().width > 0);
        seen.await.map_err(named("PICTURE"))?;
        Ok(Self {
            helper,
            sharer,
            sheet,
            view: Some(view),
            drawn: Arc::default(),
            talking: None,
            tasks,
        })
    }

    /// One of the two, by number, wants packets to go through the relay, or by the best path again.
    pub(super) async fn want_relayed(&self, node: usize, relayed: bool) -> Result<(), String> {
        let end = [&self.helper, &self.sharer][node];
        end.tell(Input::Relayed(relayed)).await
    }

    /// The sharer's screen.
    pub(super) fn sheet(&self) -> &Sheet {
        &self.sheet
    }

    /// To look by oneself.
    pub(super) fn take_view(&mut self) -> Result<View, String> {
        self.view.take().ok_or_else(|| "VIEW".to_owned())
    }

    /// From now on it is noted when frames are drawn.
    pub(super) fn watch_picture(&mut self) {
        let Some(mut view) = self.view.take() else {
            return;
        };
        let drawn = self.drawn.clone();
        self.tasks.spawn(async move {
            while let Ok(seen) = view.next().await {
                if let Seen::Drawn(frames) = seen
                    && !frames.is_empty()
                {
                    drawn
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(Instant::now());
                }
            }
        });
    }

    /// Until both send directly, or through the relay.
    pub(super) async fn until_direct(
        &mut self,
        wanted: bool,
        limit: Duration,
    ) -> Result<(), String> {
        let step = if wanted { "DIRECT" } else { "RELAYED" };
        for end in [&mut self.helper, &mut self.sharer] {
            end.until(step, limit, |heard| heard.is_direct == wanted)
                .await?;
        }
        Ok(())
    }

    /// Whether both send directly.
    pub(super) fn is_direct(&self) -> bool {
        self.ends().all(|end| end.heard.borrow().is_direct)
    }

    /// Of both.
    pub(super) fn moves(&self) -> Vec<String> {
        let moves = self.ends().map(|end| end.heard.borrow().moves.clone());
        moves.flatten().collect()
    }

    /// Payload of the session's packets, sent and received, as the helper knows it.
    pub(super) fn bytes(&self) -> u64 {
        self.helper.path.borrow().bytes
    }

    fn ends(&self) -> impl Iterator<Item = &End> {
        [&self.helper, &self.sharer].into_iter()
    }

    /// The longest time since `from` without a new picture.
    pub(super) fn longest_gap(&self, from: Instant) -> Duration {
        self.longest_gap_until(from, Instant::now())
    }

    /// The same until `until`.
    pub(super) fn longest_gap_until(&self, from: Instant, until: Instant) -> Duration {
        let drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let within = drawn.iter().copied();
        let within = within.filter(|at| (from..until).contains(at));
        let all: Vec<_> = [from].into_iter().chain(within).chain([until]).collect();
        let gaps = all.windows(2).map(|two| two[1] - two[0]);
        gaps.max().unwrap_or_default()
    }

    /// Pictures until now.
    pub(super) fn pictures(&self) -> usize {
        let drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        drawn.len()
    }

    /// Both say a number each second.
    pub(super) fn chat_each_second(&mut self) {
        let inputs = [self.helper.input.clone(), self.sharer.input.clone()];
        let (ending, mut end) = watch::channel(false);
        let talking = tokio::spawn(async move {
            let mut ticks = interval(LINE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut said = 0_u64;
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = end.changed() => return said,
                }
                for input in &inputs {
                    let line = Command::Chat(said.to_string());
                    if input.send(Input::Session(line)).await.is_err() {
                        return said;
                    }
                }
                said += 1;
            }
        });
        self.talking = Some((ending, talking));
    }

    /// Waits for what has been said.
    pub(super) async fn end_chat(&mut self) -> Result<Chat, String> {
        let Some((ending, talking)) = self.talking.take() else {
            return Ok(Chat::default());
        };
        drop(ending);
        let said = talking.await.map_err(named("PANIC"))?;
        let mut chat = Chat::default();
        for end in [&mut self.helper, &mut self.sharer] {
            let has_all = |heard: &Heard| heard.lines.len() as u64 >= said;
            // What has not come is counted.
            end.until("CHAT", STEP, has_all).await.ok();
            chat.add(said, &end.heard.borrow().lines);
        }
        Ok(chat)
    }

    /// The sharer says something; how long it took until the helper heard it, if it did.
    pub(super) async fn say(&mut self, limit: Duration) -> Result<Option<Duration>, String> {
        const LINE: &str = "Are you still there?";
        let asked = Instant::now();
        self.sharer.wish(Command::Chat(LINE.to_owned())).await?;
        let is_there = |heard: &Heard| heard.lines.iter().any(|line| line == LINE);
        let heard = self.helper.until("CHAT", limit, is_there).await;
        Ok(heard.is_ok().then(|| asked.elapsed()))
    }

    /// Ends it.
    pub(super) async fn leave(self) -> Result<(), String> {
        self.helper.wish(Command::Leave).await?;
        for end in [self.helper, self.sharer] {
            finish(Ok(end.outcome)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_chat_is_counted() {
        let mut chat = Chat::default();
        let lines = ["0", "2", "1", "1", "hello"].map(str::to_owned);
        chat.add(5, &lines);
        assert_eq!((chat.said, chat.lost), (5, 2));
        assert_eq!((chat.doubled, chat.out_of_order), (1, 1));
    }
}
