//! The verb `policy`: how soon what an administrator changes holds everywhere, and how soon it ends what it does not permit any more.
//!
//! ```text
//!  members, their sessions ─▶ a policy is brought to one relay ─▶ all hold it? ─▶ helpers are revoked ─▶ sessions ended? why?
//! ```
//!
//! Relays are processes of `remora-relay`; nodes are the library that `remora` is, all of them in this process, each with a key and papers
//! in files of its own, as on a computer of its own.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one event is waited for among many"
)]

use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use remora::{
    event::Event,
    identity::{Files, Identity, Member, unix_s},
    node::{Node, Options, Running},
    share::desktop::Desktop,
};
use remora_proto::{
    id::RelayAddr,
    identity::Profile,
    org::{
        credential::Credential,
        label::Label,
        membership::{Membership, Papers},
        permission::Permissions,
        policy::Policy,
        scope::Scope,
        setting::Setting,
        signed::{Issuer, Signed},
    },
    random::Random,
    rendezvous::LIFETIME,
    session::{Command, EndReason, Event as SessionEvent, Mode},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    cli::Policy as Args,
    fleet::Fleet,
    measure::{Latencies, float},
    people::{name, until, wish},
    relay::{Capacity, SessionRate},
    report,
    scenario::Bench,
    subject::unless_interrupted,
};

/// Relays of a fleet know each other by then.
const MEET: Duration = Duration::from_secs(60);
/// A step of a session's beginning that takes longer has failed.
const STEP: Duration = Duration::from_secs(30);
/// What takes longer has not happened.
const PATIENCE: Duration = Duration::from_secs(60);
/// In which it has to (issue 7).
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at a node; a look is at a file.
const GLANCE: Duration = Duration::from_millis(20);
/// Of papers and policy.
const LIFE_S: u64 = 24 * 3600;

#[derive(Debug)]
struct Found {
    /// From the moment in which an administrator brings a policy to when each node goes by it.
    effect: Latencies,
    /// From the moment in which a helper is revoked to when each side of a session is over.
    ended: Latencies,
    /// With which reasons those ended.
    reasons: BTreeMap<&'static str, u64>,
    /// Nodes, and sides of sessions, of which nothing was seen in time.
    missing: usize,
}

/// An organisation, and its people's folders.
struct Office {
    issuer: Issuer,
    policy: Policy,
    folder: TempDir,
}

impl Office {
    /// In which help is on and `helpers` see screens.
    fn found(helpers: usize) -> anyhow::Result<Self> {
        let secret: [u8; 32] = Random::system().bytes();
        let issuer = Issuer::from_bytes(&secret);
        let now = unix_s();
        let mut policy = Policy::first(issuer.id(), "Contoso", "contoso.com", now, now + LIFE_S);
        for setting in [Setting::Enabled, Setting::AllowUnenrolled] {
            policy.settings.set(setting, 1);
        }
        for number in 0..helpers {
            let row = (helper(number)?, "viewer".parse()?);
            policy.assignments.insert(row, vec![Scope::Everyone]);
        }
        Ok(Self {
            issuer,
            policy,
            folder: tempfile::tempdir().context("no folder for people's keys")?,
        })
    }

    /// The policy as it is, signed.
    fn signed(&self) -> anyhow::Result<Signed<Policy>> {
        Ok(Signed::new(self.policy.clone(), &self.issuer)?)
    }

    /// Somebody new.
    fn member(&self, subject: Label, permissions: Permissions) -> anyhow::Result<Arc<Member>> {
        let folder = self.folder.path().join(subject.as_str());
        fs::create_dir(&folder)?;
        let files = Files::beside(&folder.join("config.toml"));
        let profile = Profile::new(subject.as_str(), "", "Contoso", "contoso.com")?;
        let request = files.request(profile.clone()).map_err(said)?;
        let now = unix_s();
        let credential = Credential {
            issuer: self.issuer.id(),
            serial: Random::system().bytes(),
            node: request.node,
            subject,
            profile,
            picture: None,
            permissions,
            scopes: vec![Scope::Everyone],
            issued: now,
            expires: now + LIFE_S,
        };
        let credential = Signed::new(credential, &self.issuer)?;
        let device = None;
        let membership = Membership::new(Papers { credential, device }, self.signed()?)?;
        files.take_bytes(&membership.to_bytes()).map_err(said)?;
        let member = files.member().map_err(said)?;
        Ok(Arc::new(member.context("papers that were just taken")?))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(failure: remora::error::Failure) -> anyhow::Error {
    anyhow!("{failure}")
}

fn helper(number: usize) -> anyhow::Result<Label> {
    Ok(format!("helper-{number}").parse()?)
}

/// Measures and prints. Says why the measurement is not valid.
///
/// # Errors
/// When there is no measurement.
pub fn run(args: &Args) -> anyhow::Result<Option<String>> {
    let bench = Bench::spread_out(args.json)?;
    let found = unless_interrupted(&bench.runtime, measure(args, &bench))?;
    bench.print(|| found.json(args, &bench), || found.table(args))?;
    Ok(found.fault())
}

async fn measure(args: &Args, bench: &Bench) -> anyhow::Result<Found> {
    let capacity = Capacity {
        nodes: args.nodes + 2 * args.sessions + 1,
        sessions: args.sessions,
        workers: None,
        session_rate: SessionRate::Ordinary,
    };
    let mut fleet = Fleet::new(args.relays > 1, None, capacity, &bench.cores)?;
    fleet.grow(args.relays)?;
    fleet.whole(MEET).await?;
    let relays = fleet.addresses();
    let relay = |number: usize| &relays[number % relays.len()];
    let mut office = Office::found(args.sessions)?;

    bench.progress.show("members come");
    let (mut members, mut nodes) = (Vec::new(), Vec::new());
    for number in 0..args.nodes {
        let member = office.member(format!("member-{number}").parse()?, Permissions::NONE)?;
        nodes.push(
            connect(relay(number), &member)
                .await
                .map_err(|why| anyhow!(why))?,
        );
        members.push(member);
    }
    let mut sides = JoinSet::new();
    for number in 0..args.sessions {
        bench
            .progress
            .show(&format!("sessions {number}/{}", args.sessions));
        let helper = office.member(helper(number)?, Permissions::GUEST)?;
        let sharer = office.member(format!("sharer-{number}").parse()?, Permissions::NONE)?;
        let at = [relay(number), relay(number + 1)];
        let pair = session(at, [&helper, &sharer]).await;
        for side in pair.map_err(|step| anyhow!("no session begins: {step}"))? {
            sides.spawn(over(side));
        }
        members.extend([helper, sharer]);
    }
    let admin = Node::connect(relay(0), Options::relay_only()).await;
    let admin = admin.map_err(said)?;
    let mut found = Found {
        effect: Latencies::new()?,
        ended: Latencies::new()?,
        reasons: BTreeMap::new(),
        missing: 0,
    };

    bench.progress.show("a policy is brought");
    office.policy.header.number += 1;
    office.policy.settings.set(Setting::CodeSeconds, 60);
    let began = bring(&admin, &office).await?;
    let number = office.policy.header.number;
    let mut waiting: JoinSet<_> = members
        .into_iter()
        .map(|member| timeout(PATIENCE, holds(member, number)))
        .collect();
    while let Some(held) = waiting.join_next().await {
        match held? {
            Ok(at) => found.effect.record(at.duration_since(began)),
            Err(_) => found.missing += 1,
        }
    }
    ensure!(
        sides.try_join_next().is_none(),
        "a session has ended by itself"
    );

    bench.progress.show("helpers are revoked");
    office.policy.header.number += 1;
    for number in 0..args.sessions {
        office.policy.revoked.subjects.insert(helper(number)?);
    }
    let began = bring(&admin, &office).await?;
    while let Some(side) = sides.join_next().await {
        match side? {
            Some((at, reason)) => {
                found.ended.record(at.duration_since(began));
                *found.reasons.entry(reason.name()).or_default() += 1;
            }
            None => found.missing += 1,
        }
    }
    for node in nodes {
        node.close().await;
    }
    admin.close().await;
    Ok(found)
}

async fn connect(relay: &RelayAddr, member: &Arc<Member>) -> Result<Node, String> {
    let options = Options {
        member: Some(Arc::clone(member)),
        only_named: true,
        ..Options::relay_only()
    };
    Node::connect(relay, options).await.map_err(name)
}

/// What an administrator does; when it was begun.
async fn bring(admin: &Node, office: &Office) -> anyhow::Result<Instant> {
    let signed = office.signed()?;
    let began = Instant::now();
    admin.control().put_policy(signed.bytes()).await?;
    Ok(began)
}

/// When the node goes by the policy of that number, or by a later one.
async fn holds(member: Arc<Member>, number: u64) -> Instant {
    while member.policy().header.number < number {
        tokio::time::sleep(GLANCE).await;
    }
    Instant::now()
}

/// When and why a side's session has ended; none, if it has not.
async fn over(mut side: Running) -> Option<(Instant, EndReason)> {
    let ended = until(&mut side, 3 * PATIENCE, "ENDED", |event| match event {
        Event::Session(SessionEvent::Ended(receipt)) => Some((Instant::now(), receipt.reason)),
        _ => None,
    });
    ended.await.ok()
}

/// A helper sees a sharer's screen.
async fn session(
    [helpers, sharers]: [&RelayAddr; 2],
    [helper, sharer]: [&Arc<Member>; 2],
) -> Result<[Running; 2], String> {
    let identity = |member: &Arc<Member>| Identity {
        profile: member.papers().credential.profile.clone(),
        member: Some(Arc::clone(member)),
        portrait: None,
    };
    let inviting = connect(helpers, helper).await?;
    let mut inviting = inviting.invite(identity(helper), LIFETIME);
    let code = until(&mut inviting, STEP, "CODE", |event| match event {
        Event::Code { code, .. } => Some(code.clone()),
        _ => None,
    });
    let code = code.await?.parse().map_err(|_| "CODE".to_owned())?;
    let mut joining = connect(sharers, sharer).await?;
    let introduced = joining.try_code(code).await.map_err(name)?;
    let mut joining = joining.join(introduced, identity(sharer), Desktop::None);
    let trust =
        |event: &Event| matches!(event, Event::Session(SessionEvent::Trust { .. })).then_some(());
    until(&mut joining, STEP, "TRUST", trust).await?;
    until(&mut inviting, STEP, "TRUST", trust).await?;
    wish(&inviting, Command::AskMode(Mode::View)).await?;
    let asked = |event: &Event| {
        matches!(event, Event::Session(SessionEvent::ConsentPrompt { .. })).then_some(())
    };
    until(&mut joining, STEP, "CONSENT", asked).await?;
    wish(&joining, Command::Allow(Mode::View)).await?;
    let live =
        |event: &Event| matches!(event, Event::Session(SessionEvent::Started { .. })).then_some(());
    until(&mut joining, STEP, "LIVE", live).await?;
    until(&mut inviting, STEP, "LIVE", live).await?;
    Ok([inviting, joining])
}

impl Found {
    fn fault(&self) -> Option<String> {
        let limit = u64::try_from(LIMIT.as_micros()).unwrap_or(u64::MAX);
        let is_late = |all: &Latencies| all.max_us().is_some_and(|max| max > limit);
        let others = self.reasons.keys();
        let others = others.filter(|reason| **reason != EndReason::AdminEnded.name());
        if self.missing > 0 {
            Some(format!("{} nodes noticed nothing", self.missing))
        } else if others.count() > 0 {
            let reasons = report::reasons(&self.reasons);
            Some(format!("sessions ended for other reasons: {reasons}"))
        } else {
            let is_late = is_late(&self.effect) || is_late(&self.ended);
            is_late.then(|| "it took more than ten seconds".to_owned())
        }
    }

    fn json(&self, args: &Args, bench: &Bench) -> Value {
        let mut object = report::fleet_base("policy", 0, bench.began.elapsed());
        report::set(
            &mut object,
            json!({
                "relays": args.relays,
                "nodes": self.effect.count(),
                "sessions": args.sessions,
                "missing": self.missing,
                "effect_us": self.effect.json(),
                "ended_us": self.ended.json(),
                "end_reasons": report::failures(&self.reasons),
            }),
        );
        object
    }

    fn table(&self, args: &Args) -> String {
        let mut text = format!(
            "policy · {} relays · {} sessions\n\n{:<34}{:>8}{:>10}{:>10}\n",
            args.relays, args.sessions, "", "of", "p50 ms", "max ms"
        );
        for (what, all) in [
            ("a new policy in force", &self.effect),
            ("a revoked helper's session over", &self.ended),
        ] {
            let us = [all.quantile_us(0.5), all.max_us()];
            let [p50, max] = us.map(|us| float(us.unwrap_or_default()) / 1e3);
            let count = all.count();
            text += &format!("{what:<34}{count:>8}{p50:>10.1}{max:>10.1}\n");
        }
        text += &format!("ended for: {}", report::reasons(&self.reasons));
        text
    }
}
