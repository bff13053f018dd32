//! An invitation on the desktop: org.freedesktop.Notifications (version 1.2 of that specification) on the session's bus.
//!
//! ```text
//!  Show, Close ─▶ task ── Notify, CloseNotification ─▶ the desktop
//!  Pressed     ◀─      ◀─ ActionInvoked ─────────────
//! ```
//!
//! Where there is no bus, or nobody listens there, or the person is not to be disturbed, the inbox has it all the same (guide, N-5).

// The bus: as much of D-Bus as that takes.
mod bus;
// How it is written on the wire; pure.
mod wire;

use std::{collections::BTreeMap, io, time::Duration};

use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use self::{
    bus::Bus,
    wire::{Call, Kind, Message, Writer},
};
use super::letter::Letter;

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
/// What is shown, or taken away again; a desk has at most sixteen offers.
const QUEUE: usize = 32;
/// A bus that does not let us in within this is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Keys of the actions; the first is a click on the notification itself.
const OPEN: [&str; 2] = ["default", "open"];
const DECLINE: &str = "decline";

/// What the person pressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pressed {
    /// Open, of this invitation.
    Open(String),
    /// Decline.
    Decline(String),
}

#[derive(Debug)]
enum Order {
    Show(Box<Letter>),
    Close(String),
}

/// See the module. Its task ends with it.
#[derive(Debug)]
pub(super) struct Popups {
    orders: mpsc::Sender<Order>,
    pressed: mpsc::Receiver<Pressed>,
    _task: JoinSet<()>,
}

impl Popups {
    /// On the bus that the environment names, when there is something to be shown.
    pub(super) fn new() -> Self {
        let (orders, orders_rx) = mpsc::channel(QUEUE);
        let (to, pressed) = mpsc::channel(QUEUE);
        let mut task = JoinSet::new();
        task.spawn(run(orders_rx, to));
        Self {
            orders,
            pressed,
            _task: task,
        }
    }

    /// Shows an invitation.
    pub(super) fn show(&self, letter: &Letter) {
        self.order(Order::Show(Box::new(letter.clone())));
    }

    /// Takes it away, if it is shown.
    pub(super) fn close(&self, id: &str) {
        self.order(Order::Close(id.to_owned()));
    }

    /// A desktop that does not answer holds nobody up.
    fn order(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            tracing::debug!("nobody shows notifications");
        }
    }

    /// What the person presses next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Pressed {
        match self.pressed.recv().await {
            Some(pressed) => pressed,
            None => std::future::pending().await,
        }
    }
}

/// A desktop, and what is shown there.
struct Desktop {
    bus: Bus,
    /// Invitations by the number of the call that shows them.
    showing: BTreeMap<u32, String>,
    /// By the desktop's number.
    shown: BTreeMap<u32, String>,
}

async fn run(mut orders: mpsc::Receiver<Order>, pressed: mpsc::Sender<Pressed>) {
    let mut desktop = None;
    loop {
        let done = match &mut desktop {
            None => match orders.recv().await {
                None => return,
                Some(Order::Close(_)) => Ok(()),
                Some(Order::Show(letter)) => match connect().await {
                    Ok(new) => desktop.insert(new).show(&letter).await,
                    Err(error) => {
                        tracing::info!(%error, "no notification is shown");
                        Ok(())
                    }
                },
            },
            Some(there) => tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::Show(letter)) => there.show(&letter).await,
                    Some(Order::Close(id)) => there.close(&id).await,
                },
                message = there.bus.next() => match message {
                    Ok(message) => {
                        if let Some(press) = there.heard(&message)
                            && pressed.send(press).await.is_err()
                        {
                            return;
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            },
        };
        if let Err(error) = done {
            tracing::info!(%error, "the desktop's notifications are gone");
            desktop = None;
        }
    }
}

async fn connect() -> io::Result<Desktop> {
    let connected = timeout(PATIENCE, async {
        let mut bus = Bus::session().await?;
        // Of whoever has the name: nobody else presses for the person.
        let rule = format!("type='signal',sender='{NAME}',path='{PATH}',interface='{NAME}'");
        let mut body = Writer::default();
        body.string(&rule);
        bus.call(&Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "AddMatch",
            signature: "s",
            body: body.into_bytes(),
        })
        .await?;
        Ok(Desktop {
            bus,
            showing: BTreeMap::new(),
            shown: BTreeMap::new(),
        })
    });
    connected
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Desktop {
    async fn show(&mut self, letter: &Letter) -> io::Result<()> {
        let mut body = Writer::default();
        body.string("Remora");
        body.number(0);
        body.string("");
        // Who comes while nobody is there does so unless somebody says no: a click on the notification is no yes.
        let (title, actions) = match letter.is_unattended() {
            true => (
                "will connect to this computer",
                &[OPEN[1], "Start now", DECLINE, "Decline"][..],
            ),
            false => (
                "offers help",
                &[OPEN[0], "Open", OPEN[1], "Open", DECLINE, "Decline"][..],
            ),
        };
        body.string(&format!("{} {title}", letter.name()));
        body.string(&escaped(&about(letter)));
        body.strings(actions);
        // Critical: it stays until somebody has read it.
        body.dictionary_of_byte("urgency", 2);
        body.number(u32::MAX);
        let serial = self
            .bus
            .call(&call("Notify", "susssasa{sv}i", body))
            .await?;
        self.showing.insert(serial, letter.id.clone());
        Ok(())
    }

    async fn close(&mut self, id: &str) -> io::Result<()> {
        // Being shown just now: then it is left to the person, who is told when they press.
        self.showing.retain(|_, showing| showing != id);
        let shown = self.shown.iter().find(|(_, shown)| *shown == id);
        let Some(number) = shown.map(|(&number, _)| number) else {
            return Ok(());
        };
        self.shown.remove(&number);
        let mut body = Writer::default();
        body.number(number);
        self.bus
            .call(&call("CloseNotification", "u", body))
            .await
            .map(drop)
    }

    fn heard(&mut self, message: &Message) -> Option<Pressed> {
        let mut body = message.reader();
        match message.kind {
            Kind::Return => {
                let id = self.showing.remove(&message.reply_to)?;
                self.shown.insert(body.number()?, id);
                None
            }
            Kind::Error => {
                self.showing.remove(&message.reply_to);
                tracing::info!(name = message.error, "the desktop refuses");
                None
            }
            Kind::Signal if message.member == "ActionInvoked" => {
                let id = self.shown.get(&body.number()?)?.clone();
                let key = body.string()?;
                match key.as_str() {
                    DECLINE => Some(Pressed::Decline(id)),
                    key if OPEN.contains(&key) => Some(Pressed::Open(id)),
                    _ => None,
                }
            }
            Kind::Signal if message.member == "NotificationClosed" => {
                self.shown.remove(&body.number()?);
                None
            }
            Kind::Signal | Kind::Call => None,
        }
    }
}

fn call(member: &'static str, signature: &'static str, body: Writer) -> Call {
    Call {
        destination: NAME,
        path: PATH,
        interface: NAME,
        member,
        signature,
        body: body.into_bytes(),
    }
}

/// `Contoso · full control · TICKET-123`
fn about(letter: &Letter) -> String {
    let company = letter.from["company"].as_str().unwrap_or_default();
    let mode = match letter.mode.as_deref() {
        Some("control") => "full control",
        Some("view") => "sees your screen",
        Some(_) | None => "",
    };
    let verified = match letter.from["verified"].as_bool() {
        Some(true) => "",
        Some(false) | None => "UNVERIFIED",
    };
    let parts = [company, mode, letter.reason.as_str(), verified];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(" · ")
}

/// Some desktops take a body for markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_says_who_and_what_and_is_no_markup() {
        let letter = Letter {
            id: "x".into(),
            from: json!({"full_name": "Sam", "company": "A<b>&Co", "verified": true}),
            kind: "attended".into(),
            mode: Some("control".into()),
            reason: "TICKET-1".into(),
            until_unix_ms: 0,
        };
        let said = escaped(&about(&letter));
        assert_eq!(said, "A&lt;b&gt;&amp;Co · full control · TICKET-1");
        let letter = Letter {
            from: json!({"full_name": "Sam", "company": "", "verified": false}),
            mode: None,
            reason: String::new(),
            ..letter
        };
        assert_eq!(about(&letter), "UNVERIFIED");
    }
}
