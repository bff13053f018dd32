//! What helper and device say to each other (`schema/device.proto`), parsed.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;

use super::seal::Broken;
use crate::{
    code::Code,
    identity::{Introduction, Profile, Role},
    line::is_unsafe_in_line,
    org::{
        membership::Papers,
        verdict::{self, Limit},
    },
    path::candidate::Named,
    random::Random,
    sas::Commitment,
    session::{Kind, Mode},
    wire::message::{
        device::{self as schema, RefusedReason, from_device, from_helper},
        session as session_schema,
    },
};

/// Longest reason, and longest detail of a refusal is half of it; bytes of UTF-8.
pub const MAX_REASON_BYTES: usize = 256;
const MAX_DETAIL_BYTES: usize = 128;
const ID_BYTES: usize = 16;

/// One invitation, however often it is sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InvitationId(pub [u8; ID_BYTES]);

impl InvitationId {
    /// A new one.
    pub fn generate(random: &mut Random) -> Self {
        Self(random.bytes())
    }

    fn parse(bytes: &[u8]) -> Result<Self, Broken> {
        bytes.try_into().map(Self).map_err(|_| Broken)
    }

    fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl fmt::Display for InvitationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for InvitationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InvitationId({self})")
    }
}

impl FromStr for InvitationId {
    type Err = Broken;

    fn from_str(text: &str) -> Result<Self, Broken> {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes());
        Self::parse(&bytes.map_err(|_| Broken)?)
    }
}

/// Help, to be had by the first who opens it.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Of all its sendings.
    pub id: InvitationId,
    /// To join with.
    pub code: Code,
    /// Whether somebody has to be there.
    pub kind: Kind,
    /// What will be asked for, if that is known.
    pub mode: Option<Mode>,
    /// For whoever reads it; one line, may be empty.
    pub reason: String,
    /// Who invites.
    pub profile: Profile,
    /// Who says so.
    pub papers: Option<Papers>,
    /// How long somebody has to open it.
    pub within: Duration,
}

/// Why an offer is nobody's any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// Somebody else was first.
    Taken,
    /// The helper does not wait any more.
    Cancelled,
    /// Nobody opened it in time.
    Expired,
}

/// Why a device takes no offer (SESSION.md §1.4, row 2e).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The organisation, the helper's role, or whom it may help, does not allow it.
    Limit(Limit),
    /// The helper's organisation is none that the device trusts.
    OrgMismatch,
    /// The helper's papers are not in order.
    AuthFailed,
    /// The device is not enrolled.
    UnenrolledNotAllowed,
    /// Unattended: what it lacks.
    PrerequisiteMissing(String),
    /// Unattended: somebody is there already.
    LeaseHeld(String),
    /// It has as many offers as it takes.
    Full,
    /// A request: another helper was first.
    Taken,
}

/// What a helper says.
#[derive(Clone, Debug)]
pub enum FromHelper {
    /// Once more, too.
    Offer(Box<Offer>),
    /// No more.
    Withdrawn(InvitationId, Withdrawal),
    /// Who waits for help here, and what for?
    Look(Box<Look>),
}

/// A look at a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// In the answer, too.
    pub id: InvitationId,
    /// Who looks.
    pub profile: Profile,
    /// Who says so.
    pub papers: Option<Papers>,
}

/// Whose device it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its person's.
    pub profile: Profile,
    /// Who says so, and whether it is enrolled.
    pub papers: Option<Papers>,
}

/// What a device says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromDevice {
    /// Before anything else, unless it refuses.
    Card(Box<Card>),
    /// So many people can open it now.
    Delivered(InvitationId, u32),
    /// None can.
    Refused(InvitationId, Refusal),
    /// Somebody was the first.
    Opened(InvitationId),
    /// Nobody wants it.
    Declined(InvitationId),
    /// To a look: its person waits for help with this, for so long.
    Asks(InvitationId, String, Duration),
}

/// Text that stands in one line, of at most so many bytes.
pub fn one_line(text: &str, max: usize) -> String {
    let clean = text.chars().filter(|&c| !is_unsafe_in_line(c));
    let mut line: String = clean.collect::<String>().trim().to_owned();
    while line.len() > max {
        line.pop();
    }
    // Where it was cut.
    line.truncate(line.trim_end().len());
    line
}

impl Refusal {
    /// For scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Limit(limit) => limit.name(),
            Self::OrgMismatch => "ORG_MISMATCH",
            Self::AuthFailed => "AUTH_FAILED",
            Self::UnenrolledNotAllowed => "UNENROLLED_NOT_ALLOWED",
            Self::PrerequisiteMissing(_) => "PREREQ_MISSING",
            Self::LeaseHeld(_) => "LEASE_HELD",
            Self::Full => "FULL",
            Self::Taken => "TAKEN",
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::PrerequisiteMissing(detail) | Self::LeaseHeld(detail) => detail,
            Self::Limit(_)
            | Self::OrgMismatch
            | Self::AuthFailed
            | Self::UnenrolledNotAllowed
            | Self::Full
            | Self::Taken => "",
        }
    }

    fn to_schema(&self) -> RefusedReason {
        match self {
            Self::Limit(Limit::Disabled) => RefusedReason::Disabled,
            Self::Limit(Limit::PolicyExpired) => RefusedReason::PolicyExpired,
            // An invitation comes by no link: it would be no more than that.
            Self::Limit(Limit::NoPermission | Limit::Link) => RefusedReason::NoPermission,
            Self::Limit(Limit::OutOfScope) => RefusedReason::OutOfScope,
            Self::OrgMismatch => RefusedReason::OrgMismatch,
            Self::AuthFailed => RefusedReason::AuthFailed,
            Self::UnenrolledNotAllowed => RefusedReason::UnenrolledNotAllowed,
            Self::PrerequisiteMissing(_) => RefusedReason::PrerequisiteMissing,
            Self::LeaseHeld(_) => RefusedReason::LeaseHeld,
            Self::Full => RefusedReason::Full,
            Self::Taken => RefusedReason::RequestTaken,
        }
    }

    fn from_schema(reason: RefusedReason, detail: &str) -> Option<Self> {
        let detail = || one_line(detail, MAX_DETAIL_BYTES);
        Some(match reason {
            RefusedReason::Unspecified => return None,
            RefusedReason::Disabled => Self::Limit(Limit::Disabled),
            RefusedReason::PolicyExpired => Self::Limit(Limit::PolicyExpired),
            RefusedReason::NoPermission => Self::Limit(Limit::NoPermission),
            RefusedReason::OutOfScope => Self::Limit(Limit::OutOfScope),
            RefusedReason::OrgMismatch => Self::OrgMismatch,
            RefusedReason::AuthFailed => Self::AuthFailed,
            RefusedReason::UnenrolledNotAllowed => Self::UnenrolledNotAllowed,
            RefusedReason::PrerequisiteMissing => Self::PrerequisiteMissing(detail()),
            RefusedReason::LeaseHeld => Self::LeaseHeld(detail()),
            RefusedReason::Full => Self::Full,
            RefusedReason::RequestTaken => Self::Taken,
        })
    }
}

impl From<verdict::Refusal> for Refusal {
    fn from(refusal: verdict::Refusal) -> Self {
        match refusal {
            verdict::Refusal::NotTheirs
            | verdict::Refusal::NotValidNow
            | verdict::Refusal::Revoked
            | verdict::Refusal::WrongDomain => Self::AuthFailed,
            verdict::Refusal::OrgMismatch => Self::OrgMismatch,
            verdict::Refusal::UnenrolledNotAllowed => Self::UnenrolledNotAllowed,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(limit) => limit.fmt(f),
            Self::OrgMismatch => f.write_str("the device belongs to another organisation, or to none, and yours and it do not trust each other"),
            Self::AuthFailed => f.write_str("the device does not take your papers; is a clock wrong, or have they been revoked?"),
            Self::UnenrolledNotAllowed => f.write_str("the device is not enrolled, and the organisation does not allow that"),
            Self::PrerequisiteMissing(what) => write!(f, "nobody attends the device, and it lacks what it must have for that: {what}"),
            Self::LeaseHeld(by) => write!(f, "{by} is at the unattended device already"),
            Self::Full => f.write_str("the device has as many invitations as it takes; try again in some minutes"),
            Self::Taken => f.write_str("somebody else has taken this request; see `remora requests` for others"),
        }
    }
}

/// What stands in an introduction, of somebody who has shown this much: for [`verdict::judge`].
pub fn introduction(role: Role, profile: &Profile, papers: Option<&Papers>) -> Introduction {
    Introduction {
        role,
        profile: profile.clone(),
        papers: papers.cloned(),
        commitment: Commitment([0; 32]),
        named: Named::default(),
    }
}

fn to_profile(profile: &Profile, papers: Option<&Papers>) -> Option<session_schema::Profile> {
    // A credential says it all.
    papers.is_none().then(|| session_schema::Profile {
        full_name: profile.full_name.clone(),
        job_title: profile.job_title.clone(),
        company: profile.company.clone(),
        domain: profile.domain.clone(),
    })
}

fn credential(papers: Option<&Papers>) -> Bytes {
    papers
        .map(|papers| papers.credential.bytes().clone())
        .unwrap_or_default()
}

fn who(
    profile: Option<session_schema::Profile>,
    credential: &[u8],
    device: &[u8],
) -> Result<(Profile, Option<Papers>), Broken> {
    let papers = Papers::open(credential, device).map_err(|_| Broken)?;
    let profile = match &papers {
        Some(papers) => papers.credential.profile.clone(),
        None => {
            let said = profile.unwrap_or_default();
            Profile::new(
                &said.full_name,
                &said.job_title,
                &said.company,
                &said.domain,
            )
            .map_err(|_| Broken)?
        }
    };
    Ok((profile, papers))
}

impl FromHelper {
    /// For the channel.
    pub fn to_schema(&self) -> schema::FromHelper {
        let body = match self {
            Self::Offer(offer) => from_helper::Body::Offer(offer.to_schema()),
            Self::Withdrawn(id, why) => {
                let reason = match why {
                    Withdrawal::Taken => schema::WithdrawnReason::Taken,
                    Withdrawal::Cancelled => schema::WithdrawnReason::Cancelled,
                    Withdrawal::Expired => schema::WithdrawnReason::Expired,
                };
                from_helper::Body::Withdrawn(schema::Withdrawn {
                    invitation: id.to_bytes(),
                    reason: reason.into(),
                })
            }
            Self::Look(look) => from_helper::Body::Look(schema::Look {
                look: look.id.to_bytes(),
                profile: to_profile(&look.profile, look.papers.as_ref()),
                credential: credential(look.papers.as_ref()),
            }),
        };
        schema::FromHelper { body: Some(body) }
    }

    /// From the channel; `None` is of a later version.
    ///
    /// # Errors
    /// [`Broken`]: it cannot be right.
    pub fn from_schema(raw: schema::FromHelper) -> Result<Option<Self>, Broken> {
        Ok(match raw.body {
            None => None,
            Some(from_helper::Body::Offer(offer)) => {
                Some(Self::Offer(Box::new(Offer::from_schema(offer)?)))
            }
            Some(from_helper::Body::Withdrawn(withdrawn)) => {
                let why = match withdrawn.reason() {
                    schema::WithdrawnReason::Taken => Withdrawal::Taken,
                    schema::WithdrawnReason::Unspecified | schema::WithdrawnReason::Cancelled => {
                        Withdrawal::Cancelled
                    }
                    schema::WithdrawnReason::Expired => Withdrawal::Expired,
                };
                let id = InvitationId::parse(&withdrawn.invitation)?;
                Some(Self::Withdrawn(id, why))
            }
            Some(from_helper::Body::Look(look)) => {
                let (profile, papers) = who(look.profile, &look.credential, &[])?;
                Some(Self::Look(Box::new(Look {
                    id: InvitationId::parse(&look.look)?,
                    profile,
                    papers,
                })))
            }
        })
    }
}

impl Offer {
    fn to_schema(&self) -> schema::Offer {
        let kind = match self.kind {
            Kind::Attended => schema::Kind::Attended,
            Kind::Unattended => schema::Kind::Unattended,
        };
        let papers = self.papers.as_ref();
        schema::Offer {
            invitation: self.id.to_bytes(),
            code: self.code.to_string(),
            kind: kind.into(),
            mode: self.mode.map_or(0, |mode| mode.to_schema().into()),
            reason: self.reason.clone(),
            profile: to_profile(&self.profile, papers),
            credential: credential(papers),
            within_s: u32::try_from(self.within.as_secs()).unwrap_or(u32::MAX),
        }
    }

    fn from_schema(raw: schema::Offer) -> Result<Self, Broken> {
        let kind = match raw.kind() {
            schema::Kind::Attended => Kind::Attended,
            schema::Kind::Unattended => Kind::Unattended,
            schema::Kind::Unspecified => return Err(Broken),
        };
        let mode = Mode::from_schema(raw.mode());
        let (profile, papers) = who(raw.profile, &raw.credential, &[])?;
        Ok(Self {
            id: InvitationId::parse(&raw.invitation)?,
            code: raw.code.parse().map_err(|_| Broken)?,
            kind,
            mode,
            reason: one_line(&raw.reason, MAX_REASON_BYTES),
            profile,
            papers,
            within: Duration::from_secs(raw.within_s.into()),
        })
    }
}

impl FromDevice {
    /// For the channel.
    pub fn to_schema(&self) -> schema::FromDevice {
        let body = match self {
            Self::Card(card) => {
                let papers = card.papers.as_ref();
                from_device::Body::Card(schema::Card {
                    profile: to_profile(&card.profile, papers),
                    credential: credential(papers),
                    device: papers.map(Papers::device_bytes).unwrap_or_default(),
                })
            }
            Self::Delivered(id, agents) => from_device::Body::Delivered(schema::Delivered {
                invitation: id.to_bytes(),
                agents: *agents,
            }),
            Self::Refused(id, refusal) => from_device::Body::Refused(schema::Refused {
                invitation: id.to_bytes(),
                reason: refusal.to_schema().into(),
                detail: one_line(refusal.detail(), MAX_DETAIL_BYTES),
            }),
            Self::Opened(id) => from_device::Body::Opened(schema::Opened {
                invitation: id.to_bytes(),
            }),
            Self::Declined(id) => from_device::Body::Declined(schema::Declined {
                invitation: id.to_bytes(),
            }),
            Self::Asks(id, reason, waited) => from_device::Body::Asks(schema::Asks {
                look: id.to_bytes(),
                reason: reason.clone(),
                waited_s: u32::try_from(waited.as_secs()).unwrap_or(u32::MAX),
            }),
        };
        schema::FromDevice { body: Some(body) }
    }

    /// From the channel; `None` is of a later version.
    ///
    /// # Errors
    /// [`Broken`]: it cannot be right.
    pub fn from_schema(raw: schema::FromDevice) -> Result<Option<Self>, Broken> {
        Ok(match raw.body {
            None => None,
            Some(from_device::Body::Card(card)) => {
                let (profile, papers) = who(card.profile, &card.credential, &card.device)?;
                Some(Self::Card(Box::new(Card { profile, papers })))
            }
            Some(from_device::Body::Delivered(delivered)) => {
                let id = InvitationId::parse(&delivered.invitation)?;
                Some(Self::Delivered(id, delivered.agents))
            }
            Some(from_device::Body::Refused(refused)) => {
                let id = InvitationId::parse(&refused.invitation)?;
                Refusal::from_schema(refused.reason(), &refused.detail)
                    .map(|refusal| Self::Refused(id, refusal))
            }
            Some(from_device::Body::Opened(opened)) => {
                Some(Self::Opened(InvitationId::parse(&opened.invitation)?))
            }
            Some(from_device::Body::Declined(declined)) => {
                Some(Self::Declined(InvitationId::parse(&declined.invitation)?))
            }
            Some(from_device::Body::Asks(asks)) => Some(Self::Asks(
                InvitationId::parse(&asks.look)?,
                one_line(&asks.reason, MAX_REASON_BYTES),
                Duration::from_secs(asks.waited_s.into()),
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let mut random = Random::seeded(1);
        let profile = Profile::new("Sam Okafor", "Service desk", "Contoso", "").expect("a name");
        let offer = Offer {
            id: InvitationId::generate(&mut random),
            code: Code::generate(&mut random),
            kind: Kind::Unattended,
            mode: Some(Mode::Control),
            reason: "TICKET-123".into(),
            profile: profile.clone(),
            papers: None,
            within: Duration::from_secs(300),
        };
        let id = offer.id;
        assert_eq!(id.to_string().parse(), Ok(id));
        let said = FromHelper::Offer(Box::new(offer));
        let heard = FromHelper::from_schema(said.to_schema()).expect("right");
        assert_eq!(format!("{heard:?}"), format!("{:?}", Some(&said)));
        let FromHelper::Offer(offer) = said else {
            panic!("an offer")
        };
        let mut raw = offer.to_schema();
        assert_eq!(raw.code, offer.code.to_string());
        raw.reason = "a\u{202e}b\n".repeat(200);
        let heard = Offer::from_schema(raw.clone()).expect("right");
        assert_eq!(heard.reason, "ab".repeat(128));
        raw.code = "4060".into();
        assert!(Offer::from_schema(raw).is_err());
        let look = Look {
            id,
            profile: profile.clone(),
            papers: None,
        };
        let said = FromHelper::Look(Box::new(look));
        let heard = FromHelper::from_schema(said.to_schema()).expect("right");
        assert_eq!(format!("{heard:?}"), format!("{:?}", Some(&said)));
        let card = Card {
            profile,
            papers: None,
        };
        let refusals = [
            Refusal::Limit(Limit::Disabled),
            Refusal::Limit(Limit::PolicyExpired),
            Refusal::Limit(Limit::NoPermission),
            Refusal::Limit(Limit::OutOfScope),
            Refusal::OrgMismatch,
            Refusal::AuthFailed,
            Refusal::UnenrolledNotAllowed,
            Refusal::PrerequisiteMissing("no shield".into()),
            Refusal::LeaseHeld("Sam".into()),
            Refusal::Full,
            Refusal::Taken,
        ];
        let refused = refusals.map(|refusal| FromDevice::Refused(id, refusal));
        let others = [
            FromDevice::Card(Box::new(card)),
            FromDevice::Delivered(id, 2),
            FromDevice::Opened(id),
            FromDevice::Declined(id),
            FromDevice::Asks(id, "the printer".into(), Duration::from_secs(7)),
        ];
        for said in refused.into_iter().chain(others) {
            assert_eq!(FromDevice::from_schema(said.to_schema()), Ok(Some(said)));
        }
        let unnamed = schema::Card::default();
        let body = Some(from_device::Body::Card(unnamed));
        assert_eq!(
            FromDevice::from_schema(schema::FromDevice { body }),
            Err(Broken)
        );
    }
}
