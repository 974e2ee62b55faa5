//! Bits of nodes' files are not what they were. What something proves to have been synced comes back
//! from the other nodes, and is never served wrong and never cut.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use chaos::history::Mark;
use tokio::time::sleep;

use crate::support::{Story, eventually};

/// What a header of a frame begins with.
const FRAME: &[u8] = b"JfRm";

/// A byte of a frame's header that its checksum covers.
const IN_HEADER: u64 = 100;

#[tokio::test]
async fn a_flipped_bit_is_repaired_from_peers_and_never_served() {
    let mut story = Story::begin().await;
    let hurt = story.follower().await;
    let payload = stop_and_pick(&mut story, hurt, |entries| entries[entries.len() / 2].clone()).await;
    let (file, at) = find(&story.cluster.node(hurt).dir(), &payload).expect("it lies in a file as it was sent");
    flip(&file, at + 100);
    comes_back_whole(&story, &[hurt]).await;
    assert!(find(&story.cluster.node(hurt).dir(), &payload).is_some(), "the file was not mended");
}

#[tokio::test]
async fn a_frame_that_cannot_even_be_named_is_repaired_by_what_surrounds_it() {
    let mut story = Story::begin().await;
    let hurt = story.follower().await;
    let payload = stop_and_pick(&mut story, hurt, |entries| entries[entries.len() / 3].clone()).await;
    let (file, at) = find(&story.cluster.node(hurt).dir(), &payload).expect("it lies in a file as it was sent");
    flip(&file, header_before(&file, at) + IN_HEADER);
    flip(&file, at + 10);
    comes_back_whole(&story, &[hurt]).await;
    assert!(find(&story.cluster.node(hurt).dir(), &payload).is_some(), "the file was not mended");
}

#[tokio::test]
async fn the_last_entry_that_is_proven_to_be_synced_is_repaired_and_not_cut() {
    let mut story = Story::begin().await;
    let hurt = story.follower().await;
    let payload = stop_and_pick(&mut story, hurt, |entries| entries[entries.len() - 1].clone()).await;
    let (file, at) = find(&story.cluster.node(hurt).dir(), &payload).expect("it lies in a file as it was sent");
    flip(&file, at + 100);
    comes_back_whole(&story, &[hurt]).await;
}

/// Neither of the two runs before the other has helped it: they answer each other while they wait.
#[tokio::test]
async fn two_nodes_that_are_damaged_in_different_places_help_each_other_up() {
    let mut story = Story::begin().await;
    let hurt: Vec<usize> = story.cluster.others(story.leader().await).map(|(number, _)| number).collect();
    story.end().await;
    let entries = chaos::traffic::read_all(story.journal.as_ref()).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    for number in 0..3 {
        story.cluster.node(number).kill9();
    }
    for (i, number) in hurt.iter().enumerate() {
        let (_, payload) = &entries[entries.len() * (i + 1) / 4];
        let (file, at) = find(&story.cluster.node(*number).dir(), payload).expect("it lies in a file as it was sent");
        flip(&file, at + 100);
    }
    // Without the third, who has everything: only what the two have is left.
    for number in &hurt {
        story.cluster.node(*number).start().unwrap();
    }
    comes_back_whole(&story, &hurt).await;
}

#[tokio::test]
async fn a_node_whose_catalogue_is_damaged_is_helped_before_anything_of_it_runs() {
    let mut story = Story::begin().await;
    let hurt = story.follower().await;
    story.end().await;
    sleep(Duration::from_millis(300)).await;
    let node = story.cluster.node(hurt);
    node.kill9();
    let file = node.dir().join("groups/0/0000000000000001.seg");
    let bytes = std::fs::read(&file).unwrap();
    let entries = |at: &usize| bytes[*at..].starts_with(FRAME) && bytes[at + 28] == 2;
    let frames: Vec<usize> = (8192..bytes.len() - 192).step_by(8).filter(entries).collect();
    assert!(frames.len() > 2, "the catalogue holds next to nothing");
    flip(&file, frames[1] as u64 + IN_HEADER);
    comes_back_whole(&story, &[hurt]).await;
}

/// While nobody can help, the node says what it lacks, and serves none of it.
#[tokio::test]
async fn a_node_that_nobody_helps_names_the_positions_and_waits() {
    let mut story = Story::begin().await;
    let hurt = story.follower().await;
    let payload = stop_and_pick(&mut story, hurt, |entries| entries[entries.len() / 2].clone()).await;
    let (file, at) = find(&story.cluster.node(hurt).dir(), &payload).expect("it lies in a file as it was sent");
    flip(&file, at + 100);
    let others: Vec<usize> = story.cluster.others(hurt).map(|(number, _)| number).collect();
    for number in &others {
        story.cluster.node(*number).kill9();
    }
    let node = story.cluster.node(hurt);
    node.start().unwrap();
    let names_them = async || node.ready().await.is_err_and(|why| why.contains("damaged") && why.contains("positions"));
    eventually("the node says what it lacks", Duration::from_secs(10), names_them).await;
    for number in &others {
        story.cluster.node(*number).start().unwrap();
    }
    comes_back_whole(&story, &[hurt]).await;
}

/// Ends the load, lets the node write its idle mark, kills it, and picks an entry.
async fn stop_and_pick(story: &mut Story, hurt: usize, pick: impl Fn(&[Bytes]) -> Bytes) -> Bytes {
    story.end().await;
    let entries = chaos::traffic::read_all(story.journal.as_ref()).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    story.cluster.node(hurt).kill9();
    let payloads: Vec<Bytes> = entries.into_iter().map(|(_, payload)| payload).collect();
    let payload = pick(&payloads);
    assert!(Mark::of(&payload).is_some(), "not an entry of ours");
    payload
}

/// The nodes start, or have started: each repairs itself, counts that, and serves what everybody serves.
async fn comes_back_whole(story: &Story, hurt: &[usize]) {
    for number in hurt {
        let node = story.cluster.node(*number);
        if !node.runs() {
            node.start().unwrap();
        }
    }
    for number in hurt {
        let node = story.cluster.node(*number);
        eventually("the node has repaired itself", Duration::from_secs(30), async || node.ready().await.is_ok()).await;
        story.same_on(*number).await;
        let disk = story.cluster.status(*number).await.unwrap().disk.unwrap();
        assert!(disk.frames_repaired > 0, "nothing was counted as repaired");
        assert_eq!(disk.segments_damaged, 0, "and still damaged");
    }
}

/// Where the frame begins that has the byte at `at`.
fn header_before(file: &Path, at: u64) -> u64 {
    let bytes = std::fs::read(file).unwrap();
    let mut starts = (0..=at as usize).rev().filter(|at| at.is_multiple_of(8));
    starts.find(|at| bytes[*at..].starts_with(FRAME)).expect("a frame begins before its entries") as u64
}

/// The file, and the place in it, where these bytes are.
pub fn find(dir: &Path, bytes: &[u8]) -> Option<(PathBuf, u64)> {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let content = std::fs::read(&path).unwrap_or_default();
            if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
                return Some((path, at as u64));
            }
        }
    }
    None
}

pub fn flip(file: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x04], at).unwrap();
    file.sync_all().unwrap();
}
