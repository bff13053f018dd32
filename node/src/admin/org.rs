//! `remora admin org`: an organisation's key, its people and devices, its policy. All of it happens in a folder on this computer.

use std::{collections::BTreeSet, fs, path::Path, str::FromStr};

use aws_lc_rs::digest;
use remora_proto::{
    id::{NodeId, OrgId, RelayAddr},
    identity::Profile,
    org::{
        credential::{Credential, Device, MAX_DEVICE_NAME_BYTES, Serial},
        ended::{Ending, SessionName},
        label::Label,
        membership::Papers,
        permission::Permissions,
        policy::{Group, Policy, Trust},
        scope::{MAX_SCOPES, Scope},
        setting::Setting,
        signed::Signed,
    },
    random::Random,
};
use serde_json::{Value, json};

use super::{
    desk,
    folder::{DAY_S, Folder},
};
use crate::{
    cli::org as cli,
    config::{self, File},
    error::{Exit, Failure},
    identity::unix_s,
    node::{Node, Options},
    terminal::console::{print_data, print_note},
};

/// Relays that are told of a new policy: no fleet is larger, and a wrong one ends.
const MAX_RELAYS: usize = 64;
/// Largest picture; what is signed is its hash.
const MAX_PICTURE_BYTES: usize = 64 << 10;

fn usage(line: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, "USAGE", line)
}

/// `remora admin org`
///
/// # Errors
/// What is wrong, and what to do.
pub(super) async fn run(file: &File, args: cli::Org) -> Result<Exit, Failure> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => config::folder()?.join("org"),
    };
    match &args.command {
        cli::OrgCommand::Init(init) => return create(&dir, init),
        cli::OrgCommand::Serve(serve) => return desk::serve(file, dir, &args, serve).await,
        cli::OrgCommand::Show(_)
        | cli::OrgCommand::Sign(_)
        | cli::OrgCommand::Device(_)
        | cli::OrgCommand::Role(_)
        | cli::OrgCommand::Assign(_)
        | cli::OrgCommand::Group(_)
        | cli::OrgCommand::Trust(_)
        | cli::OrgCommand::Revoke(_)
        | cli::OrgCommand::EndSession(_)
        | cli::OrgCommand::Policy(_) => {}
    }
    let folder = Folder::open(&dir)?;
    let before = folder.policy()?.header.number;
    act(&folder, args.command)?;
    let policy = folder.policy()?;
    // Others may go on while relays are told.
    drop(folder);
    if policy.header.number != before {
        publish(file, &args.relay, &policy).await?;
    }
    Ok(Exit::Ok)
}

fn act(folder: &Folder, command: cli::OrgCommand) -> Result<(), Failure> {
    match command {
        cli::OrgCommand::Init(_) | cli::OrgCommand::Serve(_) => {}
        cli::OrgCommand::Show(args) => show(folder, args.json)?,
        cli::OrgCommand::Sign(args) => sign(folder, *args)?,
        cli::OrgCommand::Device(args) => device(folder, &args)?,
        cli::OrgCommand::Role(args) => changed(folder.change(|policy| role(policy, args))?)?,
        cli::OrgCommand::Assign(args) => changed(folder.change(|policy| assign(policy, args))?)?,
        cli::OrgCommand::Group(args) => changed(folder.change(|policy| group(policy, args))?)?,
        cli::OrgCommand::Trust(args) => changed(folder.change(|policy| trust(policy, args))?)?,
        cli::OrgCommand::Revoke(args) => changed(folder.change(|policy| revoke(policy, &args))?)?,
        cli::OrgCommand::EndSession(args) => {
            changed(folder.change(|policy| end_session(policy, args))?)?;
        }
        cli::OrgCommand::Policy(args) => changed(folder.change(|policy| set(policy, &args))?)?,
    }
    Ok(())
}

/// Brings a new policy to every relay that is known, and to those of their fleet. One that is not reached is said, and is no failure:
/// members bring it along.
pub(super) async fn publish(
    file: &File,
    typed: &[RelayAddr],
    policy: &Signed<Policy>,
) -> Result<(), Failure> {
    let Ok(mut relays) = file.relays(typed) else {
        return print_note(
            "No relay is known that could pass it on: it reaches people with the next file that you give them.",
        );
    };
    let mut next = 0;
    while let Some(relay) = relays.get(next).cloned() {
        next += 1;
        match bring(&relay, policy).await {
            Ok(others) => {
                let new = others
                    .into_iter()
                    .filter(|other| relays.iter().all(|relay| relay.id != other.id));
                let new: Vec<_> = new.take(MAX_RELAYS.saturating_sub(relays.len())).collect();
                relays.extend(new);
            }
            Err(failure) => print_note(&format!(
                "{} does not know of it: {}",
                relay.host_port, failure.line
            ))?,
        }
    }
    Ok(())
}

/// Which other relays there are.
async fn bring(relay: &RelayAddr, policy: &Signed<Policy>) -> Result<Vec<RelayAddr>, Failure> {
    let options = Options {
        only_named: true,
        ..Options::relay_only()
    };
    let node = Node::connect(relay, options).await?;
    let put = node.control().put_policy(policy.bytes()).await;
    let others = node.control().welcome.others.iter();
    let others = others.filter_map(|other| other.parse().ok()).collect();
    node.close().await;
    match put {
        Ok(()) => Ok(others),
        Err(error) => Err(Failure::new(Exit::Error, "POLICY", error.to_string())),
    }
}

fn changed(policy: Signed<Policy>) -> Result<(), Failure> {
    let header = policy.header;
    let days = (header.expires - header.issued) / DAY_S;
    print_note(&format!(
        "Policy {} of {}, for {days} days.",
        header.number, policy.domain
    ))
}

fn create(dir: &Path, args: &cli::Init) -> Result<Exit, Failure> {
    let profile = Profile::new("x", "", &args.name, &args.domain);
    let profile = profile.map_err(|error| usage(error.to_string()))?;
    let is_domain = profile.domain.contains('.')
        && profile.domain.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
        });
    if !is_domain {
        return Err(usage(format!(
            "{:?} is no domain; write it as in contoso.com, one with other letters as in xn--mnchen-3ya.example",
            args.domain
        )));
    }
    let folder = Folder::create(dir, &profile.company, &profile.domain)?;
    let id = folder.issuer.id();
    print_note(&format!(
        "{} ({}) has a key in {}. Whoever has that file is the organisation: keep a copy in a safe.",
        profile.company,
        profile.domain,
        dir.display()
    ))?;
    print_note(
        "Nobody may help yet: `remora admin org policy enabled=on`. For each person: they run `remora setup --request`, you \
         `remora admin org sign REQUEST --role help-desk-operator` (or member), they `remora setup --credential FILE`.",
    )?;
    print_data(&if args.json {
        json!({"v": 1, "event": "org", "id": id.to_string(), "domain": profile.domain, "dir": dir})
            .to_string()
    } else {
        id.to_string()
    })?;
    Ok(Exit::Ok)
}

// ---- people and devices ------------------------------------------------------------------

fn sign(folder: &Folder, args: cli::Sign) -> Result<(), Failure> {
    let request = &args.request;
    let name = args.name.as_ref().unwrap_or(&request.profile.full_name);
    let title = args
        .job_title
        .as_ref()
        .unwrap_or(&request.profile.job_title);
    let policy = folder.policy()?;
    let profile = Profile::new(name, title, &policy.company, &policy.domain)
        .map_err(|error| usage(error.to_string()))?;
    let subject = match &args.subject {
        Some(subject) => subject.clone(),
        None => subject_of(&profile.full_name)?,
    };
    if policy.revoked.subjects.contains(&subject) || policy.revoked.nodes.contains(&request.node) {
        return Err(usage(format!(
            "{subject} or this computer is revoked; undo that first, with `remora admin org revoke --undo`"
        )));
    }
    let node = request.node;
    let device = match args.unenrolled {
        true => None,
        false => Some(new_device(folder, &args, node)?),
    };
    let picture = args.picture.as_deref().map(picture).transpose()?;
    let policy = folder.change(|policy| {
        let role = (subject.clone(), args.role.clone());
        known_role(policy, &role.1)?;
        let scopes = scopes(&args.scope)?;
        policy.assignments.insert(role, scopes);
        Ok(())
    })?;
    let (permissions, scopes) = most(&policy, &subject);
    let now = unix_s();
    let credential = Credential {
        issuer: folder.issuer.id(),
        serial: Random::system().bytes(),
        node,
        subject,
        profile,
        picture,
        permissions,
        scopes,
        issued: now,
        expires: now + args.days * DAY_S,
    };
    let credential = Signed::new(credential, &folder.issuer).map_err(|error| {
        usage(format!(
            "this cannot be signed, {error}; shorten name or title"
        ))
    })?;
    hand_out(folder, &Papers { credential, device }, args.json)
}

/// What a credential says at most: all that the policy gives, anywhere.
pub(super) fn most(policy: &Policy, subject: &Label) -> (Permissions, Vec<Scope>) {
    let assigned = policy.assignments.iter();
    let assigned = assigned.filter(|((who, _), _)| who == subject);
    let scopes: BTreeSet<_> = assigned.flat_map(|(_, scopes)| scopes.clone()).collect();
    let scopes = match scopes.len() > MAX_SCOPES {
        true => vec![Scope::Everyone],
        false => scopes.into_iter().collect(),
    };
    (policy.granted_somewhere(subject), scopes)
}

/// `maria.lopez` of Maria Lopez.
fn subject_of(name: &str) -> Result<Label, Failure> {
    let text = name
        .to_lowercase()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(".");
    text.parse().map_err(|_| {
        usage(format!(
            "say with --subject what {name:?} is called in policies, in a-z 0-9 . _ @ + -"
        ))
    })
}

fn new_device(folder: &Folder, args: &cli::Sign, node: NodeId) -> Result<Signed<Device>, Failure> {
    let name = match &args.device {
        Some(device) => device.clone(),
        None => args.request.device.parse().map_err(|_| {
            usage(format!(
                "the computer calls itself {:?}; say with --device what it is called, or --unenrolled",
                args.request.device
            ))
        })?,
    };
    if name.as_str().len() > MAX_DEVICE_NAME_BYTES {
        return Err(usage(format!(
            "a device's name has at most {MAX_DEVICE_NAME_BYTES} letters"
        )));
    }
    let now = unix_s();
    let device = Device {
        issuer: folder.issuer.id(),
        node,
        name,
        personal: args.state.personal,
        multi_user: args.state.multi_user,
        failing: args.state.failing.clone(),
        issued: now,
        expires: now + args.days * DAY_S,
    };
    signed_device(folder, device)
}

fn signed_device(folder: &Folder, device: Device) -> Result<Signed<Device>, Failure> {
    Signed::new(device, &folder.issuer).map_err(|error| {
        usage(format!(
            "the device cannot be signed, {error}; name fewer policies"
        ))
    })
}

fn picture(path: &Path) -> Result<[u8; 32], Failure> {
    let unread = |why: String| usage(format!("{}: {why}", path.display()));
    let bytes = fs::read(path).map_err(|error| unread(error.to_string()))?;
    if bytes.len() > MAX_PICTURE_BYTES {
        return Err(unread("a picture has at most 64 KiB".into()));
    }
    let hash = digest::digest(&digest::SHA256, &bytes);
    let hash = hash.as_ref().try_into();
    hash.map_err(|error| Failure::internal("SHA-256", error))
}

fn device(folder: &Folder, args: &cli::DeviceArgs) -> Result<(), Failure> {
    let issued = folder.issued()?;
    let mut found = false;
    for papers in issued {
        let Some(old) = papers.device.filter(|device| device.name == args.name) else {
            continue;
        };
        found = true;
        let now = unix_s();
        let new = Device {
            personal: args.state.personal,
            multi_user: args.state.multi_user,
            failing: args.state.failing.clone(),
            issued: now,
            expires: now + (old.expires - old.issued),
            ..Device::clone(&old)
        };
        let papers = Papers {
            credential: papers.credential,
            device: Some(signed_device(folder, new)?),
        };
        hand_out(folder, &papers, args.json)?;
    }
    match found {
        true => Ok(()),
        false => Err(usage(format!("no device is called {}", args.name))),
    }
}

fn hand_out(folder: &Folder, papers: &Papers, json: bool) -> Result<(), Failure> {
    let path = folder.hand_out(papers)?;
    let credential = &papers.credential;
    if json {
        let mut told = papers_json(papers);
        told["v"] = 1.into();
        told["event"] = "signed".into();
        told["file"] = path.to_string_lossy().into();
        return print_data(&told.to_string());
    }
    print_note(&format!(
        "{} ({}) may: {}. Computer {}. Give them this file; they run `remora setup --credential FILE`:",
        credential.profile.full_name, credential.subject, credential.permissions, credential.node
    ))?;
    print_data(&path.to_string_lossy())
}

// ---- policy ------------------------------------------------------------------------------

fn known_role(policy: &Policy, role: &Label) -> Result<(), Failure> {
    match policy.roles.contains_key(role) {
        true => Ok(()),
        false => {
            let roles: Vec<_> = policy.roles.keys().map(Label::as_str).collect();
            Err(usage(format!(
                "{role} is no role; there are {}",
                roles.join(", ")
            )))
        }
    }
}

/// Everyone, where nobody says otherwise.
fn scopes(typed: &[Scope]) -> Result<Vec<Scope>, Failure> {
    match typed.len() {
        0 => Ok(vec![Scope::Everyone]),
        1..=MAX_SCOPES => Ok(typed.to_vec()),
        _ => Err(usage(format!(
            "at most {MAX_SCOPES} scopes; put them into a group"
        ))),
    }
}

fn role(policy: &mut Policy, args: cli::RoleArgs) -> Result<(), Failure> {
    if args.remove {
        known_role(policy, &args.name)?;
        policy.roles.remove(&args.name);
        policy.assignments.retain(|(_, role), _| *role != args.name);
    } else {
        let permissions = args.permissions.into_iter().collect();
        policy.roles.insert(args.name, permissions);
    }
    Ok(())
}

fn assign(policy: &mut Policy, args: cli::Assign) -> Result<(), Failure> {
    known_role(policy, &args.role)?;
    let row = (args.subject, args.role);
    if !args.remove {
        policy.assignments.insert(row, scopes(&args.scope)?);
    } else if policy.assignments.remove(&row).is_none() {
        return Err(usage(format!("{} is no {}", row.0, row.1)));
    }
    Ok(())
}

fn group(policy: &mut Policy, args: cli::GroupArgs) -> Result<(), Failure> {
    if args.remove {
        policy.groups.remove(&args.name);
    } else {
        let group = Group {
            users: args.user.into_iter().collect(),
            devices: args.device.into_iter().collect(),
        };
        policy.groups.insert(args.name, group);
    }
    Ok(())
}

fn trust(policy: &mut Policy, args: cli::TrustArgs) -> Result<(), Failure> {
    if args.issuer == policy.header.issuer {
        return Err(usage("that is your own organisation's key"));
    }
    match (args.remove, args.domain) {
        (true, _) => {
            policy.trusts.remove(&args.issuer);
        }
        (false, None) => return Err(usage("say which --domain that key vouches for")),
        (false, Some(domain)) if domain == policy.domain => {
            return Err(usage("nobody else vouches for your own domain"));
        }
        (false, Some(domain)) => {
            let trust = Trust {
                domain,
                permissions: args.permission.into_iter().collect(),
                scopes: scopes(&args.scope)?,
            };
            policy.trusts.insert(args.issuer, trust);
        }
    }
    Ok(())
}

/// A subject, a node's key, or a credential's serial.
enum Revoked {
    Subject(Label),
    Node(NodeId),
    Serial(Serial),
}

impl FromStr for Revoked {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        if let Ok(node) = text.parse() {
            return Ok(Self::Node(node));
        }
        if let Some(serial) = serial_from_text(text) {
            return Ok(Self::Serial(serial));
        }
        text.parse().map(Self::Subject).map_err(|_| {
            usage(format!(
                "{text:?} is no person, no computer's key and no credential's serial"
            ))
        })
    }
}

fn serial_from_text(text: &str) -> Option<Serial> {
    let hex = text.strip_prefix("serial:")?;
    let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
    bytes.try_into().ok()
}

pub(super) fn serial_text(serial: &Serial) -> String {
    format!("serial:{}", data_encoding::HEXLOWER.encode(serial))
}

fn revoke(policy: &mut Policy, args: &cli::Revoke) -> Result<(), Failure> {
    let revoked = &mut policy.revoked;
    for text in &args.who {
        match (text.parse()?, args.undo) {
            (Revoked::Subject(subject), false) => {
                policy.assignments.retain(|(who, _), _| *who != subject);
                revoked.subjects.insert(subject);
            }
            (Revoked::Subject(subject), true) => {
                revoked.subjects.remove(&subject);
            }
            (Revoked::Node(node), false) => {
                revoked.nodes.insert(node);
            }
            (Revoked::Node(node), true) => {
                revoked.nodes.remove(&node);
            }
            (Revoked::Serial(serial), false) => {
                revoked.serials.insert(serial);
            }
            (Revoked::Serial(serial), true) => {
                revoked.serials.remove(&serial);
            }
        }
    }
    Ok(())
}

fn end_session(policy: &mut Policy, args: cli::EndSession) -> Result<(), Failure> {
    let (at, why) = (policy.header.issued, args.reason);
    match policy.ended.contains_key(&args.session) {
        true => Err(usage("an administrator has ended that session already")),
        false => {
            policy.end(args.session, Ending { at, why });
            Ok(())
        }
    }
}

/// With nothing to set, it is renewed.
fn set(policy: &mut Policy, args: &cli::PolicyArgs) -> Result<(), Failure> {
    for text in &args.settings {
        let (setting, value) = Setting::parse(text).map_err(|error| usage(error.to_string()))?;
        policy.settings.set(setting, value);
    }
    if let Some(days) = args.days {
        policy.header.expires = policy.header.issued + days * DAY_S;
    }
    Ok(())
}

// ---- what there is -----------------------------------------------------------------------

fn texts<T: ToString>(all: impl IntoIterator<Item = T>) -> Vec<String> {
    all.into_iter().map(|one| one.to_string()).collect()
}

fn papers_json(papers: &Papers) -> Value {
    let credential = &papers.credential;
    json!({
        "subject": credential.subject.as_str(), "full_name": credential.profile.full_name,
        "job_title": credential.profile.job_title, "node": credential.node.to_string(),
        "serial": serial_text(&credential.serial), "permissions": texts(credential.permissions.iter()),
        "scopes": texts(&credential.scopes), "expires_unix_s": credential.expires,
        "picture_sha256": credential.picture.map(|hash| data_encoding::HEXLOWER.encode(&hash)),
        "device": papers.device.as_ref().map(|device| json!({
            "name": device.name.as_str(), "personal": device.personal, "multi_user": device.multi_user,
            "failing": texts(&device.failing), "expires_unix_s": device.expires,
        })),
    })
}

fn policy_json(policy: &Policy) -> Value {
    let setting = |setting: Setting| {
        let value = setting.show(policy.settings.value(setting));
        (setting.name().to_owned(), Value::from(value))
    };
    let settings: serde_json::Map<_, _> = Setting::all().map(setting).collect();
    let roles = policy.roles.iter();
    let roles: serde_json::Map<_, _> = roles
        .map(|(name, permissions)| (name.to_string(), texts(permissions.iter()).into()))
        .collect();
    let assignments = policy.assignments.iter();
    let assignments: Vec<_> = assignments
        .map(|((subject, role), scopes)| json!({"subject": subject.as_str(), "role": role.as_str(), "scopes": texts(scopes)}))
        .collect();
    let groups = policy.groups.iter();
    let groups: Vec<_> = groups
        .map(|(name, group)| json!({"name": name.as_str(), "users": texts(&group.users), "devices": texts(&group.devices)}))
        .collect();
    let trusts = policy.trusts.iter();
    let trusts: Vec<_> = trusts
        .map(|(issuer, trust)| json!({
            "id": issuer.to_string(), "domain": trust.domain, "permissions": texts(trust.permissions.iter()),
            "scopes": texts(&trust.scopes),
        }))
        .collect();
    let revoked = &policy.revoked;
    let serials = revoked.serials.iter().map(serial_text);
    let ended = policy.ended.iter();
    let ended: Vec<_> = ended
        .map(|(session, ending)| json!({"session": session.to_string(), "at_unix_s": ending.at, "why": ending.why.as_str()}))
        .collect();
    json!({
        "v": 1, "event": "org", "id": policy.header.issuer.to_string(), "company": policy.company, "domain": policy.domain,
        "policy": policy.header.number, "issued_unix_s": policy.header.issued, "expires_unix_s": policy.header.expires,
        "settings": settings, "roles": roles, "assignments": assignments, "groups": groups, "trusts": trusts,
        "revoked": texts(&revoked.subjects).into_iter().chain(texts(&revoked.nodes)).chain(serials).collect::<Vec<_>>(),
        "ended": ended,
    })
}

fn show(folder: &Folder, json: bool) -> Result<(), Failure> {
    let (policy, issued) = (folder.policy()?, folder.issued()?);
    if json {
        let mut told = policy_json(&policy);
        told["issued"] = issued.iter().map(papers_json).collect();
        print_data(&told.to_string())?;
    } else {
        for line in lines(&policy, &issued) {
            print_data(&line)?;
        }
    }
    Ok(())
}

fn lines(policy: &Policy, issued: &[Papers]) -> Vec<String> {
    let now = unix_s();
    let days = |until: u64| match until.checked_sub(now) {
        Some(left) => format!("{} days left", left / DAY_S),
        None => "EXPIRED".to_owned(),
    };
    let header = policy.header;
    let mut lines = vec![
        format!("{} ({})   {}", policy.company, policy.domain, header.issuer),
        format!(
            "policy {}, signed {} h ago, {}",
            header.number,
            now.saturating_sub(header.issued) / 3600,
            days(header.expires)
        ),
    ];
    let setting = |setting: Setting| {
        format!(
            "  {}={}",
            setting.name(),
            setting.show(policy.settings.value(setting))
        )
    };
    lines.push("settings".into());
    lines.extend(Setting::all().map(setting));
    lines.push("roles".into());
    lines.extend(
        policy
            .roles
            .iter()
            .map(|(name, permissions)| format!("  {name}: {permissions}")),
    );
    lines.push("who helps whom".into());
    let assignment = |((subject, role), scopes): (&(Label, Label), &Vec<Scope>)| {
        format!("  {subject}: {role} for {}", texts(scopes).join(", "))
    };
    lines.extend(policy.assignments.iter().map(assignment));
    let group = |(name, group): (&Label, &Group)| {
        let members = [texts(&group.users), texts(&group.devices)].concat();
        format!("  group {name}: {}", members.join(", "))
    };
    lines.extend(policy.groups.iter().map(group));
    let trust = |(issuer, trust): (&OrgId, &Trust)| {
        format!(
            "  trusts {} ({issuer}): {} for {}",
            trust.domain,
            trust.permissions,
            texts(&trust.scopes).join(", ")
        )
    };
    lines.extend(policy.trusts.iter().map(trust));
    let revoked = &policy.revoked;
    lines.extend(
        revoked
            .subjects
            .iter()
            .map(|subject| format!("  REVOKED {subject}")),
    );
    lines.extend(revoked.nodes.iter().map(|node| format!("  REVOKED {node}")));
    lines.extend(
        revoked
            .serials
            .iter()
            .map(|serial| format!("  REVOKED {}", serial_text(serial))),
    );
    let ended = |(session, ending): (&SessionName, &Ending)| {
        format!("  ENDED session {session} {}", ending.why.as_str())
    };
    lines.extend(policy.ended.iter().map(ended));
    lines.push("signed".into());
    let paper = |papers: &Papers| {
        let credential = &papers.credential;
        let device = match &papers.device {
            Some(device) if device.failing.is_empty() => format!("device {}", device.name),
            Some(device) => format!(
                "device {} fails {}",
                device.name,
                texts(&device.failing).join(", ")
            ),
            None => "not enrolled".to_owned(),
        };
        format!(
            "  {} ({}), {device}, {}, {}, {}",
            credential.profile.full_name,
            credential.subject,
            days(credential.expires),
            serial_text(&credential.serial),
            credential.node
        )
    };
    lines.extend(issued.iter().map(paper));
    lines
}
