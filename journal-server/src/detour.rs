//! Calls that go another way than their address says: through a proxy, or an address translation.
//!
//! Only where bytes go changes. The certificate that the other side shows is still held against the
//! address that was meant, and that address is still what the members' list says.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::env::{BoxedIo, Listener, Net};

/// A network in which some addresses are reached at others.
#[derive(Debug)]
pub struct Detours {
    table: BTreeMap<String, String>,
    inner: Arc<dyn Net>,
}

impl Detours {
    /// The same network if there are no detours.
    pub fn around(inner: Arc<dyn Net>, table: BTreeMap<String, String>) -> Arc<dyn Net> {
        match table.is_empty() {
            true => inner,
            false => Arc::new(Detours { table, inner }),
        }
    }
}

#[async_trait]
impl Net for Detours {
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        self.inner.listen(address).await
    }

    async fn connect(&self, address: &str) -> io::Result<BoxedIo> {
        let to = self.table.get(address).map_or(address, String::as_str);
        self.inner.connect(to).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Tcp;

    #[tokio::test]
    async fn a_detour_leads_elsewhere_and_everything_else_goes_straight() {
        let net: Arc<dyn Net> = Arc::new(Tcp);
        let mut there = net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = there.local_address().unwrap().to_string();
        let table = [("node-b.example.org:7400".to_owned(), address.clone())].into();
        let detours = Detours::around(net, table);
        for call in ["node-b.example.org:7400", &address] {
            let (connected, accepted) = tokio::join!(detours.connect(call), there.accept());
            connected.unwrap();
            accepted.unwrap();
        }
    }
}
