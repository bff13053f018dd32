//! Random events at a device's desk against invariant 7 of SESSION.md §1.6: one winner of each invitation, one unattended lease. Time is
//! virtual, the generator seeded: a failure names its seed.

mod people;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use people::epoch;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use remora_proto::{
    code::Code,
    id::NodeId,
    identity::Profile,
    invitation::{
        desk::{Action, Call, Desk, Seat, Unattended},
        word::{FromDevice, InvitationId, Offer, Withdrawal},
    },
    org::{permission::Permissions, verdict::Verdict},
    random::Random,
    session::{Kind, T_CONSENT},
};

/// At one desk.
const STEPS: u32 = 200;
/// At all of them.
const EVENTS: u32 = 1_500_000;
const SEATS: u64 = 5;
/// Enough that a helper has more than a desk takes.
const OFFERS: usize = 12;

/// Of one helper, sent as often as that one likes.
struct Invitation {
    helper: NodeId,
    offer: Offer,
    /// Who can open it.
    shown: BTreeSet<u64>,
    /// Since it was sent last.
    opened: bool,
}

struct Watched {
    desk: Desk,
    invitations: Vec<Invitation>,
    seats: BTreeSet<u64>,
    lease: Option<InvitationId>,
    now: Instant,
}

/// What has come about: a property of what never happens says nothing.
#[derive(Debug, Default)]
struct Seen {
    opened: u32,
    too_late: u32,
    leases: u32,
    held: u32,
    sent_again: u32,
}

impl Watched {
    fn new(random: &mut StdRng) -> Self {
        let mut drawn = Random::seeded(random.random());
        let invitations = (0..OFFERS).map(|number| {
            let kind = match number % 4 {
                0 => Kind::Unattended,
                _ => Kind::Attended,
            };
            let offer = Offer {
                id: InvitationId::generate(&mut drawn),
                code: Code::generate(&mut drawn),
                kind,
                mode: None,
                reason: String::new(),
                profile: Profile::new("Sam", "", "", "").expect("a name"),
                papers: None,
                within: T_CONSENT,
            };
            Invitation {
                helper: NodeId([u8::from(number % 5 == 1); 32]),
                offer,
                shown: BTreeSet::new(),
                opened: false,
            }
        });
        Self {
            desk: Desk::new(Unattended::On),
            invitations: invitations.collect(),
            seats: BTreeSet::new(),
            lease: None,
            now: epoch(),
        }
    }

    fn of(&mut self, id: InvitationId) -> &mut Invitation {
        let found = self.invitations.iter_mut().find(|it| it.offer.id == id);
        found.expect("nobody has sent any other")
    }

    fn step(&mut self, random: &mut StdRng, seen: &mut Seen) {
        let which = random.random_range(0..OFFERS);
        let (id, helper) = {
            let invitation = &self.invitations[which];
            (invitation.offer.id, invitation.helper)
        };
        let seat = random.random_range(0..SEATS);
        match random.random_range(0..20) {
            0..2 => {
                self.seats.insert(seat);
                assert!(self.desk.handle_seat(Seat(seat)));
            }
            2 => {
                self.seats.remove(&seat);
                self.desk.handle_seat_gone(Seat(seat));
                for invitation in &mut self.invitations {
                    invitation.shown.remove(&seat);
                }
            }
            3..8 => self.offered(which, seen),
            8..13 => self.opens(seat, which, seen),
            13 => {
                if self.desk.handle_decline(Seat(seat), id).is_ok() {
                    assert!(self.of(id).shown.remove(&seat));
                }
            }
            14 => {
                let stranger = random.random_bool(0.1);
                let from = if stranger { NodeId([9; 32]) } else { helper };
                self.desk.handle_withdrawn(from, id, Withdrawal::Cancelled);
            }
            15 => self.desk.handle_call_gone(Call(0), self.now),
            16 => {
                self.desk.handle_lease_over(id);
                if self.lease == Some(id) {
                    self.lease = None;
                }
            }
            _ => {
                self.now += Duration::from_secs(random.random_range(0..60));
                self.desk.handle_timeout(self.now);
            }
        }
        self.listen(seen);
    }

    fn offered(&mut self, which: usize, seen: &mut Seen) {
        let invitation = &mut self.invitations[which];
        // Whoever opened it has not come, or the helper would not ask again.
        seen.sent_again += u32::from(std::mem::take(&mut invitation.opened));
        let (helper, offer) = (invitation.helper, invitation.offer.clone());
        let verdict = Verdict {
            permissions: Permissions::ALL,
            ..Verdict::unmanaged()
        };
        let number = u64::try_from(which % 2).expect("small");
        self.desk
            .handle_offer(Call(number), helper, offer, Ok(verdict), self.now);
    }

    /// The first who can has the code, and nobody else.
    fn opens(&mut self, seat: u64, which: usize, seen: &mut Seen) {
        let id = self.invitations[which].offer.id;
        let opened = self.desk.handle_open(Seat(seat), id);
        let invitation = &mut self.invitations[which];
        match opened {
            Ok(code) => {
                assert!(!invitation.opened, "7: a second winner");
                assert!(invitation.shown.remove(&seat), "7: it was not this one's");
                assert_eq!(code.to_string(), invitation.offer.code.to_string());
                invitation.opened = true;
                seen.opened += 1;
            }
            Err(_) => {
                assert!(!invitation.shown.contains(&seat), "it was this one's");
                seen.too_late += u32::from(invitation.opened);
            }
        }
    }

    fn listen(&mut self, seen: &mut Seen) {
        while let Some(action) = self.desk.poll_action() {
            match action {
                Action::Show(Seat(seat), shown) => {
                    assert!(self.seats.contains(&seat));
                    let invitation = self.of(shown.id);
                    assert!(!invitation.opened, "7: shown although it is taken");
                    invitation.shown.insert(seat);
                }
                Action::Withdraw(Seat(seat), id, _) => {
                    assert!(self.of(id).shown.remove(&seat), "it was not there");
                }
                Action::Begin(id, _) => {
                    assert_eq!(self.lease, None, "7: a second lease");
                    self.lease = Some(id);
                    seen.leases += 1;
                }
                Action::Answer(id, _) => {
                    assert_eq!(self.lease, Some(id), "7: of a session that has no lease");
                }
                Action::Tell(_, FromDevice::Refused(..)) => {
                    seen.held += u32::from(self.lease.is_some());
                }
                Action::Tell(_, _) => {}
            }
        }
        for invitation in self.invitations.iter().filter(|it| it.opened) {
            assert!(invitation.shown.is_empty(), "7: the others were told");
        }
    }
}

#[test]
fn t_08_millions_of_events_at_a_desk_have_one_winner_each_and_one_lease() {
    let mut seen = Seen::default();
    for seed in 0..u64::from(EVENTS / STEPS) {
        let played = std::panic::catch_unwind(|| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut watched = Watched::new(&mut random);
            let mut seen = Seen::default();
            for _ in 0..STEPS {
                watched.step(&mut random, &mut seen);
            }
            seen
        });
        let Ok(one) = played else {
            panic!("seed {seed}")
        };
        seen.opened += one.opened;
        seen.too_late += one.too_late;
        seen.leases += one.leases;
        seen.held += one.held;
        seen.sent_again += one.sent_again;
    }
    let all = [
        seen.opened,
        seen.too_late,
        seen.leases,
        seen.held,
        seen.sent_again,
    ];
    assert!(all.iter().all(|&often| often > 1_000), "{seen:?}");
}
