//! Calls that go another way than their address says: through a proxy, or an address translation.
//!
//! Only where bytes go changes: the address that was meant is still what the members' list says. With
//! TLS, the other side's certificate is held against the name of the detour.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use journal_client::Connector;
use journal_client::transport::Io;

/// Connections, some of which are made to other addresses.
pub struct Detours {
    table: BTreeMap<String, String>,
    inner: Arc<dyn Connector>,
}

impl Detours {
    /// The same connector if there are no detours.
    pub fn around(inner: Arc<dyn Connector>, table: BTreeMap<String, String>) -> Arc<dyn Connector> {
        match table.is_empty() {
            true => inner,
            false => Arc::new(Detours { table, inner }),
        }
    }
}

#[async_trait]
impl Connector for Detours {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Io>> {
        let to = self.table.get(address).map_or(address, String::as_str);
        self.inner.connect(to).await
    }
}

#[cfg(test)]
mod tests {
    use journal_client::TcpConnector;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_detour_leads_elsewhere_and_everything_else_goes_straight() {
        let there = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = there.local_addr().unwrap().to_string();
        let table = [("node-b.example.org:7400".to_owned(), address.clone())].into();
        let straight = TcpConnector::new(None, true).unwrap();
        let detours = Detours::around(Arc::new(straight), table);
        for call in ["node-b.example.org:7400", &address] {
            let (connected, accepted) = tokio::join!(detours.connect(call), there.accept());
            connected.unwrap();
            accepted.unwrap();
        }
    }
}
