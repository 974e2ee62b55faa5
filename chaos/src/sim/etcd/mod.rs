//! Adapters in the simulation: real ones beside real nodes, with clients that speak gRPC to them.
//!
//! What differs from production stands in [`etcd_adapter::env`]: connections cross the wire of the
//! simulation, the store is the ordered map and survives its process as tmpfs does, nothing has a
//! thread. Everything that clients are told is written down ([`ledger`]) and judged at the end against
//! what the journal says, applied once more from its beginning ([`reference`], [`judge`]).

mod around;
mod client;
mod faults;
mod judge;
mod keeper;
mod ledger;
mod machine;
mod profile;
mod reference;
mod tales;
mod troupe;
mod watcher;

use std::sync::Arc;

use rand::rngs::StdRng;

use super::faults::Faults;
use super::stage::Stage;
use super::world::{World, fork};
use crate::check::Verdict;
pub use profile::Profile;
pub use tales::Tale;
use troupe::Troupe;

/// The life of a world with adapters: a tale, or what the seed draws.
pub async fn live(world: &Arc<World>, rng: &mut StdRng, tale: Option<Tale>) -> anyhow::Result<Verdict> {
    let mut stage = Stage::begin(world.clone()).await?;
    let mut troupe = Troupe::begin(world.clone(), fork(rng)).await?;
    match tale {
        Some(tale) => tale.tell(&mut stage, &mut troupe, rng).await?,
        None => {
            troupe.load();
            let mut faults = Faults::new(world.clone(), fork(rng), stage.journals[0].clone(), stage.operator.clone());
            let mut more = faults::Faults::new(&troupe, fork(rng));
            tokio::join!(faults.run(), more.run());
            more.heal().await;
            faults.heal().await;
            stage.recovers().await?;
        }
    }
    let told = troupe.end().await?;
    world.trace.event(format_args!("adapters: {told}"));
    stage.end().await
}
