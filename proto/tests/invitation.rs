//! What strangers may say to a helper or a device, in whatever order.

use proptest::prelude::*;
use prost::Message as _;
use remora_proto::{
    id::NodeId,
    invitation::{
        seal::{Answering, Channel, Ringing},
        word::{FromDevice, FromHelper},
    },
    noise::StaticKey,
    presence::Device,
    wire::message::device as schema,
};

fn two() -> (Channel, Channel) {
    let device = Device::new(&[3; 32]);
    let (helper, node) = (StaticKey::generate(), StaticKey::generate());
    let (ringing, first) = Ringing::new(device.id(), &helper).expect("rings");
    let (answering, answer) = Answering::new(&device, &node, &first).expect("answers");
    let (at_helper, last) = ringing.handle_answer(&answer).expect("it is the device");
    (at_helper, answering.handle_last(&last).expect("the helper"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Who has proven a key may say anything under it.
    #[test]
    fn nothing_that_is_said_panics(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..8)) {
        let (mut helper, mut device) = two();
        for bytes in words {
            if let Ok(raw) = schema::FromHelper::decode(&bytes[..]) {
                FromHelper::from_schema(raw).ok();
            }
            if let Ok(raw) = schema::FromDevice::decode(&bytes[..]) {
                FromDevice::from_schema(raw).ok();
            }
            // As a message whose bytes mean nothing here.
            let word = schema::Declined { invitation: bytes.into() };
            for piece in helper.seal(&word).expect("short enough") {
                device.open::<schema::FromHelper>(&piece).ok();
            }
        }
    }

    #[test]
    fn no_first_message_of_a_stranger_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let device = Device::new(&[3; 32]);
        let key = StaticKey::generate();
        if let Ok((answering, _)) = Answering::new(&device, &key, &bytes) {
            prop_assert!(answering.handle_last(&bytes).is_err());
        }
        let (ringing, _) = Ringing::new(device.id(), &key).expect("rings");
        prop_assert!(ringing.handle_answer(&bytes).is_err());
    }
}

#[test]
fn the_helpers_key_is_the_one_that_its_papers_must_name() {
    let (at_helper, at_device) = two();
    assert_ne!(at_helper.peer(), at_device.peer());
    assert_ne!(at_device.peer(), NodeId([0; 32]));
}
