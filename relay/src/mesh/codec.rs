//! Requests and responses as they stand on their stream (`schema/mesh.proto`).

use std::io::{self, ErrorKind};

use futures_util::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response};
use prost::Message;
use remora_proto::wire::message::{
    MAX_CONTROL_BYTES,
    mesh::{Request, Response},
};

/// What streams of these messages are opened for.
pub const PROTOCOL_NAME: StreamProtocol = StreamProtocol::new("/remora/mesh/1");

/// Reads and writes them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Codec;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &Self::Protocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &Self::Protocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(
        &mut self,
        _: &Self::Protocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&request.encode_to_vec()).await
    }

    async fn write_response<T>(
        &mut self,
        _: &Self::Protocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&response.encode_to_vec()).await
    }
}

async fn read<T, M>(io: &mut T) -> io::Result<M>
where
    T: AsyncRead + Unpin + Send,
    M: Message + Default,
{
    let mut bytes = Vec::new();
    let mut limited = io.take(MAX_CONTROL_BYTES as u64 + 1);
    limited.read_to_end(&mut bytes).await?;
    if bytes.is_empty() {
        // A stream that was dropped: nobody had time for it.
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if bytes.len() > MAX_CONTROL_BYTES {
        return Err(ErrorKind::InvalidData.into());
    }
    M::decode(&bytes[..]).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, io::Cursor};

    use super::*;
    use crate::mesh::done;

    #[test]
    fn what_is_not_said_is_no_message() {
        let read = |bytes: &[u8]| {
            let mut io = Cursor::new(bytes.to_vec());
            let read = read::<_, Response>(&mut io).now_or_never();
            read.expect("all is there").map_err(|error| error.kind())
        };
        let said = Response { body: Some(done()) };
        assert_eq!(read(&said.encode_to_vec()), Ok(said));
        assert_eq!(read(&[]), Err(ErrorKind::UnexpectedEof));
        assert_eq!(read(&[0xff]), Err(ErrorKind::Other));
        let long = vec![0; MAX_CONTROL_BYTES + 1];
        assert_eq!(read(&long), Err(ErrorKind::InvalidData));
    }
}
