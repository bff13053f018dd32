//! Who somebody says they are, and the introduction both sides carry inside the inner handshake.
//!
//! A profile is the person's own word, and shown as UNVERIFIED, unless it stands in a credential: see [`crate::org`].

use bytes::Bytes;
use prost::Message;

use crate::{
    line::is_unsafe_in_line,
    noise::MAX_CLIENT_PAYLOAD,
    org::membership::{InvalidPapers, Papers},
    path::candidate::{self, Named},
    sas::Commitment,
    wire::message::{PROTOCOL, session as schema},
};

/// Longest name, title and company, in bytes of UTF-8.
pub const MAX_FIELD_BYTES: usize = 128;
/// Longest domain name (RFC 1035 §2.3.4).
pub const MAX_DOMAIN_BYTES: usize = 253;

/// Candidates of an introduction: what fits beside the longest profile, or the longest papers.
pub const MAX_CANDIDATES: usize = 4;

/// Gives help, or gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sees, and where allowed controls, the other's screen.
    Helper,
    /// Shows the screen; decides about everything that happens on it.
    Sharer,
}

impl Role {
    /// The other one.
    pub fn peer(self) -> Self {
        match self {
            Self::Helper => Self::Sharer,
            Self::Sharer => Self::Helper,
        }
    }
}

/// What the trust card shows. Fields hold no control or bidirectional override characters, so
/// that a name cannot rearrange the words around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Never empty.
    pub full_name: String,
    /// May be empty, as the rest may.
    pub job_title: String,
    /// Employer or organisation.
    pub company: String,
    /// Domain that vouches for the person, where one does.
    pub domain: String,
}

/// A profile that cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProfile {
    /// Nobody can be asked to trust a card without a name.
    #[error("the full name is empty")]
    NoName,
    /// A field over its limit.
    #[error("{field} has {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// Which one.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// Its limit.
        max: usize,
    },
}

impl Profile {
    pub(crate) fn to_schema(&self) -> schema::Profile {
        let profile = self.clone();
        schema::Profile {
            full_name: profile.full_name,
            job_title: profile.job_title,
            company: profile.company,
            domain: profile.domain,
        }
    }

    /// As of [`Self::new`].
    pub(crate) fn from_schema(said: &schema::Profile) -> Result<Self, InvalidProfile> {
        let (name, title) = (&said.full_name, &said.job_title);
        Self::new(name, title, &said.company, &said.domain)
    }

    /// Cleans and checks what a person, a file or a peer says.
    ///
    /// # Errors
    /// [`InvalidProfile`]: no name, or a field too long.
    pub fn new(
        full_name: &str,
        job_title: &str,
        company: &str,
        domain: &str,
    ) -> Result<Self, InvalidProfile> {
        let clean = |field: &'static str, text: &str, max: usize| {
            let text: String = text.chars().filter(|&c| !is_unsafe_in_line(c)).collect();
            let text = text.trim().to_owned();
            if text.len() > max {
                return Err(InvalidProfile::TooLong {
                    field,
                    bytes: text.len(),
                    max,
                });
            }
            Ok(text)
        };
        let profile = Self {
            full_name: clean("the full name", full_name, MAX_FIELD_BYTES)?,
            job_title: clean("the job title", job_title, MAX_FIELD_BYTES)?,
            company: clean("the company", company, MAX_FIELD_BYTES)?,
            domain: clean("the domain", domain, MAX_DOMAIN_BYTES)?,
        };
        if profile.full_name.is_empty() {
            Err(InvalidProfile::NoName)
        } else {
            Ok(profile)
        }
    }
}

/// What each side tells the other inside the Noise handshake (message 2 or 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The sender's.
    pub role: Role,
    /// The sender's; its credential's, if it has one.
    pub profile: Profile,
    /// What an organisation has signed of the sender.
    pub papers: Option<Papers>,
    /// To the sender's SAS nonce.
    pub commitment: Commitment,
    /// Where the sender may be reached by anybody; at most [`MAX_CANDIDATES`].
    pub named: Named,
}

/// An introduction that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIntroduction {
    /// Not protobuf, or a field of impossible size.
    #[error("the other side's introduction is malformed")]
    Malformed,
    /// Another version of the session's messages.
    #[error(
        "the other side speaks version {0} of the session protocol and this program speaks {PROTOCOL}; both should update"
    )]
    Version(u32),
    /// Two helpers, or two sharers.
    #[error("the other side has the same role")]
    Role,
    /// See [`InvalidProfile`].
    #[error(transparent)]
    Profile(#[from] InvalidProfile),
    /// See [`InvalidPapers`].
    #[error("the other side's papers are not in order: {0}")]
    Papers(#[from] InvalidPapers),
}

impl Introduction {
    /// As it goes into the handshake: at most [`MAX_CLIENT_PAYLOAD`] bytes, which the limits of profile and candidates guarantee.
    pub fn encode(&self) -> Vec<u8> {
        let role = match self.role {
            Role::Helper => schema::Role::Helper,
            Role::Sharer => schema::Role::Sharer,
        };
        let profile = || self.profile.to_schema();
        let papers = self.papers.as_ref();
        let credential = papers.map(|papers| papers.credential.bytes().clone());
        schema::HandshakePayload {
            protocol: PROTOCOL,
            role: role.into(),
            // A credential says it all; both would not fit.
            profile: papers.is_none().then(profile),
            sas_commitment: Bytes::copy_from_slice(&self.commitment.0),
            named: Some(candidate::encode(&first(self.named.clone()))),
            credential: credential.unwrap_or_default(),
            device: papers.map(Papers::device_bytes).unwrap_or_default(),
        }
        .encode_to_vec()
    }

    /// Reads the other side's, which must have `expected` as its role.
    ///
    /// # Errors
    /// [`InvalidIntroduction`].
    pub fn decode(bytes: &[u8], expected: Role) -> Result<Self, InvalidIntroduction> {
        if bytes.len() > MAX_CLIENT_PAYLOAD {
            return Err(InvalidIntroduction::Malformed);
        }
        let raw =
            schema::HandshakePayload::decode(bytes).map_err(|_| InvalidIntroduction::Malformed)?;
        if raw.protocol != PROTOCOL {
            return Err(InvalidIntroduction::Version(raw.protocol));
        }
        let role = match raw.role() {
            schema::Role::Helper => Role::Helper,
            schema::Role::Sharer => Role::Sharer,
            schema::Role::Unspecified => return Err(InvalidIntroduction::Malformed),
        };
        if role != expected {
            return Err(InvalidIntroduction::Role);
        }
        let papers = Papers::open(&raw.credential, &raw.device)?;
        let profile = match &papers {
            Some(papers) => papers.credential.profile.clone(),
            None => Profile::from_schema(&raw.profile.unwrap_or_default())?,
        };
        let named = raw.named.as_ref().map(candidate::decode);
        Ok(Self {
            role,
            profile,
            papers,
            commitment: Commitment(
                raw.sas_commitment[..]
                    .try_into()
                    .map_err(|_| InvalidIntroduction::Malformed)?,
            ),
            named: first(named.unwrap_or_default()),
        })
    }
}

/// No more than an introduction has room for.
fn first(mut named: Named) -> Named {
    named.candidates.truncate(MAX_CANDIDATES);
    named.attempt = None;
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::nat::{Allocation, Mapping, Nat};

    #[test]
    fn the_largest_introduction_fits_the_handshake() {
        let long = "ä".repeat(MAX_FIELD_BYTES / 2);
        let profile = Profile::new(&long, &long, &long, &"d".repeat(MAX_DOMAIN_BYTES))
            .expect("within limits");
        let introduction = Introduction {
            role: Role::Sharer,
            profile,
            papers: None,
            commitment: Commitment([9; 32]),
            named: Named {
                candidates: vec![
                    candidate::Candidate {
                        kind: candidate::Kind::ServerReflexive,
                        address: "[2001:db8::1]:65535".parse().expect("an address"),
                    };
                    MAX_CANDIDATES
                ],
                nat: Nat {
                    mapping: Mapping::Dependent(Allocation::Block {
                        first: 60_000,
                        size: 4096,
                    }),
                },
                attempt: None,
                relayed: false,
                hindrance: Some(candidate::Hindrance::UdpBlocked),
            },
        };
        let bytes = introduction.encode();
        assert!(bytes.len() <= MAX_CLIENT_PAYLOAD, "{}", bytes.len());
        assert_eq!(Introduction::decode(&bytes, Role::Sharer), Ok(introduction));
        assert_eq!(
            Introduction::decode(&bytes, Role::Helper),
            Err(InvalidIntroduction::Role)
        );
    }

    #[test]
    fn a_card_cannot_play_tricks_with_the_screen() {
        let profile = Profile::new("Sam\u{202e}rof\n\u{1b}[31m Ok\u{200b}afor ", "", "", "")
            .expect("has a name");
        assert_eq!(profile.full_name, "Samrof[31m Okafor");
        assert_eq!(
            Profile::new(" \u{202e}\n", "", "", ""),
            Err(InvalidProfile::NoName)
        );
        assert!(matches!(
            Profile::new("a", &"x".repeat(129), "", ""),
            Err(InvalidProfile::TooLong {
                field: "the job title",
                bytes: 129,
                max: 128
            })
        ));
    }

    #[test]
    fn names_keep_their_script() {
        let profile =
            Profile::new("ليلى حداد", "会計", "Ünïcode GmbH", "münchen.example").expect("valid");
        assert_eq!(profile.full_name, "ليلى حداد");
        assert_eq!(profile.job_title, "会計");
    }
}
