//! By what a node reaches its relay: UDP, or a stream where UDP does not go (443/tcp). A machine.
//!
//! ```text
//!             heard ┌───────────── silence ────────────┐
//!   ┌────────────── UDP ◀── heard ── in doubt ◀────────┘
//!   │ two answers    ▲                 │ 250 ms: a stream is begun; when it stands and UDP is still silent
//!   │ to questions   │                 ▼
//!   └────────────────┴───────────── stream      5 s, 30 s, then each minute UDP is asked again
//! ```
//!
//! A node begins in doubt, and both are tried at once: UDP by what is said anyway, and the stream a moment later, so that it
//! costs a relay nothing where UDP goes. A stream that was left stays until UDP has carried for a while.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long UDP may be silent before a stream is begun: most answers are there by then.
const BEGIN_STREAM: Duration = Duration::from_millis(250);
/// Between two questions of a try: one may be lost.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// Questions in a try.
const ASKS: u32 = 3;
/// Answers that say that UDP goes again: a single one may be the last of a bad network.
const ANSWERS: u32 = 2;
/// When UDP is tried again, after the stream was taken, and after each try; the last for ever.
const TRY_UDP: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(60),
];
/// How long a stream is kept after UDP was taken: what passes small questions may not pass more.
const LINGER: Duration = Duration::from_secs(10);
/// Until a stream that failed is begun again; doubled each time.
const STREAM_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearer {
    /// Datagrams.
    Udp,
    /// A WebSocket's messages.
    Stream,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask the relay something by UDP that it answers at once.
    Ask,
    /// Begin a stream.
    Open,
    /// End it, or give it up.
    Close,
    /// Send by this from now on.
    Use(Bearer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Closed,
    Opening,
    Open,
}

/// The machine.
#[derive(Debug)]
pub struct Bearers {
    /// UDP is not wanted.
    tcp_only: bool,
    bearer: Bearer,
    stream: Stream,
    /// By UDP nothing has been heard that should have been.
    is_in_doubt: bool,
    open_at: Option<Instant>,
    open_again: Duration,
    close_at: Option<Instant>,
    ask_at: Option<Instant>,
    asks_left: u32,
    answers: u32,
    try_at: Option<Instant>,
    /// Since UDP last carried.
    tries: usize,
    commands: VecDeque<Command>,
}

impl Bearers {
    /// Something is about to be said to the relay: by UDP, unless only TCP is wanted.
    pub fn new(tcp_only: bool, now: Instant) -> Self {
        let begin = if tcp_only {
            Duration::ZERO
        } else {
            BEGIN_STREAM
        };
        Self {
            tcp_only,
            bearer: if tcp_only {
                Bearer::Stream
            } else {
                Bearer::Udp
            },
            stream: Stream::Closed,
            is_in_doubt: true,
            open_at: Some(now + begin),
            open_again: STREAM_AGAIN[0],
            close_at: None,
            ask_at: None,
            asks_left: 0,
            answers: 0,
            try_at: None,
            tries: 0,
            commands: VecDeque::new(),
        }
    }

    /// What carries just now.
    pub fn bearer(&self) -> Bearer {
        self.bearer
    }

    /// Whether it makes a difference that something is heard by UDP.
    pub fn listens(&self) -> bool {
        !self.tcp_only && (self.is_in_doubt || self.bearer == Bearer::Stream)
    }

    /// The relay was heard by UDP.
    pub fn handle_heard(&mut self, _: Instant) {
        if self.tcp_only || self.bearer == Bearer::Stream {
            // Late, from before: a question tells.
            return;
        }
        self.is_in_doubt = false;
        self.stop_asking();
        self.open_at = None;
        if self.close_at.is_none() {
            self.close();
        }
    }

    /// The relay has answered a question; each counts once.
    pub fn handle_answer(&mut self, now: Instant) {
        if self.bearer == Bearer::Udp {
            return self.handle_heard(now);
        }
        if self.tcp_only || self.ask_at.is_none() {
            return;
        }
        self.answers += 1;
        if self.answers < ANSWERS {
            self.asks_left = ASKS;
            self.ask_at = Some(now);
            return;
        }
        self.stop_asking();
        self.try_at = None;
        self.close_at = Some(now + LINGER);
        self.change(Bearer::Udp);
        self.is_in_doubt = false;
    }

    /// What was sent to the relay by UDP is not answered, and was sent again.
    pub fn handle_silence(&mut self, now: Instant) {
        if self.bearer == Bearer::Stream || self.is_in_doubt {
            return;
        }
        self.is_in_doubt = true;
        match self.stream {
            Stream::Open => self.take_stream(now),
            Stream::Opening => {}
            Stream::Closed => {
                self.open_at = Some(now + BEGIN_STREAM);
                self.ask(now);
            }
        }
    }

    /// The stream that was begun stands.
    pub fn handle_opened(&mut self, now: Instant) {
        if self.stream != Stream::Opening {
            return;
        }
        self.stream = Stream::Open;
        self.open_again = STREAM_AGAIN[0];
        if self.is_in_doubt || self.bearer == Bearer::Stream {
            self.take_stream(now);
        } else {
            self.close();
        }
    }

    /// It has ended, or could not be begun.
    pub fn handle_closed(&mut self, now: Instant) {
        self.stream = Stream::Closed;
        self.close_at = None;
        let [_, longest] = STREAM_AGAIN;
        if self.bearer == Bearer::Stream && !self.tcp_only {
            // Better than nothing, while another is begun.
            self.change(Bearer::Udp);
            self.is_in_doubt = true;
            self.try_at = None;
            self.ask(now);
        }
        if self.is_in_doubt || self.tcp_only {
            self.open_at = Some(now + self.open_again);
            self.open_again = (self.open_again * 2).min(longest);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.open_at, self.close_at, self.ask_at, self.try_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.open_at) {
            self.open_at = None;
            if self.stream == Stream::Closed {
                self.stream = Stream::Opening;
                self.commands.push_back(Command::Open);
            }
        }
        if is_due(self.close_at) {
            self.close_at = None;
            self.tries = 0;
            self.close();
        }
        if is_due(self.try_at) {
            self.tries += 1;
            self.plan_try(now);
            self.ask(now);
        }
        if is_due(self.ask_at) {
            if self.asks_left == 0 {
                self.stop_asking();
            } else {
                self.asks_left -= 1;
                self.ask_at = Some(now + ASK_AGAIN);
                self.commands.push_back(Command::Ask);
            }
        }
    }

    /// What is to be done; call until `None`.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    // --- within ---

    fn take_stream(&mut self, now: Instant) {
        self.close_at = None;
        self.open_at = None;
        self.is_in_doubt = false;
        self.stop_asking();
        self.change(Bearer::Stream);
        if !self.tcp_only {
            self.plan_try(now);
        }
    }

    fn plan_try(&mut self, now: Instant) {
        let wait = TRY_UDP[self.tries.min(TRY_UDP.len() - 1)];
        self.try_at = Some(now + wait);
    }

    fn change(&mut self, bearer: Bearer) {
        self.bearer = bearer;
        self.commands.push_back(Command::Use(bearer));
    }

    fn close(&mut self) {
        if self.stream != Stream::Closed {
            self.stream = Stream::Closed;
            self.commands.push_back(Command::Close);
        }
    }

    fn ask(&mut self, now: Instant) {
        self.answers = 0;
        self.asks_left = ASKS;
        self.ask_at = Some(now);
    }

    fn stop_asking(&mut self) {
        self.ask_at = None;
        self.asks_left = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any moment is a start")]
    fn start() -> Instant {
        Instant::now()
    }

    /// A relay, and a network in front of it: what is heard when the machine does what it does.
    struct World {
        bearers: Bearers,
        start: Instant,
        now: Instant,
        udp_goes: bool,
        tcp_goes: bool,
        /// When what is under way arrives.
        answer: Option<Instant>,
        opened: Option<Instant>,
        seen: Vec<(u64, Command)>,
    }

    /// There and back, ms; a stream takes three of these.
    const ROUND_TRIP: u64 = 40;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    impl World {
        fn new(tcp_only: bool, udp_goes: bool, tcp_goes: bool) -> Self {
            let start = start();
            Self {
                bearers: Bearers::new(tcp_only, start),
                start,
                now: start,
                udp_goes,
                tcp_goes,
                // The first packet of a handshake is a question, too.
                answer: udp_goes.then(|| start + ms(ROUND_TRIP)),
                opened: None,
                seen: Vec::new(),
            }
        }

        /// Until so many ms after the start.
        fn until(&mut self, at: u64) -> &mut Self {
            let until = self.start + ms(at);
            loop {
                while let Some(command) = self.bearers.poll_command() {
                    let since = u64::try_from((self.now - self.start).as_millis()).expect("short");
                    self.seen.push((since, command));
                    match command {
                        Command::Ask if self.udp_goes => {
                            self.answer = Some(self.now + ms(ROUND_TRIP));
                        }
                        Command::Open => self.opened = Some(self.now + ms(3 * ROUND_TRIP)),
                        Command::Close => self.opened = None,
                        Command::Ask | Command::Use(_) => {}
                    }
                }
                let due = [self.bearers.poll_timeout(), self.answer, self.opened];
                let Some(next) = due
                    .into_iter()
                    .flatten()
                    .min()
                    .filter(|next| *next <= until)
                else {
                    self.now = until;
                    return self;
                };
                self.now = self.now.max(next);
                if self.answer.is_some_and(|at| at <= self.now) {
                    self.answer = None;
                    self.bearers.handle_answer(self.now);
                } else if self.opened.is_some_and(|at| at <= self.now) {
                    self.opened = None;
                    if self.tcp_goes {
                        self.bearers.handle_opened(self.now);
                    } else {
                        self.bearers.handle_closed(self.now);
                    }
                } else {
                    self.bearers.handle_timeout(self.now);
                }
            }
        }

        fn silence(&mut self) -> &mut Self {
            self.bearers.handle_silence(self.now);
            self
        }

        fn seen(&mut self) -> Vec<(u64, Command)> {
            std::mem::take(&mut self.seen)
        }
    }

    #[test]
    fn where_udp_goes_no_stream_is_begun() {
        let mut world = World::new(false, true, true);
        assert_eq!(world.until(600_000).seen(), []);
        assert_eq!(
            world.bearers.poll_timeout(),
            None,
            "nothing wakes an idle node"
        );
    }

    #[test]
    fn where_udp_does_not_go_the_stream_is_taken_as_soon_as_it_stands() {
        let mut world = World::new(false, false, true);
        let taken = [(250, Command::Open), (370, Command::Use(Bearer::Stream))];
        assert_eq!(world.until(5000).seen(), taken);
        // Asked again and again, and less and less often.
        let asks: Vec<_> = world.until(200_000).seen();
        let at = [5370, 35_370, 95_370, 155_370]
            .map(|at| [0, 300, 600].map(|more| (at + more, Command::Ask)));
        assert_eq!(asks, at.as_flattened());
        assert_eq!(world.bearers.bearer(), Bearer::Stream);
    }

    #[test]
    fn only_tcp_is_only_tcp() {
        let mut world = World::new(true, true, true);
        let taken = [(0, Command::Open), (120, Command::Use(Bearer::Stream))];
        assert_eq!(world.until(600_000).seen(), taken);
    }

    #[test]
    fn udp_that_comes_back_is_taken_and_the_stream_left_after_it() {
        let mut world = World::new(false, false, true);
        world.until(5000).seen();
        world.udp_goes = true;
        let back = [
            (5370, Command::Ask),
            (5410, Command::Ask),
            (5450, Command::Use(Bearer::Udp)),
            (15_450, Command::Close),
        ];
        assert_eq!(world.until(600_000).seen(), back);
    }

    #[test]
    fn udp_that_ends_in_the_middle_is_left_for_a_stream() {
        let mut world = World::new(false, true, true);
        world.until(60_000);
        world.udp_goes = false;
        let left = [
            (60_000, Command::Ask),
            (60_250, Command::Open),
            (60_300, Command::Ask),
            (60_370, Command::Use(Bearer::Stream)),
        ];
        assert_eq!(world.silence().until(64_000).seen(), left);
    }

    #[test]
    fn the_other_nodes_silence_is_not_udps() {
        let mut world = World::new(false, true, true);
        world.until(60_000).silence();
        assert_eq!(world.until(600_000).seen(), [(60_000, Command::Ask)]);
    }

    #[test]
    fn a_network_that_passes_questions_and_no_more_is_tried_less_and_less() {
        let mut world = World::new(false, false, true);
        world.until(1000);
        world.udp_goes = true;
        let mut took_udp = Vec::new();
        for second in 2..200 {
            world.until(second * 1000);
            if world.bearers.bearer() == Bearer::Udp {
                took_udp.push(second);
                world.silence();
            }
        }
        assert_eq!(took_udp, [6, 37, 98, 159], "the stream was still there");
    }

    #[test]
    fn a_stream_that_cannot_be_had_is_begun_less_and_less_often() {
        let mut world = World::new(false, false, false);
        let opens = world.until(20_000).seen();
        let expected = [250, 1370, 3490, 7610, 15_730].map(|at| (at, Command::Open));
        assert_eq!(opens, expected);
        world.tcp_goes = true;
        world.until(60_000);
        assert_eq!(world.bearers.bearer(), Bearer::Stream);
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Heard,
        Answer,
        Silence,
        Opened,
        Closed,
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            Just(Op::Heard),
            Just(Op::Answer),
            Just(Op::Silence),
            Just(Op::Opened),
            Just(Op::Closed),
            (0..40_000_u64).prop_map(Op::Wait),
        ]
    }

    proptest! {
        /// Whatever happens: streams are begun and ended in turn, nothing goes by one that does not stand, and not by UDP
        /// where only TCP is wanted.
        #[test]
        fn commands_fit_what_there_is(tcp_only: bool, ops in prop::collection::vec(op(), 0..200)) {
            let mut now = start();
            let mut bearers = Bearers::new(tcp_only, now);
            let (mut is_begun, mut stands, mut by) = (false, false, bearers.bearer());
            for op in ops {
                match op {
                    Op::Heard => bearers.handle_heard(now),
                    Op::Answer => bearers.handle_answer(now),
                    Op::Silence => bearers.handle_silence(now),
                    Op::Opened if is_begun && !stands => {
                        stands = true;
                        bearers.handle_opened(now);
                    }
                    Op::Closed if is_begun => {
                        (is_begun, stands) = (false, false);
                        bearers.handle_closed(now);
                    }
                    Op::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        bearers.handle_timeout(now);
                    }
                    Op::Opened | Op::Closed => {}
                }
                while let Some(command) = bearers.poll_command() {
                    match command {
                        Command::Ask => prop_assert!(!tcp_only),
                        Command::Open => {
                            prop_assert!(!is_begun);
                            is_begun = true;
                        }
                        Command::Close => {
                            prop_assert!(is_begun && by == Bearer::Udp);
                            (is_begun, stands) = (false, false);
                        }
                        Command::Use(bearer) => {
                            prop_assert!(bearer == Bearer::Udp || stands);
                            prop_assert!(!tcp_only || bearer == Bearer::Stream);
                            by = bearer;
                        }
                    }
                }
                prop_assert_eq!(by, bearers.bearer());
                prop_assert!(tcp_only || stands || by == Bearer::Udp);
                prop_assert!(bearers.poll_timeout().is_some() || !bearers.listens() || is_begun);
            }
        }
    }
}
