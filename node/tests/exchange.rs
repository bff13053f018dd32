//! Clipboard and files between two nodes of this process, through a relay of this process.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one thing among many"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use remora::{
    event::{Event, Input},
    exchange::{Folder, Told, Wish},
    node::{Node, Options},
};
use remora_proto::{
    exchange::files::{Over, Whose},
    id::RelayAddr,
    session::{Command, Event as SessionEvent, Grants, Matter, Mode, Refusal, Way},
};
use support::people::{Person, invites_with, joins_with, relay, start, within};
use tempfile::TempDir;

const TO_SHARER: Way = Way::ToSharer;

/// A helper and a sharer in a session, each with a folder.
struct Scene {
    helper: Person,
    sharer: Person,
    folders: [TempDir; 2],
    _relay: remora_relay::relay::Relay,
}

async fn node_into(relay: &RelayAddr, folder: &TempDir) -> Node {
    let options = Options {
        folder: Folder::from(folder.path().join("in")),
        ..Options::relay_only()
    };
    within("connecting", Node::connect(relay, options))
        .await
        .expect("a relay")
}

fn content(path: &Path) -> Vec<u8> {
    fs::read(path).expect("there")
}

fn granted(event: &SessionEvent) -> Option<Grants> {
    if let SessionEvent::Granted(grants) = event {
        Some(*grants)
    } else {
        None
    }
}

impl Scene {
    async fn new() -> Self {
        let relay = relay();
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let at = node_into(relay.address(), &folders[0]).await;
        let (mut helper, code) = invites_with(at, "Sam", remora_proto::rendezvous::LIFETIME).await;
        let at = node_into(relay.address(), &folders[1]).await;
        let mut sharer = joins_with(at, "Maria", &code)
            .await
            .expect("the code works");
        assert_eq!(helper.trust().await.1, sharer.trust().await.1);
        start(&mut helper, &mut sharer, Mode::View).await;
        Self {
            helper,
            sharer,
            folders,
            _relay: relay,
        }
    }

    /// The sharer compares the words, and grants that.
    async fn granting(grants: Grants) -> Self {
        let mut scene = Self::new().await;
        scene.sharer.does(Command::SasChecked(true)).await;
        scene.grant(grants, true).await;
        scene
    }

    async fn grant(&mut self, grants: Grants, on: bool) {
        self.sharer.does(Command::Grant { grants, on }).await;
        self.sharer.session(granted).await;
        self.helper.session(granted).await;
    }

    /// A file that the helper has.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folders[0].path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn received(&self, name: &str) -> PathBuf {
        self.folders[1].path().join("in").join(name)
    }
}

async fn wishes(person: &Person, wish: Wish) {
    person.wishes(Input::Exchange(wish)).await;
}

async fn told<T>(person: &mut Person, wanted: impl Fn(&Told) -> Option<T>) -> T {
    let about = |event: &Event| match event {
        Event::Exchange(told) => wanted(told),
        _ => None,
    };
    person.until(about).await
}

/// The next file that is offered to them.
async fn offered(person: &mut Person) -> (u32, String, u64) {
    told(person, |told| {
        if let Told::FileOffered {
            whose: Whose::Theirs,
            number,
            offer,
        } = told
        {
            Some((*number, offer.name.to_string(), offer.bytes))
        } else {
            None
        }
    })
    .await
}

async fn over(person: &mut Person) -> (Over, Option<PathBuf>) {
    told(person, |told| {
        if let Told::FileOver { over, path, .. } = told {
            Some((*over, path.clone()))
        } else {
            None
        }
    })
    .await
}

async fn refused(person: &mut Person) -> &'static str {
    let code = |event: &Event| match event {
        Event::NotPossible { code, .. } => Some(*code),
        _ => None,
    };
    person.until(code).await
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(next).collect()
}

#[tokio::test]
async fn a_file_is_offered_accepted_and_there() {
    let mut scene = Scene::granting(Grants::of(Matter::Files, TO_SHARER)).await;
    let bytes = noise(3_000_000);
    let path = scene.file("report.pdf", &bytes);
    wishes(&scene.helper, Wish::Send(path)).await;
    let (number, name, size) = offered(&mut scene.sharer).await;
    assert_eq!((name.as_str(), size), ("report.pdf", 3_000_000));
    assert!(
        !scene.received("report.pdf").exists(),
        "nobody has accepted"
    );
    wishes(&scene.sharer, Wish::Accept(number)).await;
    let there = scene.received("report.pdf");
    assert_eq!(
        over(&mut scene.sharer).await,
        (Over::Received, Some(there.clone()))
    );
    assert_eq!(over(&mut scene.helper).await, (Over::Received, None));
    assert_eq!(content(&there), bytes);
    // The same again is another file.
    let path = scene.file("report.pdf", b"another");
    wishes(&scene.helper, Wish::Send(path)).await;
    let (number, ..) = offered(&mut scene.sharer).await;
    wishes(&scene.sharer, Wish::Accept(number)).await;
    assert_eq!(
        over(&mut scene.sharer).await.1,
        Some(scene.received("report (2).pdf"))
    );
    assert_eq!(content(&there), bytes);
    let left = fs::read_dir(scene.folders[1].path().join("in")).expect("a folder");
    assert_eq!(left.count(), 2, "nothing else is left there");
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    let mut scene = Scene::granting(Grants::both(Matter::Files)).await;
    let path = scene.file("empty", b"");
    wishes(&scene.helper, Wish::Send(path)).await;
    let (number, ..) = offered(&mut scene.sharer).await;
    wishes(&scene.sharer, Wish::Accept(number)).await;
    assert_eq!(
        over(&mut scene.sharer).await,
        (Over::Received, Some(scene.received("empty")))
    );
}

#[tokio::test]
async fn without_the_sharers_grant_no_file_is_even_offered() {
    let mut scene = Scene::granting(Grants::of(Matter::Files, Way::ToHelper)).await;
    let path = scene.file("a", b"x");
    wishes(&scene.helper, Wish::Send(path)).await;
    assert_eq!(refused(&mut scene.helper).await, "NOT_GRANTED");
    wishes(&scene.helper, Wish::Copy("x".into())).await;
    assert_eq!(refused(&mut scene.helper).await, "NOT_GRANTED");
}

#[tokio::test]
async fn to_whom_nobody_vouches_for_the_sharer_cannot_grant_by_mistake() {
    let mut scene = Scene::new().await;
    let grants = Grants::both(Matter::Clipboard);
    scene.sharer.does(Command::Grant { grants, on: true }).await;
    assert_eq!(refused(&mut scene.sharer).await, Refusal::Unverified.code());
}

#[tokio::test]
async fn a_declined_file_is_not_sent_and_one_that_is_taken_back_is_gone() {
    let mut scene = Scene::granting(Grants::both(Matter::Files)).await;
    let path = scene.file("a", b"x");
    wishes(&scene.helper, Wish::Send(path.clone())).await;
    let (number, ..) = offered(&mut scene.sharer).await;
    wishes(&scene.sharer, Wish::Decline(number)).await;
    assert_eq!(over(&mut scene.helper).await.0, Over::Declined);
    wishes(&scene.helper, Wish::Send(path)).await;
    let (number, ..) = offered(&mut scene.sharer).await;
    wishes(&scene.helper, Wish::Withdraw(number)).await;
    assert_eq!(over(&mut scene.sharer).await.0, Over::Withdrawn);
    wishes(&scene.sharer, Wish::Accept(number)).await;
    assert_eq!(refused(&mut scene.sharer).await, "NO_SUCH_FILE");
}

#[tokio::test]
async fn a_transfer_stops_with_the_grant_and_goes_on_where_it_was() {
    let grants = Grants::both(Matter::Files);
    let mut scene = Scene::granting(grants).await;
    // So much that it is under way for long.
    let bytes = noise(40_000_000);
    let path = scene.file("film", &bytes);
    wishes(&scene.helper, Wish::Send(path)).await;
    let (number, ..) = offered(&mut scene.sharer).await;
    wishes(&scene.sharer, Wish::Accept(number)).await;
    let begun = |told: &Told| match told {
        Told::FileProgress { done, .. } if *done > 0 => Some(*done),
        _ => None,
    };
    let first = told(&mut scene.sharer, begun).await;
    assert!(first < 40_000_000);
    scene.grant(grants, false).await;
    assert!(!scene.received("film").exists());
    scene.grant(grants, true).await;
    let again = told(&mut scene.sharer, |told| match told {
        Told::FileProgress { done, .. } => Some(*done),
        _ => None,
    })
    .await;
    assert!(again >= first, "{again} after {first}: it began anew");
    assert_eq!(over(&mut scene.sharer).await.0, Over::Received);
    assert_eq!(content(&scene.received("film")), bytes);
}

#[tokio::test]
async fn what_is_there_of_an_earlier_session_is_not_sent_again() {
    let mut scene = Scene::granting(Grants::both(Matter::Files)).await;
    let bytes = noise(2_000_000);
    let path = scene.file("film", &bytes);
    wishes(&scene.helper, Wish::Send(path)).await;
    let (number, _, _) = offered(&mut scene.sharer).await;
    // As an earlier session that was lost has left it.
    let hash = {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        data_encoding::HEXLOWER.encode(&digest.as_ref()[..16])
    };
    fs::create_dir_all(scene.folders[1].path().join("in")).expect("made");
    let part = scene.received(&format!(".remora-{hash}-0.part"));
    fs::write(&part, &bytes[..1_500_000]).expect("written");
    wishes(&scene.sharer, Wish::Accept(number)).await;
    let first = told(&mut scene.sharer, |told| match told {
        Told::FileProgress { done, .. } => Some(*done),
        _ => None,
    });
    assert_eq!(first.await, 1_500_000);
    assert_eq!(over(&mut scene.sharer).await.0, Over::Received);
    assert_eq!(content(&scene.received("film")), bytes);
    assert!(!part.exists());
}

#[tokio::test]
async fn text_crosses_when_it_is_asked_for() {
    let mut scene = Scene::granting(Grants::both(Matter::Clipboard)).await;
    wishes(&scene.sharer, Wish::Paste).await;
    assert_eq!(refused(&mut scene.sharer).await, "CLIPBOARD_EMPTY");
    for text in ["grüße, 漢字".to_owned(), "x".repeat(1 << 20)] {
        let bytes = u32::try_from(text.len()).expect("short");
        wishes(&scene.helper, Wish::Copy(text.clone().into())).await;
        let offer = told(&mut scene.sharer, |told| match told {
            Told::ClipboardOffered(bytes) => Some(*bytes),
            _ => None,
        });
        assert_eq!(offer.await, bytes);
        wishes(&scene.sharer, Wish::Paste).await;
        let came = told(&mut scene.sharer, |told| match told {
            Told::Clipboard(text) => Some(text.clone()),
            _ => None,
        });
        assert!(came.await == text);
    }
    // And the other way.
    wishes(&scene.sharer, Wish::Copy("back".into())).await;
    told(&mut scene.helper, |told| match told {
        Told::ClipboardOffered(4) => Some(()),
        _ => None,
    })
    .await;
    wishes(&scene.helper, Wish::Paste).await;
    told(&mut scene.helper, |told| match told {
        Told::Clipboard(text) if text == "back" => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn the_end_is_the_last_that_is_told_whatever_is_under_way() {
    let mut scene = Scene::granting(Grants::both(Matter::Files)).await;
    let path = scene.file("film", &noise(40_000_000));
    wishes(&scene.helper, Wish::Send(path)).await;
    let (number, ..) = offered(&mut scene.sharer).await;
    wishes(&scene.sharer, Wish::Accept(number)).await;
    told(&mut scene.sharer, |told| {
        matches!(told, Told::FileProgress { .. }).then_some(())
    })
    .await;
    scene.helper.does(Command::Leave).await;
    for mut person in [scene.helper, scene.sharer] {
        person.ended().await;
        assert_eq!(
            within("the last event", person.running.events.recv()).await,
            None
        );
    }
    assert!(!scene.folders[1].path().join("in/film").exists());
}
