//! A worker whose control does not take what it is handed.

use std::{net::UdpSocket, num::NonZeroUsize, thread};

use prometheus::Registry;

use super::{reflect::SharedLoad, *};
use crate::rate::Rate;

#[test]
fn what_control_is_too_slow_for_is_dropped_and_counted() {
    let now = Instant::now();
    let metrics = Arc::new(Metrics::new(&Registry::new()).expect("new names"));
    let [(quic, _quic), (openings, _openings), (checks, _checks)] =
        std::array::from_fn(|_| mpsc::channel(1));
    let datapath = Datapath {
        table: Arc::new(Table::new(Rate::per_second(1000, 1000), 1, now)),
        metrics: Arc::clone(&metrics),
        quic,
        openings,
        checks,
        reflector: Arc::new(Mutex::new(Reflector::new(SharedLoad::default(), now))),
    };
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut sockets = Socket::bind(at, NonZeroUsize::MIN, 64 << 10).expect("bound");
    let socket = Arc::new(sockets.remove(0));
    let to = socket.local_addr().expect("bound");
    let stop = Stop::default();
    let worker = Worker::new(0, datapath, socket, &stop);
    let running = thread::spawn(|| worker.run());
    let sender = UdpSocket::bind(at).expect("bound");
    // The fixed bit alone: a short header.
    while metrics.quic_queue_drops.get() == 0 {
        sender.send_to(&[0x40; 40], to).expect("sent");
        thread::yield_now();
    }
    assert!(metrics.dropped_count(DropReason::QuicQueueFull) > 0);
    drop(stop);
    running.join().expect("no panic").expect("no error");
}
