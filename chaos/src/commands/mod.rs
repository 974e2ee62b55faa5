//! One file a command.

pub mod cluster;
pub mod figures;
pub mod load;
pub mod sim;
