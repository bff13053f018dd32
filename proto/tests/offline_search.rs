//! Whoever records everything a relay sees cannot tell offline which of the 2²⁵ secrets was the right one.
//!
//! The search tries every secret of the code's locator against the recording: the code as text, packed, hashed and
//! keyed in the ways a careless protocol would have leaked it. It is shown to find such a leak when one is planted. That
//! CPace's own messages match no secret is CPace's theorem (draft-irtf-cfrg-cpace §9); what can be tested here is that
//! its shares are fresh each time.
#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod people;

use std::{collections::HashSet, thread};

use aws_lc_rs::{
    digest::{SHA256, SHA512, digest},
    hmac,
};
use people::{Held, epoch, host, joiner, meet};
use remora_proto::{
    code::Code,
    pake::{Initiator, Inputs, lv_cat},
    random::Random,
    record::{Record, Waiting},
};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const SECRETS: u32 = 1 << 25;

/// Everything that passed, and every eight-byte window of it.
struct Recording {
    windows: HashSet<u64>,
    /// One bit for each first three bytes of a window: most candidates stop here.
    filter: Vec<u64>,
    text: HashSet<[u8; 5]>,
}

impl Recording {
    fn new(messages: &[Vec<u8>]) -> Self {
        let mut recording = Self {
            windows: HashSet::new(),
            filter: vec![0; 1 << 18],
            text: HashSet::new(),
        };
        for message in messages {
            for window in message.windows(8) {
                let window = u64::from_be_bytes(window.try_into().unwrap());
                recording.windows.insert(window);
                let bit = usize::try_from(window >> 40).unwrap();
                recording.filter[bit / 64] |= 1 << (bit % 64);
            }
            for window in message.windows(5) {
                let mut window: [u8; 5] = window.try_into().unwrap();
                window.make_ascii_lowercase();
                recording.text.insert(window);
            }
        }
        recording
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        let window = u64::from_be_bytes(bytes[..8].try_into().unwrap());
        let bit = usize::try_from(window >> 40).unwrap();
        self.filter[bit / 64] >> (bit % 64) & 1 == 1 && self.windows.contains(&window)
    }
}

fn code(locator: &[u8; 3], secret: u32) -> [u8; 8] {
    let mut code = [0; 8];
    code[..3].copy_from_slice(locator);
    for (at, symbol) in code[3..].iter_mut().enumerate() {
        *symbol = ALPHABET[usize::try_from(secret >> (20 - 5 * at) & 31).unwrap()];
    }
    code
}

/// Whether one of the ways in which a code could have leaked is in the recording.
fn leaks(recording: &Recording, code: &[u8; 8], key: &hmac::Key) -> bool {
    let packed = code.iter().fold(0u64, |packed, symbol| {
        packed << 5 | ALPHABET.iter().position(|s| s == symbol).unwrap_or(0) as u64
    });
    let secret: [u8; 5] = code[3..].try_into().unwrap();
    recording.text.contains(&secret)
        || recording.holds(&(packed << 24).to_be_bytes())
        || recording.holds(digest(&SHA256, code).as_ref())
        || recording.holds(digest(&SHA256, &secret).as_ref())
        || recording.holds(digest(&SHA512, code).as_ref())
        || recording.holds(hmac::sign(key, code).as_ref())
}

/// Every secret that the recording gives away.
fn search(
    recording: &Recording,
    locator: &[u8; 3],
    nonce: &[u8],
    range: std::ops::Range<u32>,
) -> Vec<[u8; 8]> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, nonce);
    range
        .map(|secret| code(locator, secret))
        .filter(|code| leaks(recording, code, &key))
        .collect()
}

fn record_a_meeting() -> (Code, Vec<Vec<u8>>, Record<Waiting>) {
    let now = epoch();
    let mut host = host(1, now);
    let code = host.code().clone();
    let mut messages = vec![code.locator_key(people::REALM, people::UNIX_MS).0.to_vec()];
    let record = Record::decode_signed(&host.signed_record(), people::UNIX_MS).unwrap();
    let record = record.waiting().unwrap();
    let met = meet(
        &mut host,
        &mut joiner(code.clone(), 2, now),
        now,
        |mut held: Held| {
            messages.push(held.bytes().clone());
            vec![held]
        },
    );
    assert!(met.joiner_keys.is_some() && messages.len() == 6);
    (code, messages, record)
}

#[test]
fn no_secret_matches_what_the_relay_saw() {
    let (right, messages, record) = record_a_meeting();
    let recording = Recording::new(&messages);
    let locator = *right.locator();
    let found: Vec<_> = thread::scope(|scope| {
        let halves = [0..SECRETS / 2, SECRETS / 2..SECRETS].map(|range| {
            let (recording, nonce) = (&recording, &record.subject.nonce);
            scope.spawn(move || search(recording, &locator, nonce, range))
        });
        halves
            .into_iter()
            .flat_map(|half| half.join().unwrap())
            .collect()
    });
    // Five letters of a secret may stand in a message by chance; more than a handful of matches, or the right one, is a leak.
    let right = right.to_string().replace('-', "");
    assert!(
        !found.iter().any(|code| code == right.as_bytes()),
        "the code leaks"
    );
    assert!(found.len() < 50, "{} matches", found.len());
}

#[test]
fn the_search_finds_a_leak_where_there_is_one() {
    let (right, messages, record) = record_a_meeting();
    let text = right.to_string().replace('-', "");
    let bytes: [u8; 8] = text.as_bytes().try_into().unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &record.subject.nonce);
    let secret = &bytes[3..];
    let plants: [Vec<u8>; 5] = [
        digest(&SHA256, &bytes).as_ref().to_vec(),
        digest(&SHA512, &bytes).as_ref().to_vec(),
        digest(&SHA256, secret).as_ref().to_vec(),
        hmac::sign(&key, &bytes).as_ref().to_vec(),
        secret.to_ascii_uppercase(),
    ];
    assert!(
        !leaks(&Recording::new(&messages), &bytes, &key),
        "no leak without a plant"
    );
    for plant in plants {
        let mut messages = messages.clone();
        messages.push([b"x".to_vec(), plant].concat());
        assert!(leaks(&Recording::new(&messages), &bytes, &key));
    }
}

/// A share with a fixed or tiny exponent would let every secret be tested: the shares of two runs with the same inputs
/// differ, and none is another's.
#[test]
fn shares_of_the_same_secret_never_repeat() {
    let inputs = || Inputs {
        channel: lv_cat(&[b"c"]),
        session: b"s".to_vec(),
    };
    let mut random = Random::seeded(4);
    let mut seen = HashSet::new();
    for _ in 0..1000 {
        assert!(seen.insert(Initiator::start(b"4060r0gx", inputs(), &mut random).share()));
    }
}
