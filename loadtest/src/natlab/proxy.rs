//! A site's HTTP proxy: TCP connections for those who ask with CONNECT (RFC 9110 §9.3.6), and nothing else.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use patchbay::Router;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::service::Service;

/// Where it listens, inside.
const PORT: u16 = 3128;
/// The longest request.
const MAX_HEAD_BYTES: usize = 8192;
/// For a request, and for a connection to where it wants to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until it is dropped; where.
///
/// # Errors
/// The port is taken.
pub(super) async fn start(router: &Router) -> anyhow::Result<(Service, SocketAddr)> {
    let inside: Ipv4Addr = router.downstream_gw().context("a site without an inside")?;
    let binding = router.spawn(move |_| TcpListener::bind((inside, PORT)))?;
    let listener = binding.await??;
    let service = Service::spawn(router, async move {
        let mut tunnels = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => {
                        tunnels.spawn(async move {
                            if let Err(error) = tunnel(client).await {
                                tracing::debug!(%error, "through the proxy");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::error!(%error, "the lab's proxy is down");
                        return;
                    }
                },
                Some(_) = tunnels.join_next() => {}
            }
        }
    })?;
    Ok((service, SocketAddr::new(inside.into(), PORT)))
}

async fn tunnel(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let Some(target) = timeout(PATIENCE, asked(&mut client)).await?? else {
        return client
            .write_all(b"HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\n\r\n")
            .await;
    };
    let Ok(Ok(mut server)) = timeout(PATIENCE, TcpStream::connect(&target)).await else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
    };
    server.set_nodelay(true)?;
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// The host and port that a request wants to be connected to, if it does; byte by byte, for what follows is not ours.
async fn asked(client: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_ascii_whitespace();
    let target = (words.next() == Some("CONNECT"))
        .then(|| words.next())
        .flatten();
    Ok(target.map(ToOwned::to_owned))
}
