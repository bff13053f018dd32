//! An organisation with the real binaries: one step each for the person and who signs, cards that are verified, and what a helper may
//! not do.

#[path = "support/contoso.rs"]
mod contoso;
mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    sync::Arc,
    time::Duration,
};

use contoso::{Scene, done, told};
use remora::{
    identity::{Files, Member, unix_s},
    node::{Node, Options},
};
use remora_proto::{
    id::RelayAddr,
    identity::Profile,
    org::{
        credential::Credential,
        membership::{Membership, Papers},
        permission::Permissions,
        policy::Policy,
        setting::Setting,
        signed::{Issuer, Signed},
    },
};
use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Home, REMORA, RelayProcess, Script, run},
};

/// From a change of policy to the end of a session that it does not permit.
const EFFECT_LIMIT: Duration = Duration::from_secs(10);

/// Both sides end for that reason, and are not permitted.
#[track_caller]
fn end_not_permitted(mut scripts: [Script; 2], reason: &str) {
    for script in &mut scripts {
        let ended = script.expect("ended");
        assert_eq!(ended["end_reason"], reason, "{ended}");
        assert_eq!(script.end(PATIENCE).code, Some(6));
    }
}

#[test]
fn c_1_both_see_a_card_that_the_organisation_has_signed() {
    let scene = Scene::enrolled("help-desk-operator");
    let (mut helper, mut sharer, at_helper, at_sharer) = scene.introduced();
    for (told, name) in [(&at_helper, "Maria Lopez"), (&at_sharer, "Sam Okafor")] {
        let card = &told["peer"];
        assert_eq!(card["full_name"], name);
        assert_eq!(card["company"], "Contoso");
        assert_eq!(card["domain"], "contoso.com");
        assert_eq!(card["verified"], true);
        assert_eq!(told["warnings"], json!([]));
        assert_eq!(told["permitted"]["mode"], "control");
    }
    helper.say("c");
    assert_eq!(sharer.expect("consent_prompt")["mode"], "control");
    helper.expect("awaiting_consent");
    sharer.say("a");
    assert_eq!(sharer.expect("started")["mode"], "control");
}

#[test]
fn e_9_what_a_role_does_not_permit_is_said_and_never_reaches_the_sharer() {
    let scene = Scene::enrolled("viewer");
    let (mut helper, mut sharer, at_helper, _) = scene.introduced();
    assert_eq!(at_helper["permitted"]["mode"], "view");
    assert_eq!(
        at_helper["permitted"]["permissions"],
        json!(["view", "offer", "connector"])
    );
    helper.say("c");
    let refused = helper.expect("not_possible");
    assert_eq!(refused["code"], "MODE_NOT_PERMITTED");
    helper.say("v");
    assert_eq!(sharer.expect("consent_prompt")["mode"], "view");
}

/// In a session of mode control; what comes of asking for an administrator's rights.
fn asks_for_elevation(scene: &Scene) -> Value {
    let (mut helper, mut sharer, ..) = scene.introduced();
    helper.say("c");
    sharer.expect("consent_prompt");
    helper.expect("awaiting_consent");
    sharer.say("a");
    sharer.expect("started");
    helper.expect("started");
    helper.say("/elevate");
    helper.expect("refused")
}

#[test]
fn d_3_an_organisation_blocks_elevation() {
    let scene = Scene::enrolled("help-desk-operator");
    assert_eq!(asks_for_elevation(&scene)["code"], "UNSUPPORTED");
    done(scene.org(&["policy", "block-elevation=on"]));
    for (home, name, role) in [
        (&scene.sam, "Sam Okafor", "help-desk-operator"),
        (&scene.maria, "Maria Lopez", "member"),
    ] {
        scene.enrol(home, name, &["--role", role, "--device", "fin-lt-0231"]);
    }
    let refused = asks_for_elevation(&scene);
    assert_eq!(refused["code"], "ELEVATION_BLOCKED_BY_POLICY");
}

/// Whoever has it is told what that computer lacks (`d_3_an_organisation_blocks_elevation`), for there is no broker.
#[test]
fn d_4_a_credential_for_control_gets_control_and_no_elevation() {
    let scene = Scene::new();
    done(scene.org(&["role", "operator", "control", "offer", "connector"]));
    for (home, name, role) in [
        (&scene.sam, "Sam Okafor", "operator"),
        (&scene.maria, "Maria Lopez", "member"),
    ] {
        scene.enrol(home, name, &["--role", role, "--device", "fin-lt-0231"]);
    }
    assert_eq!(asks_for_elevation(&scene)["code"], "NO_PERMISSION");
}

#[test]
fn a_3_who_has_no_papers_helps_nobody_in_an_organisation() {
    let scene = Scene::new();
    scene.enrol(&scene.maria, "Maria Lopez", &["--role", "member"]);
    let (helper, sharer) = scene.connected();
    end_not_permitted([helper, sharer], "ORG_MISMATCH");
}

#[test]
fn c_9_an_unenrolled_device_is_helped_where_that_is_allowed_with_a_warning() {
    let scene = Scene::new();
    scene.enrol(&scene.sam, "Sam Okafor", &["--role", "help-desk-operator"]);
    let (helper, sharer) = scene.connected();
    end_not_permitted([helper, sharer], "UNENROLLED_NOT_ALLOWED");

    done(scene.org(&["policy", "allow-unenrolled=on"]));
    scene.enrol(&scene.sam, "Sam Okafor", &["--role", "help-desk-operator"]);
    let (_helper, _sharer, at_helper, at_sharer) = scene.introduced();
    assert_eq!(at_helper["warnings"][0]["code"], "UNENROLLED");
    assert_eq!(at_helper["peer"]["verified"], false);
    assert_eq!(
        at_sharer["peer"]["verified"], false,
        "Maria knows no issuer"
    );
}

#[test]
fn c_8_a_device_that_fails_policy_is_warned_of() {
    let scene = Scene::enrolled("help-desk-operator");
    let device = [
        "device",
        "fin-lt-0231",
        "--failing",
        "disk-encryption-off",
        "--json",
    ];
    let file = told(scene.org(&device))["file"].clone();
    let file = file.as_str().expect("a path");
    done(run(scene.maria.remora(&["setup", "--credential", file])));
    let (_helper, _sharer, at_helper, _) = scene.introduced();
    assert_eq!(at_helper["warnings"][0]["code"], "NONCOMPLIANT");
    let text = at_helper["warnings"][0]["text"].as_str().expect("text");
    assert!(text.contains("disk-encryption-off"), "{text}");
}

#[test]
fn a_3_help_is_off_until_it_is_switched_on() {
    let scene = Scene::enrolled("help-desk-operator");
    done(scene.org(&["policy", "code-seconds=60"]));
    scene.enrol(&scene.sam, "Sam Okafor", &["--role", "help-desk-operator"]);
    let mut helper = scene.start(&scene.sam, "invite", &[]);
    assert_eq!(helper.expect("code")["valid_s"], 60, "the policy's");
    drop(helper);
    done(scene.org(&["policy", "enabled=off"]));
    scene.enrol(&scene.sam, "Sam Okafor", &["--role", "help-desk-operator"]);
    let refused = run(scene
        .sam
        .remora(&["invite", "--relay", &scene.relay.address]));
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(refused.line().contains("DISABLED"), "{refused:?}");
    // What this computer knows of the policy is not the last word.
    let relay = &scene.relay.address;
    done(scene.org(&["policy", "enabled=on", "--relay", relay]));
    let mut helper = scene.start(&scene.sam, "invite", &[]);
    helper.expect("code");
}

/// Codes that can be joined there.
fn codes(relay: &RelayProcess) -> String {
    let mut tcp = TcpStream::connect(&relay.admin).expect("it listens");
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    tcp.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("an answer");
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix("remora_relay_locators "));
    line.expect("a figure").to_owned()
}

#[test]
fn t_01_there_is_a_code_for_who_may_help_and_for_others_the_reason_and_nothing_else() {
    let scene = Scene::new();
    for (name, permissions) in [
        ("watcher", &["view", "offer", "connector"][..]),
        ("nothing", &["offer", "connector"]),
        ("no-offer", &["control", "connector"]),
        ("no-connector", &["control", "offer"]),
    ] {
        done(scene.org(&[&["role", name], permissions].concat()));
    }
    let enrol = |subject: &str, role: &str| {
        let more = ["--subject", subject, "--role", role];
        scene.enrol(&scene.sam, "Sam Okafor", &more);
    };
    let refused = |command: Command, why: &str| {
        let ended = run(command);
        assert_eq!(ended.code, Some(6), "{ended:?}");
        let last: Value = serde_json::from_str(ended.stdout.last().expect("one")).expect("JSON");
        assert_eq!(last["code"], why, "{last}");
        let shown = ended
            .stdout
            .iter()
            .any(|line| line.contains("\"event\":\"code\""));
        assert!(!shown, "{ended:?}");
        assert_eq!(codes(&scene.relay), "0", "{why}");
    };
    let invite = ["invite", "--json", "--relay", &scene.relay.address];
    for role in ["member", "nothing", "no-offer", "no-connector"] {
        enrol(role, role);
        refused(scene.sam.remora(&invite), "NO_PERMISSION");
    }
    enrol("sam", "watcher");
    done(scene.org(&["policy", "enabled=off"]));
    enrol("sam", "watcher");
    refused(scene.sam.remora(&invite), "DISABLED");
    done(scene.org(&["policy", "enabled=on"]));
    enrol("sam", "watcher");
    let mut later = scene.sam.command("faketime");
    later.args(["-f", "+40d", REMORA]).args(invite);
    refused(later, "CREDENTIAL_EXPIRED");
    let mut helper = scene.start(&scene.sam, "invite", &[]);
    helper.expect("code");
    assert_eq!(codes(&scene.relay), "1");
}

#[test]
fn a_3_a_revoked_helpers_session_ends_within_ten_seconds_by_relay_and_by_file() {
    for by_relay in [true, false] {
        let scene = Scene::enrolled("help-desk-operator");
        let (mut helper, mut sharer, ..) = scene.introduced();
        helper.say("v");
        sharer.expect("consent_prompt");
        helper.expect("awaiting_consent");
        sharer.say("a");
        for script in [&mut sharer, &mut helper] {
            script.expect("started");
        }
        if by_relay {
            done(scene.org(&["revoke", "sam.okafor", "--relay", &scene.relay.address]));
        } else {
            done(scene.org(&["revoke", "sam.okafor"]));
            // The policy comes with whatever is signed next for her computer.
            let file = told(scene.org(&["device", "fin-lt-0231", "--json"]))["file"].clone();
            let file = file.as_str().expect("a path");
            done(run(scene.maria.remora(&["setup", "--credential", file])));
        }
        for script in [&mut sharer, &mut helper] {
            let ended = loop {
                let event = script.event(EFFECT_LIMIT);
                if event["event"] == "ended" {
                    break event;
                }
            };
            assert_eq!(ended["end_reason"], "ADMIN_ENDED");
        }
        if by_relay {
            // His own computer was told, too.
            let refused = run(scene
                .sam
                .remora(&["invite", "--relay", &scene.relay.address]));
            assert!(refused.line().contains("NO_PERMISSION"), "{refused:?}");
            continue;
        }
        // Nor does anybody let him in again.
        let (mut helper, mut sharer) = scene.connected();
        for script in [&mut sharer, &mut helper] {
            assert_eq!(script.expect("ended")["end_reason"], "AUTH_FAILED");
        }
    }
}

#[test]
fn t_32_an_administrator_ends_the_session_whose_name_is_read_out_and_no_other() {
    let scene = Scene::enrolled("help-desk-operator");
    let why = "the shift is over";
    for is_active in [true, false] {
        // The policy ends another session of the same two, by now.
        let (mut helper, mut sharer, at_helper, at_sharer) = scene.introduced();
        let name = at_helper["session"].as_str().expect("text");
        assert_eq!(at_sharer["session"], name);
        if is_active {
            helper.say("v");
            sharer.expect("consent_prompt");
            helper.expect("awaiting_consent");
            sharer.say("a");
            for script in [&mut sharer, &mut helper] {
                script.expect("started");
            }
            let shown = told(run(scene.maria.remora(&["sessions", "--json"])));
            assert_eq!(shown["sessions"][0]["session"], name, "{shown}");
        }
        let end = ["end-session", name, "--reason", why];
        done(scene.org(&[&end[..], &["--relay", &scene.relay.address]].concat()));
        for script in [&mut sharer, &mut helper] {
            let ended = loop {
                let event = script.event(EFFECT_LIMIT);
                if event["event"] == "ended" {
                    break event;
                }
            };
            assert_eq!(ended["end_reason"], "ADMIN_ENDED", "{ended}");
            assert_eq!(ended["why"], why);
            assert_eq!(script.end(PATIENCE).code, Some(6));
        }
        let again = scene.org(&end);
        assert_eq!(again.code, Some(2), "{again:?}");
    }
    let shown = told(scene.org(&["show", "--json"]));
    assert_eq!(shown["ended"].as_array().map(Vec::len), Some(2), "{shown}");
    let refused = scene.org(&["end-session", "4060-r0gx"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.line().contains("remora sessions"), "{refused:?}");
}

#[test]
fn a_3_a_relay_that_keeps_the_policy_back_is_noticed_after_a_day() {
    let scene = Scene::of_yesterday("30");
    // What is signed today, that relay is not told, or does not tell.
    done(scene.org(&["revoke", "sam.okafor"]));
    let (_helper, _sharer, at_helper, at_sharer) = scene.introduced();
    for told in [&at_helper, &at_sharer] {
        let warnings = told["warnings"].as_array().expect("a list");
        let codes: Vec<_> = warnings.iter().map(|warning| &warning["code"]).collect();
        assert_eq!(codes, ["POLICY_STALE"], "{told}");
    }
}

#[test]
fn a_3_a_policy_that_is_kept_back_for_too_long_lets_nobody_help() {
    let scene = Scene::of_yesterday("1");
    let refused = run(scene
        .sam
        .remora(&["invite", "--relay", &scene.relay.address]));
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(refused.line().contains("POLICY_EXPIRED"), "{refused:?}");
}

/// A member that nobody drives.
fn member(home: &Home, issuer: &Issuer, policy: &Signed<Policy>) -> Arc<Member> {
    let files = Files::beside(&home.path().join("config.toml"));
    let profile = Profile::new("Jo", "", "Contoso", "contoso.com").expect("a profile");
    let request = files.request(profile.clone()).expect("a key");
    let credential = Credential {
        issuer: issuer.id(),
        serial: [1; 16],
        node: request.node,
        subject: "jo".parse().expect("a label"),
        profile,
        picture: None,
        permissions: Permissions::NONE,
        scopes: Vec::new(),
        issued: unix_s(),
        expires: unix_s() + 3600,
    };
    let credential = Signed::new(credential, issuer).expect("signed");
    let device = None;
    let membership = Membership::new(Papers { credential, device }, policy.clone());
    let file = home.path().join("papers");
    fs::write(&file, membership.expect("one organisation").to_bytes()).expect("written");
    files.take(&file).expect("ours");
    Arc::new(files.member().expect("readable").expect("there"))
}

async fn node_of(member: &Arc<Member>, relay: &RelayProcess) -> Node {
    let options = Options {
        member: Some(Arc::clone(member)),
        ..Options::relay_only()
    };
    let address: RelayAddr = relay.address.parse().expect("an address");
    Node::connect(&address, options).await.expect("connected")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_3_a_policy_takes_effect_at_all_of_fifty_nodes_within_ten_seconds() {
    const NODES: usize = 50;
    let issuer = Issuer::from_bytes(&[7; 32]);
    let now = unix_s();
    let mut policy = Policy::first(issuer.id(), "Contoso", "contoso.com", now, now + 3600);
    let first = Signed::new(policy.clone(), &issuer).expect("signed");
    policy.header.number = 2;
    policy.settings.set(Setting::Enabled, 1);
    let second = Signed::new(policy, &issuer).expect("signed");
    let relay = RelayProcess::start(&[]);
    let homes: Vec<_> = (0..NODES).map(|_| Home::new()).collect();
    let members: Vec<_> = homes
        .iter()
        .map(|home| member(home, &issuer, &first))
        .collect();
    let mut nodes = Vec::new();
    for member in &members {
        nodes.push(node_of(member, &relay).await);
    }
    let address = relay.address.parse().expect("an address");
    let admin = Node::connect(&address, Options::relay_only()).await;
    let admin = admin.expect("connected");
    let everywhere = async |members: &[Arc<Member>]| {
        while members.iter().any(|member| member.policy() != second) {
            tokio::task::yield_now().await;
        }
    };
    let put = admin.control().put_policy(second.bytes());
    put.await.expect("taken");
    let in_time = tokio::time::timeout(EFFECT_LIMIT, everywhere(&members)).await;
    in_time.expect("everywhere in time");
    // It is written down, too: nobody goes back to the first one.
    for home in &homes {
        let files = Files::beside(&home.path().join("config.toml"));
        let read = files.member().expect("readable").expect("there");
        assert_eq!(read.policy(), second);
    }
    // A relay that knows nothing is told by whoever comes, and tells who was there before.
    let other = RelayProcess::start(&[]);
    let home = Home::new();
    let late = [member(&home, &issuer, &first)];
    nodes.push(node_of(&late[0], &other).await);
    nodes.push(node_of(&members[0], &other).await);
    let brought = tokio::time::timeout(EFFECT_LIMIT, everywhere(&late)).await;
    brought.expect("brought along");
    nodes.push(admin);
    for node in nodes {
        node.close().await;
    }
}

#[test]
fn a_4_papers_are_worth_nothing_without_their_key() {
    let scene = Scene::enrolled("help-desk-operator");
    let thief = Home::new();
    // The thief has a key of its own.
    done(run(thief.remora(&["setup", "--request"])));
    let of = |home: &Home| home.path().join("config/remora/config.papers");
    fs::copy(of(&scene.sam), of(&thief)).expect("copied");
    let refused = run(thief.remora(&["invite", "--relay", &scene.relay.address]));
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert!(refused.line().contains("PAPERS_REFUSED"), "{refused:?}");
}

#[test]
fn a_3_an_older_policy_does_not_come_back_with_older_papers() {
    let scene = Scene::enrolled("help-desk-operator");
    let papers = scene.maria.path().join("config/remora/config.papers");
    let old = scene.maria.path().join("old.remora");
    fs::copy(&papers, &old).expect("copied");
    done(scene.org(&["revoke", "sam.okafor"]));
    let file = told(scene.org(&["device", "fin-lt-0231", "--json"]))["file"].clone();
    done(run(scene.maria.remora(&[
        "setup",
        "--credential",
        file.as_str().expect("a path"),
    ])));
    let old = old.display().to_string();
    done(run(scene.maria.remora(&["setup", "--credential", &old])));
    let (helper, sharer) = scene.connected();
    for script in &mut [sharer, helper] {
        assert_eq!(script.expect("ended")["end_reason"], "AUTH_FAILED");
    }
}

#[test]
fn an_organisations_key_is_made_once_for_one_person_and_shown_to_nobody() {
    let scene = Scene::new();
    let again = scene.org(&["init", "--name", "Other", "--domain", "other.example"]);
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.line().contains("never overwritten"), "{again:?}");
    let key = scene.admin.path().join("config/remora/org/issuer.key");
    let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("ours");
    assert_eq!(
        fs::metadata(&key).expect("there").permissions().mode() & 0o777,
        0o600
    );
    mode(0o644);
    let refused = scene.org(&["show"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.line().contains("chmod 600"), "{refused:?}");
    mode(0o600);
    let shown = told(scene.org(&["show", "--json"]));
    assert_eq!(
        (&shown["domain"], &shown["policy"]),
        (&json!("contoso.com"), &json!(2))
    );
    assert_eq!(shown["settings"]["enabled"], "on");
}

#[test]
fn every_verb_changes_the_policy_and_says_what_is_wrong() {
    let scene = Scene::new();
    let other = Home::new();
    let init = [
        "admin",
        "org",
        "init",
        "--name",
        "Fabrikam",
        "--domain",
        "fabrikam.com",
        "--json",
    ];
    let fabrikam = told(run(other.remora(&init)))["id"].clone();
    let fabrikam = fabrikam.as_str().expect("text");
    for args in [
        &["role", "tier-2", "elevation", "offer", "connector"][..],
        &[
            "assign",
            "jo",
            "tier-2",
            "--scope",
            "group:finance",
            "--scope",
            "user:maria",
        ],
        &["group", "finance", "--user", "maria", "--device", "fin-1"],
        &[
            "trust",
            fabrikam,
            "--domain",
            "fabrikam.com",
            "--permission",
            "view",
        ],
        &["policy", "consent-seconds=120", "--days", "7"],
        &["revoke", "kim"],
    ] {
        done(scene.org(args));
    }
    let shown = told(scene.org(&["show", "--json"]));
    assert_eq!(shown["policy"], 8);
    assert_eq!(
        shown["roles"]["tier-2"],
        json!(["view", "control", "elevation", "offer", "connector"])
    );
    assert_eq!(
        shown["assignments"],
        json!([{"subject": "jo", "role": "tier-2", "scopes": ["group:finance", "user:maria"]}])
    );
    assert_eq!(
        shown["groups"],
        json!([{"name": "finance", "users": ["maria"], "devices": ["fin-1"]}])
    );
    assert_eq!(shown["trusts"][0]["domain"], "fabrikam.com");
    assert_eq!(shown["settings"]["consent-seconds"], "120");
    assert_eq!(shown["revoked"], json!(["kim"]));
    for (args, holds) in [
        (&["policy", "enabled=maybe"][..], "on or off"),
        (&["assign", "jo", "boss"], "no role"),
        (
            &[
                "trust",
                shown["id"].as_str().expect("text"),
                "--domain",
                "x.example",
            ],
            "your own",
        ),
        (
            &["sign", "remora-request:x", "--role", "member"],
            "remora setup --request",
        ),
    ] {
        let refused = scene.org(args);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.line().contains(holds), "{holds:?} in {refused:?}");
    }
    assert_eq!(told(scene.org(&["show", "--json"]))["policy"], 8);
    for args in [
        &["role", "tier-2", "--remove"][..],
        &["group", "finance", "--remove"],
        &["trust", fabrikam, "--remove"],
        &["revoke", "kim", "--undo"],
    ] {
        done(scene.org(args));
    }
    let shown = told(scene.org(&["show", "--json"]));
    for gone in ["assignments", "groups", "trusts", "revoked"] {
        assert_eq!(shown[gone], json!([]), "{gone}");
    }
}

/// Maria's device, with its agent.
fn agent(scene: &Scene) -> (Script, String) {
    let mut agent = scene.start(&scene.maria, "agent", &[]);
    let device = agent.expect("device")["device"].clone();
    agent.expect("online");
    (agent, device.as_str().expect("text").to_owned())
}

#[test]
fn n_4_a_device_that_fails_policy_is_warned_of_before_the_notification_and_can_be_helped() {
    let scene = Scene::enrolled("help-desk-operator");
    let device = ["device", "fin-lt-0231", "--failing", "antivirus-off"];
    let file = told(scene.org(&[&device[..], &["--json"]].concat()))["file"].clone();
    let file = file.as_str().expect("a path");
    done(run(scene.maria.remora(&["setup", "--credential", file])));
    let (mut agent, id) = agent(&scene);
    let mut helper = scene.start(&scene.sam, "invite", &["--device", &id]);
    assert_eq!(helper.expect("notification")["state"], "sent");
    let device = helper.expect("device");
    assert_eq!(device["warnings"][0]["code"], "NONCOMPLIANT", "{device}");
    assert_eq!(device["name"], "fin-lt-0231");
    assert_eq!(device["peer"]["verified"], true);
    assert_eq!(helper.expect("notification")["state"], "delivered");
    let offered = agent.expect("invitation");
    assert_eq!(offered["from"]["verified"], true, "{offered}");
    let listed = told(run(scene.maria.remora(&["inbox", "--json"])));
    assert_eq!(listed["invitations"][0]["id"], offered["id"]);
}

#[test]
fn e_3_a_device_is_invited_by_the_name_that_its_organisation_has_signed() {
    let scene = Scene::enrolled("help-desk-operator");
    // Sam's policy is older than her device; that of the relay, to which she brings hers, is not.
    let (mut agent, id) = agent(&scene);
    let mut helper = scene.start(&scene.sam, "invite", &["--device", "fin-lt-0231"]);
    assert_eq!(helper.expect("notification")["state"], "sent");
    assert_eq!(helper.expect("device")["name"], "fin-lt-0231");
    agent.expect("invitation");
    drop(helper);
    let shown = told(scene.org(&["show", "--json"]));
    assert_eq!(shown["devices"]["fin-lt-0231"], id.as_str());
    let unknown = run(scene.remora(
        &scene.sam,
        &[
            "invite",
            "--device",
            "fin-lt-9",
            "--relay",
            &scene.relay.address,
        ],
    ));
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.line().contains("UNKNOWN_DEVICE"), "{unknown:?}");
    // Another computer that was enrolled under her device's name is not that device any more than it can show.
    let eve = Home::new();
    scene.enrol(&eve, "Eve", &["--role", "member", "--device", "kiosk-1"]);
    let papers = |home: &Home| home.path().join("config/remora/config.papers");
    let kept = fs::read(papers(&eve)).expect("papers");
    scene.enrol(
        &eve,
        "Eve",
        &["--role", "member", "--device", "fin-lt-0231"],
    );
    fs::write(papers(&eve), kept).expect("ours");
    scene.enrol(&scene.sam, "Sam Okafor", &["--role", "help-desk-operator"]);
    let mut other = scene.start(&eve, "agent", &[]);
    other.expect("device");
    other.expect("online");
    let ended = scene
        .start(&scene.sam, "invite", &["--device", "fin-lt-0231"])
        .end(PATIENCE);
    assert_eq!(ended.code, Some(7), "{ended:?}");
    assert!(ended.line().contains("DEVICE_MISMATCH"), "{ended:?}");
}

#[test]
fn t_02e_a_device_says_why_a_helper_may_not_invite_it() {
    let scene = Scene::enrolled("viewer");
    let (_agent, id) = agent(&scene);
    let refused = |home: &Home, more: &[&str]| {
        let more = [&["--device", &id][..], more].concat();
        let ended = scene.start(home, "invite", &more).end(PATIENCE);
        assert_eq!(ended.code, Some(6), "{ended:?}");
        let error: Value = serde_json::from_str(ended.stdout.last().expect("one")).expect("JSON");
        error["code"].as_str().expect("text").to_owned()
    };
    for mode in ["control", "unattended"] {
        assert_eq!(refused(&scene.sam, &["--mode", mode]), "NO_PERMISSION");
    }
    // Who has no papers is nobody there.
    assert_eq!(refused(&Home::new(), &[]), "ORG_MISMATCH");
    // What a helper's own organisation does not allow is not even asked.
    done(scene.org(&["policy", "enabled=off"]));
    scene.enrol(&scene.sam, "Sam Okafor", &["--role", "viewer"]);
    assert_eq!(refused(&scene.sam, &[]), "DISABLED");
    let alone = run(scene.sam.remora(&["invite", "--mode", "unattended"]));
    assert!(alone.line().contains("--device"), "{alone:?}");
    let off = run(Home::new().remora(&[
        "agent",
        "--unattended",
        "on",
        "--relay",
        &scene.relay.address,
    ]));
    assert_eq!(off.code, Some(6), "{off:?}");
    assert!(off.line().contains("UNENROLLED_NOT_ALLOWED"), "{off:?}");
}

#[test]
fn t_08u_what_nobody_attends_is_helped_only_where_its_person_has_said_so() {
    let scene = Scene::enrolled("unattended-operator");
    let (mut agent, id) = agent(&scene);
    let more = ["--device", &id, "--mode", "unattended"];
    let ended = scene.start(&scene.sam, "invite", &more).end(PATIENCE);
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.line().contains("PREREQ_MISSING"), "{ended:?}");
    assert!(ended.line().contains("--unattended on"), "{ended:?}");
    // Whoever is there can still be asked.
    let mut helper = scene.start(&scene.sam, "invite", &["--device", &id]);
    agent.expect("invitation");
    helper.expect("notification");
}
