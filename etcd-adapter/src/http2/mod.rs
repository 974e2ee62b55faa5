//! The server's side of HTTP/2: one task a connection, which reads, runs the calls, and writes the
//! answers of all that are ready at once.
//!
//! [`frame`], [`hpack`] and `huffman` know the wire. [`session`] is the protocol: bytes in, calls begun
//! and polled, bytes out; it does no I/O and reads no clock but for one limit. [`connection`] gives it a
//! socket, time, and an order to stop. What a request means is not known here: [`Answers`] is asked.
//!
//! Whatever a client sends, nothing here panics, nothing waits for one stream while another could go on,
//! and nothing grows without a bound: see the constants of [`session`].

pub mod connection;
pub mod frame;
pub mod fuzz;
mod head;
pub mod hpack;
mod huffman;
mod inbox;
mod send;
pub mod session;
mod streams;
#[cfg(test)]
mod tests;
mod wakes;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;

use crate::answers::Held;
pub use head::Fields;
pub use inbox::RequestBody;

/// An answer of one message, and the memory that it holds until it is sent.
pub struct Answer {
    pub message: Bytes,
    pub held: Option<Held>,
}

impl From<Bytes> for Answer {
    fn from(message: Bytes) -> Answer {
        Answer { message, held: None }
    }
}

/// Answers the requests of a connection. The services do; in tests, an echo.
pub trait Answers: Send + Unpin + 'static {
    /// A gRPC call that takes one message and answers with one.
    type Call: Copy + Send + Sync + Unpin;

    /// The call that these headers begin, if it is one for [`Answers::answer`].
    fn unary(&self, headers: &Fields) -> Option<Self::Call>;

    /// Longer messages go to [`Answers::serve`], to be refused there.
    fn message_bytes_max(&self) -> usize;

    /// Answers a message with another, which is in its envelope already: ready to be sent.
    fn answer(&self, call: Self::Call, message: Bytes) -> BoxFuture<'static, Result<Answer, Status>>;

    /// Answers everything else. What the answer holds comes as an extension of it: [`Held`].
    fn serve(&self, request: Request<RequestBody>) -> BoxFuture<'static, Response<Body>>;
}
