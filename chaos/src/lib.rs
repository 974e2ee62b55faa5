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

/// Says that something could not be tried here, so that nobody takes its passing for a result, and
/// leaves a line in the file that `make test` counts by.
pub fn skipped(why: &str) {
    use std::io::Write;

    println!("    SKIPPED: {why}");
    let Some(list) = std::env::var_os("SKIPPED_LIST") else { return };
    let list = std::fs::OpenOptions::new().append(true).create(true).open(list);
    list.and_then(|mut list| writeln!(list, "{why}")).expect("the list of `make test` can be written");
}
