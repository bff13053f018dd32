//! Runs that the kernel joined go on as they came: `recvmmsg` with `UDP_GRO`, one `UDP_SEGMENT` message for each run.

use std::{
    io::{self, IoSlice},
    net::UdpSocket,
    os::fd::AsFd as _,
};

use remora_proto::wire::frame::HEADER_LEN;

use super::Table;
use crate::mmsg::{Address, Datagram, Inbox, MAX_RUN_BYTES, Message, Outbox, Wait};

/// 1 MiB of buffers, which stays in the processor's second cache.
const SLOTS: usize = 16;

pub(super) fn run(socket: &UdpSocket, table: &Table) -> io::Result<()> {
    let mut inbox = Inbox::new(SLOTS, MAX_RUN_BYTES);
    let mut outbox = Outbox::new(SLOTS);
    loop {
        inbox.receive(socket.as_fd(), Wait::ForOne)?;
        let mut runs = [(IoSlice::new(&[]), &Address::NOWHERE, None); SLOTS];
        let mut count = 0;
        for run in inbox.datagrams().filter(is_one_session) {
            let Some(to) = table.route(run.bytes, &run.source) else {
                continue;
            };
            let segment = u16::try_from(run.segment).ok();
            let segment = segment.filter(|_| run.bytes.len() > run.segment);
            runs[count] = (IoSlice::new(run.bytes), to, segment);
            count += 1;
        }
        let messages = runs[..count].iter().map(|(run, to, segment)| Message {
            parts: std::slice::from_ref(run),
            to: Some(to),
            segment: *segment,
        });
        outbox.send(socket.as_fd(), messages);
    }
}

/// Whether every frame of the run has the header of the first: one source may have several sessions.
fn is_one_session(run: &Datagram<'_>) -> bool {
    let header = run.bytes.first_chunk::<HEADER_LEN>();
    run.segments().all(|frame| frame.first_chunk() == header)
}
