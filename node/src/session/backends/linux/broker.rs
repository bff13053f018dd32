//! The way to `remora-broker`: bytes in, bytes out. What they say is the helper's and the broker's affair.

use std::{
    env,
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use bytes::Bytes;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use remora_proto::wire::message::{
    Inbox, MAX_CONTROL_BYTES, encode,
    session::{BrokerHello, Control, ElevationOrder, control::Body},
};
use tokio::sync::mpsc;

use super::super::{Broker, Report, Undone};

/// For a broker to take an order; it reads all the time.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// The broker of this computer, and the connection to it while the helper has an administrator's rights.
#[derive(Debug)]
pub(super) struct SystemBroker {
    socket: PathBuf,
    display: String,
    connection: Option<UnixStream>,
}

impl SystemBroker {
    /// `None`: nothing listens there, for there is no broker installed.
    pub(super) fn find(socket: PathBuf, display: String) -> Option<Self> {
        let is_socket = socket.metadata().ok()?.file_type().is_socket();
        is_socket.then_some(Self {
            socket,
            display,
            connection: None,
        })
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let mut connection = UnixStream::connect(&self.socket)?;
        // Whoever else listens there is not asked to do anything.
        let peer = getsockopt(&connection, PeerCredentials)?;
        if peer.uid() != 0 {
            return Err(io::Error::other("the broker is not root's"));
        }
        connection.set_write_timeout(Some(WRITE_LIMIT))?;
        let hello = BrokerHello {
            display: self.display.clone(),
            xauthority: env::var("XAUTHORITY").unwrap_or_default(),
        };
        connection.write_all(&encode(&hello))?;
        Ok(connection)
    }
}

impl Broker for SystemBroker {
    fn elevate(&mut self, reports: mpsc::Sender<Report>) -> Result<(), Undone> {
        self.release();
        let undone = |error: io::Error| Undone(format!("{}: {error}", self.socket.display()));
        let connection = self.connect().map_err(undone)?;
        let reader = connection.try_clone().map_err(undone)?;
        // Ends with the connection.
        thread::spawn(move || listen(reader, &reports));
        self.connection = Some(connection);
        Ok(())
    }

    fn order(&mut self, sealed: Bytes) -> Result<(), Undone> {
        let order = Control {
            body: Some(Body::ElevationOrder(ElevationOrder { sealed })),
        };
        let Some(connection) = &mut self.connection else {
            return Err(Undone("the broker is gone".to_owned()));
        };
        connection
            .write_all(&encode(&order))
            .map_err(|error| Undone(format!("the broker: {error}")))
    }

    fn release(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.shutdown(Shutdown::Both)
        {
            tracing::debug!(%error, "the broker had gone");
        }
    }
}

impl Drop for SystemBroker {
    fn drop(&mut self) {
        self.release();
    }
}

/// Until the connection ends, or nobody wants to hear more.
fn listen(mut connection: UnixStream, reports: &mpsc::Sender<Report>) {
    let mut inbox = Inbox::new(MAX_CONTROL_BYTES);
    let mut chunk = [0; 4096];
    'reading: loop {
        loop {
            let said = match inbox.next::<Control>() {
                Ok(Some(Control { body: Some(body) })) => body,
                Ok(Some(Control { body: None })) => continue,
                Ok(None) => break,
                Err(_) => break 'reading,
            };
            if reports.blocking_send(Report::Broker(said)).is_err() {
                return;
            }
        }
        match connection.read(&mut chunk) {
            Ok(length @ 1..) => inbox.push(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
        }
    }
    if reports.blocking_send(Report::BrokerGone).is_err() {
        tracing::debug!("the elevation is over");
    }
}
