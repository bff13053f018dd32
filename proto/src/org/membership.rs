//! A node's own papers: credential, device document and policy of one organisation; and how a person asks for them.

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;
use prost::Message as _;

use super::{
    credential::{Credential, Device},
    policy::Policy,
    scope::Place,
    signed::{
        CLOCK_TOLERANCE_S, InvalidDocument, MAX_POLICY_BYTES, Signed, VERSION, array,
        of_this_version,
    },
};
use crate::{
    id::{DeviceId, NodeId},
    identity::{MAX_FIELD_BYTES, Profile},
    wire::message::org as schema,
};

/// Largest file of papers.
pub const MAX_MEMBERSHIP_BYTES: usize = MAX_POLICY_BYTES + 1024;

/// A credential and, of an enrolled device, its document; what a node shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Papers {
    /// Who its person is.
    pub credential: Signed<Credential>,
    /// What is known of the device.
    pub device: Option<Signed<Device>>,
}

/// Papers that do not belong together, to this node, or after what it has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPapers {
    /// One of the documents.
    #[error("the {0}: {1}")]
    Document(&'static str, InvalidDocument),
    /// Not such a file.
    #[error("this is no file that `remora admin org sign` made")]
    Malformed,
    /// Several issuers, nodes or domains.
    #[error("the documents are not of one organisation and one node")]
    Mixed,
    /// They were signed for another key.
    #[error("these papers are another computer's")]
    OtherNode,
    /// In place of papers of another person, node or organisation, or of newer ones.
    #[error("these papers do not renew the ones before")]
    NotRenewed,
    /// Of another organisation than the node's.
    #[error("the policy is another organisation's")]
    OtherOrganisation,
    /// A smaller number than one that was seen, or another policy of the same number.
    #[error(
        "the policy has number {offered}, and {seen} has been seen: somebody plays back an old one"
    )]
    RolledBack {
        /// Of the refused policy.
        offered: u64,
        /// The greatest before.
        seen: u64,
    },
}

impl Papers {
    /// Reads what a node shows. No credential: it shows nothing.
    ///
    /// # Errors
    /// [`InvalidPapers`]
    pub fn open(credential: &[u8], device: &[u8]) -> Result<Option<Self>, InvalidPapers> {
        let invalid = |what| move |error| InvalidPapers::Document(what, error);
        if credential.is_empty() && device.is_empty() {
            return Ok(None);
        }
        let papers = Self {
            credential: Signed::open(credential).map_err(invalid("credential"))?,
            device: match device.is_empty() {
                true => None,
                false => Some(Signed::open(device).map_err(invalid("device document"))?),
            },
        };
        let ours = |device: &Signed<Device>| {
            device.issuer == papers.credential.issuer && device.node == papers.credential.node
        };
        match papers.device.as_ref().is_none_or(ours) {
            true => Ok(Some(papers)),
            false => Err(InvalidPapers::Mixed),
        }
    }

    /// Whether these may take the place of `held` while they are in use: who it is stays, and nothing older comes back. What the
    /// bearer may do, the issuer is free to say anew.
    ///
    /// # Errors
    /// [`InvalidPapers::NotRenewed`]
    pub fn succeed(&self, held: &Self) -> Result<(), InvalidPapers> {
        let of = |papers: &Self| {
            let Credential {
                issuer,
                node,
                subject,
                ..
            } = &*papers.credential;
            (*issuer, *node, subject.clone())
        };
        match of(self) == of(held) && self.credential.issued >= held.credential.issued {
            true => Ok(()),
            false => Err(InvalidPapers::NotRenewed),
        }
    }

    /// The device document's bytes, or none.
    pub fn device_bytes(&self) -> Bytes {
        let device = self.device.as_ref();
        device
            .map(|device| device.bytes().clone())
            .unwrap_or_default()
    }

    /// Where the bearer gets help.
    pub fn place(&self) -> Place {
        Place {
            subject: Some(self.credential.subject.clone()),
            device: self.device.as_ref().map(|device| device.name.clone()),
        }
    }

    /// Whether both documents hold at that time, give or take [`CLOCK_TOLERANCE_S`].
    pub fn hold_at(&self, unix_s: u64) -> bool {
        let device = self.device.as_ref();
        let lives = [
            Some((self.credential.issued, self.credential.expires)),
            device.map(|device| (device.issued, device.expires)),
        ];
        lives
            .into_iter()
            .flatten()
            .all(|life| holds_at(life, unix_s))
    }
}

/// Whether a document of that life holds at that time.
pub fn holds_at((issued, expires): (u64, u64), unix_s: u64) -> bool {
    issued <= unix_s.saturating_add(CLOCK_TOLERANCE_S)
        && unix_s < expires.saturating_add(CLOCK_TOLERANCE_S)
}

/// All that makes a node a member of an organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    papers: Papers,
    policy: Signed<Policy>,
}

impl Membership {
    /// Of documents that belong together.
    ///
    /// # Errors
    /// [`InvalidPapers::Mixed`]
    pub fn new(papers: Papers, policy: Signed<Policy>) -> Result<Self, InvalidPapers> {
        let same = papers.credential.issuer == policy.header.issuer
            && papers.credential.profile.domain == policy.domain;
        match same {
            true => Ok(Self { papers, policy }),
            false => Err(InvalidPapers::Mixed),
        }
    }

    /// Reads the file of the node `node`.
    ///
    /// # Errors
    /// [`InvalidPapers`]
    pub fn open(bytes: &[u8], node: NodeId) -> Result<Self, InvalidPapers> {
        let malformed = |_| InvalidPapers::Malformed;
        if bytes.len() > MAX_MEMBERSHIP_BYTES {
            return Err(InvalidPapers::Malformed);
        }
        let raw = schema::Membership::decode(bytes).map_err(malformed)?;
        let papers = Papers::open(&raw.credential, &raw.device)?.ok_or(InvalidPapers::Malformed)?;
        if papers.credential.node != node {
            return Err(InvalidPapers::OtherNode);
        }
        let policy =
            Signed::open(&raw.policy).map_err(|error| InvalidPapers::Document("policy", error))?;
        Self::new(papers, policy)
    }

    /// As it is kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        schema::Membership {
            credential: self.papers.credential.bytes().clone(),
            device: self.papers.device_bytes(),
            policy: self.policy.bytes().clone(),
        }
        .encode_to_vec()
    }

    /// What the node shows.
    pub fn papers(&self) -> &Papers {
        &self.papers
    }

    /// What holds.
    pub fn policy(&self) -> &Signed<Policy> {
        &self.policy
    }

    /// Takes what has been signed anew for the same person and node: its papers, and its policy if that is newer.
    ///
    /// # Errors
    /// Neither is taken of somebody else's, and no older papers; the policy is, if it is newer.
    pub fn replace(&mut self, new: Self) -> Result<(), InvalidPapers> {
        match self.renew(new.policy) {
            Ok(_) | Err(InvalidPapers::RolledBack { .. }) => {}
            Err(error) => return Err(error),
        }
        new.papers.succeed(&self.papers)?;
        self.papers = new.papers;
        Ok(())
    }

    /// Takes a newer policy; whether it is one. It can as well be the same.
    ///
    /// # Errors
    /// Another organisation's, or an older one: the one that is held stays.
    pub fn renew(&mut self, policy: Signed<Policy>) -> Result<bool, InvalidPapers> {
        if policy.header.issuer != self.policy.header.issuer || policy.domain != self.policy.domain
        {
            return Err(InvalidPapers::OtherOrganisation);
        }
        if policy == self.policy {
            return Ok(false);
        }
        let (offered, seen) = (policy.header.number, self.policy.header.number);
        if offered <= seen {
            return Err(InvalidPapers::RolledBack { offered, seen });
        }
        self.policy = policy;
        Ok(true)
    }
}

/// "Vouch for me, please": a line of text, for a person to send to who signs. There is nothing secret in it, and nothing that has to
/// be believed: the answer is worth something to the node of that key alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of the node.
    pub node: NodeId,
    /// What the person suggests; company and domain are not the person's to say.
    pub profile: Profile,
    /// The computer's name, a suggestion, too.
    pub device: String,
    /// By which key relays know the device, when its agent runs.
    pub reached_by: Option<DeviceId>,
}

/// Text that is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no request; the person runs `remora setup --request` and sends the whole line that begins with {PREFIX}"
)]
pub struct InvalidRequest;

const PREFIX: &str = "remora-request:";

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raw = schema::Request {
            version: VERSION,
            node: Bytes::copy_from_slice(&self.node.0),
            full_name: self.profile.full_name.clone(),
            job_title: self.profile.job_title.clone(),
            device: self.device.clone(),
            reached_by: self
                .reached_by
                .map(|device| Bytes::copy_from_slice(&device.0))
                .unwrap_or_default(),
        };
        let text = BASE32_NOPAD
            .encode(&raw.encode_to_vec())
            .to_ascii_lowercase();
        write!(f, "{PREFIX}{text}")
    }
}

impl std::str::FromStr for Request {
    type Err = InvalidRequest;

    fn from_str(text: &str) -> Result<Self, InvalidRequest> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(InvalidRequest)?;
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| InvalidRequest)?;
        let raw = schema::Request::decode(&bytes[..]).map_err(|_| InvalidRequest)?;
        let malformed = |_| InvalidRequest;
        of_this_version(raw.version).map_err(malformed)?;
        if raw.device.len() > MAX_FIELD_BYTES {
            return Err(InvalidRequest);
        }
        Ok(Self {
            node: NodeId(array(&raw.node, "node").map_err(malformed)?),
            profile: Profile::new(&raw.full_name, &raw.job_title, "", "")
                .map_err(|_| InvalidRequest)?,
            device: raw.device,
            reached_by: match raw.reached_by.is_empty() {
                true => None,
                false => Some(DeviceId(
                    array(&raw.reached_by, "device").map_err(malformed)?,
                )),
            },
        })
    }
}
