//! PCP, and NAT-PMP where the gateway is older: one datagram to port 5351 of the gateway, and its answer.

use std::{
    net::{IpAddr, SocketAddrV4},
    num::NonZeroU16,
    time::Duration,
};

use crab_nat::{
    InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp,
    pcp::{self, BaseMapRequest},
};

use super::{Gateway, Held, LEASE, Mapping, Protocol, Unmapped};

/// A gateway that knows no PCP says so at once, or never.
const PCP: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(80),
    max_retries: 0,
    max_retry_timeout: None,
};
/// As RFC 6886 §3.1 has it, for as long as a gateway is asked.
const NAT_PMP: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};

fn options(port: NonZeroU16, timing: TimeoutConfig) -> PortMappingOptions {
    PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: u32::try_from(LEASE.as_secs()).ok(),
        timeout_config: Some(timing),
    }
}

/// Asks for a port that leads to `port`.
pub(super) async fn map(at: Gateway, port: NonZeroU16) -> Result<Mapping, Unmapped> {
    let base = BaseMapRequest::new(at.ip.into(), at.own.into(), InternetProtocol::Udp, port);
    match pcp::port_mapping(base, None, None, options(port, PCP)).await {
        Ok(mapping) => given(mapping, at).await,
        Err(error) => {
            tracing::trace!(%error, "PCP");
            let (gateway, options) = (at.ip.into(), options(port, NAT_PMP));
            let asked = natpmp::port_mapping(gateway, InternetProtocol::Udp, port, options);
            given(asked.await.map_err(not_given)?, at).await
        }
    }
}

/// The same once more.
pub(super) async fn renew(mapping: &PortMapping, at: Gateway) -> Result<Mapping, Unmapped> {
    let mut mapping = mapping.clone();
    mapping.timeout_config = NAT_PMP;
    mapping.renew().await.map_err(not_given)?;
    given(mapping, at).await
}

/// Gives it back.
pub(super) async fn delete(mapping: PortMapping) -> Result<(), Unmapped> {
    let dropped = mapping.try_drop().await;
    dropped.map_err(|(error, _)| not_given(error))
}

async fn given(mapping: PortMapping, at: Gateway) -> Result<Mapping, Unmapped> {
    let (protocol, ip) = match mapping.mapping_type() {
        PortMappingType::Pcp {
            external_ip: IpAddr::V4(ip),
            ..
        } => (Protocol::Pcp, ip),
        PortMappingType::Pcp { .. } => return Err(Unmapped::NotGiven),
        PortMappingType::NatPmp => {
            let ip = natpmp::external_address(at.ip.into(), Some(NAT_PMP)).await;
            (Protocol::NatPmp, ip.map_err(not_given)?)
        }
    };
    let external = SocketAddrV4::new(ip, mapping.external_port().get());
    let lifetime = Duration::from_secs(mapping.lifetime().into());
    Ok(Mapping::new(
        protocol,
        external,
        lifetime,
        Held::Asked(mapping),
    ))
}

fn not_given(error: impl std::fmt::Display) -> Unmapped {
    tracing::trace!(%error, "PCP, NAT-PMP");
    Unmapped::NotGiven
}
