//! A frame, its source and the table → where the same bytes go. Pure.
//!
//! Three questions, in the order of their price: is there such a session, does the source own the side the
//! header names, may that side still send? Nobody who is not a leg can therefore spend a session's rate.

use std::{net::SocketAddr, time::Instant};

use remora_proto::wire::frame::Header;

use super::{
    DropReason,
    table::{Leg, Table},
};

/// Where a run of `frames` that are `length` bytes together and came from `source` goes, unchanged.
///
/// # Errors
/// Why it goes nowhere.
pub fn forward(
    table: &Table,
    header: Header,
    (frames, length): (usize, usize),
    source: SocketAddr,
    now: Instant,
) -> Result<Leg, DropReason> {
    table.charge(header.session, header.side, (frames, length), source, now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use remora_proto::id::{SessionId, Side};

    use super::*;
    use crate::rate::Rate;

    const HOST: u16 = 1;
    const JOINER: u16 = 2;

    fn source(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn leg(port: u16) -> Leg {
        Leg {
            remote: source(port),
            local: None,
        }
    }

    fn table(now: Instant) -> Table {
        let table = Table::new(Rate::per_second(1000, 3000), 8, now);
        assert!(table.insert(SessionId(5), [leg(HOST), leg(JOINER)], now));
        table
    }

    fn header(session: u64, side: Side) -> Header {
        Header {
            side,
            session: SessionId(session),
        }
    }

    #[test]
    fn a_frame_goes_to_the_other_leg() {
        let now = Instant::now();
        let table = table(now);
        assert_eq!(
            forward(&table, header(5, Side::Host), (1, 100), source(HOST), now),
            Ok(leg(JOINER))
        );
        assert_eq!(
            forward(
                &table,
                header(5, Side::Joiner),
                (1, 100),
                source(JOINER),
                now
            ),
            Ok(leg(HOST))
        );
    }

    #[test]
    fn the_source_must_be_the_leg_of_the_side_it_names() {
        let now = Instant::now();
        let table = table(now);
        for (session, side, port, reason) in [
            (6, Side::Host, HOST, DropReason::UnknownSession),
            (5, Side::Joiner, HOST, DropReason::WrongSource),
            (5, Side::Host, JOINER, DropReason::WrongSource),
            (5, Side::Host, 3, DropReason::WrongSource),
        ] {
            assert_eq!(
                forward(&table, header(session, side), (1, 100), source(port), now),
                Err(reason)
            );
        }
    }

    #[test]
    fn each_direction_has_its_own_rate_and_strangers_cannot_spend_it() {
        let now = Instant::now();
        let table = table(now);
        for _ in 0..100 {
            assert!(forward(&table, header(5, Side::Host), (1, 1000), source(3), now).is_err());
        }
        for _ in 0..3 {
            assert!(forward(&table, header(5, Side::Host), (1, 1000), source(HOST), now).is_ok());
        }
        let limited = forward(&table, header(5, Side::Host), (1, 1000), source(HOST), now);
        assert_eq!(limited, Err(DropReason::RateLimited));
        assert!(
            forward(
                &table,
                header(5, Side::Joiner),
                (1, 1000),
                source(JOINER),
                now
            )
            .is_ok()
        );
        let later = now + Duration::from_secs(1);
        assert!(
            forward(
                &table,
                header(5, Side::Host),
                (1, 1000),
                source(HOST),
                later
            )
            .is_ok()
        );
    }

    proptest! {
        #[test]
        fn what_is_forwarded_comes_from_one_leg_and_goes_to_the_other(
            session in 4..7_u64, joiner: bool, port in 0..4_u16, length in 0..5000_usize,
        ) {
            let now = Instant::now();
            let side = if joiner { Side::Joiner } else { Side::Host };
            if let Ok(to) = forward(&table(now), header(session, side), (1, length), source(port), now) {
                prop_assert_eq!((session, port), (5, if joiner { JOINER } else { HOST }));
                prop_assert_eq!(to, leg(if joiner { HOST } else { JOINER }));
                prop_assert!(length <= 3000);
            }
        }
    }
}
