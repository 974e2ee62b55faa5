//! What a load is to be: whom it asks what, how much at once, and for how long.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::profile::Profile;

/// How one side is loaded.
#[derive(Debug, Clone)]
pub struct Plan {
    pub endpoints: Vec<String>,
    pub profile: Profile,
    pub clients: usize,
    pub connections: usize,
    /// Operations a second, or as fast as the clients can.
    pub rate: Option<u64>,
    pub watchers: usize,
    pub keys: u64,
    pub value_bytes: usize,
    pub warm_up: Duration,
    pub length: Duration,
    pub seed: u64,
    pub server_pids: Vec<u32>,
    /// Ends the run before its time.
    pub stop: Option<Arc<AtomicBool>>,
}
