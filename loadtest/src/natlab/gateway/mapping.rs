//! A gateway that makes mappings for those inside who ask for them: NAT-PMP (RFC 6886), for UDP.
//!
//! Whoever asks in a newer language (PCP) is told that this one is spoken, as many gateways do.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use patchbay::Router;
use tokio::net::UdpSocket;

use crate::natlab::{service::Service, tool};

/// Where gateways listen (RFC 6886 §3).
const PORT: u16 = 5351;
/// The protocol's version, and what is asked of it; answers have the highest bit set.
const VERSION: u8 = 0;
const EXTERNAL_ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
const ANSWER: u8 = 128;
/// Result codes (RFC 6886 §3.5).
const DONE: u16 = 0;
const UNSUPPORTED_VERSION: u16 = 1;
const OUT_OF_RESOURCES: u16 = 4;
const UNSUPPORTED_OPCODE: u16 = 5;
/// For longer, a mapping has to be asked for again.
const MAX_LIFETIME_S: u32 = 7200;
/// What nftables find mappings in: by the port outside, and by the address and port inside.
pub(super) const SETS: &str = "map mapped_in {
    type inet_service : ipv4_addr . inet_service
    flags timeout
}
map mapped_out {
    type ipv4_addr . inet_service : inet_service
    flags timeout
}
";

/// One inner port's mapping.
#[derive(Debug)]
struct Mapping {
    outer_port: u16,
    until: Instant,
}

/// The gateway's memory.
#[derive(Debug)]
struct Gateway {
    outer: Ipv4Addr,
    began: Instant,
    by_inner: BTreeMap<(Ipv4Addr, u16), Mapping>,
}

/// Answers until it is dropped.
///
/// # Errors
/// The port is taken.
pub(in crate::natlab) async fn start(router: &Router) -> anyhow::Result<Service> {
    let inside = router
        .downstream_gw()
        .context("a gateway without an inside")?;
    let outer = router.uplink_ip().context("a gateway without an uplink")?;
    let binding = router.spawn(move |_| UdpSocket::bind((inside, PORT)))?;
    let socket = binding.await??;
    let mut gateway = Gateway {
        outer,
        began: Instant::now(),
        by_inner: BTreeMap::new(),
    };
    Service::spawn(router, async move {
        let mut bytes = [0; 1100];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            if let Some(answer) = gateway.answer(&bytes[..length], from, Instant::now())
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::debug!(%error, "an answer about mappings was not sent");
            }
        }
    })
}

impl Gateway {
    fn answer(&mut self, question: &[u8], from: SocketAddr, now: Instant) -> Option<Vec<u8>> {
        let (IpAddr::V4(inner), [version, opcode, ..]) = (from.ip(), question) else {
            return None;
        };
        if *opcode >= ANSWER {
            return None;
        }
        let (result, rest) = match (*version, *opcode) {
            (VERSION, EXTERNAL_ADDRESS) => (DONE, self.outer.octets().to_vec()),
            (VERSION, MAP_UDP) => self.map(inner, question.get(4..12)?, now),
            (VERSION, _) => (UNSUPPORTED_OPCODE, Vec::new()),
            _ => (UNSUPPORTED_VERSION, Vec::new()),
        };
        let epoch_s = u32::try_from(now.duration_since(self.began).as_secs()).unwrap_or(u32::MAX);
        let mut answer = vec![VERSION, ANSWER + opcode];
        answer.extend(result.to_be_bytes());
        answer.extend(epoch_s.to_be_bytes());
        answer.extend(rest);
        Some(answer)
    }

    /// `wanted`: inner port, suggested outer port, lifetime; 0 ends the mapping (RFC 6886 §3.3).
    fn map(&mut self, inner: Ipv4Addr, wanted: &[u8], now: Instant) -> (u16, Vec<u8>) {
        let port = |at: usize| u16::from_be_bytes([wanted[at], wanted[at + 1]]);
        let (inner_port, suggested) = (port(0), port(2));
        let lifetime_s = u32::from_be_bytes([wanted[4], wanted[5], wanted[6], wanted[7]]);
        let lifetime_s = lifetime_s.min(MAX_LIFETIME_S);
        self.by_inner.retain(|_, mapping| mapping.until > now);
        let key = (inner, inner_port);
        let known = self.by_inner.remove(&key).map(|mapping| mapping.outer_port);
        let outer_port = if lifetime_s == 0 {
            known.unwrap_or(0)
        } else {
            known.unwrap_or_else(|| self.free(suggested.max(inner_port)))
        };
        let made = apply(key, known, outer_port, lifetime_s);
        let result = match made {
            Ok(()) => DONE,
            Err(error) => {
                tracing::warn!(%error, "a mapping was not made");
                OUT_OF_RESOURCES
            }
        };
        if lifetime_s > 0 && result == DONE {
            let until = now + Duration::from_secs(lifetime_s.into());
            self.by_inner.insert(key, Mapping { outer_port, until });
        }
        let mut rest = inner_port.to_be_bytes().to_vec();
        // What is ended has no port any more.
        rest.extend(if lifetime_s == 0 { 0 } else { outer_port }.to_be_bytes());
        rest.extend(lifetime_s.to_be_bytes());
        (result, rest)
    }

    /// The first port from `wanted` on that nobody has.
    fn free(&self, wanted: u16) -> u16 {
        let is_free = |port: &u16| {
            let mut taken = self.by_inner.values();
            taken.all(|mapping| mapping.outer_port != *port)
        };
        let mut ports = (wanted.max(1024)..=u16::MAX).chain(1024..wanted);
        ports.find(is_free).unwrap_or(wanted)
    }
}

/// Tells nftables, in the namespace of the calling thread.
fn apply(
    (inner, inner_port): (Ipv4Addr, u16),
    known: Option<u16>,
    outer_port: u16,
    lifetime_s: u32,
) -> anyhow::Result<()> {
    let mut rules = String::new();
    if let Some(known) = known {
        rules += &format!(
            "delete element ip natlab mapped_in {{ {known} }}\n\
             delete element ip natlab mapped_out {{ {inner} . {inner_port} }}\n"
        );
    }
    if lifetime_s > 0 {
        let timeout = format!("timeout {lifetime_s}s");
        rules += &format!(
            "add element ip natlab mapped_in {{ {outer_port} {timeout} : {inner} . {inner_port} }}\n\
             add element ip natlab mapped_out {{ {inner} . {inner_port} {timeout} : {outer_port} }}\n"
        );
    }
    let spawn = |mut command: Command| Ok(command.spawn()?);
    tool::run(spawn, "nft", &["-f", "-"], &rules).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: &str = "192.168.1.2:40000";

    fn gateway() -> Gateway {
        Gateway {
            outer: Ipv4Addr::new(198, 18, 0, 5),
            began: Instant::now(),
            by_inner: BTreeMap::new(),
        }
    }

    #[test]
    fn answers_are_as_the_rfc_draws_them() {
        let mut gateway = gateway();
        let now = gateway.began + Duration::from_secs(3);
        let mut answer = |question: &[u8]| {
            let from = INNER.parse().expect("an address");
            gateway.answer(question, from, now)
        };
        assert_eq!(
            answer(&[0, 0]),
            Some(vec![0, 128, 0, 0, 0, 0, 0, 3, 198, 18, 0, 5])
        );
        let pcp = [2, 1, 0, 0, 0, 0, 0, 60];
        assert_eq!(
            answer(&pcp),
            Some(vec![0, 129, 0, 1, 0, 0, 0, 3]),
            "unsupported version"
        );
        assert_eq!(
            answer(&[0, 2, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]),
            Some(vec![0, 130, 0, 5, 0, 0, 0, 3]),
            "unsupported opcode"
        );
        for odd in [&[][..], &[0], &[0, 128], &[0, 1, 0, 0, 1]] {
            assert_eq!(answer(odd), None, "{odd:?}");
        }
    }
}
