//! On loopback.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
};

use nix::sys::socket::{setsockopt, sockopt::UdpGroSegment};

use super::*;

fn pair() -> (UdpSocket, UdpSocket, Address) {
    let [one, two] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a socket"));
    let SocketAddr::V4(address) = two.local_addr().expect("bound") else {
        panic!("IPv4 was asked for")
    };
    (one, two, address.into())
}

#[test]
fn datagrams_arrive_one_by_one_with_their_source() {
    let (one, two, to) = pair();
    let parts = [
        IoSlice::new(b"12"),
        IoSlice::new(b"345"),
        IoSlice::new(b"6"),
    ];
    let messages = [&parts[..1], &parts[1..]].map(|parts| Message {
        parts,
        to: Some(&to),
        segment: None,
    });
    let sent = Outbox::new(2).send(one.as_fd(), messages.into_iter());
    assert_eq!(sent, 2);
    let mut inbox = Inbox::new(4, 100);
    assert_eq!(
        inbox.receive(two.as_fd(), Wait::ForOne).expect("received"),
        2
    );
    let got: Vec<_> = inbox.datagrams().map(|datagram| datagram.bytes).collect();
    assert_eq!(got, [&b"12"[..], b"3456"]);
    let source = inbox.datagrams().next().expect("one").source;
    assert_eq!(
        format!("{source:?}"),
        one.local_addr().expect("bound").to_string()
    );
    assert_eq!(inbox.receive(two.as_fd(), Wait::No).expect("nothing"), 0);
}

#[test]
fn a_run_is_cut_and_joined_again() {
    let (one, two, to) = pair();
    setsockopt(&two, UdpGroSegment, &true).expect("a kernel with UDP_GRO");
    let run = [
        IoSlice::new(&[1; 10]),
        IoSlice::new(&[2; 10]),
        IoSlice::new(&[3; 4]),
    ];
    let message = Message {
        parts: &run,
        to: Some(&to),
        segment: Some(10),
    };
    assert_eq!(Outbox::new(1).send(one.as_fd(), [message].into_iter()), 1);
    let mut inbox = Inbox::new(2, MAX_RUN_BYTES);
    assert_eq!(
        inbox.receive(two.as_fd(), Wait::ForOne).expect("received"),
        1
    );
    let datagram = inbox.datagrams().next().expect("one");
    let lengths: Vec<_> = datagram.segments().map(<[u8]>::len).collect();
    assert_eq!((datagram.segment, lengths), (10, vec![10, 10, 4]));
}

#[test]
fn what_the_system_refuses_is_passed_over() {
    let (one, two, to) = pair();
    let (long, short) = ([0; 70_000], [7]);
    let parts = [IoSlice::new(&long), IoSlice::new(&short)];
    let messages = parts.chunks(1).map(|parts| Message {
        parts,
        to: Some(&to),
        segment: None,
    });
    assert_eq!(Outbox::new(2).send(one.as_fd(), messages), 1);
    let mut inbox = Inbox::new(2, 10);
    assert_eq!(
        inbox.receive(two.as_fd(), Wait::ForOne).expect("received"),
        1
    );
}
