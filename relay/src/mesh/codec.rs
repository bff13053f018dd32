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
    if bytes.len() > MAX_CONTROL_BYTES {
        return Err(ErrorKind::InvalidData.into());
    }
    M::decode(&bytes[..]).map_err(io::Error::other)
}
