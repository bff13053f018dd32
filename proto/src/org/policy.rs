//! The policy: one document that says what holds for everybody in an organisation, now. Nodes check it themselves; relays only pass it
//! on. Each change makes the next number, and a node takes none that is smaller than what it has seen.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    credential::Serial,
    ended::{self, ENDED_FOR_S, Ending, MAX_ENDED, SessionName},
    label::Label,
    permission::Permissions,
    scope::{Place, Scope},
    setting::Settings,
    signed::{
        Document, InvalidDocument, MAX_POLICY_BYTES, POLICY_CONTEXT, PolicyHeader, VERSION, array,
    },
};
use crate::{
    id::{NodeId, OrgId},
    identity::{MAX_DOMAIN_BYTES, MAX_FIELD_BYTES},
    wire::message::org as schema,
};

/// A policy that is older says nothing of what happened since; people are told, and a relay that keeps the newer one back is noticed.
pub const STALE_AFTER_S: u64 = 24 * 60 * 60;

const INVALID: fn(&'static str) -> InvalidDocument = InvalidDocument::Field;

/// What holds for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which one it is.
    pub header: PolicyHeader,
    /// The organisation's name.
    pub company: String,
    /// Its domain, the only one that its credentials may name.
    pub domain: String,
    /// What is set.
    pub settings: Settings,
    /// What each role may do.
    pub roles: BTreeMap<Label, Permissions>,
    /// Who helps whom, in which role.
    pub assignments: BTreeMap<(Label, Label), Vec<Scope>>,
    /// Some of its people and devices.
    pub groups: BTreeMap<Label, Group>,
    /// Other organisations.
    pub trusts: BTreeMap<OrgId, Trust>,
    /// Who is out, whatever they hold.
    pub revoked: Revoked,
    /// Sessions that are over by an administrator's word; at most [`MAX_ENDED`].
    pub ended: BTreeMap<SessionName, Ending>,
}

/// Some of an organisation's people and devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Subjects.
    pub users: BTreeSet<Label>,
    /// Names of devices.
    pub devices: BTreeSet<Label>,
}

/// What another organisation's helpers may do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The only one that its credentials may name.
    pub domain: String,
    /// At most.
    pub permissions: Permissions,
    /// Whom of ours they may help.
    pub scopes: Vec<Scope>,
}

/// Who is out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// People, with every credential that they have.
    pub subjects: BTreeSet<Label>,
    /// Nodes: a lost computer.
    pub nodes: BTreeSet<NodeId>,
    /// Single credentials.
    pub serials: BTreeSet<Serial>,
}

/// Roles that there are from the start.
///
/// "All but Windows-unattended" of the guide: what it has between the two is not told apart here.
pub fn built_in_roles() -> BTreeMap<Label, Permissions> {
    let label = |text: &str| text.parse::<Label>().expect("a label");
    [
        (label("help-desk-operator"), Permissions::ATTENDED),
        (label("school-administrator"), Permissions::ATTENDED),
        (label("viewer"), Permissions::GUEST),
        (label("unattended-operator"), Permissions::ALL),
        // Gets help, and gives none.
        (label("member"), Permissions::NONE),
    ]
    .into()
}

impl Policy {
    /// The first, in which nobody may do anything.
    pub fn first(issuer: OrgId, company: &str, domain: &str, issued: u64, expires: u64) -> Self {
        Self {
            header: PolicyHeader {
                issuer,
                number: 1,
                issued,
                expires,
            },
            company: company.to_owned(),
            domain: domain.to_owned(),
            settings: Settings::default(),
            roles: built_in_roles(),
            assignments: BTreeMap::new(),
            groups: BTreeMap::new(),
            trusts: BTreeMap::new(),
            revoked: Revoked::default(),
            ended: BTreeMap::new(),
        }
    }

    /// What the subject may do there, by all of its roles; what it may do anywhere, [`Policy::granted_somewhere`] says.
    pub fn granted(&self, subject: &Label, place: &Place) -> Permissions {
        let there = |scopes: &[Scope]| scopes.iter().any(|scope| scope.contains(place, self));
        self.assigned(subject)
            .filter(|(_, scopes)| there(scopes))
            .fold(Permissions::NONE, |all, (permissions, _)| {
                all.or(permissions)
            })
    }

    /// What the subject may do somewhere.
    pub fn granted_somewhere(&self, subject: &Label) -> Permissions {
        self.assigned(subject)
            .fold(Permissions::NONE, |all, (permissions, _)| {
                all.or(permissions)
            })
    }

    /// That session is over. What was ended long ago makes way, then what was ended first.
    pub fn end(&mut self, name: SessionName, ending: Ending) {
        let now = ending.at;
        self.ended
            .retain(|_, old| old.at.saturating_add(ENDED_FOR_S) > now);
        self.ended.insert(name, ending);
        while self.ended.len() > MAX_ENDED {
            let others = self.ended.iter().filter(|(other, _)| **other != name);
            let Some(first) = others.min_by_key(|(_, old)| old.at).map(|(name, _)| *name) else {
                break;
            };
            self.ended.remove(&first);
        }
    }

    fn assigned(&self, subject: &Label) -> impl Iterator<Item = (Permissions, &[Scope])> {
        let of_subject = self
            .assignments
            .iter()
            .filter(move |((who, _), _)| who == subject);
        of_subject
            .filter_map(|((_, role), scopes)| Some((*self.roles.get(role)?, scopes.as_slice())))
    }
}

impl Document for Policy {
    type Raw = schema::Policy;
    const CONTEXT: &'static str = POLICY_CONTEXT;
    const MAX_BYTES: usize = MAX_POLICY_BYTES;

    fn issuer(&self) -> OrgId {
        self.header.issuer
    }

    fn to_raw(&self) -> schema::Policy {
        let raw_scopes = |scopes: &[Scope]| scopes.iter().map(Scope::to_raw).collect();
        let texts = |labels: &BTreeSet<Label>| labels.iter().map(ToString::to_string).collect();
        let role = |(name, permissions): (&Label, &Permissions)| schema::Role {
            name: name.to_string(),
            permissions: permissions.bits(),
        };
        let assignment =
            |((subject, role), scopes): (&(Label, Label), &Vec<Scope>)| schema::Assignment {
                subject: subject.to_string(),
                role: role.to_string(),
                scopes: raw_scopes(scopes),
            };
        let group = |(name, group): (&Label, &Group)| schema::Group {
            name: name.to_string(),
            users: texts(&group.users),
            devices: texts(&group.devices),
        };
        let trust = |(issuer, trust): (&OrgId, &Trust)| schema::Trust {
            issuer: Bytes::copy_from_slice(&issuer.0),
            domain: trust.domain.clone(),
            permissions: trust.permissions.bits(),
            scopes: raw_scopes(&trust.scopes),
        };
        let ended = |(name, ending): (&SessionName, &Ending)| schema::EndedSession {
            session: ended::name_text(name),
            at: ending.at,
            why: ending.why.as_str().to_owned(),
        };
        let nodes = self.revoked.nodes.iter();
        let serials = self.revoked.serials.iter();
        schema::Policy {
            version: VERSION,
            issuer: Bytes::copy_from_slice(&self.header.issuer.0),
            number: self.header.number,
            issued: self.header.issued,
            expires: self.header.expires,
            company: self.company.clone(),
            domain: self.domain.clone(),
            settings: self.settings.to_raw(),
            roles: self.roles.iter().map(role).collect(),
            assignments: self.assignments.iter().map(assignment).collect(),
            groups: self.groups.iter().map(group).collect(),
            trusts: self.trusts.iter().map(trust).collect(),
            revoked_subjects: texts(&self.revoked.subjects),
            revoked_nodes: nodes.map(|node| Bytes::copy_from_slice(&node.0)).collect(),
            revoked_serials: serials
                .map(|serial| Bytes::copy_from_slice(serial))
                .collect(),
            ended: self.ended.iter().map(ended).collect(),
        }
    }

    fn from_raw(raw: schema::Policy) -> Result<Self, InvalidDocument> {
        let header = PolicyHeader::from_raw(&schema::PolicyHeader {
            version: raw.version,
            issuer: raw.issuer,
            number: raw.number,
            issued: raw.issued,
            expires: raw.expires,
        })?;
        let is_long = raw.company.len() > MAX_FIELD_BYTES || raw.domain.len() > MAX_DOMAIN_BYTES;
        if is_long || raw.domain.is_empty() {
            return Err(INVALID("domain"));
        }
        let labels =
            |texts: &[String], field| set(texts.iter().map(|text| Label::read(text, field)), field);
        let roles = raw.roles.iter().map(|role| {
            let permissions = Permissions::from_bits(role.permissions);
            Ok((Label::read(&role.name, "roles")?, permissions))
        });
        let assignments = raw.assignments.iter().map(|row| {
            let subject = Label::read(&row.subject, "assignments")?;
            let role = Label::read(&row.role, "assignments")?;
            Ok(((subject, role), Scope::read_all(&row.scopes)?))
        });
        let groups = raw.groups.iter().map(|group| {
            let (users, devices) = (
                labels(&group.users, "groups")?,
                labels(&group.devices, "groups")?,
            );
            Ok((
                Label::read(&group.name, "groups")?,
                Group { users, devices },
            ))
        });
        let trusts = raw.trusts.iter().map(|trust| {
            if trust.domain.is_empty() || trust.domain.len() > MAX_DOMAIN_BYTES {
                return Err(INVALID("trusts"));
            }
            let issuer = OrgId(array(&trust.issuer, "trusts")?);
            let trust = Trust {
                domain: trust.domain.clone(),
                permissions: Permissions::from_bits(trust.permissions),
                scopes: Scope::read_all(&trust.scopes)?,
            };
            Ok((issuer, trust))
        });
        if raw.ended.len() > MAX_ENDED {
            return Err(INVALID("ended"));
        }
        let ended = raw.ended.iter().map(|ended| {
            let why = ended.why.parse().map_err(|_| INVALID("ended"))?;
            let at = ended.at;
            Ok((ended::read_name(&ended.session)?, Ending { at, why }))
        });
        let nodes = raw.revoked_nodes.iter();
        let serials = raw.revoked_serials.iter();
        Ok(Self {
            header,
            settings: Settings::from_raw(&raw.settings)?,
            roles: map(roles, "roles")?,
            assignments: map(assignments, "assignments")?,
            groups: map(groups, "groups")?,
            trusts: map(trusts, "trusts")?,
            revoked: Revoked {
                subjects: labels(&raw.revoked_subjects, "revoked")?,
                nodes: set(
                    nodes.map(|node| Ok(NodeId(array(node, "revoked")?))),
                    "revoked",
                )?,
                serials: set(serials.map(|serial| array(serial, "revoked")), "revoked")?,
            },
            ended: map(ended, "ended")?,
            company: raw.company,
            domain: raw.domain,
        })
    }
}

/// Ascending keys only: there is one form of a policy.
fn map<K: Ord, V>(
    rows: impl Iterator<Item = Result<(K, V), InvalidDocument>>,
    field: &'static str,
) -> Result<BTreeMap<K, V>, InvalidDocument> {
    let mut map = BTreeMap::new();
    for row in rows {
        let (key, value) = row?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(INVALID(field));
        }
        map.insert(key, value);
    }
    Ok(map)
}

fn set<K: Ord>(
    keys: impl Iterator<Item = Result<K, InvalidDocument>>,
    field: &'static str,
) -> Result<BTreeSet<K>, InvalidDocument> {
    let keys = map(keys.map(|key| Ok((key?, ()))), field)?;
    Ok(keys.into_keys().collect())
}
