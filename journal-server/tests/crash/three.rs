//! Three nodes that hold the same log, one of them a little less and one a little more, and a flipped bit
//! on each. They help each other as they do over the network. In the end each of them holds what it
//! held, or says what it lacks; it serves nothing else, and nothing is cut that something proved.

use std::path::Path;

use journal_server::segment::{self, Damaged, Error, Kind, Log, LogEntry, LogId, Opened};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::flips::{in_last_plan, some_byte, some_life};
use super::honest;
use super::machine::{DIR, IDS, Machine, options};
use super::model::{Act, Picture, body, check, read_picture};

#[derive(Debug, Default)]
struct Seen {
    as_before: u64,
    /// The flip hit what nothing proved.
    torn: u64,
    repaired_at_start: u64,
    repaired_later: u64,
    /// Nobody else has it.
    waits: u64,
}

/// One of the three, with what it held before.
struct Replica {
    machine: Machine,
    whole: Picture,
    proven: usize,
    before_last: Option<segment::fault_disk::FaultDisk>,
}

enum Node {
    Runs { log: Log, torn: bool },
    Waits(Box<Damaged>),
}

#[test]
fn a_flip_on_each_of_three_nodes_ends_repaired_or_refused_and_nothing_is_lost_in_silence() {
    let mut seen = Seen::default();
    for seed in 0..super::number("THREE_CASES").unwrap_or(150) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let replicas = replicas(&mut rng).unwrap_or_else(|why| panic!("{why}\ncase {seed}"));
        for round in 0..10 {
            flip_each(&replicas, &mut rng, &mut seen).unwrap_or_else(|why| {
                let stories: Vec<String> = replicas.iter().map(|it| it.machine.oracle.story()).collect();
                panic!("{why}\n{}\ncase {seed}, round {round}", stories.join("\n---\n"))
            });
        }
    }
    super::tell(&format!("flips on three nodes: {seen:?}"));
    for (what, count) in [
        ("as before", seen.as_before),
        ("torn", seen.torn),
        ("repaired at the start", seen.repaired_at_start),
        ("repaired later", seen.repaired_later),
        ("left waiting", seen.waits),
    ] {
        assert!(count > 3, "only {count} were {what}");
    }
}

fn replicas(rng: &mut SmallRng) -> Result<Vec<Replica>, String> {
    let first = some_life(rng)?;
    let acts = first.oracle.acts().to_vec();
    let behind = rng.random_range(0..4).min(acts.len());
    let shorter = follower(rng, &acts[..acts.len() - behind], 0)?;
    let longer_by = rng.random_range(0..4);
    let longer = follower(rng, &acts, longer_by)?;
    Ok([first, shorter, longer].into_iter().map(Replica::of).collect())
}

/// The same acts on another disk, laid out in another way, and some entries that nobody else has.
fn follower(rng: &mut SmallRng, acts: &[Act], own: u64) -> Result<Machine, String> {
    let mut machine = Machine::new(rng, honest);
    machine.options = options(rng);
    machine.keep_before = true;
    machine.open().map_err(|why| format!("{why:?}"))?;
    for act in acts {
        machine.ask(act.clone());
        if rng.random_bool(0.4) {
            machine.settle()?;
        }
    }
    machine.settle()?;
    let term = machine.oracle.asked.last().map_or(1, |id| id.term) + 1;
    for _ in 0..own {
        let id = LogId::new(term, machine.oracle.asked.next());
        machine.ask(Act::Append(vec![LogEntry::new(id, Kind::Entry, body(200, id.position))]));
        machine.settle()?;
    }
    if rng.random_bool(0.5) {
        machine.mark()?;
    }
    machine.disk.crash_with(segment::fault_disk::Loss::ALL, rng);
    Ok(machine)
}

impl Replica {
    fn of(mut machine: Machine) -> Replica {
        let (proven, before_last) = (machine.proven, machine.before_last.take());
        Replica { whole: machine.oracle.asked.clone(), machine, proven, before_last }
    }
}

fn flip_each(replicas: &[Replica], rng: &mut SmallRng, seen: &mut Seen) -> Result<(), String> {
    let mut nodes = Vec::new();
    let mut unproven = Vec::new();
    for replica in replicas {
        let machine = replica.machine.fork();
        if rng.random_bool(0.8) {
            let (path, offset) = some_byte(&machine.disk, rng);
            machine.disk.flip(&path, offset, 1 << rng.random_range(0..8));
            let last = |before| in_last_plan(before, &replica.machine.disk, &path, offset);
            unproven.push(replica.before_last.as_ref().is_some_and(last));
        } else {
            unproven.push(false);
        }
        let opened = segment::open(machine.disk.mount(), Path::new(DIR), IDS, machine.options.clone());
        nodes.push(node(opened.map_err(|error| format!("refused: {error}"))?));
    }
    let mut repaired = [false; 3];
    for _ in 0..3 {
        for (number, repaired) in repaired.iter_mut().enumerate() {
            *repaired |= help(&mut nodes, number)?;
        }
    }
    let all = |node: &Node| readable(node, 0..replicas.iter().map(|it| it.whole.next()).max().unwrap_or(0));
    let can_read: Vec<Vec<LogEntry>> = nodes.iter().map(all).collect();
    for (number, node) in nodes.into_iter().enumerate() {
        let others = [&can_read[(number + 1) % 3][..], &can_read[(number + 2) % 3][..]];
        judge(node, &replicas[number], &others, unproven[number], repaired[number], seen)
            .map_err(|why| format!("node {number}: {why}"))?;
    }
    Ok(())
}

fn node(opened: Opened) -> Node {
    match opened {
        Opened::Ready { log, report, .. } => Node::Runs { log, torn: report.torn_frames > 0 },
        Opened::Damaged(damaged) => Node::Waits(Box::new(damaged)),
    }
}

/// Offers one node what the others can read. True: something was repaired before it ran.
fn help(nodes: &mut [Node], number: usize) -> Result<bool, String> {
    let holes = match &nodes[number] {
        Node::Waits(damaged) => damaged.holes().to_vec(),
        Node::Runs { log, .. } => {
            // Whatever there is to be found is found by reading all of it.
            let _ = read_picture(log);
            log.holes()
        }
    };
    let wanted = holes.iter().flat_map(|hole| hole.first..=hole.last);
    let offers: Vec<Vec<LogEntry>> = [1, 2].map(|next| readable(&nodes[(number + next) % 3], wanted.clone())).into();
    for offer in offers {
        match &mut nodes[number] {
            Node::Runs { log, .. } => match log.patch_blocking(&offer) {
                Ok(()) | Err(Error::Refused { .. }) => {}
                Err(error) => return Err(format!("repairing: {error}")),
            },
            Node::Waits(damaged) => match damaged.fill(&offer) {
                Ok(false) | Err(Error::Refused { .. }) => {}
                Err(error) => return Err(format!("repairing: {error}")),
                Ok(true) => {
                    let Node::Waits(damaged) =
                        std::mem::replace(&mut nodes[number], Node::Runs { log: log_of_nobody(), torn: false })
                    else {
                        unreachable!("it was looked at just now")
                    };
                    nodes[number] = node(damaged.reopen().map_err(|error| format!("filled, and refused: {error}"))?);
                    return Ok(true);
                }
            },
        }
    }
    Ok(false)
}

fn log_of_nobody() -> Log {
    let disk = segment::fault_disk::FaultDisk::new(0);
    match segment::open(disk.mount(), Path::new(DIR), IDS, segment::Options::default()) {
        Ok(Opened::Ready { log, .. }) => log,
        _ => unreachable!("an empty disk opens"),
    }
}

fn readable(node: &Node, positions: impl Iterator<Item = u64>) -> Vec<LogEntry> {
    let read = |at| match node {
        Node::Runs { log, .. } => log.read_blocking(at, at + 1, 1).unwrap_or_default(),
        Node::Waits(damaged) => damaged.read(at, at + 1, 1).0,
    };
    positions.flat_map(read).collect()
}

fn judge(
    node: Node,
    replica: &Replica,
    others: &[&[LogEntry]],
    unproven: bool,
    repaired: bool,
    seen: &mut Seen,
) -> Result<(), String> {
    let whole = &replica.whole;
    let missing = match &node {
        Node::Waits(damaged) if damaged.is_state_lost() => return Err("the state is lost by one bit".into()),
        Node::Waits(damaged) => damaged.holes().to_vec(),
        Node::Runs { log, torn } => match read_picture(log) {
            Ok(found) => {
                let expected = Picture { versions: found.versions.clone(), ..whole.clone() };
                let versions = whole.versions.get(..found.versions.len());
                if found == expected && versions == Some(found.versions.as_slice()) {
                    match (repaired, log.repaired() > 0) {
                        (true, _) => seen.repaired_at_start += 1,
                        (false, true) => seen.repaired_later += 1,
                        (false, false) => seen.as_before += 1,
                    }
                    return Ok(());
                }
                check(*torn, || format!("{found:?} is left, and no cut was reported"))?;
                replica.machine.oracle.explain(&found, replica.proven)?;
                seen.torn += 1;
                return Ok(());
            }
            Err(_) => log.holes(),
        },
    };
    check(!unproven, || format!("called damaged, not torn: {missing:?}"))?;
    check(!missing.is_empty(), || "something cannot be read, and nothing is said to be missing".into())?;
    for hole in &missing {
        let offered = |at: u64| others.iter().any(|other| other.iter().any(|entry| whole.entry_at(at) == Some(entry)));
        let all = (hole.first..=hole.last).all(offered);
        check(!all, || format!("the others can read all of {hole}, and it is not filled"))?;
    }
    seen.waits += 1;
    Ok(())
}
