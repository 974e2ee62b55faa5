//! The scrubber: reads what nobody reads, slowly, so that damage is found while others still have what
//! was lost. What it finds, the mender fills.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::group::Shared;
use crate::segment::{Log, Scrubbed, Scrubber};

/// After an error of the disk.
const PAUSE: Duration = Duration::from_secs(60);
/// Even a pass over nothing is not followed by the next at once.
const REST_MIN: Duration = Duration::from_secs(1);

/// How fast it reads, and how often everything is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Of each journal; 0: nothing is read.
    pub bytes_per_second: u64,
    /// From the begin of a pass to the begin of the next.
    pub every: Duration,
}

/// Reads the sealed segments of a log, pass after pass, until `stop`.
pub async fn scrub(shared: Arc<Shared>, group: u64, log: Log, stop: CancellationToken) {
    if shared.scrub.bytes_per_second == 0 {
        return;
    }
    let mut scrubber = Scrubber::new(log);
    stop.run_until_cancelled(async {
        loop {
            let begun = Instant::now();
            scrubber = pass(&shared, group, scrubber).await;
            let rest = shared.scrub.every.saturating_sub(begun.elapsed()).max(REST_MIN);
            scrubber.rests();
            tokio::time::sleep(rest).await;
        }
    })
    .await;
}

async fn pass(shared: &Shared, group: u64, mut scrubber: Scrubber) -> Scrubber {
    loop {
        let begun = Instant::now();
        let step = move || {
            let result = scrubber.step_blocking();
            Ok((scrubber, result))
        };
        let stepped = match shared.offload().run(step).await {
            Ok((back, result)) => {
                scrubber = back;
                result
            }
            // The runtime goes down, and this with it.
            Err(_) => return std::future::pending().await,
        };
        let pause = match stepped {
            Ok(Scrubbed::Bytes(bytes)) => Duration::from_secs_f64(bytes as f64 / shared.scrub.bytes_per_second as f64)
                .saturating_sub(begun.elapsed()),
            Ok(Scrubbed::PassDone) => return scrubber,
            Err(error) => {
                tracing::warn!(group, "scrubbing: {error}");
                PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}
