//! A gateway that makes mappings for the asking: whoever then sends to the port that it names reaches the node.

use anyhow::{Context as _, ensure};
use tokio::time::timeout;

use super::{ARRIVES, Observer, bind};
use crate::natlab::lab::{Side, address};

/// A mapping for UDP, version 0 (RFC 6886 §3.3); of any port outside, for a minute.
const MAP_UDP: [u8; 4] = [0, 1, 0, 0];
const LIFETIME_S: u32 = 60;
/// Where gateways are asked.
const PORT: u16 = 5351;

/// Asks for one, and lets a stranger send to it.
pub(super) async fn prove(side: &Side, stranger: &Observer) -> anyhow::Result<()> {
    let node = bind(&side.device, address(&side.device)?).await?;
    let own_port = node.local_addr()?.port();
    let question = [
        &MAP_UDP[..],
        &own_port.to_be_bytes(),
        &[0, 0],
        &LIFETIME_S.to_be_bytes(),
    ];
    let gateway = side.gateway.downstream_gw().context("no gateway")?;
    node.send_to(&question.concat(), (gateway, PORT)).await?;
    let mut answer = [0; 16];
    let asked = timeout(ARRIVES, node.recv_from(&mut answer));
    let (length, _) = asked.await.context("the gateway does not answer")??;
    ensure!(
        length == answer.len() && answer[..4] == [0, 129, 0, 0],
        "the gateway says no: {answer:?}"
    );
    let outer_port = u16::from_be_bytes([answer[10], answer[11]]);
    stranger
        .socket
        .send_to(&answer, (side.outer, outer_port))
        .await?;
    let arriving = timeout(ARRIVES, node.recv_from(&mut answer));
    let (_, from) = arriving.await.context("a stranger does not get in")??;
    ensure!(from == stranger.address, "seen as {from}");
    // And what leaves by it is seen from the same port, by everybody.
    let (seen, _) = stranger.sees(&node).await?;
    ensure!(seen.port() == outer_port, "seen from port {}", seen.port());
    Ok(())
}
