//! A member's policy stays the newest that its relay has, and the relay gets to know the newest that the member has: one that has just
//! been started knows none, and members bring it theirs.

use std::{sync::Arc, time::Duration};

use remora_proto::{
    id::RelayAddr,
    identity::Role,
    org::{policy::Policy, signed::Signed},
    wire::message::control::Reason,
};
use tokio::time::sleep;

use crate::{
    control::{Control, RequestError},
    error::Failure,
    identity::{Identity, Member},
    node::{Node, Options},
};

/// Between two looks, however often the relay says that there is something new.
const PAUSE: Duration = Duration::from_secs(1);

/// For as long as the relay is there.
pub(crate) async fn keep(control: Control, member: Arc<Member>) {
    let mut told = control.policies();
    loop {
        told.mark_unchanged();
        match look(&control, &member).await {
            Ok(()) => {}
            Err(RequestError::Lost) => return,
            Err(RequestError::Refused(refused)) => {
                tracing::info!(reason = refused.reason().as_str_name(), "policy");
            }
        }
        sleep(PAUSE).await;
        if told.changed().await.is_err() {
            return;
        }
    }
}

/// Whether this side may help at all. That it may not can be older than what its organisation says now: then the relay is asked first.
///
/// # Errors
/// It may not, or its papers do not hold.
pub(crate) async fn check_helper(
    identity: &Identity,
    relays: &[RelayAddr],
    options: Options,
) -> Result<(), Failure> {
    let Err(failure) = identity.check(Role::Helper) else {
        return Ok(());
    };
    let Some(member) = &identity.member else {
        return Err(failure);
    };
    // Whoever cannot ask has what was known.
    refresh(member, relays, options)
        .await
        .map_err(|_| failure)?;
    identity.check(Role::Helper)
}

/// The newest policy that the nearest relay has.
///
/// # Errors
/// No relay can be reached.
pub(crate) async fn refresh(
    member: &Member,
    relays: &[RelayAddr],
    options: Options,
) -> Result<(), Failure> {
    let node = Node::at_nearest(relays, options).await?;
    if let Err(error) = look(node.control(), member).await {
        tracing::info!(%error, "the relay's policy");
    }
    node.close().await;
    Ok(())
}

/// Once.
///
/// # Errors
/// The relay says no, or is gone.
pub(crate) async fn look(control: &Control, member: &Member) -> Result<(), RequestError> {
    let own = member.policy();
    let header = own.header;
    let (number, newer) = control.fetch_policy(header.issuer, header.number).await?;
    if let Some(bytes) = newer {
        let policy = Signed::<Policy>::open(&bytes);
        match policy.map(|policy| member.renew(policy)) {
            Ok(Ok(_)) => tracing::info!(number, "a new policy"),
            Ok(Err(error)) => tracing::warn!(%error, "the relay's policy"),
            Err(error) => tracing::warn!(%error, "the relay's policy"),
        }
    } else if number < header.number {
        match control.put_policy(own.bytes()).await {
            // Somebody else was faster.
            Err(RequestError::Refused(refused)) if refused.reason() == Reason::Taken => {}
            put => return put,
        }
    }
    Ok(())
}
