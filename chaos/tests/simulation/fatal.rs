//! The interleavings that would be fatal, by name. Each is told many times, with the open details
//! drawn from the seed; `chaos sim --story NAME --seed N --trace` tells one of them aloud.

use super::{sim, text};

fn tell(story: &str, times: u32) {
    let output = sim(&["--story", story, "--seeds", &format!("0..{times}"), "--patience", "30"]);
    let said = text(&output);
    println!("{story}: {}", said.lines().rfind(|line| line.starts_with("simulation:")).unwrap_or_default());
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_commit_hint_newer_than_the_suffix_it_names_after_a_crash_inside_one_sync() {
    tell("commit-hint", 60);
}

#[test]
fn a_wiped_voter_started_with_its_old_flags() {
    tell("wiped-voter", 12);
}

#[test]
fn an_entry_acknowledged_from_the_page_cache_after_kill_9() {
    tell("page-cache", 40);
}

#[test]
fn a_power_cut_of_all_nodes_under_load() {
    tell("power-cut-of-all", 25);
}

#[test]
fn a_leader_whose_sync_fails_after_its_followers_have_the_entry() {
    tell("leader-sync-fails", 25);
}

#[test]
fn a_follower_restored_from_an_old_backup() {
    tell("old-backup", 25);
}

#[test]
fn a_follower_that_was_away_while_the_journal_was_trimmed_beyond_its_end() {
    tell("behind-a-trim", 40);
}

#[test]
fn a_bit_of_the_last_frame_is_forgotten_after_kill_9() {
    tell("last-flip", 40);
}
