//! One frame at a time, as one would write it first: `recvfrom`, `sendto`.

use std::{io, net::UdpSocket};

use super::Table;
use crate::mmsg::Address;

pub(super) fn run(socket: &UdpSocket, table: &Table) -> io::Result<()> {
    let mut frame = [0; 2048];
    loop {
        let (length, source) = socket.recv_from(&mut frame)?;
        let std::net::SocketAddr::V4(source) = source else {
            continue;
        };
        if let Some(to) = table.route(&frame[..length], &Address::from(source)) {
            // What the system does not take is lost, as on a network.
            socket.send_to(&frame[..length], to.to_std()).ok();
        }
    }
}
