//! Rows of the device's machine.

use super::*;
use crate::{identity::Profile, org::permission::Permissions, random::Random, session::Mode};

const HELPER: NodeId = NodeId([1; 32]);
const CALL: Call = Call(7);

#[expect(clippy::disallowed_methods, reason = "any moment is a start")]
fn start() -> Instant {
    Instant::now()
}

struct Office {
    desk: Desk,
    now: Instant,
    random: Random,
}

#[derive(Debug, PartialEq, Eq)]
enum Did {
    Tell(Call, FromDevice),
    Show(Seat, InvitationId),
    Withdraw(Seat, InvitationId, Withdrawal),
    Begin(InvitationId),
    Answer(InvitationId, bool),
}

impl Office {
    fn new(seats: u64, unattended: Unattended) -> Self {
        let mut desk = Desk::new(unattended);
        for seat in 0..seats {
            assert!(desk.handle_seat(Seat(seat)));
        }
        Self {
            desk,
            now: start(),
            random: Random::seeded(5),
        }
    }

    fn offer(&mut self) -> Offer {
        Offer {
            id: InvitationId::generate(&mut self.random),
            code: Code::generate(&mut self.random),
            kind: Kind::Attended,
            mode: None,
            reason: String::new(),
            profile: Profile::new("Sam", "", "", "").expect("a name"),
            papers: None,
            within: T_CONSENT,
        }
    }

    fn unattended_offer(&mut self) -> Offer {
        Offer {
            kind: Kind::Unattended,
            ..self.offer()
        }
    }

    fn hears(&mut self, call: Call, offer: &Offer) -> Vec<Did> {
        let verdict = Verdict {
            permissions: Permissions::ALL,
            ..Verdict::unmanaged()
        };
        self.judged(call, offer, Ok(verdict))
    }

    fn judged(
        &mut self,
        call: Call,
        offer: &Offer,
        verdict: Result<Verdict, verdict::Refusal>,
    ) -> Vec<Did> {
        self.desk
            .handle_offer(call, HELPER, offer.clone(), verdict, self.now);
        self.did()
    }

    fn did(&mut self) -> Vec<Did> {
        let did = |action| match action {
            Action::Tell(call, word) => Did::Tell(call, word),
            Action::Show(seat, shown) => Did::Show(seat, shown.id),
            Action::Withdraw(seat, id, why) => Did::Withdraw(seat, id, why),
            Action::Begin(id, _) => Did::Begin(id),
            Action::Answer(id, yes) => Did::Answer(id, yes),
        };
        std::iter::from_fn(|| self.desk.poll_action())
            .map(did)
            .collect()
    }

    fn passes(&mut self, time: Duration) -> Vec<Did> {
        self.now += time;
        self.desk.handle_timeout(self.now);
        self.did()
    }
}

fn delivered(id: InvitationId, agents: u32) -> Did {
    Did::Tell(CALL, FromDevice::Delivered(id, agents))
}

fn refused(id: InvitationId, refusal: Refusal) -> Vec<Did> {
    vec![Did::Tell(CALL, FromDevice::Refused(id, refusal))]
}

#[test]
fn e_12_all_who_are_logged_in_get_the_offer_and_the_first_to_open_wins() {
    let mut office = Office::new(2, Unattended::Off);
    let offer = office.offer();
    let id = offer.id;
    let shown = [
        Did::Show(Seat(0), id),
        Did::Show(Seat(1), id),
        delivered(id, 2),
    ];
    assert_eq!(office.hears(CALL, &offer), shown);
    let code = office.desk.handle_open(Seat(1), id).expect("the first");
    assert_eq!(code.to_string(), offer.code.to_string());
    assert_eq!(
        office.did(),
        [
            Did::Withdraw(Seat(0), id, Withdrawal::Taken),
            Did::Tell(CALL, FromDevice::Opened(id)),
        ]
    );
    assert_eq!(
        office.desk.handle_open(Seat(0), id).err(),
        Some(NotYours::Taken)
    );
    assert_eq!(
        office.desk.handle_decline(Seat(0), id),
        Err(NotYours::Taken)
    );
    // It has the code: that the helper says so, too, is no news.
    office.desk.handle_withdrawn(HELPER, id, Withdrawal::Taken);
    assert_eq!(office.did(), []);
    assert_eq!(
        office.desk.handle_open(Seat(0), id).err(),
        Some(NotYours::Gone)
    );
}

#[test]
fn n_2_an_offer_that_is_sent_again_is_shown_once() {
    let mut office = Office::new(1, Unattended::Off);
    let mut offer = office.offer();
    let id = offer.id;
    office.hears(CALL, &offer);
    assert_eq!(office.hears(CALL, &offer), [delivered(id, 1)]);
    // Another call, after the first was lost, and another code.
    office.desk.handle_call_gone(CALL, office.now);
    let other = Call(8);
    offer.code = Code::generate(&mut office.random);
    let did = office.hears(other, &offer);
    assert_eq!(did, [Did::Tell(other, FromDevice::Delivered(id, 1))]);
    assert_eq!(office.passes(T_CALL), []);
    let code = office.desk.handle_open(Seat(0), id).expect("open");
    assert_eq!(code.to_string(), offer.code.to_string());
    // Who opened it did not come: the helper asks again.
    office.did();
    let did = office.hears(other, &offer);
    assert_eq!(did[0], Did::Show(Seat(0), id));
}

#[test]
fn t_02e_what_the_device_does_not_take_it_refuses_with_the_reason() {
    let mut office = Office::new(1, Unattended::Off);
    let offer = office.offer();
    let limited = |limit| Verdict {
        limit: Some(limit),
        permissions: Permissions::NONE,
        ..Verdict::unmanaged()
    };
    for limit in [
        Limit::Disabled,
        Limit::PolicyExpired,
        Limit::NoPermission,
        Limit::OutOfScope,
    ] {
        let did = office.judged(CALL, &offer, Ok(limited(limit)));
        assert_eq!(did, refused(offer.id, Refusal::Limit(limit)));
    }
    let unenrolled = Err(verdict::Refusal::UnenrolledNotAllowed);
    let did = office.judged(CALL, &offer, unenrolled);
    assert_eq!(did, refused(offer.id, Refusal::UnenrolledNotAllowed));
    // More than the role allows.
    let control = Offer {
        mode: Some(Mode::Control),
        ..office.offer()
    };
    let viewer = Verdict {
        permissions: Permissions::GUEST,
        ..Verdict::unmanaged()
    };
    let no_permission = Refusal::Limit(Limit::NoPermission);
    let did = office.judged(CALL, &control, Ok(viewer));
    assert_eq!(did, refused(control.id, no_permission.clone()));
    let unattended = office.unattended_offer();
    let did = office.judged(CALL, &unattended, Ok(Verdict::unmanaged()));
    assert_eq!(did, refused(unattended.id, no_permission));
    // Nothing of all this was shown to anybody.
    assert_eq!(office.desk.poll_timeout(), None);
}

/// A session is about to begin at an unattended device where two are logged in.
fn counting_down() -> (Office, InvitationId) {
    let mut office = Office::new(2, Unattended::On);
    let offer = office.unattended_offer();
    office.hears(CALL, &offer);
    let until = office.now + T_CALL;
    office.desk.handle_countdown(offer.id, until);
    let (one, other) = (Did::Show(Seat(0), offer.id), Did::Show(Seat(1), offer.id));
    assert_eq!(office.did(), [one, other]);
    (office, offer.id)
}

#[test]
fn t_11_an_unattended_session_is_announced_at_every_login_and_one_answer_counts() {
    for yes in [true, false] {
        let (mut office, id) = counting_down();
        // Who logs in now is told, too.
        assert!(office.desk.handle_seat(Seat(2)));
        assert_eq!(office.did(), [Did::Show(Seat(2), id)]);
        office.desk.handle_seat_gone(Seat(2));
        let late = office.desk.handle_answer(Seat(2), id, yes);
        assert_eq!(late, Err(NotYours::Gone));
        assert_eq!(office.desk.handle_answer(Seat(1), id, yes), Ok(()));
        let withdrawn = Did::Withdraw(Seat(0), id, Withdrawal::Taken);
        assert_eq!(office.did(), [withdrawn, Did::Answer(id, yes)]);
        let again = office.desk.handle_answer(Seat(0), id, !yes);
        assert_eq!(again, Err(NotYours::Gone));
        office.desk.handle_countdown_over(id);
        assert_eq!(office.did(), []);
    }
}

#[test]
fn t_16_nobody_is_asked_about_an_unattended_session_that_has_begun() {
    let (mut office, id) = counting_down();
    assert!(office.desk.is_counting_down(id));
    office.desk.handle_countdown_over(id);
    let gone = |seat| Did::Withdraw(Seat(seat), id, Withdrawal::Expired);
    assert_eq!(office.did(), [gone(0), gone(1)]);
    assert!(!office.desk.is_counting_down(id));
    // Nor about one that never does.
    let (mut office, id) = counting_down();
    office.desk.handle_lease_over(id);
    assert_eq!(office.did().len(), 2);
    let other = office.unattended_offer();
    assert_eq!(office.hears(CALL, &other)[0], Did::Begin(other.id));
}

#[test]
fn t_08u_an_unattended_device_is_leased_to_one_and_begins_without_a_person() {
    let mut office = Office::new(1, Unattended::On);
    let offer = office.unattended_offer();
    let did = office.hears(CALL, &offer);
    assert_eq!(did, [Did::Begin(offer.id), delivered(offer.id, 1)]);
    assert_eq!(office.hears(CALL, &offer), [delivered(offer.id, 1)]);
    let other = office.unattended_offer();
    let held = Refusal::LeaseHeld("Sam".into());
    assert_eq!(office.hears(CALL, &other), refused(other.id, held));
    office.desk.handle_lease_over(other.id);
    assert_eq!(office.hears(CALL, &other).len(), 1);
    office.desk.handle_lease_over(offer.id);
    let did = office.hears(CALL, &other);
    assert_eq!(did[0], Did::Begin(other.id));
    for (unattended, what) in [
        (
            Unattended::Off,
            "consent of its person (remora agent --unattended on)",
        ),
        (Unattended::Lacks("a shield".into()), "a shield"),
    ] {
        let mut office = Office::new(1, unattended);
        let offer = office.unattended_offer();
        let lacks = Refusal::PrerequisiteMissing(what.into());
        assert_eq!(office.hears(CALL, &offer), refused(offer.id, lacks));
    }
}

#[test]
fn an_offer_is_declined_when_the_last_seat_does_not_want_it() {
    let mut office = Office::new(2, Unattended::Off);
    let offer = office.offer();
    office.hears(CALL, &offer);
    assert_eq!(office.desk.handle_decline(Seat(0), offer.id), Ok(()));
    assert_eq!(office.did(), []);
    assert_eq!(
        office.desk.handle_decline(Seat(0), offer.id),
        Err(NotYours::Gone)
    );
    assert_eq!(office.desk.handle_decline(Seat(1), offer.id), Ok(()));
    let declined = FromDevice::Declined(offer.id);
    assert_eq!(office.did(), [Did::Tell(CALL, declined)]);
}

#[test]
fn an_offer_ends_with_its_time_its_helper_or_the_helpers_word() {
    let mut office = Office::new(1, Unattended::Off);
    let offer = office.offer();
    let gone = |why| [Did::Withdraw(Seat(0), offer.id, why)];
    office.hears(CALL, &offer);
    assert_eq!(office.passes(T_CONSENT - Duration::from_millis(1)), []);
    let did = office.passes(Duration::from_millis(1));
    assert_eq!(did, gone(Withdrawal::Expired));
    office.hears(CALL, &offer);
    office.desk.handle_call_gone(CALL, office.now);
    assert_eq!(office.passes(T_CALL), gone(Withdrawal::Expired));
    office.hears(CALL, &offer);
    let stranger = NodeId([2; 32]);
    office
        .desk
        .handle_withdrawn(stranger, offer.id, Withdrawal::Cancelled);
    assert_eq!(office.did(), []);
    office
        .desk
        .handle_withdrawn(HELPER, offer.id, Withdrawal::Cancelled);
    assert_eq!(office.did(), gone(Withdrawal::Cancelled));
}

#[test]
fn one_helper_does_not_fill_the_desk_and_takes_nobody_elses_offer() {
    let mut office = Office::new(1, Unattended::Off);
    for _ in 0..MAX_OFFERS_OF_ONE {
        let offer = office.offer();
        assert_eq!(office.hears(CALL, &offer).len(), 2);
    }
    let offer = office.offer();
    assert_eq!(office.hears(CALL, &offer), refused(offer.id, Refusal::Full));
    for helper in 2..=4 {
        for _ in 0..MAX_OFFERS_OF_ONE {
            let offer = office.offer();
            let verdict = Ok(Verdict::unmanaged());
            let helper = NodeId([helper; 32]);
            office
                .desk
                .handle_offer(CALL, helper, offer, verdict, office.now);
        }
    }
    assert_eq!(office.desk.held.len(), MAX_OFFERS);
    let offer = office
        .desk
        .held
        .values()
        .next()
        .expect("one")
        .shown
        .offer
        .clone();
    office.did();
    office.desk.handle_offer(
        CALL,
        NodeId([9; 32]),
        offer.clone(),
        Ok(Verdict::unmanaged()),
        office.now,
    );
    assert_eq!(office.did(), refused(offer.id, Refusal::AuthFailed));
}

#[test]
fn whoever_logs_in_later_is_asked_too() {
    let mut office = Office::new(0, Unattended::Off);
    let offer = office.offer();
    assert_eq!(office.hears(CALL, &offer), []);
    office.desk.handle_seat(Seat(3));
    let shown = [Did::Show(Seat(3), offer.id), delivered(offer.id, 1)];
    assert_eq!(office.did(), shown);
    office.desk.handle_seat_gone(Seat(3));
    assert_eq!(office.did(), []);
    assert_eq!(office.desk.seats(), 0);
}
