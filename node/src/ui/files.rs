//! Files through the page: what its person chooses or drops is given to the node, what has come can be saved from it.
//!
//! A browser names no path, only bytes. They are kept in a file without a name, in the folder that files come to, until they were sent or
//! nobody wants them; they are offered to the other side as any file is, and go nowhere before that is accepted.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::Arc,
};

use axum::{
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::spawn_blocking,
};

use super::{
    message::FromPage,
    server::{Shared, not_found, not_let_in, not_ours, refuse},
};
use crate::exchange::{Folder, Given, Wish};

/// Files that pages give at a time: more only share one disk.
pub(super) const MAX_AT_ONCE: usize = 2;
/// Read from the disk at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// The file's name, as `encodeURIComponent` writes it.
const NAME_HEADER: &str = "x-remora-name";
/// Longer names are cut anyway (`remora_proto::exchange::name`); a character may take nine bytes here.
const MAX_NAME_HEADER_BYTES: usize = 4_096;

/// `POST /files`: a file for the other side.
pub(super) async fn take(State(server): Shared, request: Request) -> Response {
    let (head, body) = request.into_parts();
    if !server.door.same_origin(&head.headers) {
        return not_ours();
    }
    if !server.door.knows_sender(&head.headers) {
        return not_let_in();
    }
    let Some(folder) = server.folder.get().cloned() else {
        return not_found().await;
    };
    let (Some(name), Some(bytes)) = (name_of(&head.headers), length_of(&head.headers)) else {
        let text = "A file needs a name and a length.";
        return refuse(StatusCode::BAD_REQUEST, "FILE_HEAD", text);
    };
    let Ok(_turn) = server.turns.try_acquire() else {
        let text = "Other files are being read; please try again when they are.";
        return refuse(StatusCode::TOO_MANY_REQUESTS, "FILE_BUSY", text);
    };
    let file = match receive(folder, body, bytes).await {
        Ok(file) => Arc::new(file),
        Err(error) => return cannot(&error),
    };
    let wish = Wish::Give(Given { name, file });
    match server.wish(FromPage::File { wish }).await {
        true => StatusCode::NO_CONTENT.into_response(),
        false => not_found().await,
    }
}

fn name_of(headers: &HeaderMap) -> Option<String> {
    let name = headers.get(NAME_HEADER)?.to_str().ok()?;
    let fits = (1..=MAX_NAME_HEADER_BYTES).contains(&name.len());
    fits.then(|| unescaped(name))?
}

/// `%C3%A9` is é; `None`: it is not UTF-8, or not escaped properly.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let pair = [high.to_ascii_lowercase(), low.to_ascii_lowercase()];
                bytes.extend(data_encoding::HEXLOWER.decode(&pair).ok()?);
                after
            }
            (b'%', _) => return None,
            (plain, after) => {
                bytes.push(*plain);
                after
            }
        };
    }
    String::from_utf8(bytes).ok()
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Writes it down, exactly so many bytes.
async fn receive(folder: Folder, body: Body, bytes: u64) -> io::Result<File> {
    let opening = spawn_blocking(move || folder.nameless(bytes));
    let mut file = tokio::fs::File::from_std(opening.await.map_err(io::Error::other)??);
    let mut parts = body.into_data_stream();
    let mut left = bytes;
    while let Some(part) = parts.next().await {
        let part = part.map_err(io::Error::other)?;
        let more = u64::try_from(part.len()).unwrap_or(u64::MAX);
        left = left.checked_sub(more).ok_or(io::ErrorKind::InvalidData)?;
        file.write_all(&part).await?;
    }
    if left > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.flush().await?;
    Ok(file.into_std().await)
}

fn cannot(error: &io::Error) -> Response {
    tracing::warn!(%error, "a file of the page");
    let is_full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if is_full.contains(&error.kind()) {
        let text = "There is no room for it on this computer's disk.";
        refuse(StatusCode::INSUFFICIENT_STORAGE, "FILE_DISK_FULL", text)
    } else {
        let text = "It could not be read.";
        refuse(StatusCode::BAD_REQUEST, "FILE_FAILED", text)
    }
}

/// `POST /files/NUMBER`: one that has come, by its number at the other side.
pub(super) async fn give(
    State(server): Shared,
    Path(number): Path<u32>,
    headers: HeaderMap,
) -> Response {
    if !server.door.same_origin(&headers) {
        return not_ours();
    }
    if !server.door.knows_sender(&headers) {
        return not_let_in();
    }
    let Some(path) = server.outbox.received(number) else {
        return not_found().await;
    };
    let opened = spawn_blocking(move || open(path)).await;
    let Ok(Ok((file, bytes))) = opened else {
        return not_found().await;
    };
    let body = stream::try_unfold(tokio::fs::File::from_std(file), |mut file| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = file.read(&mut chunk).await?;
        chunk.truncate(read);
        Ok::<_, io::Error>((read > 0).then(|| (Bytes::from(chunk), file)))
    });
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment"),
        ),
        (header::CONTENT_LENGTH, HeaderValue::from(bytes)),
    ];
    (headers, Body::from_stream(body)).into_response()
}

/// The file that was put there: no link, no pipe.
fn open(path: PathBuf) -> io::Result<(File, u64)> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags.bits()).open(path)?;
    let found = file.metadata()?;
    match found.is_file() {
        true => Ok((file, found.len())),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_pages_write_them() {
        for (written, name) in [
            ("a.txt", Some("a.txt")),
            ("r%C3%A9sum%c3%a9%20(1).pdf", Some("résumé (1).pdf")),
            ("%2Fetc%2Fpasswd", Some("/etc/passwd")),
            ("%", None),
            ("%4", None),
            ("%zz", None),
            ("%ff", None),
        ] {
            assert_eq!(unescaped(written).as_deref(), name, "{written}");
        }
    }
}
