//! Up to 64 frames at a time: `recvmmsg`, and one `sendmmsg` in which frames that follow each other to one destination
//! are one message, gathered from the buffers they arrived in and cut again by the kernel (`UDP_SEGMENT`).

use std::{
    io::{self, IoSlice},
    net::UdpSocket,
    os::fd::AsFd as _,
};

use super::Table;
use crate::mmsg::{Address, Inbox, MAX_BATCH, MAX_SENT_RUN_BYTES, Message, Outbox, Wait};

/// Frames of one size to one destination, of which only the last may be shorter.
#[derive(Clone, Copy)]
struct Run<'a> {
    to: &'a Address,
    /// The first of its frames, among those of the batch.
    from: usize,
    frames: usize,
    frame_bytes: usize,
    bytes: usize,
}

impl Run<'_> {
    fn takes(&self, to: &Address, length: usize) -> bool {
        let all_full = self.bytes == self.frames * self.frame_bytes;
        *self.to == *to
            && all_full
            && length <= self.frame_bytes
            && self.bytes + length <= MAX_SENT_RUN_BYTES
    }
}

pub(super) fn run(socket: &UdpSocket, table: &Table) -> io::Result<()> {
    const NONE: Run<'_> = Run {
        to: &Address::NOWHERE,
        from: 0,
        frames: 0,
        frame_bytes: 0,
        bytes: 0,
    };
    let mut inbox = Inbox::new(MAX_BATCH, 2048);
    let mut outbox = Outbox::new(MAX_BATCH);
    loop {
        inbox.receive(socket.as_fd(), Wait::ForOne)?;
        let mut frames = [IoSlice::new(&[]); MAX_BATCH];
        let mut runs = [NONE; MAX_BATCH];
        let (mut frame_count, mut run_count) = (0, 0);
        for frame in inbox.datagrams() {
            let length = frame.bytes.len();
            let Some(to) = table.route(frame.bytes, &frame.source) else {
                continue;
            };
            frames[frame_count] = IoSlice::new(frame.bytes);
            match runs[..run_count].last_mut() {
                Some(run) if run.takes(to, length) => {
                    run.frames += 1;
                    run.bytes += length;
                }
                Some(_) | None => {
                    runs[run_count] = Run {
                        to,
                        from: frame_count,
                        frames: 1,
                        frame_bytes: length,
                        bytes: length,
                    };
                    run_count += 1;
                }
            }
            frame_count += 1;
        }
        let messages = runs[..run_count].iter().map(|run| Message {
            parts: &frames[run.from..run.from + run.frames],
            to: Some(run.to),
            segment: u16::try_from(run.frame_bytes)
                .ok()
                .filter(|_| run.frames > 1),
        });
        outbox.send(socket.as_fd(), messages);
    }
}
