//! Who the other side is, and what follows: asked once the inner handshake has proven its key, and again when the policy changes.
//!
//! | this side | the other shows | at the sharer | at the helper |
//! | --- | --- | --- | --- |
//! | in no organisation | nothing | unverified, attended | unverified, attended |
//! | in no organisation | papers | unverified, no more than they say | `ORG_MISMATCH`: a helper is nobody's guest |
//! | a member | nothing | `ORG_MISMATCH` | unverified, if unenrolled devices are allowed |
//! | a member | papers of its own or a trusted issuer | verified | verified |
//! | a member | papers of another | `ORG_MISMATCH` | `ORG_MISMATCH` |
//!
//! The sharer's verdict is the one that counts. The helper's says beforehand what is not worth asking for, and warns.

use std::fmt;

use super::{
    credential::{Credential, Device},
    label::Label,
    membership::{Membership, Papers, holds_at},
    permission::{Permission, Permissions},
    policy::{STALE_AFTER_S, Trust},
    scope::{Place, Scope},
    setting::{Setting, Settings},
    signed::{CLOCK_TOLERANCE_S, Signed},
};
use crate::{
    id::NodeId,
    identity::{Introduction, Role},
    session::{EndReason, Entry, Mode},
};

/// What is to be thought of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// An organisation that this side trusts vouches for what its card says.
    pub verified: bool,
    /// What the helper may do with this sharer.
    pub permissions: Permissions,
    /// Why that is nothing, or less than could be.
    pub limit: Option<Limit>,
    /// What this side's person should know; nothing of it is in the way.
    pub warnings: Vec<Warning>,
    /// What this side's organisation has set; `None`: it has none.
    pub settings: Option<Settings>,
    /// Several people use the sharer's device at once, as its organisation says.
    pub multi_user: bool,
}

/// Why a helper may do nothing here, or not all, although there is no doubt who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The organisation has not switched help on.
    Disabled,
    /// The policy has run out: whatever it allowed is allowed no more.
    PolicyExpired,
    /// Nobody has given the helper a role, or one with too little in it.
    NoPermission,
    /// Not with this sharer, nor at this device.
    OutOfScope,
    /// The sharer came by a link.
    Link,
}

/// What a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The sharer's device is not the organisation's, or nobody knows whose it is.
    Unenrolled,
    /// The sharer's device fails these policies.
    Noncompliant(Vec<Label>),
    /// Vouched for by another organisation, which this one trusts.
    OtherOrganisation,
    /// The policy is older than a day; a newer one may be kept from this computer.
    PolicyStale,
}

/// Why there is no session with the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Papers of another key: copied.
    #[error("it shows another computer's papers")]
    NotTheirs,
    /// Not yet, or no more.
    #[error("its papers are not valid at this time; is a clock wrong?")]
    NotValidNow,
    /// The policy says so.
    #[error("its papers are revoked")]
    Revoked,
    /// An issuer that vouches for a domain not its own.
    #[error("its papers name a domain that is not its organisation's")]
    WrongDomain,
    /// Nobody whom this side trusts vouches for it.
    #[error("it does not belong to this organisation, nor to one that this organisation trusts")]
    OrgMismatch,
    /// The organisation does not help devices that are not its own.
    #[error("the device is not enrolled, and the organisation does not allow that")]
    UnenrolledNotAllowed,
}

impl Refusal {
    /// With which the session ends.
    pub fn end_reason(self) -> EndReason {
        match self {
            Self::NotTheirs | Self::NotValidNow | Self::Revoked | Self::WrongDomain => {
                EndReason::AuthFailed
            }
            Self::OrgMismatch => EndReason::OrgMismatch,
            Self::UnenrolledNotAllowed => EndReason::UnenrolledNotAllowed,
        }
    }
}

impl Limit {
    /// For scripts (SESSION.md §1.4, row 2e).
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "DISABLED",
            Self::PolicyExpired => "POLICY_EXPIRED",
            Self::NoPermission => "NO_PERMISSION",
            Self::OutOfScope => "OUT_OF_SCOPE",
            Self::Link => "LINK",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "the organisation has not switched help on",
            Self::PolicyExpired => "the organisation's policy has expired on this computer",
            Self::NoPermission => "the helper's role does not allow it",
            Self::OutOfScope => {
                "this person and device are not among those that the helper may help"
            }
            Self::Link => "who comes by a link shows the screen and no more; a code allows control",
        })
    }
}

impl Warning {
    /// For scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unenrolled => "UNENROLLED",
            Self::Noncompliant(_) => "NONCOMPLIANT",
            Self::OtherOrganisation => "OTHER_ORGANISATION",
            Self::PolicyStale => "POLICY_STALE",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unenrolled => f.write_str(
                "This device is not enrolled. Use no sensitive data on it, such as administrator credentials.",
            ),
            Self::Noncompliant(failing) => {
                f.write_str("This device does not meet policy (")?;
                for (n, code) in failing.iter().enumerate() {
                    write!(f, "{}{code}", if n == 0 { "" } else { ", " })?;
                }
                f.write_str("). Be careful with administrator credentials.")
            }
            Self::OtherOrganisation => {
                f.write_str("This person belongs to another organisation, which yours trusts.")
            }
            Self::PolicyStale => f.write_str(
                "Your organisation's policy is more than a day old on this computer; a newer one may have been kept from it.",
            ),
        }
    }
}

impl Verdict {
    /// The most that the helper may ask for; `None`: nothing.
    pub fn permitted(&self) -> Option<Mode> {
        if self.permissions.has(Permission::Control) {
            Some(Mode::Control)
        } else {
            self.permissions.has(Permission::View).then_some(Mode::View)
        }
    }

    /// The same for people who came together so: by a link, the helper sees and no more (guide, E-6).
    #[must_use]
    pub fn by(self, entry: Entry) -> Self {
        if entry != Entry::Link || !self.permissions.has(Permission::Control) {
            return self;
        }
        Self {
            permissions: self.permissions.and(Permissions::GUEST),
            limit: Some(Limit::Link),
            ..self
        }
    }

    /// Of two people whom nobody vouches for.
    pub fn unmanaged() -> Self {
        Self {
            verified: false,
            permissions: Permissions::ATTENDED,
            limit: None,
            warnings: Vec::new(),
            settings: None,
            multi_user: false,
        }
    }
}

/// Judges what the other side has shown in the handshake that proved `node`; `role` is this side's.
///
/// # Errors
/// There can be no session.
pub fn judge(
    own: Option<&Membership>,
    role: Role,
    peer: &Introduction,
    node: NodeId,
    unix_s: u64,
) -> Result<Verdict, Refusal> {
    if let Some(papers) = &peer.papers {
        if papers.credential.node != node {
            return Err(Refusal::NotTheirs);
        }
        if !papers.hold_at(unix_s) {
            return Err(Refusal::NotValidNow);
        }
    }
    match (own, &peer.papers, role) {
        (None, None, _) => Ok(Verdict::unmanaged()),
        (None, Some(theirs), Role::Sharer) => Ok(Verdict {
            permissions: theirs.credential.permissions.and(Permissions::ATTENDED),
            ..Verdict::unmanaged()
        }),
        (None, Some(_), Role::Helper) | (Some(_), None, Role::Sharer) => Err(Refusal::OrgMismatch),
        (Some(own), Some(theirs), Role::Sharer) => at_sharer(own, theirs, unix_s),
        (Some(own), theirs, Role::Helper) => at_helper(own, theirs.as_ref(), unix_s),
    }
}

fn at_sharer(own: &Membership, helper: &Papers, unix_s: u64) -> Result<Verdict, Refusal> {
    let trust = vouched(own, helper)?;
    let device = own.papers().device.as_ref();
    if device.is_none() && !own.policy().settings.is_on(Setting::AllowUnenrolled) {
        return Err(Refusal::UnenrolledNotAllowed);
    }
    let place = own.papers().place();
    let allowed = match trust {
        None => of_member(own, &helper.credential, &place),
        Some(trust) => of_guest(own, trust, &helper.credential, &place),
    };
    // Where nobody sits, the device answers for itself.
    let is_fit = device.is_some_and(|device| !device.personal);
    let allowed = allowed.map(|permissions| match is_fit {
        true => permissions,
        false => permissions.and(Permissions::ATTENDED),
    });
    let warnings = [
        trust.map(|_| Warning::OtherOrganisation),
        is_stale(own, unix_s).then_some(Warning::PolicyStale),
    ];
    let verdict = verdict(own, device, allowed, warnings, unix_s);
    Ok(Verdict {
        verified: true,
        ..verdict
    })
}

fn at_helper(own: &Membership, sharer: Option<&Papers>, unix_s: u64) -> Result<Verdict, Refusal> {
    let trust = sharer
        .map(|sharer| vouched(own, sharer))
        .transpose()?
        .flatten();
    let device = sharer.and_then(|sharer| sharer.device.as_ref());
    if device.is_none() && !own.policy().settings.is_on(Setting::AllowUnenrolled) {
        return Err(Refusal::UnenrolledNotAllowed);
    }
    // Names of another organisation are none of ours.
    let place = match (sharer, trust) {
        (Some(sharer), None) => sharer.place(),
        (Some(_), Some(_)) | (None, _) => Place::default(),
    };
    let allowed = of_member(own, &own.papers().credential, &place);
    let noncompliant = device.filter(|device| !device.failing.is_empty());
    let warnings = [
        trust.map(|_| Warning::OtherOrganisation),
        device.is_none().then_some(Warning::Unenrolled),
        noncompliant.map(|device| Warning::Noncompliant(device.failing.clone())),
        is_stale(own, unix_s).then_some(Warning::PolicyStale),
    ];
    let verdict = verdict(own, device, allowed, warnings, unix_s);
    Ok(Verdict {
        verified: sharer.is_some(),
        ..verdict
    })
}

/// Of somebody for whom nobody vouches yet; `device` is the sharer's.
fn verdict<const N: usize>(
    own: &Membership,
    device: Option<&Signed<Device>>,
    allowed: Result<Permissions, Limit>,
    warnings: [Option<Warning>; N],
    unix_s: u64,
) -> Verdict {
    let allowed = own_limit(own, unix_s).map_or(allowed, Err);
    Verdict {
        verified: false,
        permissions: allowed.unwrap_or(Permissions::NONE),
        limit: allowed.err(),
        warnings: warnings.into_iter().flatten().collect(),
        settings: Some(own.policy().settings.clone()),
        multi_user: device.is_some_and(|device| device.multi_user),
    }
}

/// Whether this side's organisation or one that it trusts vouches for the papers; in the latter case, on which conditions.
fn vouched<'a>(own: &'a Membership, theirs: &Papers) -> Result<Option<&'a Trust>, Refusal> {
    let (policy, credential) = (own.policy(), &theirs.credential);
    let is_own = credential.issuer == policy.header.issuer;
    let trust = policy.trusts.get(&credential.issuer).filter(|_| !is_own);
    let domain = match (is_own, trust) {
        (true, _) => &policy.domain,
        (false, Some(trust)) => &trust.domain,
        (false, None) => return Err(Refusal::OrgMismatch),
    };
    if credential.profile.domain != *domain {
        return Err(Refusal::WrongDomain);
    }
    let revoked = &policy.revoked;
    let is_out = revoked.serials.contains(&credential.serial)
        || revoked.nodes.contains(&credential.node)
        || (is_own && revoked.subjects.contains(&credential.subject));
    match is_out {
        true => Err(Refusal::Revoked),
        false => Ok(trust),
    }
}

/// What a helper of this organisation may do there: what both its credential and the policy say.
fn of_member(own: &Membership, helper: &Credential, place: &Place) -> Result<Permissions, Limit> {
    let policy = own.policy();
    let somewhere = helper
        .permissions
        .and(policy.granted_somewhere(&helper.subject));
    if !somewhere.may_help() {
        return Err(Limit::NoPermission);
    }
    let granted = policy.granted(&helper.subject, place);
    within(own, &helper.scopes, helper.permissions.and(granted), place)
}

/// The same of another organisation's.
fn of_guest(
    own: &Membership,
    trust: &Trust,
    helper: &Credential,
    place: &Place,
) -> Result<Permissions, Limit> {
    let permissions = helper.permissions.and(trust.permissions);
    match permissions.may_help() {
        true => within(own, &trust.scopes, permissions, place),
        false => Err(Limit::NoPermission),
    }
}

fn within(
    own: &Membership,
    scopes: &[Scope],
    permissions: Permissions,
    place: &Place,
) -> Result<Permissions, Limit> {
    let is_there = scopes
        .iter()
        .any(|scope| scope.contains(place, own.policy()));
    match is_there && permissions.may_help() {
        true => Ok(permissions),
        false => Err(Limit::OutOfScope),
    }
}

/// What keeps everybody in the organisation from helping.
fn own_limit(own: &Membership, unix_s: u64) -> Option<Limit> {
    let header = own.policy().header;
    if !holds_at((header.issued, header.expires), unix_s) {
        return Some(Limit::PolicyExpired);
    }
    (!own.policy().settings.is_on(Setting::Enabled)).then_some(Limit::Disabled)
}

fn is_stale(own: &Membership, unix_s: u64) -> bool {
    let stale = own.policy().header.issued.saturating_add(STALE_AFTER_S);
    unix_s > stale.saturating_add(CLOCK_TOLERANCE_S)
}

/// What this node's person may do at some device at least; at which, its organisation's policy says.
pub fn own_permissions(own: &Membership) -> Permissions {
    let credential = &own.papers().credential;
    credential
        .permissions
        .and(own.policy().granted_somewhere(&credential.subject))
}

/// Why this node's person may invite nobody (SESSION.md §1.4, row 1), asked before a code is shown.
///
/// # Errors
/// [`Limit`]
pub fn may_invite(own: &Membership, unix_s: u64) -> Result<(), Limit> {
    if let Some(limit) = own_limit(own, unix_s) {
        return Err(limit);
    }
    match own_permissions(own).may_help() && own.papers().hold_at(unix_s) {
        true => Ok(()),
        false => Err(Limit::NoPermission),
    }
}
