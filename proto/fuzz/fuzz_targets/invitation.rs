//! What helper and device say to each other (`device.proto`): words that are read, and two who find each other through a relay that
//! changes, repeats and leaves out what it likes.
//!
//! Input: what to do; then the bytes of a word, or the relay's steps.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use remora_proto::{
    invitation::{
        seal::{Answering, Channel, MAX_WORD_BYTES, Ringing},
        word::{FromDevice, FromHelper, MAX_REASON_BYTES},
    },
    line::is_unsafe_in_line,
    noise::StaticKey,
    presence::Device,
    wire::message::{MAX_SIGNAL_BYTES, device as schema},
};
use remora_proto_fuzz::Script;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    match script.byte() % 3 {
        0 => from_helper(script.0),
        1 => from_device(script.0),
        _ => talk(script),
    }
});

/// What is understood is understood the same way when it is said again.
fn from_helper(bytes: &[u8]) {
    let Ok(raw) = schema::FromHelper::decode(bytes) else {
        return;
    };
    let Ok(Some(word)) = FromHelper::from_schema(raw) else {
        return;
    };
    if let FromHelper::Offer(offer) = &word {
        assert!(offer.reason.len() <= MAX_REASON_BYTES);
        assert!(!offer.reason.contains(is_unsafe_in_line));
        assert!(!offer.profile.full_name.is_empty());
    }
    let said = word.to_schema();
    let again = FromHelper::from_schema(said.clone()).expect("ours");
    assert_eq!(again.expect("known").to_schema(), said);
}

fn from_device(bytes: &[u8]) {
    let Ok(raw) = schema::FromDevice::decode(bytes) else {
        return;
    };
    let Ok(Some(word)) = FromDevice::from_schema(raw) else {
        return;
    };
    let again = FromDevice::from_schema(word.to_schema()).expect("ours");
    assert_eq!(again, Some(word));
}

/// What the relay makes of a message, and whether it is still the one that was said.
fn relayed(script: &mut Script<'_>, said: &Bytes) -> (Vec<u8>, bool) {
    match script.byte() % 4 {
        0 | 1 => (said.to_vec(), true),
        2 => {
            let mut changed = said.to_vec();
            let at = usize::from(script.word()) % changed.len().max(1);
            let mask = script.byte();
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= mask;
            }
            let is_same = changed == said[..];
            (changed, is_same)
        }
        _ => {
            let own = script.long().to_vec();
            let is_same = own == said[..];
            (own, is_same)
        }
    }
}

/// Nobody takes part but the two: what was changed on the way ends it.
fn talk(mut script: Script<'_>) {
    let device = Device::new(&[3; 32]);
    let [helper, node] = [[5; 32], [6; 32]].map(StaticKey::from_bytes);
    let (ringing, first) = Ringing::new(device.id(), &helper).expect("it rings");
    let (first, _) = relayed(&mut script, &first);
    let Ok((answering, answer)) = Answering::new(&device, &node, &first) else {
        return;
    };
    let (answer, _) = relayed(&mut script, &answer);
    let Ok((mut at_helper, last)) = ringing.handle_answer(&answer) else {
        return;
    };
    // It was the device itself that answered, and to this first message.
    assert_eq!(at_helper.peer().0, node.public());
    let (last, is_same) = relayed(&mut script, &last);
    let Ok(mut at_device) = answering.handle_last(&last) else {
        assert!(!is_same);
        return;
    };
    assert!(is_same);
    assert_eq!(at_device.peer().0, helper.public());
    for number in 0..4 {
        if script.is_empty() {
            return;
        }
        let (from, to) = match number % 2 {
            0 => (&mut at_helper, &mut at_device),
            _ => (&mut at_device, &mut at_helper),
        };
        if !passes(&mut script, from, to) {
            return;
        }
    }
}

/// A word in its pieces; whether it arrived.
fn passes(script: &mut Script<'_>, from: &mut Channel, to: &mut Channel) -> bool {
    let invitation = vec![script.byte(); usize::from(script.word())];
    let word = schema::Opened {
        invitation: invitation.into(),
    };
    let is_short = word.encoded_len() <= MAX_WORD_BYTES;
    let Ok(pieces) = from.seal(&word) else {
        assert!(!is_short);
        return false;
    };
    let (last, before) = pieces.split_last().expect("at least one");
    for piece in before {
        assert!(piece.len() <= MAX_SIGNAL_BYTES);
        let (heard, is_same) = relayed(script, piece);
        match to.open::<schema::Opened>(&heard) {
            Ok(word) => assert!(is_same && word.is_none()),
            Err(_) => {
                assert!(!is_same);
                return false;
            }
        }
    }
    let (heard, is_same) = relayed(script, last);
    match to.open::<schema::Opened>(&heard) {
        Ok(heard) => assert!(is_same && heard == Some(word)),
        Err(_) => {
            assert!(!is_same);
            return false;
        }
    }
    true
}
