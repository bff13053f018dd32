//! The clipboards of two X displays, by a session between them; programs of neither of us copy and insert (xclip).

#[path = "support/display.rs"]
mod display;
mod support;

use std::{
    io::Write as _,
    process::{Command as Program, Stdio},
};

use display::Xvfb;
use remora::{
    event::Event,
    exchange::Told,
    node::{Node, Options},
    share::desktop::Desktop,
};
use remora_proto::{
    rendezvous::LIFETIME,
    session::{Command, Event as SessionEvent, Grants, Matter, Mode, Way},
};
use support::people::{Person, invites_with, joins_on, relay, start, within};
use tokio::task::spawn_blocking;

/// A person's own.
fn copy(display: &Xvfb, text: &str) {
    let mut copying = Program::new("xclip")
        .args(["-selection", "clipboard", "-in"])
        .env("DISPLAY", display.name())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("this test needs xclip");
    let mut stdin = copying.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("taken");
    drop(stdin);
    // It stays behind as the owner.
    assert!(copying.wait().expect("ends").success());
}

/// What a program gets to insert.
async fn insert(display: &Xvfb) -> Option<String> {
    let name = display.name();
    let inserting = spawn_blocking(move || {
        Program::new("timeout")
            .args([
                "20",
                "xclip",
                "-selection",
                "clipboard",
                "-out",
                "-target",
                "UTF8_STRING",
            ])
            .env("DISPLAY", name)
            .output()
            .expect("this test needs xclip")
    });
    let inserted = within("inserting", inserting).await.expect("no panic");
    let text = String::from_utf8(inserted.stdout).expect("UTF-8");
    inserted.status.success().then_some(text)
}

async fn offered(person: &mut Person) -> u32 {
    let bytes = |event: &Event| {
        if let Event::Exchange(Told::ClipboardOffered(bytes)) = event {
            Some(*bytes)
        } else {
            None
        }
    };
    person.until(bytes).await
}

async fn granted(person: &mut Person) {
    person
        .session(|event| matches!(event, SessionEvent::Granted(_)).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_here_can_be_inserted_there_while_it_is_granted() {
    let (here, there) = (Xvfb::start(320, 240), Xvfb::start(320, 240));
    let relay = relay();
    let options = Options {
        display: Some(here.name()),
        ..Options::relay_only()
    };
    let node = within("connecting", Node::connect(relay.address(), options));
    let (mut helper, code) = invites_with(node.await.expect("a relay"), "Sam", LIFETIME).await;
    let desktop = Desktop::X11(Some(there.name()));
    let joining = joins_on(relay.address(), "Maria", &code, desktop);
    let mut sharer = joining.await.expect("the code works");
    helper.trust().await;
    sharer.trust().await;
    start(&mut helper, &mut sharer, Mode::View).await;
    sharer.does(Command::SasChecked(true)).await;

    copy(&there, "copied before");
    let to_helper = Grants::of(Matter::Clipboard, Way::ToHelper);
    let grant = |grants, on| Command::Grant { grants, on };
    sharer.does(grant(to_helper, true)).await;
    assert_eq!(offered(&mut helper).await, 13);
    assert_eq!(insert(&here).await.as_deref(), Some("copied before"));
    // Longer than a property may be: it comes and goes in pieces.
    let long = "grüße ".repeat(100_000);
    copy(&there, &long);
    assert_eq!(offered(&mut helper).await, 800_000);
    assert!(insert(&here).await.is_some_and(|text| text == long));
    // The other way is not granted: what is copied here stays here.
    copy(&here, "mine");
    assert!(insert(&there).await.is_some_and(|text| text == long));
    let both = Grants::both(Matter::Clipboard);
    sharer.does(grant(both, true)).await;
    assert_eq!(offered(&mut sharer).await, 4);
    assert_eq!(insert(&there).await.as_deref(), Some("mine"));
    // What came is not offered back, and is gone with the grant.
    sharer.does(grant(both, false)).await;
    granted(&mut helper).await;
    assert_eq!(offered(&mut sharer).await, 0);
    assert_eq!(insert(&there).await, None);
}
