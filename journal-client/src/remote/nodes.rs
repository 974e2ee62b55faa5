//! The nodes of a cluster as a client knows them, and its connections to them: to each node one for
//! what is written and one for what is read, so that neither waits behind the other's bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::journal as wire;
use proto::journal::catalogue_client::CatalogueClient;
use proto::journal::cluster_client::ClusterClient;
use proto::journal::journal_client::JournalClient;
use tokio::time::Duration;
use tonic::transport::Channel;

use crate::error::{Error, Reason, Refusal};
use crate::transport::{ChannelOptions, Connector, InvalidAddress, channel, check_address};

/// The largest message that is ever received: the largest entry, or a run of many small ones.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Addresses learnt from nodes beyond those configured; more are not remembered.
const LEARNT_MAX: usize = 64;

pub(crate) struct Nodes {
    connector: Arc<dyn Connector>,
    options: ChannelOptions,
    /// In the order of the configuration, by which the nearest may come first.
    configured: Vec<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    learnt: BTreeSet<String>,
    channels: BTreeMap<(String, Use), Channel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Writing,
    Reading,
}

impl Nodes {
    pub fn new(
        configured: Vec<String>,
        connector: Arc<dyn Connector>,
        options: ChannelOptions,
    ) -> Result<Self, InvalidAddress> {
        if configured.is_empty() {
            return Err(InvalidAddress(String::new()));
        }
        configured.iter().try_for_each(|address| check_address(address))?;
        Ok(Nodes { connector, options, configured, state: Mutex::default() })
    }

    /// Every address worth trying: those configured first, in their order.
    pub fn addresses(&self) -> Vec<String> {
        let state = self.state.lock();
        let more = state.learnt.iter().filter(|address| !self.configured.contains(address));
        self.configured.iter().chain(more).cloned().collect()
    }

    /// A node says that these are the nodes. Channels to those that are no more are given up.
    pub fn learn(&self, nodes: &[wire::NodeAddress]) {
        if nodes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        let learnt: BTreeSet<String> = nodes
            .iter()
            .map(|node| node.address.clone())
            .filter(|address| check_address(address).is_ok())
            .take(LEARNT_MAX)
            .collect();
        if learnt != state.learnt {
            state.learnt = learnt;
            let State { learnt, channels } = &mut *state;
            channels.retain(|(address, _), _| learnt.contains(address) || self.configured.contains(address));
        }
    }

    /// Appends and single calls about journals.
    pub fn writing(&self, address: &str) -> Result<JournalClient<Channel>, Error> {
        Ok(limits(JournalClient::new(self.channel(address, Use::Writing)?)))
    }

    /// Tail streams.
    pub fn reading(&self, address: &str) -> Result<JournalClient<Channel>, Error> {
        Ok(limits(JournalClient::new(self.channel(address, Use::Reading)?)))
    }

    pub fn catalogue(&self, address: &str) -> Result<CatalogueClient<Channel>, Error> {
        Ok(CatalogueClient::new(self.channel(address, Use::Writing)?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub fn cluster(&self, address: &str) -> Result<ClusterClient<Channel>, Error> {
        Ok(ClusterClient::new(self.channel(address, Use::Writing)?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn channel(&self, address: &str, purpose: Use) -> Result<Channel, Error> {
        let mut state = self.state.lock();
        if let Some(channel) = state.channels.get(&(address.to_owned(), purpose)) {
            return Ok(channel.clone());
        }
        let made = channel(address, self.connector.clone(), &self.options)
            .map_err(|error| Error::Refused(Refusal::new(Reason::Invalid, error.to_string())))?;
        // Hints may name anybody; the map stays as small as a cluster is.
        if state.channels.len() >= 4 * LEARNT_MAX {
            state.channels.clear();
        }
        state.channels.insert((address.to_owned(), purpose), made.clone());
        Ok(made)
    }
}

fn limits(client: JournalClient<Channel>) -> JournalClient<Channel> {
    client.max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Pauses between attempts: short at first, since a leader is usually back at once.
pub(crate) struct Pause(Duration);

impl Pause {
    const FIRST: Duration = Duration::from_millis(5);
    pub const LONGEST: Duration = Duration::from_millis(160);

    pub fn new() -> Self {
        Pause(Self::FIRST)
    }

    pub fn reset(&mut self) {
        self.0 = Self::FIRST;
    }

    /// How long to wait now.
    pub fn take(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(Self::LONGEST);
        now
    }
}
