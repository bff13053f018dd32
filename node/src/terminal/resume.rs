//! `remora join --resume`: after a restart the same session, and nobody is asked anything.

use std::time::Duration;

use remora_proto::{id::RelayAddr, resumption::Token};
use tokio::time::sleep;

use super::console::Console;
use crate::{
    error::{Exit, Failure},
    node::{Node, Options},
    rendezvous::{Introduced, may_retry},
    session::resume::{Place, Returning},
};

/// Before the first further try, then twice as long each time: the network comes up, or the helper has just begun to wait.
const AGAIN: Duration = Duration::from_secs(1);
/// Not longer than this; more often than ten times a minute no relay lets anybody look.
const AGAIN_AT_MOST: Duration = Duration::from_secs(8);
/// The helper is at one of the first codes: the next one is only for a place that is another's, or a code that somebody has used up.
const NUMBERS: u32 = 4;

/// Where the helper waits, at which node.
pub(super) type Met = (Node, Introduced, Returning);

/// Looks for the helper for as long as the token is good, and the person waits.
///
/// # Errors
/// It is not good any more, or was used meanwhile; or the person gives up.
pub(super) async fn meet(
    console: &mut Console,
    place: &Place,
    relays: &[RelayAddr],
    options: &Options,
) -> Result<Met, Failure> {
    let looking = look(place, relays, options);
    tokio::select! {
        met = looking => met,
        () = console.interrupted() => {
            let line = "this computer has not gone back to the session; `remora join --resume` tries again";
            Err(Failure::new(Exit::Error, "NOT_RESUMED", line))
        }
    }
}

async fn look(place: &Place, relays: &[RelayAddr], options: &Options) -> Result<Met, Failure> {
    let mut again = AGAIN;
    let mut number = 0;
    let mut node: Option<Node> = None;
    loop {
        // Also whether somebody else has been faster.
        let token = place.read()?;
        let tried = try_once(node.take(), &token, number, relays, options).await?;
        match tried {
            Tried::Met(node, introduced) => {
                let place = place.clone();
                return Ok((*node, introduced, Returning { token, place }));
            }
            Tried::NotThere(here) => {
                node = Some(*here);
                number = (number + 1) % NUMBERS;
            }
            Tried::NoRelay => {}
        }
        sleep(again).await;
        again = AGAIN_AT_MOST.min(again * 2);
    }
}

enum Tried {
    Met(Box<Node>, Introduced),
    NotThere(Box<Node>),
    NoRelay,
}

async fn try_once(
    node: Option<Node>,
    token: &Token,
    number: u32,
    relays: &[RelayAddr],
    options: &Options,
) -> Result<Tried, Failure> {
    let connected = match node {
        Some(node) => Ok(node),
        None => Node::at_nearest(relays, options.clone()).await,
    };
    let mut node = match connected {
        Ok(node) => node,
        Err(failure) if failure.exit == Exit::Offline => {
            tracing::info!(%failure, "no relay yet");
            return Ok(Tried::NoRelay);
        }
        Err(failure) => return Err(failure),
    };
    match node.try_code(token.resumption.code(number)).await {
        Ok(introduced) => Ok(Tried::Met(Box::new(node), introduced)),
        Err(failure) if may_retry(&failure) => Ok(Tried::NotThere(Box::new(node))),
        Err(failure) => {
            tracing::info!(%failure, "the relay does not lead to the helper");
            node.close().await;
            Ok(Tried::NoRelay)
        }
    }
}
