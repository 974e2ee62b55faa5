//! One file a command.

pub mod cluster;
