//! One question over HTTP/1.1, one answer, on a stream that is there already.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// What it says, if that is what it says.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// Whoever is there left before it had answered.
    #[error("it went away without an answer")]
    Ended,
    /// Whoever is there speaks something else, or says too much.
    #[error("what answers is no web server, or says too much")]
    NotHttp,
}

impl From<hyper::Error> for NoAnswer {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() {
            Self::NotHttp
        } else {
            Self::Ended
        }
    }
}

/// Asks, and takes an answer of at most so many bytes.
///
/// # Errors
/// [`NoAnswer`].
pub(crate) async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    request: Request<Full<Bytes>>,
    max_bytes: usize,
) -> Result<Answer, NoAnswer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answered = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, max_bytes).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => NoAnswer::NotHttp,
            false => NoAnswer::Ended,
        })?;
        Ok(Answer {
            status: head.status,
            body: body.to_bytes(),
        })
    };
    let driven = async {
        // What is wrong with it, the answer says, too.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a web server");
        }
        std::future::pending().await
    };
    tokio::select! {
        answer = answered => answer,
        never = driven => never,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What is made of an answer of these bytes, after which whoever is there goes.
    async fn made_of(answer: &[u8]) -> Result<Answer, NoAnswer> {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let served = async {
            theirs.read_exact(&mut [0; 16]).await.expect("asked");
            theirs.write_all(answer).await.expect("answered");
            drop(theirs);
        };
        let request = Request::get("/").body(Full::default()).expect("a request");
        tokio::join!(exchange(ours, request, 8), served).0
    }

    #[tokio::test]
    async fn an_answer_is_whole_or_none() {
        let whole = made_of(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await;
        let whole = whole.expect("an answer");
        assert_eq!((whole.status.as_u16(), &*whole.body), (404, &b"no"[..]));
        for (gone, text) in [
            (true, &b""[..]),
            (true, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nno"),
            (false, b"SSH-2.0-x\r\n"),
            (
                false,
                b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789",
            ),
        ] {
            let none = made_of(text).await.expect_err("none");
            assert_eq!(matches!(none, NoAnswer::Ended), gone, "{text:?}");
        }
    }
}
