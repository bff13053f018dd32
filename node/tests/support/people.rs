//! A relay in this process, and people whose nodes run in it, too.

use std::{fmt, future::Future, time::Duration};

use remora::{
    error::Failure,
    event::{Event, Input},
    node::{Node, Options, Outcome, Running},
    share::desktop::Desktop,
};
use remora_proto::{
    id::RelayAddr,
    identity::Profile,
    noise::StaticKey,
    rendezvous::LIFETIME,
    sas::Words,
    session::{Command, EndReason, Event as SessionEvent, Mode, Receipt},
};
use remora_relay::{config::Config, rate::Rate, relay::Relay};

use super::PATIENCE;

/// A relay that lets as many codes be looked up as tests need.
pub fn relay() -> Relay {
    let mut config = Config::loopback(StaticKey::generate());
    config.lookup_rate = Rate::per_second(10_000, 10_000);
    Relay::start(config).expect("a relay")
}

/// The code with another last symbol.
pub fn mistyped(code: &str) -> String {
    let last = if code.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", &code[..code.len() - 1])
}

/// Waits for what must happen.
pub async fn within<T>(what: impl fmt::Debug, future: impl Future<Output = T>) -> T {
    let Ok(done) = tokio::time::timeout(PATIENCE, future).await else {
        panic!("{what:?} did not happen")
    };
    done
}

/// Somebody with a name.
pub fn profile(name: &str) -> Profile {
    Profile::new(name, "", "", "").expect("a short name")
}

/// A connected node.
pub async fn node(relay: &RelayAddr) -> Node {
    within("connecting", Node::connect(relay, Options::relay_only()))
        .await
        .expect("a relay")
}

/// One side of a session.
#[derive(Debug)]
pub struct Person {
    /// Who.
    pub name: String,
    /// Their node.
    pub running: Running,
}

impl Person {
    fn new(name: &str, running: Running) -> Self {
        Self {
            name: name.into(),
            running,
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        let what = format!("an event for {}", self.name);
        let event = within(what, self.running.events.recv()).await;
        event.unwrap_or_else(|| panic!("{}'s session is over", self.name))
    }

    /// Goes on to the event that `wanted` makes something of.
    pub async fn until<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let mut passed = Vec::new();
        let search = async {
            loop {
                let event = self.running.events.recv().await?;
                if let Some(found) = wanted(&event) {
                    return Some(found);
                }
                passed.push(event);
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        found.ok().flatten().unwrap_or_else(|| {
            let passed = &passed[passed.len().saturating_sub(10)..];
            panic!("{} waited for something else than {passed:#?}", self.name)
        })
    }

    /// The same, for events of the session.
    pub async fn session<T>(&mut self, wanted: impl Fn(&SessionEvent) -> Option<T>) -> T {
        self.until(|event| {
            if let Event::Session(event) = event {
                wanted(event)
            } else {
                None
            }
        })
        .await
    }

    /// The code that is shown next.
    pub async fn code(&mut self) -> String {
        self.until(|event| {
            if let Event::Code { code, .. } = event {
                Some(code.clone())
            } else {
                None
            }
        })
        .await
    }

    /// The words on the trust card, and whose card it is.
    pub async fn trust(&mut self) -> (String, Words) {
        self.session(|event| {
            if let SessionEvent::Trust { peer, words, .. } = event {
                Some((peer.full_name.clone(), *words))
            } else {
                None
            }
        })
        .await
    }

    /// The mode in which the session starts.
    pub async fn started(&mut self) -> Mode {
        self.session(|event| {
            if let SessionEvent::Started { mode } = event {
                Some(*mode)
            } else {
                None
            }
        })
        .await
    }

    /// Waits until asked for consent.
    pub async fn asked(&mut self) -> (Mode, bool) {
        self.session(|event| {
            if let SessionEvent::ConsentPrompt { mode, upgrade, .. } = event {
                Some((*mode, *upgrade))
            } else {
                None
            }
        })
        .await
    }

    /// The next chat message.
    pub async fn hears(&mut self) -> String {
        self.session(|event| {
            if let SessionEvent::Chat { text, .. } = event {
                Some(text.clone())
            } else {
                None
            }
        })
        .await
    }

    /// Why the session ended, as soon as this person is told.
    pub async fn ended(&mut self) -> EndReason {
        self.session(|event| {
            if let SessionEvent::Ended(receipt) = event {
                Some(receipt.reason)
            } else {
                None
            }
        })
        .await
    }

    /// Does what a person would.
    pub async fn wishes(&self, input: Input) {
        let sent = within(&input, self.running.input.send(input.clone())).await;
        sent.unwrap_or_else(|_| panic!("{}'s session is over", self.name));
    }

    /// Does what a person would in a session.
    pub async fn does(&self, command: Command) {
        self.wishes(Input::Session(command)).await;
    }

    /// Goes through what is left to the end.
    pub async fn outcome(self) -> Outcome {
        let mut running = self.running;
        let all = async {
            while running.events.recv().await.is_some() {}
            running.outcome.await.expect("no panic")
        };
        within(format!("{}'s end", self.name), all).await
    }

    /// The end of a session that there was.
    pub async fn receipt(self) -> Receipt {
        self.outcome().await.expect("there was a session")
    }
}

/// A helper, with a code.
pub async fn invites(relay: &RelayAddr, name: &str) -> (Person, String) {
    invites_for(relay, name, LIFETIME).await
}

/// The same, with a code that lives as long.
pub async fn invites_for(relay: &RelayAddr, name: &str, lifetime: Duration) -> (Person, String) {
    invites_with(node(relay).await, name, lifetime).await
}

/// The same of a node that is there.
pub async fn invites_with(node: Node, name: &str, lifetime: Duration) -> (Person, String) {
    let running = node.invite(profile(name), lifetime);
    let mut helper = Person::new(name, running);
    let code = helper.code().await;
    (helper, code)
}

/// A sharer who types a code.
///
/// # Errors
/// It does not work.
pub async fn joins(relay: &RelayAddr, name: &str, code: &str) -> Result<Person, Failure> {
    joins_on(relay, name, code, Desktop::X11(None)).await
}

/// The same of a node that is there.
///
/// # Errors
/// It does not work.
pub async fn joins_with(node: Node, name: &str, code: &str) -> Result<Person, Failure> {
    joins_at(node, name, code, Desktop::X11(None)).await
}

/// The same, at that screen.
///
/// # Errors
/// It does not work.
pub async fn joins_on(
    relay: &RelayAddr,
    name: &str,
    code: &str,
    desktop: Desktop,
) -> Result<Person, Failure> {
    joins_at(node(relay).await, name, code, desktop).await
}

async fn joins_at(
    mut node: Node,
    name: &str,
    code: &str,
    desktop: Desktop,
) -> Result<Person, Failure> {
    let code = code.parse().expect("a code");
    let introduced = within("the code", node.try_code(code)).await?;
    Ok(Person::new(
        name,
        node.join(introduced, profile(name), desktop),
    ))
}

/// Two people who see each other's trust card.
pub async fn introduced(relay: &RelayAddr, helper: &str, sharer: &str) -> (Person, Person) {
    let (mut one, code) = invites(relay, helper).await;
    let mut other = joins(relay, sharer, &code).await.expect("the code works");
    let (of_sharer, words) = one.trust().await;
    let (of_helper, same) = other.trust().await;
    assert_eq!((of_sharer.as_str(), of_helper.as_str()), (sharer, helper));
    assert_eq!(words, same, "the words");
    (one, other)
}

/// Two people in a session.
pub async fn active(relay: &RelayAddr, mode: Mode) -> (Person, Person) {
    let (mut helper, mut sharer) = introduced(relay, "Sam", "Maria").await;
    start(&mut helper, &mut sharer, mode).await;
    (helper, sharer)
}

/// From the trust card into the session.
pub async fn start(helper: &mut Person, sharer: &mut Person, mode: Mode) {
    helper.does(Command::AskMode(mode)).await;
    assert_eq!(sharer.asked().await, (mode, false));
    sharer.does(Command::Allow(mode)).await;
    assert_eq!(
        (helper.started().await, sharer.started().await),
        (mode, mode)
    );
}
