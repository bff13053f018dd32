//! What is wrong with a relay before it runs: the same words that it says of itself once it does ([`crate::health`]), for what can be
//! known by then, and of its files and ports beside.

use std::{net::ToSocketAddrs as _, path::Path, time::Instant};

use remora_proto::noise::StaticKey;

use crate::{
    config::{Config, ServeArgs, Standing, files},
    health::{Finding, Observed, Outlook, Shown, Verdict, What, assess, measure},
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
    let certificate = match args.certificate().map(Certificate::from_files) {
        _ if config.listen_tcp.is_none() => Shown::Nothing,
        None => Shown::Own,
        Some(Ok(certificate)) => Shown::of(Some(&certificate.showing())),
        Some(Err(_)) => Shown::Until(None),
    };
    let cgroup = args.cgroup.clone().or_else(measure::own_cgroup);
    let observed = Observed {
        life: None,
        certificate,
        now_unix_s: measure::unix_s(),
        memory: cgroup.as_deref().and_then(measure::memory),
        outlook: Some(Outlook {
            dead_names: dead_names(&args.peers),
            ..Outlook::default()
        }),
        udp_buffer_bytes: buffers,
        disk_free_bytes: measure::disk_free_bytes(&args.key),
        settings: Standing::default(),
        nodes: (0, args.max_nodes),
    };
    let known = assess(&observed, false, Instant::now()).into_iter();
    found.extend(known.filter(|finding| is_known_before(finding.what)));
    found
}

fn is_known_before(what: What) -> bool {
    match what {
        What::Certificate | What::Memory | What::UdpBuffers | What::PeerNames | What::Disk => true,
        What::Files
        | What::Ports
        | What::Life
        | What::Clock
        | What::Peers
        | What::Settings
        | What::Room => false,
    }
}

fn files(args: &ServeArgs) -> Finding {
    let faults = files::unusable(args);
    let problems = faults
        .iter()
        .map(|fault| format!("--{} {}", fault.key.replace('_', "-"), fault.what));
    let mut problems: Vec<String> = problems.collect();
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
        Err(error) => {
            let why = format!("{:#}", anyhow::Error::new(error));
            (finding(Verdict::Fault, why), None)
        }
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
