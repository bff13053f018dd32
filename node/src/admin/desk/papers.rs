//! Papers for who has signed in: a credential for some hours, with what the policy gives its subject now.

use std::path::PathBuf;

use remora_proto::{
    id::NodeId,
    org::{
        credential::{Credential, Device, MAX_DEVICE_NAME_BYTES},
        desk::Desk,
        label::Label,
        membership::{Papers, Request, holds_at},
        policy::{Policy, STALE_AFTER_S},
        signed::Signed,
    },
    random::Random,
};

use super::{
    claims::{Mapping, Person, person},
    refusal::Refusal,
};
use crate::{
    admin::{
        folder::{Folder, people::Known},
        org::{most, serial_text},
    },
    cli::org::Serve,
    error::Failure,
    identity::unix_s,
    oidc::token::{Invalid, Token},
};

/// What of a node's key makes a device's name that nobody else's computer has.
const KEY_LETTERS: usize = 8;

/// Devices that signing in lists in the policy: half of what fits into it. Others are invited by their ids.
const MAX_LISTED: usize = 512;

/// From one policy to the next, whether or not anything has changed.
const POLICY_AGE_S: u64 = STALE_AFTER_S / 2;

/// Signs in the organisation's folder, in which an administrator may work meanwhile.
pub(super) struct Signer {
    dir: PathBuf,
    mapping: Mapping,
    life_s: u64,
    enrol: bool,
}

/// What was signed.
pub(super) struct Made {
    pub(super) subject: String,
    pub(super) node: String,
    pub(super) serial: String,
    pub(super) expires: u64,
    /// For the node.
    pub(super) membership: Vec<u8>,
    /// For everybody: its device can be found now.
    pub(super) listed: Option<Signed<Policy>>,
}

impl Signer {
    pub(super) fn new(dir: PathBuf, serve: &Serve) -> Self {
        Self {
            dir,
            mapping: Mapping::new(&serve.claim),
            life_s: serve.hours * 3600,
            enrol: serve.enrol,
        }
    }

    /// Signs what the desk says of itself.
    pub(super) fn desk(&self, desk: Desk) -> Result<Signed<Desk>, Failure> {
        let folder = Folder::open(&self.dir)?;
        Signed::new(desk, &folder.issuer).map_err(|error| Failure::internal("desk", error))
    }

    /// Signs the policy anew, as it is, once it is old enough; people are told when it is older than a day.
    pub(super) fn renew_policy(&self) -> Result<Option<Signed<Policy>>, Failure> {
        let folder = Folder::open(&self.dir)?;
        let issued = folder.policy()?.header.issued;
        match unix_s() >= issued.saturating_add(POLICY_AGE_S) {
            true => folder.change(|_| Ok(())).map(Some),
            false => Ok(None),
        }
    }

    /// Signs for the person of a token that was verified, at the computer that asks.
    pub(super) fn sign(&self, token: &Token, request: &Request) -> Result<Made, Refusal> {
        let folder = Folder::open(&self.dir)?;
        let policy = folder.policy()?;
        let person = person(&token.claims, &self.mapping, &policy)?;
        let (subject, node) = (&person.subject, request.node);
        let revoked = &policy.revoked;
        if revoked.subjects.contains(subject) || revoked.nodes.contains(&node) {
            return Err(Refusal::Revoked(subject.to_string()));
        }
        let mut known = folder
            .known(subject)?
            .unwrap_or_else(|| Known::new(&person.account));
        if known.account != person.account {
            return Err(Refusal::OtherAccount(subject.to_string()));
        }
        // Without the nonce anybody could have brought it; a computer of the same account gets no more than it had.
        if !token.is_bound && !known.has(node) {
            return Err(Invalid::Nonce.into());
        }
        let device = self.device(&folder, request)?;
        let credential = self.credential(&folder, &policy, person, node)?;
        let papers = Papers { credential, device };
        let listed = list(&folder, &policy, &papers, request)?;
        let membership = folder.membership(&papers)?;
        folder.hand_out(&papers)?;
        known.add(node);
        folder.know(&papers.credential.subject, &known)?;
        let credential = &papers.credential;
        Ok(Made {
            subject: credential.subject.to_string(),
            node: node.to_string(),
            serial: serial_text(&credential.serial),
            expires: credential.expires,
            membership,
            listed,
        })
    }

    fn credential(
        &self,
        folder: &Folder,
        policy: &Policy,
        person: Person,
        node: NodeId,
    ) -> Result<Signed<Credential>, Refusal> {
        let (permissions, scopes) = most(policy, &person.subject);
        let now = unix_s();
        let credential = Credential {
            issuer: folder.issuer.id(),
            serial: Random::system().bytes(),
            node,
            subject: person.subject,
            profile: person.profile,
            picture: person.picture,
            permissions,
            scopes,
            issued: now,
            expires: now + self.life_s,
        };
        Signed::new(credential, &folder.issuer)
            .map_err(|_| Refusal::Claim("name and title, so short"))
    }

    /// What an administrator has signed of the computer; else, of those who enrol by signing in, what it is called itself, with a part of
    /// its key behind: no name that a policy knows is there for the taking.
    fn device(
        &self,
        folder: &Folder,
        request: &Request,
    ) -> Result<Option<Signed<Device>>, Refusal> {
        let (node, now) = (request.node, unix_s());
        let devices = folder
            .issued()?
            .into_iter()
            .filter_map(|papers| papers.device);
        let mut ours = devices
            .filter(|device| device.node == node && holds_at((device.issued, device.expires), now));
        // One that this desk has made is made anew, with the next hours.
        let name = self_given(request);
        let is_ours = |device: &Signed<Device>| Some(&device.name) == name.as_ref();
        match ours.find(|device| !is_ours(device)) {
            Some(device) => return Ok(Some(device)),
            None if !self.enrol => return Ok(None),
            None => {}
        }
        let Some(name) = name else { return Ok(None) };
        let device = Device {
            issuer: folder.issuer.id(),
            node,
            name,
            personal: false,
            multi_user: false,
            failing: Vec::new(),
            issued: now,
            expires: now + self.life_s,
        };
        let signed = Signed::new(device, &folder.issuer);
        signed
            .map(Some)
            .map_err(|error| Refusal::Desk(error.to_string()))
    }
}

/// Has helpers find an enrolled device by its name, for the first time: where it has another key later, an administrator says so.
fn list(
    folder: &Folder,
    policy: &Policy,
    papers: &Papers,
    request: &Request,
) -> Result<Option<Signed<Policy>>, Failure> {
    let name = papers.device.as_ref().map(|device| device.name.clone());
    let Some((name, reached_by)) = name.zip(request.reached_by) else {
        return Ok(None);
    };
    if policy.listed.contains_key(&name) || policy.listed.len() >= MAX_LISTED {
        return Ok(None);
    }
    let listed = folder.change(|policy| {
        policy.listed.insert(name, reached_by);
        Ok(())
    });
    listed.map(Some)
}

/// `fin-lt-0231-k3v9q2xa`
fn self_given(request: &Request) -> Option<Label> {
    let own = request.device.to_ascii_lowercase();
    let own = own.split('.').next().unwrap_or_default();
    let own: String = own
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')
        .take(MAX_DEVICE_NAME_BYTES - KEY_LETTERS - 1)
        .collect();
    let key: String = request.node.to_string().chars().take(KEY_LETTERS).collect();
    format!("{own}-{key}").parse().ok()
}
