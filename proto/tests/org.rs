//! What a modified helper, an old policy or another organisation comes to at an honest sharer, and who may do what.
#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a test may fail anywhere"
)]

use std::time::Duration;

use proptest::prelude::*;
use prost::Message as _;
use remora_proto::{
    id::{DeviceId, NodeId, OrgId},
    identity::{Introduction, InvalidIntroduction, Profile, Role},
    noise::MAX_CLIENT_PAYLOAD,
    org::{
        credential::{Credential, Device, MAX_CREDENTIAL_BYTES, MAX_DEVICE_BYTES},
        ended::{ENDED_FOR_S, Ending, MAX_ENDED, SessionName},
        label::Label,
        membership::{InvalidPapers, Membership, Papers, Request},
        permission::{Permission, Permissions},
        policy::{Group, Policy, Trust},
        scope::Scope,
        setting::Setting,
        signed::{CLOCK_TOLERANCE_S, Document as _, InvalidDocument, Issuer, PolicyHeader, Signed},
        verdict::{Limit, Refusal, Verdict, Warning, judge, may_invite},
    },
    path::candidate::Named,
    sas::Commitment,
    session::{Durations, LocalEnd, Mode, Terms},
    wire::message::{org as schema, session::HandshakePayload},
};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const HELPER: NodeId = NodeId([1; 32]);
const SHARER: NodeId = NodeId([2; 32]);

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn contoso() -> Issuer {
    Issuer::from_bytes(&[7; 32])
}

fn fabrikam() -> Issuer {
    Issuer::from_bytes(&[8; 32])
}

/// A helper's: everything, for everyone.
fn credential(issuer: &Issuer, domain: &str) -> Credential {
    Credential {
        issuer: issuer.id(),
        serial: [3; 16],
        node: HELPER,
        subject: label("sam"),
        profile: Profile::new("Sam Okafor", "Service desk", "Contoso", domain).unwrap(),
        picture: None,
        permissions: Permissions::ALL,
        scopes: vec![Scope::Everyone],
        issued: NOW - DAY,
        expires: NOW + DAY,
    }
}

fn sharer_credential(issuer: &Issuer, domain: &str) -> Credential {
    Credential {
        node: SHARER,
        serial: [4; 16],
        subject: label("maria"),
        permissions: Permissions::NONE,
        scopes: Vec::new(),
        ..credential(issuer, domain)
    }
}

fn device(issuer: &Issuer) -> Device {
    Device {
        issuer: issuer.id(),
        node: SHARER,
        name: label("fin-lt-0231"),
        personal: false,
        multi_user: false,
        failing: Vec::new(),
        issued: NOW - DAY,
        expires: NOW + DAY,
    }
}

/// Help is on, and Sam may control everyone.
fn policy() -> Policy {
    let mut policy = Policy::first(
        contoso().id(),
        "Contoso",
        "contoso.com",
        NOW,
        NOW + 30 * DAY,
    );
    policy.settings.set(Setting::Enabled, 1);
    policy.roles.insert(label("everything"), Permissions::ALL);
    let sam = (label("sam"), label("everything"));
    policy.assignments.insert(sam, vec![Scope::Everyone]);
    policy
}

fn papers(credential: Credential, device: Option<Device>, issuer: &Issuer) -> Papers {
    Papers {
        credential: Signed::new(credential, issuer).unwrap(),
        device: device.map(|device| Signed::new(device, issuer).unwrap()),
    }
}

fn sign(policy: Policy) -> Signed<Policy> {
    Signed::new(policy, &contoso()).unwrap()
}

/// Maria's computer.
fn sharer(policy: Policy) -> Membership {
    let issuer = contoso();
    let papers = papers(
        sharer_credential(&issuer, "contoso.com"),
        Some(device(&issuer)),
        &issuer,
    );
    Membership::new(papers, sign(policy)).unwrap()
}

fn introduction(role: Role, papers: Option<Papers>) -> Introduction {
    let profile = papers.as_ref().map_or_else(
        || Profile::new("Somebody", "", "", "").unwrap(),
        |papers| papers.credential.profile.clone(),
    );
    Introduction {
        role,
        profile,
        papers,
        commitment: Commitment([9; 32]),
        named: Named::default(),
    }
}

/// What Maria's computer thinks of a helper with that credential.
fn at_sharer(policy: Policy, credential: Credential, issuer: &Issuer) -> Result<Verdict, Refusal> {
    let shown = introduction(Role::Helper, Some(papers(credential, None, issuer)));
    judge(Some(&sharer(policy)), Role::Sharer, &shown, HELPER, NOW)
}

fn permissions(policy: Policy, credential: Credential) -> Permissions {
    at_sharer(policy, credential, &contoso())
        .unwrap()
        .permissions
}

fn honest() -> Credential {
    credential(&contoso(), "contoso.com")
}

// ---- who it is ---------------------------------------------------------------------------

#[test]
fn a_3_who_is_vouched_for_is_verified_and_may_what_role_and_credential_say() {
    let verdict = at_sharer(policy(), honest(), &contoso()).unwrap();
    assert!(verdict.verified);
    assert_eq!(verdict.permissions, Permissions::ALL);
    assert_eq!(verdict.permitted(), Some(Mode::Control));
    assert_eq!((verdict.limit, verdict.warnings), (None, Vec::new()));
}

#[test]
fn a_3_a_helper_without_papers_is_nobodys_guest_in_an_organisation() {
    let shown = introduction(Role::Helper, None);
    let verdict = judge(Some(&sharer(policy())), Role::Sharer, &shown, HELPER, NOW);
    assert_eq!(verdict, Err(Refusal::OrgMismatch));
}

#[test]
fn a_3_two_people_of_no_organisation_are_as_they_were() {
    for role in [Role::Helper, Role::Sharer] {
        let verdict = judge(None, role, &introduction(role.peer(), None), HELPER, NOW).unwrap();
        assert_eq!(verdict, Verdict::unmanaged());
        assert!(!verdict.verified);
        assert!(!verdict.permissions.has(Permission::Unattended));
    }
}

#[test]
fn c_1_what_a_member_shows_is_unverified_to_who_knows_no_issuer_and_gives_no_more_than_it_says() {
    let mut shown = honest();
    shown.permissions = [Permission::View, Permission::Offer, Permission::Connector]
        .into_iter()
        .collect();
    let shown = introduction(Role::Helper, Some(papers(shown, None, &contoso())));
    let verdict = judge(None, Role::Sharer, &shown, HELPER, NOW).unwrap();
    assert!(!verdict.verified);
    assert_eq!(verdict.permitted(), Some(Mode::View));
}

#[test]
fn c_1_the_card_shows_what_was_signed_and_nothing_that_was_said_beside_it() {
    let shown = introduction(Role::Helper, Some(papers(honest(), None, &contoso())));
    let mut raw = HandshakePayload::decode(&shown.encode()[..]).unwrap();
    assert_eq!(raw.profile, None);
    raw.profile = Some(remora_proto::wire::message::session::Profile {
        full_name: "The Chief".into(),
        ..Default::default()
    });
    let read = Introduction::decode(&raw.encode_to_vec(), Role::Helper).unwrap();
    assert_eq!(read.profile.full_name, "Sam Okafor");
    assert_eq!(read.profile.domain, "contoso.com");
}

// ---- a modified helper -------------------------------------------------------------------

/// Changes a signed credential without its issuer.
fn tampered(
    change: impl FnOnce(&mut schema::Credential),
) -> Result<Introduction, InvalidIntroduction> {
    let shown = introduction(Role::Helper, Some(papers(honest(), None, &contoso())));
    let mut raw = HandshakePayload::decode(&shown.encode()[..]).unwrap();
    let mut signed = schema::Signed::decode(&raw.credential[..]).unwrap();
    let mut credential = schema::Credential::decode(&signed.body[..]).unwrap();
    change(&mut credential);
    signed.body = credential.encode_to_vec().into();
    raw.credential = signed.encode_to_vec().into();
    Introduction::decode(&raw.encode_to_vec(), Role::Helper)
}

#[test]
fn a_3_a_credential_that_was_changed_opens_no_session() {
    let signature = |change: fn(&mut schema::Credential)| {
        let expected = InvalidPapers::Document("credential", InvalidDocument::Signature);
        assert_eq!(tampered(change), Err(InvalidIntroduction::Papers(expected)));
    };
    signature(|credential| credential.permissions = 1);
    signature(|credential| credential.expires += 1);
    signature(|credential| credential.issued -= 1);
    signature(|credential| credential.node = vec![9; 32].into());
    signature(|credential| credential.subject = "boss".into());
    signature(|credential| credential.full_name = "Boss".into());
    signature(|credential| credential.domain = "fabrikam.com".into());
    signature(|credential| credential.serial = vec![9; 16].into());
    signature(|credential| credential.scopes.clear());
    // As its own issuer it is somebody else's.
    signature(|credential| credential.issuer = fabrikam().id().0.to_vec().into());
    assert!(tampered(|_| {}).is_ok());
}

#[test]
fn a_4_anothers_credential_is_worth_nothing() {
    let shown = introduction(Role::Helper, Some(papers(honest(), None, &contoso())));
    let thief = NodeId([6; 32]);
    let verdict = judge(Some(&sharer(policy())), Role::Sharer, &shown, thief, NOW);
    assert_eq!(verdict, Err(Refusal::NotTheirs));
    assert_eq!(
        judge(None, Role::Sharer, &shown, thief, NOW),
        Err(Refusal::NotTheirs)
    );
}

#[test]
fn a_3_a_credential_holds_for_its_time_and_two_minutes() {
    let shown = introduction(Role::Helper, Some(papers(honest(), None, &contoso())));
    let sharer = sharer(policy());
    let at = |now| judge(Some(&sharer), Role::Sharer, &shown, HELPER, now);
    let (begins, ends) = (NOW - DAY - CLOCK_TOLERANCE_S, NOW + DAY + CLOCK_TOLERANCE_S);
    assert_eq!(at(begins - 1), Err(Refusal::NotValidNow));
    // The policy, which is younger, is not yet in force then.
    assert_eq!(at(begins).unwrap().permissions, Permissions::NONE);
    assert_eq!(at(ends - 1).unwrap().permissions, Permissions::ALL);
    assert_eq!(at(ends), Err(Refusal::NotValidNow));
}

#[test]
fn a_3_a_helper_gets_no_more_than_its_credential_says_whatever_the_policy_allows() {
    let view = [Permission::View, Permission::Offer, Permission::Connector];
    let low = Credential {
        permissions: view.into_iter().collect(),
        ..honest()
    };
    assert_eq!(permissions(policy(), low), Permissions::GUEST);
}

#[test]
fn d_4_a_helper_gets_no_more_than_the_policy_says_whatever_its_credential_allows() {
    let mut lower = policy();
    lower.roles.insert(
        label("everything"),
        [
            Permission::Control,
            Permission::Offer,
            Permission::Connector,
        ]
        .into_iter()
        .collect(),
    );
    let now = permissions(lower, honest());
    assert!(now.has(Permission::Control));
    assert!(!now.has(Permission::Elevation), "a permission of its own");
    assert!(!now.has(Permission::Unattended));
}

#[test]
fn r_2_2_without_offer_connector_or_anything_to_do_nobody_helps() {
    for missing in [Permission::Offer, Permission::Connector] {
        let mut policy = policy();
        let rest = Permission::ALL
            .into_iter()
            .filter(|&permission| permission != missing);
        policy.roles.insert(label("everything"), rest.collect());
        let verdict = at_sharer(policy, honest(), &contoso()).unwrap();
        assert_eq!(verdict.permitted(), None, "{missing}");
        assert_eq!(verdict.limit, Some(Limit::NoPermission));
    }
    let mut nobody = policy();
    nobody.assignments.clear();
    assert_eq!(
        at_sharer(nobody, honest(), &contoso()).unwrap().limit,
        Some(Limit::NoPermission)
    );
}

#[test]
fn r_2_2_outside_the_scope_there_is_no_help() {
    let scoped = |scope: Scope| {
        let mut policy = policy();
        let sam = (label("sam"), label("everything"));
        policy.assignments.insert(sam, vec![scope]);
        let finance = Group {
            users: [label("maria")].into(),
            devices: [label("kiosk-1")].into(),
        };
        policy.groups.insert(label("finance"), finance);
        policy.groups.insert(label("empty"), Group::default());
        policy
    };
    let within = [
        "everyone",
        "devices",
        "user:maria",
        "device:fin-lt-0231",
        "group:finance",
    ];
    let without = ["user:sam", "device:kiosk-1", "group:empty", "group:unknown"];
    for text in within {
        let scope: Scope = text.parse().unwrap();
        assert_eq!(
            permissions(scoped(scope.clone()), honest()),
            Permissions::ALL,
            "{text}"
        );
        let narrow = Credential {
            scopes: vec![scope],
            ..honest()
        };
        assert_eq!(
            permissions(scoped(Scope::Everyone), narrow),
            Permissions::ALL,
            "{text}"
        );
    }
    for text in without {
        let scope: Scope = text.parse().unwrap();
        let narrow = Credential {
            scopes: vec![scope.clone()],
            ..honest()
        };
        for verdict in [
            at_sharer(scoped(scope), honest(), &contoso()).unwrap(),
            at_sharer(scoped(Scope::Everyone), narrow, &contoso()).unwrap(),
        ] {
            assert_eq!(
                (verdict.permitted(), verdict.limit),
                (None, Some(Limit::OutOfScope)),
                "{text}"
            );
        }
    }
}

#[test]
fn u_8_nobody_works_unattended_at_a_device_that_is_not_the_organisations() {
    let issuer = contoso();
    let unattended = |device: Option<Device>| {
        let mut policy = policy();
        policy.settings.set(Setting::AllowUnenrolled, 1);
        let papers = papers(sharer_credential(&issuer, "contoso.com"), device, &issuer);
        let own = Membership::new(papers, sign(policy)).unwrap();
        let shown = Papers {
            credential: Signed::new(honest(), &issuer).unwrap(),
            device: None,
        };
        let shown = introduction(Role::Helper, Some(shown));
        let verdict = judge(Some(&own), Role::Sharer, &shown, HELPER, NOW).unwrap();
        verdict.permissions.has(Permission::Unattended)
    };
    let personal = Device {
        personal: true,
        ..device(&issuer)
    };
    assert!(unattended(Some(device(&issuer))));
    assert!(!unattended(Some(personal)));
    assert!(!unattended(None));
}

// ---- what a session goes by --------------------------------------------------------------

#[test]
fn what_policy_and_device_say_is_what_a_session_goes_by() {
    let terms = |set: &[(Setting, u32)]| {
        let mut policy = policy();
        for (setting, value) in set {
            policy.settings.set(*setting, *value);
        }
        Terms::default().under(&at_sharer(policy, honest(), &contoso()).unwrap())
    };
    assert_eq!(terms(&[]), Terms::default());
    let ms = Duration::from_millis;
    let durations = Durations {
        consent: ms(60_000),
        unattended: ms(61_000),
        freeze: ms(62_000),
        reconfirm: Some(ms(63_000)),
        max: Some(ms(64_000)),
        idle: Some(ms(65_000)),
        ..Durations::default()
    };
    let all = terms(&[
        (Setting::BlockChat, 1),
        (Setting::BlockElevation, 1),
        (Setting::BlockRestart, 1),
        (Setting::UnattendedReclaim, 1),
        (Setting::SkipWaitWhenNoUser, 1),
        (Setting::SignOutOnKill, 1),
        (Setting::ConsentSeconds, 60),
        (Setting::UnattendedSeconds, 61),
        (Setting::FreezeSeconds, 62),
        (Setting::ReconfirmSeconds, 63),
        (Setting::MaxSeconds, 64),
        (Setting::IdleSeconds, 65),
    ]);
    let expected = Terms {
        chat_blocked: true,
        elevation_blocked: true,
        restart_forbidden: true,
        local_end: LocalEnd::Reclaim,
        skip_wait: true,
        sign_out_on_kill: true,
        durations,
        ..Terms::default()
    };
    assert_eq!(all, expected);

    // What the person has asked for is not given up for it.
    let own = Terms {
        durations: Durations {
            max: Some(ms(30_000)),
            idle: Some(ms(31_000)),
            ..Durations::default()
        },
        ..Terms::default()
    };
    let mut lax = policy();
    lax.settings.set(Setting::MaxSeconds, 60);
    let verdict = at_sharer(lax, honest(), &contoso()).unwrap();
    assert_eq!(own.under(&verdict), own);

    let issuer = contoso();
    let many = Device {
        multi_user: true,
        ..device(&issuer)
    };
    let credential = sharer_credential(&issuer, "contoso.com");
    let own = Membership::new(papers(credential, Some(many), &issuer), sign(policy())).unwrap();
    let shown = introduction(Role::Helper, Some(papers(honest(), None, &issuer)));
    let verdict = judge(Some(&own), Role::Sharer, &shown, HELPER, NOW).unwrap();
    assert!(Terms::default().under(&verdict).multi_user);
}

// ---- policy ------------------------------------------------------------------------------

#[test]
fn a_3_help_is_off_until_it_is_switched_on_and_when_the_policy_has_expired() {
    let mut off = policy();
    off.settings.set(Setting::Enabled, 0);
    let verdict = at_sharer(off, honest(), &contoso()).unwrap();
    assert_eq!(
        (verdict.permitted(), verdict.limit),
        (None, Some(Limit::Disabled))
    );

    let mut old = policy();
    (old.header.issued, old.header.expires) = (NOW - 2 * DAY, NOW - CLOCK_TOLERANCE_S);
    let verdict = at_sharer(old.clone(), honest(), &contoso()).unwrap();
    assert_eq!(
        (verdict.permitted(), verdict.limit),
        (None, Some(Limit::PolicyExpired))
    );
    old.header.expires += 1;
    let verdict = at_sharer(old, honest(), &contoso()).unwrap();
    assert_eq!(verdict.permissions, Permissions::ALL);
    assert_eq!(verdict.warnings, [Warning::PolicyStale]);
}

#[test]
fn a_3_a_policy_is_stale_after_a_day() {
    let stale = |age| {
        let mut policy = policy();
        policy.header.issued = NOW - age;
        !at_sharer(policy, honest(), &contoso())
            .unwrap()
            .warnings
            .is_empty()
    };
    assert!(!stale(DAY + CLOCK_TOLERANCE_S));
    assert!(stale(DAY + CLOCK_TOLERANCE_S + 1));
}

#[test]
fn a_3_an_older_policy_is_refused_and_so_is_another_of_the_same_number() {
    let numbered = |number, company: &str| {
        let mut policy = policy();
        policy.header.number = number;
        policy.company = company.to_owned();
        sign(policy)
    };
    let mut own = sharer(policy());
    assert_eq!(own.renew(numbered(5, "Contoso")), Ok(true));
    let rolled_back = |offered| Err(InvalidPapers::RolledBack { offered, seen: 5 });
    assert_eq!(own.renew(numbered(4, "Contoso")), rolled_back(4));
    assert_eq!(own.renew(numbered(5, "Other")), rolled_back(5));
    assert_eq!(own.renew(numbered(5, "Contoso")), Ok(false));
    assert_eq!(own.policy().header.number, 5);
    let mut other = policy();
    other.header.issuer = fabrikam().id();
    other.header.number = 9;
    let other = Signed::new(other, &fabrikam()).unwrap();
    assert_eq!(own.renew(other), Err(InvalidPapers::OtherOrganisation));
}

#[test]
fn a_3_a_policy_that_was_changed_is_refused_by_node_and_relay() {
    let signed = sign(policy());
    let mut raw = schema::Signed::decode(&signed.bytes()[..]).unwrap();
    let mut body = schema::Policy::decode(&raw.body[..]).unwrap();
    body.number += 1;
    raw.body = body.encode_to_vec().into();
    let forged = raw.encode_to_vec();
    assert_eq!(
        Signed::<Policy>::open(&forged),
        Err(InvalidDocument::Signature)
    );
    assert_eq!(PolicyHeader::open(&forged), Err(InvalidDocument::Signature));
    assert_eq!(PolicyHeader::open(signed.bytes()), Ok(signed.header));
    // Nor is a document one of another kind.
    let credential = Signed::new(honest(), &contoso()).unwrap();
    assert!(PolicyHeader::open(credential.bytes()).is_err());
    assert!(Signed::<Policy>::open(credential.bytes()).is_err());
}

#[test]
fn t_32_a_policy_names_the_sessions_that_were_ended_last_and_says_so_in_one_form() {
    let name = |number: u8| SessionName::new(&[number; 32]);
    let end = |at: u64| Ending {
        at,
        why: "the shift is over".parse().unwrap(),
    };
    let mut ended = policy();
    for number in 0..70 {
        ended.end(name(number), end(NOW + u64::from(number)));
    }
    assert_eq!(ended.ended.len(), MAX_ENDED);
    assert!(!ended.ended.contains_key(&name(5)) && ended.ended.contains_key(&name(6)));
    assert_eq!(*sign(ended.clone()), ended);
    // A clock that has gone back: what was ended just now stays.
    ended.end(name(70), end(NOW));
    assert!(ended.ended.contains_key(&name(70)));
    ended.end(name(71), end(NOW + ENDED_FOR_S + 60));
    let left: Vec<_> = ended.ended.values().map(|ending| ending.at - NOW).collect();
    assert!(left.iter().all(|at| *at > 60), "{left:?}");

    let raw = sign(ended).to_raw();
    let read = |raw: &schema::Policy| {
        let body = raw.encode_to_vec().into();
        Signed::<Policy>::open(&contoso().sign_policy_body(body)).map(drop)
    };
    assert_eq!(read(&raw), Ok(()));
    let bad: [fn(&mut schema::Policy); 4] = [
        |raw| raw.ended[0].why = "two\nlines".into(),
        |raw| raw.ended[0].session.insert(4, '-'),
        |raw| raw.ended.reverse(),
        |raw| {
            let one = raw.ended[0].clone();
            raw.ended = vec![one; MAX_ENDED + 1];
        },
    ];
    for change in bad {
        let mut raw = raw.clone();
        change(&mut raw);
        assert_eq!(read(&raw), Err(InvalidDocument::Field("ended")));
    }
}

#[test]
fn a_3_whoever_is_revoked_is_refused_by_subject_node_and_serial() {
    let mut subject = policy();
    subject.revoked.subjects.insert(label("sam"));
    let mut node = policy();
    node.revoked.nodes.insert(HELPER);
    let mut serial = policy();
    serial.revoked.serials.insert([3; 16]);
    for policy in [subject, node, serial] {
        assert_eq!(
            at_sharer(policy, honest(), &contoso()),
            Err(Refusal::Revoked)
        );
    }
}

// ---- two organisations -------------------------------------------------------------------

fn trusting(permissions: Permissions, scope: Scope) -> Policy {
    let mut policy = policy();
    let trust = Trust {
        domain: "fabrikam.com".into(),
        permissions,
        scopes: vec![scope],
    };
    policy.trusts.insert(fabrikam().id(), trust);
    policy
}

#[test]
fn a_3_another_organisation_is_refused_unless_it_is_trusted_and_then_within_bounds() {
    let theirs = || credential(&fabrikam(), "fabrikam.com");
    let at = |policy, theirs| at_sharer(policy, theirs, &fabrikam());
    assert_eq!(at(policy(), theirs()), Err(Refusal::OrgMismatch));
    let verdict = at(trusting(Permissions::GUEST, Scope::Everyone), theirs()).unwrap();
    assert!(verdict.verified);
    assert_eq!(verdict.permissions, Permissions::GUEST);
    assert_eq!(verdict.warnings, [Warning::OtherOrganisation]);
    let elsewhere = trusting(Permissions::ALL, "user:john".parse().unwrap());
    assert_eq!(
        at(elsewhere, theirs()).unwrap().limit,
        Some(Limit::OutOfScope)
    );
    // It vouches for its own people alone.
    let posing = credential(&fabrikam(), "contoso.com");
    assert_eq!(
        at(trusting(Permissions::ALL, Scope::Everyone), posing),
        Err(Refusal::WrongDomain)
    );
    let mut out = trusting(Permissions::ALL, Scope::Everyone);
    out.revoked.nodes.insert(HELPER);
    assert_eq!(at(out, theirs()), Err(Refusal::Revoked));
}

// ---- at the helper -----------------------------------------------------------------------

fn helper(policy: Policy) -> Membership {
    Membership::new(papers(honest(), None, &contoso()), sign(policy)).unwrap()
}

fn at_helper(policy: Policy, shown: Option<Papers>) -> Result<Verdict, Refusal> {
    let shown = introduction(Role::Sharer, shown);
    judge(Some(&helper(policy)), Role::Helper, &shown, SHARER, NOW)
}

#[test]
fn c_9_an_unenrolled_device_is_warned_of_where_it_is_allowed_and_refused_elsewhere() {
    let issuer = contoso();
    let known = || {
        Some(papers(
            sharer_credential(&issuer, "contoso.com"),
            None,
            &issuer,
        ))
    };
    for shown in [None, known()] {
        let refused = at_helper(policy(), shown.clone());
        assert_eq!(refused, Err(Refusal::UnenrolledNotAllowed));
        let mut lax = policy();
        lax.settings.set(Setting::AllowUnenrolled, 1);
        let verdict = at_helper(lax, shown.clone()).unwrap();
        assert_eq!(verdict.warnings, [Warning::Unenrolled]);
        assert_eq!(verdict.verified, shown.is_some());
        assert_eq!(verdict.permitted(), Some(Mode::Control));
    }
}

#[test]
fn c_8_a_device_that_fails_policies_is_warned_of_and_helped() {
    let issuer = contoso();
    let failing = Device {
        failing: vec![label("disk-encryption-off")],
        ..device(&issuer)
    };
    let shown = papers(
        sharer_credential(&issuer, "contoso.com"),
        Some(failing),
        &issuer,
    );
    let verdict = at_helper(policy(), Some(shown)).unwrap();
    assert_eq!(verdict.permitted(), Some(Mode::Control));
    let [warning] = &verdict.warnings[..] else {
        panic!("{verdict:?}")
    };
    assert_eq!(
        warning.to_string(),
        "This device does not meet policy (disk-encryption-off). Be careful with administrator credentials."
    );
}

#[test]
fn e_9_the_helper_knows_before_asking_what_is_not_permitted_and_why() {
    let issuer = contoso();
    let shown = || {
        Some(papers(
            sharer_credential(&issuer, "contoso.com"),
            Some(device(&issuer)),
            &issuer,
        ))
    };
    let mut elsewhere = policy();
    let sam = (label("sam"), label("everything"));
    elsewhere
        .assignments
        .insert(sam, vec!["user:john".parse().unwrap()]);
    assert_eq!(
        at_helper(elsewhere.clone(), shown()).unwrap().limit,
        Some(Limit::OutOfScope)
    );
    assert_eq!(may_invite(&helper(elsewhere), NOW), Ok(()));
    assert_eq!(
        may_invite(&helper(policy()), NOW + 2 * DAY),
        Err(Limit::NoPermission)
    );
    let mut off = policy();
    off.settings.set(Setting::Enabled, 0);
    assert_eq!(may_invite(&helper(off), NOW), Err(Limit::Disabled));
}

// ---- encodings ---------------------------------------------------------------------------

#[test]
fn the_largest_papers_fit_the_handshake() {
    let issuer = contoso();
    let x = |bytes| "x".repeat(bytes);
    let sized = |bytes| {
        let mut credential = credential(&issuer, "contoso.com");
        credential.subject = label(&x(64));
        credential.profile = Profile::new(&x(120), &x(120), &x(bytes), "contoso.com").unwrap();
        Signed::new(credential, &issuer)
    };
    let largest = (0..128).rev().find_map(|bytes| sized(bytes).ok());
    let device = Device {
        node: HELPER,
        failing: vec![label(&x(52))],
        personal: true,
        ..device(&issuer)
    };
    let papers = Papers {
        credential: largest.unwrap(),
        device: Some(Signed::new(device, &issuer).unwrap()),
    };
    let device = papers.device_bytes().len();
    assert!(
        (MAX_CREDENTIAL_BYTES - 1..=MAX_CREDENTIAL_BYTES)
            .contains(&papers.credential.bytes().len())
    );
    assert!(
        (MAX_DEVICE_BYTES - 1..=MAX_DEVICE_BYTES).contains(&device),
        "{device}"
    );
    let mut shown = introduction(Role::Sharer, Some(papers));
    shown.named = widest();
    let bytes = shown.encode();
    assert!(bytes.len() <= MAX_CLIENT_PAYLOAD, "{}", bytes.len());
    assert_eq!(Introduction::decode(&bytes, Role::Sharer), Ok(shown));
}

fn widest() -> Named {
    use remora_proto::{
        identity::MAX_CANDIDATES,
        path::{
            candidate::{Candidate, Hindrance, Kind},
            nat::{Allocation, Mapping, Nat},
        },
    };
    Named {
        candidates: vec![
            Candidate {
                kind: Kind::ServerReflexive,
                address: "[2001:db8::1]:65535".parse().unwrap(),
            };
            MAX_CANDIDATES
        ],
        nat: Nat {
            mapping: Mapping::Dependent(Allocation::Block {
                first: 60_000,
                size: 4096,
            }),
        },
        attempt: None,
        relayed: false,
        hindrance: Some(Hindrance::UdpBlocked),
    }
}

#[test]
fn papers_are_for_one_node_and_one_organisation() {
    let own = sharer(policy());
    let bytes = own.to_bytes();
    assert_eq!(Membership::open(&bytes, SHARER), Ok(own));
    assert_eq!(
        Membership::open(&bytes, HELPER),
        Err(InvalidPapers::OtherNode)
    );
    let theirs = papers(
        sharer_credential(&fabrikam(), "fabrikam.com"),
        None,
        &fabrikam(),
    );
    assert_eq!(
        Membership::new(theirs, sign(policy())),
        Err(InvalidPapers::Mixed)
    );
    let mut raw = schema::Membership::decode(&bytes[..]).unwrap();
    let stranger = Device {
        node: HELPER,
        ..device(&contoso())
    };
    raw.device = Signed::new(stranger, &contoso()).unwrap().bytes().clone();
    assert_eq!(
        Membership::open(&raw.encode_to_vec(), SHARER),
        Err(InvalidPapers::Mixed)
    );
}

#[test]
fn a_3_papers_are_renewed_by_newer_ones_of_the_same_person_and_node_alone() {
    let issuer = contoso();
    let of = |change: &dyn Fn(&mut Credential)| {
        let mut credential = honest();
        change(&mut credential);
        papers(credential, None, &issuer)
    };
    let held = of(&|_| ());
    let newer = of(&|its| {
        its.issued = NOW;
        its.serial = [9; 16];
        its.permissions = Permissions::GUEST;
    });
    assert_eq!(newer.succeed(&held), Ok(()));
    assert_eq!(held.succeed(&held), Ok(()), "said twice");
    let refused = Err(InvalidPapers::NotRenewed);
    assert_eq!(held.succeed(&newer), refused, "older");
    let changes: [&dyn Fn(&mut Credential); 2] = [&|its| its.subject = label("kim"), &|its| {
        its.node = NodeId([5; 32])
    }];
    for change in changes {
        assert_eq!(of(change).succeed(&held), refused);
    }
    let others = credential(&fabrikam(), "fabrikam.com");
    assert_eq!(papers(others, None, &fabrikam()).succeed(&held), refused);

    // What a file says that somebody has put in place meanwhile: its policy is taken only if it is newer.
    let membership = |papers: &Papers, number: u64| {
        let mut policy = policy();
        policy.header.number = number;
        Membership::new(papers.clone(), sign(policy)).unwrap()
    };
    let mut held = membership(&held, 5);
    held.replace(membership(&newer, 4)).unwrap();
    assert_eq!((held.papers(), held.policy().header.number), (&newer, 5));
    held.replace(membership(&newer, 6)).unwrap();
    assert_eq!(held.policy().header.number, 6);
    let kim = of(&|its| its.subject = label("kim"));
    assert_eq!(held.replace(membership(&kim, 7)), refused);
    assert_eq!((held.papers(), held.policy().header.number), (&newer, 7));
}

#[test]
fn a_request_is_one_line() {
    let request = Request {
        node: SHARER,
        profile: Profile::new("Maria Lopez", "会計", "", "").unwrap(),
        device: "fin-lt-0231".into(),
        reached_by: Some(DeviceId([3; 32])),
    };
    let line = request.to_string();
    assert!(!line.contains(char::is_whitespace));
    assert_eq!(format!(" {line}\n").parse(), Ok(request));
    assert!(line[..line.len() - 3].parse::<Request>().is_err());
    assert!("remora-request:".parse::<Request>().is_err());
}

fn any_label() -> impl Strategy<Value = Label> {
    "[a-z0-9._@+-]{1,20}".prop_map(|text| label(&text))
}

fn any_scopes() -> impl Strategy<Value = Vec<Scope>> {
    let scope = prop_oneof![
        Just(Scope::Everyone),
        Just(Scope::Devices),
        any_label().prop_map(Scope::User),
        any_label().prop_map(Scope::Device),
        any_label().prop_map(Scope::Group),
    ];
    prop::collection::vec(scope, 0..4)
}

prop_compose! {
    fn any_credential()(
        serial: [u8; 16], node: [u8; 32], subject in any_label(), name in "\\PC{1,20}", permissions: u8,
        scopes in any_scopes(), picture: Option<[u8; 32]>, issued in 0..NOW, life in 1..NOW,
    ) -> Credential {
        Credential {
            issuer: contoso().id(),
            serial,
            node: NodeId(node),
            subject,
            profile: Profile::new(&format!("x{name}"), "", "", "contoso.com").unwrap(),
            picture,
            permissions: Permissions::from_bits(permissions.into()),
            scopes,
            issued,
            expires: issued + life,
        }
    }
}

prop_compose! {
    fn any_policy()(
        number in 1..u64::MAX, subjects in prop::collection::btree_set(any_label(), 0..5),
        roles in prop::collection::btree_map(any_label(), any::<u8>(), 0..5),
        rows in prop::collection::btree_map((any_label(), any_label()), any_scopes(), 0..5),
        groups in prop::collection::btree_map(any_label(), prop::collection::btree_set(any_label(), 0..5), 0..5),
        nodes in prop::collection::btree_set(any::<[u8; 32]>(), 0..3),
        serials in prop::collection::btree_set(any::<[u8; 16]>(), 0..3),
        enabled: bool, trusted: u8,
    ) -> Policy {
        let mut policy = trusting(Permissions::from_bits(trusted.into()), Scope::Devices);
        policy.header.number = number;
        policy.settings.set(Setting::Enabled, enabled.into());
        policy.roles = roles.into_iter().map(|(name, bits)| (name, Permissions::from_bits(bits.into()))).collect();
        policy.assignments = rows;
        let group = |(name, users)| (name, Group { users, devices: subjects.clone() });
        policy.groups = groups.into_iter().map(group).collect();
        policy.listed = subjects.iter().cloned().zip(nodes.iter().copied().map(DeviceId)).collect();
        policy.revoked.subjects = subjects.clone();
        policy.revoked.nodes = nodes.into_iter().map(NodeId).collect();
        policy.revoked.serials = serials;
        policy
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn documents_are_read_as_they_were_written_and_no_other_way(
        credential in any_credential(), policy in any_policy(), cut in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>(),
    ) {
        let issuer = contoso();
        let credential = Signed::new(credential, &issuer).unwrap();
        prop_assert_eq!(Signed::open(credential.bytes()), Ok(credential.clone()));
        let policy = Signed::new(policy, &issuer).unwrap();
        prop_assert_eq!(Signed::open(policy.bytes()), Ok(policy.clone()));
        prop_assert_eq!(PolicyHeader::open(policy.bytes()), Ok(policy.header));
        for bytes in [credential.bytes(), policy.bytes()] {
            let cut = &bytes[..cut.index(bytes.len())];
            prop_assert!(Signed::<Credential>::open(cut).is_err());
            prop_assert!(Signed::<Policy>::open(cut).is_err());
            prop_assert!(PolicyHeader::open(cut).is_err());
            let mut flipped = bytes.to_vec();
            let bit = bit.index(8 * flipped.len());
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Signed::<Credential>::open(&flipped).is_err());
            prop_assert!(Signed::<Policy>::open(&flipped).is_err());
            prop_assert!(PolicyHeader::open(&flipped).is_err());
        }
    }

    #[test]
    fn random_bytes_are_no_document(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        prop_assert!(Signed::<Credential>::open(&bytes).is_err());
        prop_assert!(Signed::<Device>::open(&bytes).is_err());
        prop_assert!(Signed::<Policy>::open(&bytes).is_err());
        prop_assert!(PolicyHeader::open(&bytes).is_err());
        prop_assert!(Membership::open(&bytes, SHARER).is_err());
        let text = data_encoding_of(&bytes);
        prop_assert!(text.parse::<Request>().is_err());
    }

    #[test]
    fn nobody_ever_gets_more_than_credential_and_policy_both_say(credential in any_credential(), policy in any_policy()) {
        let credential = Credential { node: HELPER, issued: NOW - DAY, expires: NOW + DAY, ..credential };
        let (most, subject) = (credential.permissions, credential.subject.clone());
        let role = policy.granted_somewhere(&subject);
        if let Ok(verdict) = at_sharer(policy, credential, &contoso()) {
            prop_assert!(most.and(role).covers(verdict.permissions));
            prop_assert_eq!(verdict.limit.is_none(), verdict.permissions.may_help());
        }
    }
}

fn data_encoding_of(bytes: &[u8]) -> String {
    format!(
        "remora-request:{}",
        OrgId(std::array::from_fn(|n| bytes.get(n).copied().unwrap_or(0)))
    )
}
