//! Sockets and pages: how bytes of clients come in, and what is answered to those that speak no gRPC.

pub mod connection;
pub mod counting;
pub mod listen;
pub mod metrics;
pub mod pages;
mod replaying;
