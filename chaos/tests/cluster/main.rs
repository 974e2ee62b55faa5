//! Clusters of real processes, hurt in every way that a machine can be, under load; and afterwards
//! the question whether everybody was told the truth.
//!
//! One file a claim, one program for all of them: they run one after the other
//! (`--test-threads=1`), since they measure times on the same cores.

// A test that cannot go on says why by failing.
#![allow(clippy::unwrap_used)]

mod conformance;
mod disk_full;
mod everybody_killed;
mod file_flipped;
mod first_session;
mod five_nodes;
mod found_later;
mod leader_cut_off;
mod leader_killed;
mod membership;
mod metrics;
mod never_committed;
mod node_paused;
mod openings;
mod papers_renewed;
mod planned_stop;
mod quota;
mod removed;
mod rules;
mod sizes;
mod slow_disk;
mod stale;
mod stranger;
mod support;
mod trimmed_beyond;
mod untrusted;
