//! What a node shows of its groups: where they are, who leads, how far followers are behind. Set from time
//! to time, so that nothing on an entry's way has to.

use std::collections::BTreeMap;

use metrics::Gauge;

use crate::catalogue::Groups;
use crate::group::{Group, Lead};

/// The gauges of every group that ever ran in this process. A recorder forgets none, so those that mean
/// nothing any more show 0.
#[derive(Default)]
pub struct Gauges {
    groups: BTreeMap<u64, OfGroup>,
}

struct OfGroup {
    leads: Gauge,
    start: Gauge,
    committed: Gauge,
    applied: Gauge,
    /// By the name of the follower.
    lags: BTreeMap<String, Gauge>,
}

impl Gauges {
    pub fn show(&mut self, groups: &Groups) {
        let running = groups.all();
        for group in &running {
            let of_group = self.groups.entry(group.id()).or_insert_with(|| {
                let name = groups.name_of(group.id()).unwrap_or_default();
                OfGroup::new(&group.id().to_string(), name)
            });
            of_group.show(group);
        }
        for (_, gone) in self.groups.iter().filter(|(id, _)| !running.iter().any(|group| group.id() == **id)) {
            gone.show_nothing();
        }
    }
}

impl OfGroup {
    fn new(journal: &str, name: String) -> OfGroup {
        let gauge = |metric: &'static str| metrics::gauge!(metric, "journal" => journal.to_owned());
        metrics::gauge!("journal_info", "journal" => journal.to_owned(), "name" => name).set(1.0);
        OfGroup {
            leads: gauge("journal_leads"),
            start: gauge("journal_start_position"),
            committed: gauge("journal_commit_position"),
            applied: gauge("journal_applied_position"),
            lags: BTreeMap::new(),
        }
    }

    fn show(&mut self, group: &Group) {
        let (mark, standing) = (group.mark(), group.standing());
        let leads = matches!(group.lead(), Lead::Leading { .. } | Lead::Moving(_));
        self.leads.set(f64::from(u8::from(leads)));
        self.start.set(mark.start as f64);
        self.committed.set(mark.tail as f64);
        self.applied.set(mark.applied as f64);
        self.lags.values().for_each(|lag| lag.set(0.0));
        let own = group.replica().node();
        for (node, member) in standing.nodes.iter().filter(|(node, _)| leads && **node != own) {
            let lag = self.lags.entry(member.name.clone()).or_insert_with(|| {
                let (journal, peer) = (group.id().to_string(), member.name.clone());
                metrics::gauge!("journal_peer_lag_positions", "journal" => journal, "peer" => peer)
            });
            let next = standing.matched.get(node).map_or(0, |matched| matched + 1);
            lag.set(mark.tail.saturating_sub(next) as f64);
        }
    }

    fn show_nothing(&self) {
        for gauge in [&self.leads, &self.start, &self.committed, &self.applied].into_iter().chain(self.lags.values()) {
            gauge.set(0.0);
        }
    }
}
