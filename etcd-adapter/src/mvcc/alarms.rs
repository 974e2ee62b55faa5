//! Raised alarms, and what they forbid: `NOSPACE` every write that grows, `CORRUPT` every write.
//!
//! They are state like everything else: an alarm takes effect at one position, on all adapters.

use std::collections::BTreeSet;

use super::types::{Alarm, Answer, Refusal};
use crate::command::{AlarmAction, AlarmKind, Command, quota_cost};

pub(super) type Alarms = BTreeSet<Alarm>;

/// What a command meets while alarms are raised.
pub(super) fn check(alarms: &Alarms, command: &Command) -> Result<(), Refusal> {
    if alarms.is_empty() {
        return Ok(());
    }
    let raised = |kind| alarms.iter().any(|alarm| alarm.kind == kind);
    let writes = matches!(
        command,
        Command::Put(_)
            | Command::DeleteRange(_)
            | Command::Txn(_)
            | Command::Compact { .. }
            | Command::LeaseGrant { .. }
            | Command::LeaseRevoke { .. }
            | Command::Expire { .. }
    );
    if writes && raised(AlarmKind::Corrupt) {
        return Err(Refusal::Corrupt);
    }
    // Exactly what costs quota is what may grow the store.
    if quota_cost(command) > 0 && raised(AlarmKind::NoSpace) {
        return Err(Refusal::NoSpace);
    }
    Ok(())
}

/// What an alarm request answers: the alarms it raised or cleared.
pub(super) fn answer(alarms: &Alarms, action: AlarmAction, alarm: Alarm) -> Answer {
    let concerned = action == AlarmAction::Activate || alarms.contains(&alarm);
    Answer::Alarms(if concerned { vec![alarm] } else { vec![] })
}
