//! Liars: helpers that were modified, relays that lie about policies, and papers that end while people talk.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one event is waited for among many"
)]

#[path = "support/contoso.rs"]
mod contoso;
#[path = "support/lying_relay.rs"]
mod lying_relay;
mod support;

use std::{sync::Arc, time::Duration};

use contoso::{Scene, done};
use lying_relay::LyingRelay;
use remora::{
    control::RequestError,
    event::{Event, Input},
    identity::{Files, Identity, Member, unix_s},
    node::{Node, Options, Running},
};
use remora_proto::{
    id::{NodeId, RelayAddr},
    identity::Profile,
    noise::StaticKey,
    org::{
        credential::Credential,
        membership::{Membership, Papers},
        permission::Permissions,
        policy::{Policy, Trust, built_in_roles},
        scope::Scope,
        setting::Setting,
        signed::{Issuer, Signed},
    },
    rendezvous::LIFETIME,
    session::{Command, Event as SessionEvent, Mode},
    wire::message::control::Reason,
};
use serde_json::Value;
use support::{
    PATIENCE,
    people::within,
    process::{Home, RelayProcess, Script},
};

/// From a change to the end of a session that it does not permit.
const EFFECT_LIMIT: Duration = Duration::from_secs(10);
const DAY_S: u64 = 86_400;

fn contoso() -> Issuer {
    Issuer::from_bytes(&[7; 32])
}

/// Who would like to be Contoso.
fn mallory() -> Issuer {
    Issuer::from_bytes(&[66; 32])
}

/// Contoso's: help is on, Sam sees screens, one of his credentials is revoked. The fifth, so that there are older ones.
fn policy() -> Policy {
    let now = unix_s();
    let mut policy = Policy::first(contoso().id(), "Contoso", "contoso.com", now, now + DAY_S);
    policy.header.number = 5;
    for setting in [Setting::Enabled, Setting::AllowUnenrolled] {
        policy.settings.set(setting, 1);
    }
    policy.roles = built_in_roles();
    let sams = ("sam".parse(), "viewer".parse());
    let sams = (sams.0.expect("a label"), sams.1.expect("a label"));
    policy.assignments.insert(sams, vec![Scope::Everyone]);
    policy.revoked.serials.insert([13; 16]);
    policy
}

/// Sam's: he sees screens.
fn sams(node: NodeId) -> Credential {
    Credential {
        issuer: contoso().id(),
        serial: [1; 16],
        node,
        subject: "sam".parse().expect("a label"),
        profile: Profile::new("Sam Okafor", "", "Contoso", "contoso.com").expect("a profile"),
        picture: None,
        permissions: Permissions::GUEST,
        scopes: vec![Scope::Everyone],
        issued: unix_s() - 3600,
        expires: unix_s() + 3600,
    }
}

fn marias(node: NodeId) -> Credential {
    Credential {
        serial: [2; 16],
        subject: "maria".parse().expect("a label"),
        profile: Profile::new("Maria Lopez", "", "Contoso", "contoso.com").expect("a profile"),
        permissions: Permissions::NONE,
        ..sams(node)
    }
}

fn by<D: remora_proto::org::signed::Document>(issuer: &Issuer, document: D) -> Signed<D> {
    Signed::new(document, issuer).expect("signed")
}

fn membership(credential: Signed<Credential>, policy: Signed<Policy>) -> Membership {
    let device = None;
    Membership::new(Papers { credential, device }, policy).expect("of one organisation")
}

/// Maria's computer, which is honest, with Contoso's papers and that policy.
fn maria(policy: Policy) -> Home {
    let home = Home::new();
    let files = Files::beside(&home.path().join("config/remora/config.toml"));
    let profile = Profile::new("Maria", "", "", "").expect("a profile");
    let node = files.request(profile).expect("a key").node;
    let membership = membership(by(&contoso(), marias(node)), by(&contoso(), policy));
    files.take_bytes(&membership.to_bytes()).expect("hers");
    home
}

/// A helper's program that shows and believes whatever it is told to.
struct Liar {
    key: StaticKey,
    credential: Signed<Credential>,
    policy: Signed<Policy>,
}

impl Liar {
    /// Who tells the truth.
    fn honest(credential: impl FnOnce(&mut Credential)) -> Self {
        Self::new(|its| {
            credential(its);
            None
        })
    }

    /// A credential that Mallory signs as Contoso.
    fn forger(credential: impl FnOnce(&mut Credential)) -> Self {
        Self::new(|its| {
            credential(its);
            Some(mallory())
        })
    }

    fn new(credential: impl FnOnce(&mut Credential) -> Option<Issuer>) -> Self {
        let key = StaticKey::generate();
        let mut its = sams(NodeId(key.public()));
        let credential = match credential(&mut its) {
            None => by(&contoso(), its),
            Some(forger) => Signed::forged(its, &forger),
        };
        Self {
            key,
            credential,
            policy: by(&contoso(), policy()),
        }
    }

    async fn invite(&self, relay: &RelayProcess, home: &Home) -> Running {
        let files = Files::beside(&home.path().join("config.toml"));
        let membership = membership(self.credential.clone(), self.policy.clone());
        let member = Member::new(self.key.clone(), files, membership, None);
        let address: RelayAddr = relay.address.parse().expect("an address");
        let node = Node::connect(&address, Options::relay_only()).await;
        let identity = Identity {
            profile: self.credential.profile.clone(),
            member: Some(Arc::new(member)),
            portrait: None,
        };
        node.expect("connected").invite(identity, LIFETIME)
    }

    /// Both programs, once Maria has typed the code into hers, which is the real one.
    async fn meet(&self, relay: &RelayProcess, maria: &Home) -> (Running, Script) {
        let mut running = self.invite(relay, &Home::new()).await;
        let code = until(&mut running, |event| match event {
            Event::Code { code, .. } => Some(code.clone()),
            _ => None,
        });
        let code = code.await.expect("a code");
        let join = ["join", "--json", "--relay", &relay.address];
        let mut sharer = Script::start(maria.remora(&join));
        sharer.say(&code);
        (running, sharer)
    }

    /// What Maria's computer says.
    async fn meets(self, relay: &RelayProcess) -> Met {
        let maria = maria(policy());
        let (mut running, mut sharer) = self.meet(relay, &maria).await;
        loop {
            let event = sharer.event(PATIENCE);
            match event["event"].as_str() {
                Some("trust") => {
                    let trust = until(&mut running, |event| match event {
                        Event::Session(SessionEvent::Trust { .. }) => Some(()),
                        _ => None,
                    });
                    trust.await.expect("a card at both");
                    ask(&running, Mode::View).await;
                }
                Some("consent_prompt") => return Met::Asked(event),
                Some("ended" | "error") => return Met::Refused(event),
                _ => {}
            }
        }
    }
}

/// What becomes of a helper.
#[derive(Debug)]
enum Met {
    /// The sharer's person is asked.
    Asked(Value),
    /// The sharer's program says that it is over.
    Refused(Value),
}

impl Met {
    /// For what reason, if it was refused.
    fn refused(&self) -> Option<&str> {
        match self {
            Self::Asked(_) => None,
            Self::Refused(last) => {
                let reason = last["end_reason"].as_str();
                reason.or_else(|| last["code"].as_str())
            }
        }
    }
}

async fn until<T>(running: &mut Running, wanted: impl Fn(&Event) -> Option<T>) -> Option<T> {
    within("an event", async {
        while let Some(event) = running.events.recv().await {
            if let Some(found) = wanted(&event) {
                return Some(found);
            }
        }
        None
    })
    .await
}

async fn ask(running: &Running, mode: Mode) {
    let ask = Input::Session(Command::AskMode(mode));
    running.input.send(ask).await.expect("it listens");
}

/// With which code the sharer's program refuses.
async fn refused(running: &mut Running) -> Option<&'static str> {
    until(running, |event| match event {
        Event::Session(SessionEvent::Refused(refusal)) => Some(refusal.code()),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_4_a_modified_helper_comes_to_nothing_at_the_sharer_whatever_it_shows() {
    let relay = RelayProcess::start(&[]);
    let later = |seconds: i64| {
        let at = i64::try_from(unix_s()).expect("a time") + seconds;
        u64::try_from(at).expect("a time")
    };
    // Who tells the truth is let in, also when his clock is a minute off; so what follows is not for another reason.
    for (honest, seconds) in [("as it is", 3600), ("a minute over", -60)] {
        let met = Liar::honest(|its| its.expires = later(seconds)).meets(&relay);
        let met = met.await;
        assert!(
            matches!(&met, Met::Asked(prompt) if prompt["mode"] == "view"),
            "{honest}: {met:?}"
        );
    }
    let another = StaticKey::generate();
    let cases = [
        (
            "claims more than its credential",
            Liar::forger(|its| its.permissions = Permissions::ALL),
        ),
        (
            "extends its expiry",
            Liar::forger(|its| its.expires = later(365 * 86_400)),
        ),
        (
            "comes after its expiry",
            Liar::honest(|its| its.expires = later(-180)),
        ),
        (
            "comes before its time",
            Liar::honest(|its| its.issued = later(1800)),
        ),
        (
            "replays another's",
            Liar::honest(|its| its.node = NodeId(another.public())),
        ),
        (
            "is another person",
            Liar::forger(|its| its.subject = "kim".parse().expect("a label")),
        ),
        ("is revoked", Liar::honest(|its| its.serial = [13; 16])),
    ];
    for (what, liar) in cases {
        let met = liar.meets(&relay).await;
        assert_eq!(met.refused(), Some("AUTH_FAILED"), "{what}: {met:?}");
    }
    // An organisation of its own, under Contoso's name.
    let met = Liar {
        policy: {
            let mut theirs = policy();
            theirs.header.issuer = mallory().id();
            // So that it is not this side that ends it.
            let trust = Trust {
                domain: "contoso.com".into(),
                permissions: Permissions::ALL,
                scopes: vec![Scope::Everyone],
            };
            theirs.trusts.insert(contoso().id(), trust);
            by(&mallory(), theirs)
        },
        credential: {
            let key = StaticKey::from_bytes([9; 32]);
            let mut its = sams(NodeId(key.public()));
            its.issuer = mallory().id();
            by(&mallory(), its)
        },
        key: StaticKey::from_bytes([9; 32]),
    };
    let met = met.meets(&relay).await;
    assert_eq!(met.refused(), Some("ORG_MISMATCH"), "{met:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn e_9_a_helper_that_believes_a_policy_of_its_own_may_no_more_at_the_sharer() {
    let relay = RelayProcess::start(&[]);
    let mut forged = policy();
    forged.header.number = 99;
    let viewer = "viewer".parse().expect("a label");
    forged.roles.insert(viewer, Permissions::ALL);
    // Its credential, which is Contoso's, says that he may; Contoso's policy does not.
    let liar = Liar {
        policy: Signed::forged(forged, &mallory()),
        ..Liar::honest(|its| its.permissions = Permissions::ALL)
    };
    let maria = maria(policy());
    let (mut running, mut sharer) = liar.meet(&relay, &maria).await;
    let permitted = until(&mut running, |event| match event {
        Event::Session(SessionEvent::Trust { verdict, .. }) => Some(verdict.permitted()),
        _ => None,
    });
    let permitted = permitted.await.expect("a card");
    assert_eq!(permitted, Some(Mode::Control), "so it believes");
    ask(&running, Mode::Control).await;
    assert_eq!(refused(&mut running).await, Some("MODE_NOT_PERMITTED"));
    ask(&running, Mode::View).await;
    sharer.expect("connected");
    assert_eq!(sharer.expect("trust")["permitted"]["mode"], "view");
    // The first question has not reached the person.
    assert_eq!(sharer.expect("consent_prompt")["mode"], "view");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_3_at_a_sharer_whose_policy_has_expired_nobody_may_anything_whatever_theirs_says() {
    let relay = RelayProcess::start(&[]);
    let mut kept_back = policy();
    kept_back.header.number = 4;
    kept_back.header.issued = unix_s() - 2 * DAY_S;
    kept_back.header.expires = unix_s() - 600;
    let maria = maria(kept_back);
    let (mut running, mut sharer) = Liar::honest(|_| ()).meet(&relay, &maria).await;
    sharer.expect("connected");
    let trust = sharer.expect("trust");
    assert_eq!(trust["permitted"]["mode"], Value::Null, "{trust}");
    assert_eq!(trust["permitted"]["limit"], "POLICY_EXPIRED", "{trust}");
    assert_eq!(trust["warnings"][0]["code"], "POLICY_STALE", "{trust}");
    until(&mut running, |event| match event {
        Event::Session(SessionEvent::Trust { .. }) => Some(()),
        _ => None,
    })
    .await
    .expect("a card");
    ask(&running, Mode::View).await;
    assert_eq!(refused(&mut running).await, Some("MODE_NOT_PERMITTED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_3_who_brings_a_relay_a_forged_or_an_older_policy_is_refused() {
    let relay = RelayProcess::start(&[]);
    let address: RelayAddr = relay.address.parse().expect("an address");
    let node = Node::connect(&address, Options::relay_only()).await;
    let node = node.expect("connected");
    let mut next = policy();
    next.header.number = 6;
    let mut last = policy();
    last.header.number = 4;
    let brought = async |bytes: &[u8]| match node.control().put_policy(bytes).await {
        Ok(()) => None,
        Err(RequestError::Refused(refused)) => Some(refused.reason()),
        Err(RequestError::Lost) => panic!("the relay is there"),
    };
    assert_eq!(brought(by(&contoso(), policy()).bytes()).await, None);
    let forged = Signed::forged(next.clone(), &mallory());
    assert_eq!(brought(forged.bytes()).await, Some(Reason::BadRecord));
    let older = by(&contoso(), last);
    assert_eq!(brought(older.bytes()).await, Some(Reason::Taken));
    assert_eq!(brought(by(&contoso(), next).bytes()).await, None);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_3_a_node_takes_no_policy_from_a_lying_relay_but_its_organisations_next() {
    let of = |number: u64, change: &dyn Fn(&mut Policy)| {
        let mut policy = policy();
        policy.header.number = number;
        change(&mut policy);
        policy
    };
    let everybody = |policy: &mut Policy| {
        let viewer = "viewer".parse().expect("a label");
        policy.roles.insert(viewer, Permissions::ALL);
    };
    let mut others = of(6, &everybody);
    others.header.issuer = mallory().id();
    let mut changed = by(&contoso(), of(6, &|_| ())).bytes().to_vec();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let lies = [
        // Signed by somebody else, in Contoso's name.
        Signed::forged(of(6, &everybody), &mallory())
            .bytes()
            .to_vec(),
        // A bit of the signature.
        changed,
        // Of somebody else.
        by(&mallory(), others).bytes().to_vec(),
        // Older, called new.
        by(&contoso(), of(4, &everybody)).bytes().to_vec(),
        // Another of the same number.
        by(&contoso(), of(5, &everybody)).bytes().to_vec(),
        b"no policy".to_vec(),
        // The truth.
        by(&contoso(), of(6, &|_| ())).bytes().to_vec(),
    ];
    let mut relay = LyingRelay::start(lies.to_vec());
    let maria = maria(policy());
    let join = ["join", "--json", "--relay", &relay.address];
    let _sharer = Script::start(maria.remora(&join));
    for _ in &lies {
        let have = within("a question", relay.asked()).await;
        assert_eq!(have, 5, "no lie was taken");
    }
    assert_eq!(within("a question", relay.asked()).await, 6);
}

/// Goes on to an event of this kind.
#[track_caller]
fn until_said(script: &mut Script, kind: &str, limit: Duration) -> Value {
    loop {
        let event = script.event(limit);
        if event["event"] == kind {
            return event;
        }
    }
}

/// Goes on to where the organisation thinks so.
#[track_caller]
fn judged(script: &mut Script, wanted: impl Fn(&Value) -> bool) {
    while !wanted(&until_said(script, "judged", PATIENCE)) {}
}

fn says(judged: &Value, what: &str) -> bool {
    judged["warnings"].to_string().contains(what)
}

#[test]
fn a_3_a_session_goes_on_with_renewed_papers_and_ends_when_they_are_over() {
    let scene = Scene::enrolled_by_a_clock("help-desk-operator");
    let (mut helper, mut sharer, ..) = scene.introduced();
    helper.say("v");
    sharer.expect("consent_prompt");
    helper.expect("awaiting_consent");
    sharer.say("a");
    for script in [&mut sharer, &mut helper] {
        until_said(script, "started", PATIENCE);
    }
    // In the last week of the month for which they hold, nobody has signed a policy for long, and both are told.
    scene.later(24 * 25);
    for script in [&mut sharer, &mut helper] {
        judged(script, |event| says(event, "POLICY_STALE"));
    }
    // Both are signed anew: he may less, her computer fails a policy.
    let operator = ["assign", "sam.okafor", "help-desk-operator", "--remove"];
    done(scene.org(&operator));
    let sams = ["--role", "viewer", "--device", "desk-1"];
    scene.enrol(&scene.sam, "Sam Okafor", &sams);
    judged(&mut sharer, |event| event["permitted"]["mode"] == "view");
    let marias = ["--role", "member", "--device", "fin-lt-0231"];
    let marias = [&marias[..], &["--failing", "antivirus-off"]].concat();
    scene.enrol(&scene.maria, "Maria Lopez", &marias);
    judged(&mut helper, |event| says(event, "antivirus-off"));
    // With those of before it would be over by now.
    scene.later(24 * 40);
    done(scene.org(&["policy", "--days", "60", "--relay", &scene.relay.address]));
    sharer.say("still here");
    assert_eq!(
        until_said(&mut helper, "chat", PATIENCE)["text"],
        "still here"
    );
    scene.later(24 * 56);
    for script in [&mut sharer, &mut helper] {
        let ended = until_said(script, "ended", EFFECT_LIMIT);
        assert_eq!(ended["end_reason"], "ADMIN_ENDED", "{ended}");
    }
}
