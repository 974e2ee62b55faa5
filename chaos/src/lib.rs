//! Real processes under real faults: clusters on this machine, the faults that are done to them,
//! and the check of what their clients saw.
//!
//! Nothing here is part of a production system; everything here starts the very binaries that are.

pub mod check;
pub mod cluster;
pub mod etcd;
pub mod figures;
pub mod history;
pub mod kubernetes;
pub mod load;
pub mod procfs;
pub mod proxy;
pub mod sim;
pub mod traffic;
