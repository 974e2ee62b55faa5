//! Which ports a cluster uses, so that many clusters can run on one machine at once and each keeps
//! its own through restarts of its nodes.
//!
//! The ports lie below the range that the kernel gives to outgoing connections: a port from that
//! range can be taken by a stranger between a node's death and its restart.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Ports of one node. Its listeners are the first few of them.
pub const PER_NODE: u16 = 10;
/// Nodes that a block has ports for.
pub const NODES_MAX: u16 = 10;

const FIRST: u16 = 10_000;
const BLOCK: u16 = PER_NODE * NODES_MAX;
const BLOCKS: u16 = 200;

/// A hundred ports of our own, for as long as this lives.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    /// A name in the kernel's table of abstract sockets: gone with this process, whatever happens.
    _claim: Option<UnixListener>,
}

impl Ports {
    /// Takes a block that no other cluster on this machine has, and whose ports nobody listens on.
    pub fn claim() -> io::Result<Ports> {
        // Different processes begin in different places, so that they seldom meet.
        let begin = (std::process::id() % u32::from(BLOCKS)) as u16;
        for step in 0..BLOCKS {
            let block = (begin + step) % BLOCKS;
            let first = FIRST + block * BLOCK;
            let Ok(name) = SocketAddr::from_abstract_name(format!("journal-chaos-ports-{first}")) else {
                continue;
            };
            let Ok(claim) = UnixListener::bind_addr(&name) else { continue };
            if (0..BLOCK).filter(|n| n % PER_NODE < 3).all(|n| is_free(first + n)) {
                return Ok(Ports { first, _claim: Some(claim) });
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no block of a hundred free ports between 10000 and 30000"))
    }

    /// The ports from `first` on, taken on the caller's word.
    pub fn at(first: u16) -> Ports {
        Ports { first, _claim: None }
    }

    pub fn first(&self) -> u16 {
        self.first
    }

    /// Port number `which` of node number `node`, both counted from 0.
    pub fn of(&self, node: usize, which: u16) -> u16 {
        assert!(node < NODES_MAX as usize, "a cluster has at most {NODES_MAX} nodes");
        assert!(which < PER_NODE, "a node has {PER_NODE} ports");
        self.first + node as u16 * PER_NODE + which
    }
}

/// Whether a server could listen there now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_never_share_a_port() {
        let one = Ports::claim().unwrap();
        let two = Ports::claim().unwrap();
        assert!(one.first().abs_diff(two.first()) >= BLOCK);
    }
}
