//! Datagrams that no key protects: their kind, frames, address reflection.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use remora_proto::wire::{self, Kind, frame::Header, reflect};

fuzz_target!(|datagram: &[u8]| {
    let kind = wire::kind(datagram);

    if let Ok((header, packet)) = Header::decode(datagram) {
        assert_eq!(kind, Kind::Frame);
        assert!(!packet.is_empty());
        assert_eq!([&header.encode()[..], packet].concat(), datagram);
    }

    let sources: [SocketAddr; 2] = [
        ([192, 0, 2, 1], 5000).into(),
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 6000).into(),
    ];
    for source in sources {
        if let Some(answer) = reflect::respond(datagram, source) {
            assert_eq!(kind, Kind::Reflect);
            assert!(answer.len() <= datagram.len(), "no amplification");
            assert_eq!(reflect::respond(&answer, source), None, "no loop");
            let (transaction, seen) = reflect::decode_response(&answer).expect("our own answer");
            assert_eq!(seen, source);
            assert_eq!(reflect::request(transaction), datagram);
        }
    }
    if reflect::decode_response(datagram).is_some() {
        assert_eq!(kind, Kind::Reflect);
    }
});
