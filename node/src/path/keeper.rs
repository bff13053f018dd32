//! Keeps the relay in reach: drives the machine that chooses between UDP and a stream (`proto::path::bearer`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::{
    path::bearer::{Bearer, Bearers, Command},
    random::Random,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    socket::MagicSocket,
    stream::{Dialer, carry::carry},
};
use crate::deadline::until;

/// How often one looks whether UDP has fallen silent.
const LOOK: Duration = Duration::from_millis(500);
/// How long what was sent by UDP may stay unanswered, and be sent again, before that is looked into.
const SILENT: Duration = Duration::from_secs(1);
/// Datagrams on their way to the stream's task, which takes them at once.
const QUEUE_DATAGRAMS: usize = 256;
/// A stream stands, and it ends.
const QUEUE_EVENTS: usize = 4;

/// The task.
#[derive(Debug)]
pub struct Keeper {
    socket: Arc<MagicSocket>,
    dialer: Dialer,
    tcp_only: bool,
    /// Why there is no stream, if one was tried for.
    trouble: watch::Sender<Option<String>>,
    streams: JoinSet<()>,
    /// Of the stream that was begun last.
    number: u32,
    queue: Option<mpsc::Sender<Bytes>>,
    /// It stands, and ends by itself when its queue does.
    stands: bool,
}

enum Event {
    Opened,
    Closed(String),
}

impl Keeper {
    /// For the relay of `socket`; also where it says why a stream cannot be had.
    pub fn new(
        socket: Arc<MagicSocket>,
        dialer: Dialer,
        tcp_only: bool,
    ) -> (Self, watch::Receiver<Option<String>>) {
        let (trouble, troubles) = watch::channel(None);
        let keeper = Self {
            socket,
            dialer,
            tcp_only,
            trouble,
            streams: JoinSet::new(),
            number: 0,
            queue: None,
            stands: false,
        };
        (keeper, troubles)
    }

    /// For as long as the node is there.
    pub async fn run(mut self) {
        let mut bearers = Bearers::new(self.tcp_only, Instant::now());
        let (told, mut events) = mpsc::channel(QUEUE_EVENTS);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(command) = bearers.poll_command() {
                self.handle(command, &told);
            }
            self.socket.bearing().watch(bearers.listens());
            tokio::select! { biased;
                () = until(bearers.poll_timeout()) => {}
                Some((number, event)) = events.recv() => if number == self.number {
                    self.handle_event(event, &mut bearers);
                },
                Some(_) = self.streams.join_next() => {}
                is_answer = self.socket.bearing().heard() => if is_answer {
                    bearers.handle_answer(Instant::now());
                } else {
                    bearers.handle_heard(Instant::now());
                },
                _ = look.tick() => if self.socket.bearing().is_silent(SILENT) {
                    bearers.handle_silence(Instant::now());
                },
            }
            bearers.handle_timeout(Instant::now());
        }
    }

    fn handle(&mut self, command: Command, told: &mpsc::Sender<(u32, Event)>) {
        match command {
            Command::Ask => self
                .socket
                .ask(u64::from_be_bytes(Random::system().bytes())),
            Command::Open => self.open(told.clone()),
            Command::Close => {
                // What it had to say from now on would be of a stream that is not ours any more.
                self.number += 1;
                self.queue = None;
                if !std::mem::take(&mut self.stands) {
                    self.streams.abort_all();
                }
            }
            Command::Use(Bearer::Udp) => {
                tracing::info!("the relay is reached by UDP again");
                self.socket.bearing().use_udp();
            }
            Command::Use(Bearer::Stream) => {
                tracing::info!("the relay is reached by TCP");
                if let Some(queue) = &self.queue {
                    self.socket.bearing().use_stream(queue.clone());
                }
            }
        }
    }

    fn open(&mut self, told: mpsc::Sender<(u32, Event)>) {
        self.number += 1;
        let (queue, outgoing) = mpsc::channel(QUEUE_DATAGRAMS);
        self.queue = Some(queue);
        let (number, dialer, socket) = (self.number, self.dialer.clone(), Arc::clone(&self.socket));
        self.streams.spawn(async move {
            let ended = match dialer.open().await {
                Ok(stream) => {
                    // Whoever listens is gone only with this task.
                    told.send((number, Event::Opened)).await.ok();
                    let take = |datagram: &[u8]| socket.take_from_relay(datagram);
                    match carry(stream, outgoing, take).await {
                        Ok(()) => return,
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            told.send((number, Event::Closed(ended))).await.ok();
        });
    }

    fn handle_event(&mut self, event: Event, bearers: &mut Bearers) {
        match event {
            Event::Opened => {
                self.trouble.send_replace(None);
                self.stands = true;
                bearers.handle_opened(Instant::now());
            }
            Event::Closed(why) => {
                tracing::debug!(why, "no stream to the relay");
                self.trouble.send_replace(Some(why));
                self.queue = None;
                self.stands = false;
                bearers.handle_closed(Instant::now());
            }
        }
    }
}
