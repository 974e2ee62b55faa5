//! Where blocking work runs: reads of cold segments, mostly. A pool of threads in production; right
//! here in a simulation, whose disk is memory and whose only thread must stay in charge.

use std::io;

use crate::env::Drive;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    Pool,
    Inline,
}

impl Offload {
    pub fn of(drive: Drive) -> Offload {
        match drive {
            Drive::Threads => Offload::Pool,
            Drive::Tasks => Offload::Inline,
        }
    }

    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        match self {
            Offload::Inline => work(),
            Offload::Pool => match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(error) => Err(io::Error::other(format!("a blocking task died: {error}"))),
            },
        }
    }
}
