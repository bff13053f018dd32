//! Up to 64 frames at a time: `recvmmsg`, and one `sendmmsg` from the very buffers.

use std::{
    io::{self, IoSlice},
    net::UdpSocket,
    os::fd::AsFd as _,
};

use super::Table;
use crate::mmsg::{Address, Inbox, MAX_BATCH, Message, Outbox, Wait};

pub(super) fn run(socket: &UdpSocket, table: &Table) -> io::Result<()> {
    let mut inbox = Inbox::new(MAX_BATCH, 2048);
    let mut outbox = Outbox::new(MAX_BATCH);
    loop {
        inbox.receive(socket.as_fd(), Wait::ForOne)?;
        let mut frames = [(IoSlice::new(&[]), &Address::NOWHERE); MAX_BATCH];
        let mut count = 0;
        for frame in inbox.datagrams() {
            if let Some(to) = table.route(frame.bytes, &frame.source) {
                frames[count] = (IoSlice::new(frame.bytes), to);
                count += 1;
            }
        }
        let messages = frames[..count].iter().map(|(frame, to)| Message {
            parts: std::slice::from_ref(frame),
            to: Some(to),
            segment: None,
        });
        outbox.send(socket.as_fd(), messages);
    }
}
