//! From end to end, with everything real: a relay, an organisation's desk and a certified provider, agents on two displays, desktops that
//! show notifications, Chromium, the root broker. Only logind is none: it writes down what it is asked.

#![allow(clippy::unwrap_used, reason = "what fails here has failed the test")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/company.rs"]
mod company;
#[path = "support/desktop.rs"]
mod desktop;
#[path = "support/display.rs"]
mod display;
#[path = "support/logind.rs"]
mod logind;
#[path = "support/office.rs"]
mod office;
mod support;

use std::fs;

use broker::{Administrator, Broker, PASSWORD, remembers};
use company::{Company, Hands, SIZE};
use display::{Client, eventually, is_dark, press_local_key};
use logind::Logind;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Script, run},
};

/// Slate: of nothing else on the screen.
const GROUND: (&str, [u8; 3]) = ("#2f4f5f", [0x2f, 0x4f, 0x5f]);

/// Goes on to this state of the notification.
fn notified(script: &mut Script, state: &str) -> Value {
    loop {
        let event = script.until("notification");
        if event["state"] == state {
            return event;
        }
    }
}

#[test]
fn journey_of_an_invited_device() {
    let company = Company::new("help-desk-operator", &[]);
    let administrator = Administrator::new();
    let broker = Broker::start(company.maria.path(), &administrator.0);
    let logind = Logind::start(company.maria.path());
    let mut logins = [0, 1].map(|number| {
        let login = company.login(number).with("REMORA_BROKER", &broker.socket);
        login.with("DBUS_SYSTEM_BUS_ADDRESS", &logind.address)
    });
    let (mut first, id) = logins[0].agent(&company.maria, &[]);
    let (mut second, same) = logins[1].agent(&company.maria, &[]);
    assert_eq!(same, id);
    let ground = ["-solid", GROUND.0];
    logins[1].display.run("xsetroot", &ground).succeed();
    let (_terminal, typed) = logins[1].terminal();

    let invite = ["invite", "--device", &id, "--mode", "control", "--page"];
    let mut helper = company.helps(&[&invite[..], &["--reason", "TICKET-7"]].concat());
    let mut hands = Hands::new(&company.sam);
    let page = helper.expect("page");
    hands.open("sam", page["url"].as_str().unwrap());
    notified(&mut helper, "sent");
    assert_eq!(notified(&mut helper, "delivered")["agents"], 2);
    for login in &mut logins {
        let shown = login.desktop.hears("Notify");
        for text in ["Sam Okafor offers help", "Contoso", "TICKET-7"] {
            assert!(shown.contains(text), "{shown}");
        }
    }
    // One opens it; the other is asked no more.
    logins[1].desktop.press(&company.maria, 1, "open");
    for agent in [&mut first, &mut second] {
        assert_eq!(agent.until("invitation")["from"]["verified"], true);
    }
    second.expect("invitation_opened");
    assert_eq!(first.expect("invitation_withdrawn")["why"], "TAKEN");
    logins[0].desktop.hears("CloseNotification");

    // Both see who the other is, compare the words, and the sharer allows control.
    hands.open("maria", &logins[1].page());
    let trust = helper.until("trust");
    assert_eq!(
        (&trust["peer"]["full_name"], &trust["peer"]["verified"]),
        (&json!("Maria Lopez"), &json!(true))
    );
    assert_eq!(trust["alone"], false);
    for text in ["Sam Okafor", "IT Support"] {
        hands.sees("maria", text);
    }
    for word in trust["words"].as_array().unwrap() {
        hands.sees("maria", word.as_str().unwrap());
    }
    hands.click("maria", "They are the same");
    hands.picture("maria", "asked");
    hands.click("maria", "Allow");
    assert_eq!(helper.until("started")["mode"], "control");

    // What is on that screen, and none of the other, is on the page; what is typed there arrives here.
    hands.screen("sam", GROUND.1);
    hands.types("sam", "a letter from the page");
    eventually("the letter", || {
        let text = fs::read_to_string(&typed).ok();
        text.filter(|text| text == "a letter from the page\n")
    });
    let other = Client::new(&logins[0].display);
    assert!(other.windows().iter().all(|(.., title)| title != "Remora"));

    // An administrator's rights, from question to use, in the two browsers.
    hands.click("sam", "Elevate");
    hands.sees("maria", "asks for administrator rights");
    hands.picture("maria", "elevation");
    hands.click("maria", "Allow");
    helper.until("elevation_ready");
    hands.fill("sam", "Administrator of that computer", &administrator.0);
    hands.fill("sam", "Password", PASSWORD);
    hands.click("sam", "Confirm");
    assert_eq!(helper.until("credential_checked")["admitted"], true);
    hands.fill("sam", "Command to run as administrator", "id -u");
    hands.click("sam", "Run");
    assert_eq!(helper.until("run_output")["text"], "0\n");
    assert_eq!(helper.until("run_ended")["status"], 0);
    hands.sees("sam", "# id -u");
    hands.picture("sam", "administrator");
    hands.sees("maria", "has administrator rights on this computer");
    // It has been in the browser, and passed through the helper's program: nothing of it is left there.
    assert!(!remembers(helper.pid(), PASSWORD.as_bytes()));

    // Who leaves now is warned, and signed out.
    hands.click("maria", "Leave");
    hands.sees("maria", "you will be signed out");
    assert_eq!(logind.sign_outs(), 0);
    hands.click("maria", "Leave and sign out");
    let ended = helper.until("ended");
    assert_eq!(ended["end_reason"], "SHARER_LEFT_SIGNED_OUT");
    assert_eq!(helper.end(PATIENCE).code, Some(0));
    eventually("the sign-out", || (logind.sign_outs() > 0).then_some(()));
    assert_eq!(logind.sign_outs(), 1, "{:?}", logind.asked());
    for agent in [&mut first, &mut second] {
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.end(PATIENCE).code, Some(0));
    }
    assert_eq!(logind.sign_outs(), 1);
}

#[test]
fn journey_of_an_unattended_device() {
    // Time enough on a slow machine for whoever says no.
    let patient = ["unattended-seconds=120"];
    let company = Company::new("unattended-operator", &patient);
    let mut logins = [0, 1].map(|number| company.login(number));
    let unattended = ["--unattended", "on"];
    let (mut first, id) = logins[0].agent(&company.maria, &unattended);
    let (mut second, _) = logins[1].agent(&company.maria, &unattended);
    let clients = [0, 1].map(|number: usize| Client::new(&logins[number].display));
    let invite = ["invite", "--device", &id, "--mode", "unattended"];

    // Nobody has to be there; whoever is, at whichever screen, is told, and may say no.
    let mut helper = company.helps(&invite);
    notified(&mut helper, "delivered");
    let trust = helper.until("trust");
    assert_eq!(
        (&trust["peer"]["full_name"], &trust["alone"]),
        (&json!("Maria Lopez"), &json!(true))
    );
    for (login, agent) in logins.iter_mut().zip([&mut first, &mut second]) {
        let shown = login.desktop.hears("Notify");
        for text in ["Sam Okafor will connect to this computer", "Start now"] {
            assert!(shown.contains(text), "{shown}");
        }
        assert_eq!(agent.until("invitation")["kind"], "unattended");
    }
    // One helper at a time.
    let second_helper = company.helps(&invite).end(PATIENCE);
    assert_eq!(second_helper.code, Some(6), "{second_helper:?}");
    let line = second_helper.line();
    assert!(
        line.contains("LEASE_HELD") && line.contains("Sam Okafor"),
        "{line}"
    );
    let declined = run(logins[1].remora(&company.maria, &["inbox", "decline"]));
    assert_eq!(declined.code, Some(0), "{declined:?}");
    assert_eq!(helper.until("ended")["end_reason"], "DECLINED");
    assert_eq!(first.expect("invitation_withdrawn")["why"], "TAKEN");
    second.expect("invitation_declined");
    assert_eq!(helper.end(PATIENCE).code, Some(3));
    assert!(clients.iter().all(|client| !is_dark(client)));

    // Again; this time somebody lets it begin at once, at the other screen.
    let mut helper = company.helps(&invite);
    for agent in [&mut first, &mut second] {
        agent.until("invitation");
    }
    logins[1].desktop.hears("Notify");
    logins[1].desktop.press(&company.maria, 2, "open");
    second.expect("invitation_opened");
    first.expect("invitation_withdrawn");
    assert_eq!(helper.until("started")["mode"], "control");
    assert_eq!(helper.until("shield")["shield"], "shielded");
    eventually("darkness", || is_dark(&clients[0]).then_some(()));

    // Somebody touches it: both are frozen, and who works there is named.
    press_local_key(&clients[0]);
    let frozen = helper.until("shield");
    assert_eq!(
        (&frozen["shield"], &frozen["within_s"]),
        (&json!("frozen"), &json!(30))
    );
    let covers = |client: &Client| {
        let windows = client.windows();
        windows
            .iter()
            .any(|(_, rect, _)| (rect.width, rect.height) == SIZE)
    };
    eventually("the notice", || covers(&clients[0]).then_some(()));
    eventually("light to read it by", || {
        (!is_dark(&clients[0])).then_some(())
    });
    helper.say("/leave");
    let ended = helper.until("ended");
    assert_eq!(
        (&ended["end_reason"], &ended["consent"]),
        (&json!("HELPER_LEFT"), &json!("user"))
    );
    assert_eq!(helper.end(PATIENCE).code, Some(0));
    eventually("all as before", || {
        (!covers(&clients[0]) && !is_dark(&clients[0])).then_some(())
    });

    // The lease is free again; and free of an agent that was killed, whose session does not outlive it.
    let mut helper = company.helps(&invite);
    second.until("invitation");
    let opened = run(logins[1].remora(&company.maria, &["inbox", "open"]));
    assert_eq!(opened.code, Some(0), "{opened:?}");
    assert_eq!(helper.until("shield")["shield"], "shielded");
    first.signal(Signal::SIGKILL);
    helper.until("ended");
    eventually("light", || (!is_dark(&clients[0])).then_some(()));
    assert_eq!(second.until("device")["device"], json!(id));
    second.until("online");
    let mut helper = company.helps(&invite);
    notified(&mut helper, "delivered");
    assert_eq!(second.until("invitation")["kind"], "unattended");
    helper.signal(Signal::SIGTERM);
    helper.end(PATIENCE);
}

#[test]
fn journey_of_a_code_on_a_host_of_two() {
    let company = Company::new("help-desk-operator", &[]);
    let logins = [0, 1].map(|number| company.login(number));
    let (mut first, id) = logins[0].agent(&company.maria, &[]);
    let (mut second, same) = logins[1].agent(&company.maria, &[]);
    assert_eq!(same, id);
    logins[1]
        .display
        .run("xsetroot", &["-solid", GROUND.0])
        .succeed();
    let mut helper = company.helps(&["invite", "--mode", "view", "--page"]);
    let mut hands = Hands::new(&company.sam);
    hands.open("sam", helper.expect("page")["url"].as_str().unwrap());
    let code = helper.until("code")["code"].clone();
    let join = ["join", "--code-stdin", "--json"];
    let mut sharer = Script::start(logins[1].remora(&company.maria, &join));
    sharer.say(code.as_str().unwrap());
    sharer.until("consent_prompt");
    sharer.say("a");
    assert_eq!(helper.until("started")["mode"], "view");
    // Of the one who typed it, and nobody else's.
    hands.screen("sam", GROUND.1);
    let [other, shared] = [0, 1].map(|number: usize| Client::new(&logins[number].display));
    shared.expect_window("Remora");
    assert!(other.windows().iter().all(|(.., title)| title != "Remora"));
    for login in &logins {
        let inbox = run(login.remora(&company.maria, &["inbox"]));
        assert_eq!(inbox.stdout, ["no invitation"], "{inbox:?}");
    }
    let sessions = run(logins[0].remora(&company.maria, &["sessions", "--json"]));
    let listed: Value = serde_json::from_str(&sessions.stdout[0]).unwrap();
    assert_eq!(listed["sessions"], json!([]), "{listed}");
    sharer.say("/leave");
    assert_eq!(helper.until("ended")["end_reason"], "SHARER_LEFT");
    for (mut login, agent) in logins.into_iter().zip([&mut first, &mut second]) {
        agent.signal(Signal::SIGTERM);
        let said = agent.end(PATIENCE).stdout.join("\n");
        assert!(!said.contains("invitation"), "{said}");
        assert!(login.desktop.is_silent(), "no notification");
    }
}
