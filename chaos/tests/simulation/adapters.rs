//! Adapters in the simulation: drawn worlds, stories, planted bugs. SIM_ADAPTER_SEEDS says how many drawn
//! worlds there are, SIM_FIRST with which they begin; of each two, one has two adapters and one three.

use super::{number, sim, text, trace_of};

#[test]
fn drawn_worlds_with_adapters_keep_every_promise() {
    let (first, count) = (number("SIM_FIRST", 0), number("SIM_ADAPTER_SEEDS", 200));
    let middle = first + count / 2;
    for (adapters, first, end) in [("2", first, middle), ("3", middle, first + count)] {
        let output = sim(&["--adapters", adapters, "--seeds", &format!("{first}..{end}")]);
        let said = text(&output);
        println!("{}", said.lines().filter(|line| !line.starts_with("    ")).collect::<Vec<_>>().join("\n"));
        assert!(output.status.success(), "{said}");
    }
}

#[test]
fn the_same_seed_is_the_same_world_with_adapters_too() {
    for seed in ["3", "8"] {
        let args = ["--adapters", "2", "--seed", seed];
        let (once, again) = (sim(&args), sim(&args));
        assert!(once.status.success(), "{}", text(&once));
        assert_eq!(trace_of(&once), trace_of(&again), "seed {seed}");
        let told = sim(&[&args[..], &["--trace", "--log", "info,openraft=off"]].concat());
        assert_eq!(trace_of(&once), trace_of(&told), "seed {seed}, with its trace printed");
    }
}

fn tell(story: &str, times: u32) {
    let output = sim(&["--story", story, "--seeds", &format!("0..{times}"), "--patience", "60"]);
    let said = text(&output);
    println!("{story}: {}", said.lines().rfind(|line| line.starts_with("simulation:")).unwrap_or_default());
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_read_that_arrives_while_an_entry_is_sent_again_shows_what_was_acknowledged() {
    tell("ride-on-resent", 15);
}

#[test]
fn what_a_dead_process_said_and_arrives_late_has_no_effect() {
    tell("late-stream", 15);
}

#[test]
fn a_compaction_under_an_open_page_is_told_and_never_hides_keys() {
    tell("compaction-under-page", 10);
}

#[test]
fn a_lease_outlives_an_outage_in_which_it_cannot_be_renewed() {
    tell("renewal-in-outage", 12);
}

#[test]
fn an_adapter_replaced_with_entries_under_way_leaves_and_nothing_happens_twice() {
    tell("replaced", 12);
}

/// Adapters that are wrong are found, and each in the way that it should be.
#[test]
fn adapters_that_are_wrong_are_found() {
    let drawn = ["--adapters", "2"];
    for (plant, world, worlds, marks) in [
        ("unasked-tail", drawn, 6, &["was shown before", "had been compacted to"][..]),
        ("renumbered", ["--story", "ride-on-resent"], 4, &["took effect at"]),
        ("lost-entry", drawn, 4, &["another state", "has the state"]),
    ] {
        let worlds = format!("0..{worlds}");
        let args = ["--seeds", &worlds, "--plant", plant, "--patience", "60"];
        let output = sim(&[&world[..], &args[..]].concat());
        let said = text(&output);
        assert!(!output.status.success(), "{plant} was not found in {worlds}");
        assert!(marks.iter().any(|mark| said.contains(mark)), "{plant} was found as something else:\n{said}");
        let found = said.lines().filter(|line| line.starts_with("failed: ")).count();
        println!("{plant}: found in {found} of {worlds}");
    }
}
