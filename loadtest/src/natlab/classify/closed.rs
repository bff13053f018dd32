//! A gateway that lets out no UDP, and TCP, or TCP through a proxy only.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use patchbay::Device;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use super::{ARRIVES, bind};
use crate::natlab::{
    edge::Outwards,
    lab::{Network, Side, address},
};

/// What is said over TCP.
const WORD: [u8; 4] = *b"word";

/// A datagram first, then TCP: when that has come there and back, the datagram will not come any more.
pub(super) async fn prove(network: &Network, side: &Side) -> anyhow::Result<()> {
    let own = address(&network.observer)?;
    let observer = bind(&network.observer, own).await?;
    let binding = network
        .observer
        .spawn(move |_| TcpListener::bind((own, 0)))?;
    let listener = binding.await??;
    let echoing = echo(&network.observer, listener)?;
    let (tcp, udp) = (echoing.at, observer.local_addr()?);

    let node = bind(&side.device, address(&side.device)?).await?;
    node.send_to(&WORD, udp).await?;
    let directly = speak(&side.device, tcp, None)?;
    match (side.edge.outwards(), side.proxy) {
        (Outwards::Proxy, proxy) => {
            let proxy = proxy.context("a site without its proxy")?;
            heard(speak(&side.device, proxy, Some(tcp))?)
                .await
                .context("nothing goes through the proxy")?;
            ensure!(!directly.is_finished(), "TCP gets out without the proxy");
            directly.abort();
        }
        (Outwards::Tcp | Outwards::Everything, _) => {
            heard(directly).await.context("TCP does not get out")?;
        }
    }
    ensure!(
        observer.try_recv_from(&mut WORD.clone()).is_err(),
        "UDP gets out"
    );
    Ok(())
}

/// Says to everybody what they say.
struct Echo {
    at: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn echo(device: &Device, listener: TcpListener) -> anyhow::Result<Echo> {
    let at = listener.local_addr()?;
    let task = device.spawn(|_| async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut word = WORD;
            if stream.read_exact(&mut word).await.is_ok()
                && let Err(error) = stream.write_all(&word).await
            {
                tracing::debug!(%error, "a word was not said");
            }
        }
    })?;
    Ok(Echo { at, task })
}

/// Connects to `to`, lets it connect to `then`, if that is given, and waits for the echo.
fn speak(
    device: &Device,
    to: SocketAddr,
    then: Option<SocketAddr>,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    device.spawn(move |_| async move {
        let mut stream = TcpStream::connect(to).await?;
        if let Some(then) = then {
            let request = format!("CONNECT {then} HTTP/1.1\r\nHost: {then}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(stream.read_u8().await?);
            }
            let answer = String::from_utf8_lossy(&answer);
            ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        stream.write_all(&WORD).await?;
        let mut word = [0; WORD.len()];
        stream.read_exact(&mut word).await?;
        ensure!(word == WORD, "another word");
        Ok(())
    })
}

async fn heard(speaking: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    timeout(ARRIVES, speaking).await??
}
