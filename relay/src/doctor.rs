//! What is wrong with a relay before it runs: the same words that it says of itself once it does ([`crate::health`]), for what can be
//! known by then, and of its files and ports beside.

use std::{net::ToSocketAddrs as _, path::Path, time::Instant};

use remora_proto::noise::StaticKey;

use crate::{
    admin::{
        door::{Door, Tls},
        token::AdminToken,
    },
    config::{Config, ServeArgs},
    health::{Finding, Observed, Outlook, Verdict, What, assess, measure},
    identity,
    mesh::fleet_key,
    relay::{self, Ports},
    stream::certificate::Certificate,
};

/// What there is to say of a relay that would be started with `args`; `is_running`: it has been, and has its ports. Call within a tokio
/// runtime.
pub fn look(args: &ServeArgs, is_running: bool) -> Vec<Finding> {
    let mut found = vec![files(args)];
    let config = Config::new(args, StaticKey::from_bytes([1; 32]), None, None);
    let mut buffers = (args.udp_buffer_bytes, args.udp_buffer_bytes);
    if !is_running {
        let (ports, given) = ports(&config);
        found.push(ports);
        buffers.0 = given.unwrap_or(args.udp_buffer_bytes);
    }
    let certificate = args.certificate().map(Certificate::from_files);
    let showing = certificate.and_then(Result::ok);
    let showing = showing.and_then(|certificate| certificate.showing());
    let cgroup = args.cgroup.clone().or_else(measure::own_cgroup);
    let observed = Observed {
        life: None,
        certificate_ends_unix_s: showing.and_then(|showing| showing.ends()),
        now_unix_s: measure::unix_s(),
        memory: cgroup.as_deref().and_then(measure::memory),
        outlook: Some(Outlook {
            dead_names: dead_names(&args.peers),
            ..Outlook::default()
        }),
        udp_buffer_bytes: buffers,
        disk_free_bytes: measure::disk_free_bytes(&args.key),
    };
    let known = assess(&observed, false, Instant::now()).into_iter();
    found.extend(known.filter(|finding| is_known_before(finding.what)));
    found
}

fn is_known_before(what: What) -> bool {
    match what {
        What::Certificate | What::Memory | What::UdpBuffers | What::PeerNames | What::Disk => true,
        What::Files | What::Ports | What::Life | What::Clock | What::Peers => false,
    }
}

/// What is wrong with the files that are named; a key that is made on the first start may be missing.
pub fn unusable_files(args: &ServeArgs) -> Vec<anyhow::Error> {
    let mut problems: Vec<anyhow::Error> = Vec::new();
    problems.extend(identity::load(&args.key).err().map(Into::into));
    let fleet = args.fleet_key.as_deref().map(fleet_key::load);
    problems.extend(fleet.and_then(Result::err).map(Into::into));
    let token = args.admin_token_file.as_deref().map(AdminToken::load);
    problems.extend(token.and_then(Result::err).map(Into::into));
    let files = args.certificate().map(Certificate::from_files);
    problems.extend(files.and_then(Result::err).map(Into::into));
    let tls = args.admin_tls().map(|tls: Tls| Door::check(&tls));
    problems.extend(tls.and_then(Result::err).map(Into::into));
    problems
}

fn files(args: &ServeArgs) -> Finding {
    let mut problems: Vec<String> = unusable_files(args)
        .iter()
        .map(|problem| format!("{problem:#}"))
        .collect();
    if is_missing(&args.key) && measure::disk_free_bytes(&args.key) == Some(0) {
        let key = args.key.display();
        problems.push(format!(
            "the key {key} cannot be made: the disk is full; make room"
        ));
    }
    let (verdict, text) = match problems.is_empty() {
        true => (
            Verdict::Fine,
            "keys, token and certificates can be read, and nobody else can read them".to_owned(),
        ),
        false => (Verdict::Fault, problems.join("; ")),
    };
    Finding {
        what: What::Files,
        verdict,
        text,
    }
}

fn is_missing(key: &Path) -> bool {
    matches!(key.try_exists(), Ok(false))
}

/// Whether all can be had, and what the system gives a socket.
fn ports(config: &Config) -> (Finding, Option<usize>) {
    let finding = |verdict, text| Finding {
        what: What::Ports,
        verdict,
        text,
    };
    match relay::try_ports(config) {
        Ok(Ports { udp_buffer_bytes }) => (
            finding(Verdict::Fine, "every port can be had".into()),
            Some(udp_buffer_bytes),
        ),
        Err(error) => (finding(Verdict::Fault, error.to_string()), None),
    }
}

fn dead_names(peers: &[String]) -> Vec<String> {
    let is_dead = |name: &&String| {
        !name
            .to_socket_addrs()
            .is_ok_and(|mut all| all.next().is_some())
    };
    peers.iter().filter(is_dead).cloned().collect()
}
