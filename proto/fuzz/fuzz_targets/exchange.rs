//! A host and a joiner with a relay in between that says whatever it likes, whenever it likes.
//!
//! Input: whether the joiner has the right code, then the relay's steps. A step delivers what somebody said earlier,
//! as it was or changed, or bytes of the relay's own; or lets time pass.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use remora_proto::{
    code::Code,
    id::ExchangeId,
    random::Random,
    record::HostRole,
    rendezvous::{
        Host, HostEvent, HostTransmit, InnerKeys, Joiner, JoinerEvent, JoinerTransmit, LIFETIME,
        MAX_TRIES,
    },
    wire::message::control::Reason,
};
use remora_proto_fuzz::{Script, UNIX_MS};

const REALM: &str = "default";

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let right_code = script.flag();
    let epoch = Instant::now();
    let mut now = epoch;
    let host = Host::new(
        REALM,
        HostRole::Helper,
        LIFETIME,
        now,
        UNIX_MS,
        Random::seeded(1),
    );
    let code = if right_code {
        host.code().clone()
    } else {
        wrong(host.code())
    };
    let joiner = Joiner::new(
        code,
        REALM,
        HostRole::Helper,
        now,
        UNIX_MS,
        Random::seeded(2),
    );
    let mut relay = Relay::new(host, joiner, right_code);

    for _ in 0..64 {
        if script.is_empty() {
            break;
        }
        let what = script.byte() % 13;
        let exchange = ExchangeId(u64::from(script.byte() % 8));
        match what {
            0 => relay
                .host
                .handle_offer(exchange, &relay.heard.pick(&mut script), now),
            1 => relay
                .host
                .handle_signal(exchange, &relay.heard.pick(&mut script), now),
            2 => relay.host.handle_joiner_gone(exchange),
            3 => relay.host.cancel(),
            4 => relay
                .joiner
                .handle_found(&relay.heard.pick(&mut script), unix_ms(epoch, now)),
            5 => relay.joiner.handle_started(exchange),
            6 => relay
                .joiner
                .handle_signal(exchange, &relay.heard.pick(&mut script)),
            7 => relay
                .joiner
                .handle_allocated(exchange, &relay.heard.pick(&mut script)),
            8 => relay
                .joiner
                .handle_dismissed(exchange, &relay.heard.pick(&mut script)),
            9 => relay.joiner.handle_refused(
                Reason::try_from(i32::from(script.byte() % 15)).expect("in the schema"),
            ),
            10 => now += Duration::from_millis(script.word().into()),
            11 => {
                relay.host.handle_timeout(now);
                relay.joiner.handle_timeout(now);
            }
            _ => {
                let next = [relay.host.poll_timeout(), relay.joiner.poll_timeout()];
                if let Some(deadline) = next.into_iter().flatten().min() {
                    now = now.max(deadline);
                    relay.host.handle_timeout(now);
                    relay.joiner.handle_timeout(now);
                    assert!(relay.host.poll_timeout().is_none_or(|next| next > now));
                    assert!(relay.joiner.poll_timeout().is_none_or(|next| next > now));
                }
            }
        }
        relay.listen();
    }
});

fn unix_ms(epoch: Instant, now: Instant) -> u64 {
    UNIX_MS + u64::try_from((now - epoch).as_millis()).expect("a short run")
}

/// The same locator and another secret: the relay finds the host, and the host must find the joiner out.
fn wrong(code: &Code) -> Code {
    let mut text = code.to_string();
    let last = text.pop().expect("nine characters");
    text.push(if last == '0' { '1' } else { '0' });
    text.parse().expect("still of the alphabet")
}

/// Everything that was said.
#[derive(Default)]
struct Heard(Vec<Vec<u8>>);

impl Heard {
    /// Something that was said, as it was or with one byte changed or cut; or words of the relay's own.
    fn pick(&self, script: &mut Script<'_>) -> Vec<u8> {
        let which = script.byte();
        let Some(heard) = self.0.get(usize::from(which & 0x1f)) else {
            return script.short().to_vec();
        };
        let mut payload = heard.clone();
        if which & 0x60 == 0x60 && !payload.is_empty() {
            let at = usize::from(script.word()) % payload.len();
            match script.byte() {
                0 => payload.truncate(at),
                change => payload[at] ^= change,
            }
        }
        payload
    }
}

struct Relay {
    host: Host,
    joiner: Joiner,
    right_code: bool,
    heard: Heard,
    admitted: u32,
    wrong_tries: u32,
    code_ended: bool,
    host_keys: Option<InnerKeys>,
    joiner_keys: Option<InnerKeys>,
    joiner_decided: bool,
}

impl Relay {
    fn new(host: Host, joiner: Joiner, right_code: bool) -> Self {
        let mut relay = Self {
            heard: Heard(vec![host.signed_record().to_vec()]),
            host,
            joiner,
            right_code,
            admitted: 0,
            wrong_tries: 0,
            code_ended: false,
            host_keys: None,
            joiner_keys: None,
            joiner_decided: false,
        };
        relay.listen();
        relay
    }

    /// Takes what the two say now, and holds it against what they may say at all.
    fn listen(&mut self) {
        while let Some(transmit) = self.host.poll_transmit() {
            let payload = match transmit {
                HostTransmit::Signal(_, payload) => {
                    assert!(!self.code_ended, "a code that has ended answers nobody");
                    payload
                }
                HostTransmit::Admit(_, payload) => {
                    self.admitted += 1;
                    payload
                }
                HostTransmit::Dismiss { payload, .. } => payload,
                HostTransmit::Withdraw(..) => continue,
            };
            self.heard.0.push(payload.to_vec());
        }
        while let Some(event) = self.host.poll_event() {
            assert!(!self.code_ended, "the end is the last event");
            match event {
                HostEvent::WrongCode { tries_left } => {
                    self.wrong_tries += 1;
                    assert_eq!(tries_left, MAX_TRIES - self.wrong_tries);
                }
                HostEvent::Joined(_, keys) => {
                    assert!(self.host_keys.replace(keys).is_none(), "one peer per code");
                }
                HostEvent::Ended(_) => {
                    self.code_ended = true;
                    assert_eq!(self.host.poll_timeout(), None);
                }
            }
        }
        assert_eq!(self.admitted, u32::from(self.host_keys.is_some()));

        while let Some(transmit) = self.joiner.poll_transmit() {
            assert!(!self.joiner_decided, "nothing is said after the outcome");
            match transmit {
                JoinerTransmit::Lookup(_) => {}
                JoinerTransmit::Join(_, payload) | JoinerTransmit::Signal(_, payload) => {
                    self.heard.0.push(payload.to_vec());
                }
            }
        }
        while let Some(event) = self.joiner.poll_event() {
            assert!(!self.joiner_decided, "one outcome per try");
            self.joiner_decided = true;
            assert_eq!(self.joiner.poll_timeout(), None);
            if let JoinerEvent::Joined(keys) = event {
                self.joiner_keys = Some(keys);
            }
        }

        let joined = self.host_keys.is_some() || self.joiner_keys.is_some();
        assert!(self.right_code || !joined, "nobody joins without the code");
        if let Some(joiner) = &self.joiner_keys {
            let host = self
                .host_keys
                .as_ref()
                .expect("whom else could the joiner have met");
            assert_eq!((joiner.psk_id, &*joiner.psk), (host.psk_id, &*host.psk));
            assert_eq!(joiner.context, host.context);
        }
    }
}
