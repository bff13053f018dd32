//! How far away relays are: each is asked a few times how it sees us, which costs it next to nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use remora_proto::{
    random::Random,
    wire::reflect::{self, Load},
};
use tokio::{net::UdpSocket, time::sleep_until};

use super::Near;
use crate::path::udp;

/// Questions to each relay: one may be lost, and one may be late.
const QUESTIONS: usize = 3;
/// Between two rounds of them.
const BETWEEN: Duration = Duration::from_millis(20);
/// Whoever has not answered by then, after the last question, is not near. A person waits.
const PATIENCE: Duration = Duration::from_millis(800);
/// How many times the nearest's round trip the others get, and this more: whoever takes longer is not chosen.
const FARTHER: u32 = 3;
const SPARE: Duration = Duration::from_millis(50);

/// Asks all of them, and notes how long their answers take.
pub(super) async fn measure(near: &mut [Near]) {
    let addresses = near.iter().map(|near| near.address).collect();
    let mut measuring = Measuring::new(addresses, Random::system(), Instant::now());
    if let Err(error) = drive(&mut measuring).await {
        tracing::debug!(%error, "relays were not measured");
    }
    let loads = measuring.loads.clone();
    for ((near, rtt), load) in near.iter_mut().zip(measuring.medians()).zip(loads) {
        near.is_asked = near.address.is_some();
        (near.rtt, near.load) = (rtt, load);
    }
}

async fn drive(measuring: &mut Measuring) -> io::Result<()> {
    // Where the system has no addresses of a family, nobody answers by it.
    let v4 = UdpSocket::bind(udp::any(true)).await?;
    let v6 = UdpSocket::bind(udp::any(false)).await.ok();
    while let Some(due) = measuring.poll_timeout() {
        let now = Instant::now();
        while let Some((address, question)) = measuring.poll_transmit(now) {
            let socket = if address.is_ipv4() {
                Some(&v4)
            } else {
                v6.as_ref()
            };
            if let Some(socket) = socket
                && let Err(error) = socket.send_to(&question, address).await
            {
                tracing::debug!(%error, %address, "a question was not sent");
            }
        }
        let (mut one, mut other) = ([0; reflect::LEN + 1], [0; reflect::LEN + 1]);
        tokio::select! { biased;
            received = v4.recv_from(&mut one) => {
                let (length, from) = received?;
                measuring.handle(&one[..length], from, Instant::now());
            }
            received = receive(v6.as_ref(), &mut other) => {
                let (length, from) = received?;
                measuring.handle(&other[..length], from, Instant::now());
            }
            () = sleep_until(due.into()) => measuring.handle_timeout(Instant::now()),
        }
    }
    Ok(())
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

/// Asks in rounds, and waits for answers no longer than it is worth, pure.
struct Measuring {
    addresses: Vec<Option<SocketAddr>>,
    rtts: Vec<Vec<Duration>>,
    /// As the last answer said.
    loads: Vec<Load>,
    /// By transaction: whom, and when.
    open: BTreeMap<u64, (usize, Instant)>,
    rounds: usize,
    /// Of the next round, or of the end.
    due: Instant,
    is_over: bool,
    transmits: VecDeque<(usize, SocketAddr)>,
    random: Random,
}

impl Measuring {
    fn new(addresses: Vec<Option<SocketAddr>>, random: Random, now: Instant) -> Self {
        let mut measuring = Self {
            rtts: vec![Vec::new(); addresses.len()],
            loads: vec![Load::default(); addresses.len()],
            addresses,
            open: BTreeMap::new(),
            rounds: 0,
            due: now,
            is_over: false,
            transmits: VecDeque::new(),
            random,
        };
        measuring.begin_round(now);
        measuring
    }

    fn begin_round(&mut self, now: Instant) {
        self.rounds += 1;
        let known = self.addresses.iter().enumerate();
        let known = known.filter_map(|(number, address)| Some((number, (*address)?)));
        self.transmits.extend(known);
        let is_last = self.rounds == QUESTIONS;
        self.due = now + if is_last { PATIENCE } else { BETWEEN };
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, [u8; reflect::LEN])> {
        let (number, address) = self.transmits.pop_front()?;
        let transaction = u64::from_be_bytes(self.random.bytes());
        self.open.insert(transaction, (number, now));
        Some((address, reflect::request(transaction)))
    }

    /// `None` when it is over.
    fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_over).then_some(self.due)
    }

    fn handle_timeout(&mut self, now: Instant) {
        if now < self.due {
            return;
        }
        if self.rounds < QUESTIONS {
            self.begin_round(now);
        } else {
            self.is_over = true;
        }
    }

    fn handle(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) {
        let Some(answer) = reflect::decode_response(datagram) else {
            return;
        };
        let transaction = answer.transaction;
        let Some(&(number, asked)) = self.open.get(&transaction) else {
            return;
        };
        if self.addresses[number] != Some(from) {
            return;
        }
        self.open.remove(&transaction);
        let rtt = now.saturating_duration_since(asked);
        self.rtts[number].push(rtt);
        self.loads[number] = answer.load;
        if self.rounds == QUESTIONS {
            self.is_over = self.open.is_empty();
            self.due = self.due.min(now + rtt * FARTHER + SPARE);
        }
    }

    /// Of each; `None` when it has not answered.
    fn medians(self) -> Vec<Option<Duration>> {
        let median = |mut rtts: Vec<Duration>| {
            rtts.sort_unstable();
            rtts.get(rtts.len() / 2).copied()
        };
        self.rtts.into_iter().map(median).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relays that answer after so many milliseconds each, to the question of that number; how long it took, and the medians.
    fn measured(delays: &[&[u64]]) -> (Duration, Vec<Option<Duration>>) {
        let began = Instant::now();
        let mut now = began;
        let at = |number: usize| {
            SocketAddr::from(([192, 0, 2, u8::try_from(number).expect("few")], 4433))
        };
        let addresses = (0..delays.len()).map(|number| Some(at(number))).collect();
        let mut measuring = Measuring::new(addresses, Random::seeded(1), now);
        let mut asked = vec![0; delays.len()];
        let mut answers = Vec::new();
        while let Some(due) = measuring.poll_timeout() {
            while let Some((to, question)) = measuring.poll_transmit(now) {
                let number = (0..delays.len()).find(|&number| at(number) == to);
                let number = number.expect("one of them");
                if let Some(&delay) = delays[number].get(asked[number]) {
                    let answer =
                        reflect::respond(&question, ([198, 51, 100, 1], 1).into(), Load::default());
                    let arrives = now + Duration::from_millis(delay);
                    answers.push((arrives, to, answer.expect("well-formed")));
                }
                asked[number] += 1;
            }
            answers.sort_by_key(|(arrives, ..)| std::cmp::Reverse(*arrives));
            match answers.pop_if(|(arrives, ..)| *arrives < due) {
                Some((arrives, from, answer)) => {
                    now = now.max(arrives);
                    measuring.handle(&answer, from, now);
                }
                None => {
                    now = due;
                    measuring.handle_timeout(now);
                }
            }
        }
        (now - began, measuring.medians())
    }

    #[test]
    fn a_median_is_of_what_was_answered_and_nobody_waits_for_the_farthest() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let (took, medians) = measured(&[&[10, 90, 12], &[30, 30, 30]]);
        assert_eq!(medians, [ms(12), ms(30)]);
        assert!(took <= Duration::from_millis(150), "{took:?}");
        let (took, medians) = measured(&[&[10, 10, 10], &[], &[700, 700, 700]]);
        assert_eq!(medians, [ms(10), None, None]);
        assert!(took <= Duration::from_millis(200), "{took:?}");
        let (took, medians) = measured(&[&[], &[]]);
        assert_eq!(medians, [None, None]);
        assert!(took <= Duration::from_secs(1), "{took:?}");
    }
}
