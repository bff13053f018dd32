//! Datagrams of a port besides QUIC's: their kind, frames, address reflection, parked nodes.
#![no_main]

use std::{convert::Infallible, net::SocketAddr, time::Instant};

use libfuzzer_sys::fuzz_target;
use remora_proto::{
    park::{Datagram, Event, Grant, Parked, Saying},
    wire::{
        self, Kind,
        frame::Header,
        reflect::{self, Load},
    },
};

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
    let loads = [Load::default(), Load::FULL];
    for (source, load) in sources.into_iter().zip(loads) {
        if let Some(answer) = reflect::respond(datagram, source, load) {
            assert_eq!(kind, Kind::Reflect);
            assert!(answer.len() <= datagram.len(), "no amplification");
            assert_eq!(reflect::respond(&answer, source, load), None, "no loop");
            let reflection = reflect::decode_response(&answer).expect("our own answer");
            assert_eq!((reflection.seen, reflection.load), (source, load));
            assert_eq!(reflect::request(reflection.transaction), datagram);
        }
    }
    if reflect::decode_response(datagram).is_some() {
        assert_eq!(kind, Kind::Reflect);
    }

    let export = |out: &mut [u8], _: &[u8], _: &[u8]| {
        out.fill(7);
        Ok::<_, Infallible>(())
    };
    let Ok(grant) = Grant::export(export);
    let decoded = Datagram::decode(datagram);
    if let Some(decoded) = decoded {
        assert_eq!(kind, Kind::Park);
        assert_eq!(decoded.unknown().len(), datagram.len(), "no amplification");
    }
    let is_true = grant.open(datagram).is_some();
    assert!(!is_true || decoded.is_some());
    let now = Instant::now();
    let mut parked = Parked::new(grant, now);
    let asked = parked.poll_transmit(now).expect("at once");
    let counter = Datagram::decode(&asked).map(|asked| asked.counter);
    let event = parked.handle(datagram, now);
    let is_unknown = decoded.is_some_and(|decoded| {
        decoded.saying == Saying::Unknown && Some(decoded.counter) == counter
    });
    assert!(event.is_none() || is_true || (is_unknown && event == Some(Event::Wake)));
});
