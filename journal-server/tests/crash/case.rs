//! One crash case: a few lives of one log on one disk, each ended by a power cut, a kill, an error of
//! the disk or a clean stop, at a random moment, the opening included; each opening is judged.

use std::fmt;
use std::ops::AddAssign;
use std::panic::{self, AssertUnwindSafe};

use journal_server::segment::fault_disk::{Fault, FaultDisk, Loss, Op};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::machine::{Machine, Shut, View};
use super::model::check;

/// What happened in a number of cases.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub cases: u64,
    pub crashes: u64,
    pub kills: u64,
    pub stops: u64,
    pub stops_in_opening: u64,
    pub errors: u64,
    pub full: u64,
    pub clean: u64,
    pub openings: u64,
    pub acts: u64,
    pub answered: u64,
    pub torn: u64,
}

/// Runs the case of a seed. The error tells what is wrong, and how to see it again.
pub fn run(seed: u64, view: View) -> Result<Tally, String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut tally = Tally { cases: 1, ..Tally::default() };
    let mut machine = Machine::new(&mut rng, view);
    let judged = panic::catch_unwind(AssertUnwindSafe(|| lives(&mut machine, &mut rng, &mut tally)))
        .unwrap_or_else(|_| Err("it panicked, as told above".into()));
    judged.map_err(|why| {
        let story = machine.oracle.story();
        format!("{why}\n{story}\nreplay: CRASH_SEED={seed} cargo test -p journal-server --test crash")
    })?;
    Ok(tally)
}

/// Ends one life of a seed at every single step that it makes, in several ways each, and judges what
/// is left. The number of endings.
pub fn end_at_every_step(seed: u64, view: View) -> Result<u64, String> {
    let steps = a_life(seed, view, |_| {})?.disk.steps();
    let mut endings = 0;
    for stop in 0..steps {
        let stopped = a_life(seed, view, |disk| disk.stop_after(stop))?;
        for ending in 0..6 {
            let mut rng = SmallRng::seed_from_u64(seed ^ stop << 8 ^ ending << 32);
            let mut machine = stopped.fork();
            match ending {
                0 => machine.disk.kill(),
                1 => machine.disk.crash_with(Loss::ALL, &mut rng),
                2 => machine.disk.crash_with(Loss::NONE, &mut rng),
                _ => machine.disk.crash(&mut rng),
            }
            let judged = shows_what_it_keeps(&mut machine, &mut rng, &mut Tally::default());
            judged.map_err(|why| format!("{why}\nseed {seed}, step {stop}, ending {ending}"))?;
            endings += 1;
        }
    }
    Ok(endings)
}

/// A life of a seed, the first opening included, on a disk where something is to happen.
fn a_life(seed: u64, view: View, arm: impl Fn(&FaultDisk)) -> Result<Machine, String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut machine = Machine::new(&mut rng, view);
    arm(&machine.disk);
    match machine.open() {
        Ok(_) => {}
        // Nobody was told of anything.
        Err(Shut::Stopped | Shut::Refused(_)) => return Ok(machine),
        Err(Shut::Wrong(why)) => return Err(why),
    }
    for _ in 0..60 {
        if machine.disk.is_stopped() || machine.is_failed() {
            return Ok(machine);
        }
        machine.step(&mut rng)?;
    }
    Ok(machine)
}

/// Lets every single call of one kind fail that a life of a seed makes, each in a life of its own,
/// and judges what is left. The number of failures.
pub fn fail_at_every(op: Op, errno: i32, seed: u64, view: View) -> Result<u64, String> {
    let calls = a_life(seed, view, |_| {})?.disk.count(op);
    let mut failures = 0;
    for skip in 0..calls {
        let fault = Fault { op, skip, times: 1, errno };
        let mut machine = a_life(seed, view, |disk| disk.fail(fault))?;
        let mut rng = SmallRng::seed_from_u64(seed ^ skip << 8);
        let judged = stays_failed(&mut machine, &mut rng).and_then(|()| {
            machine = machine.fork();
            if rng.random_bool(0.5) {
                machine.disk.kill()
            } else {
                machine.disk.crash(&mut rng)
            }
            shows_what_it_keeps(&mut machine, &mut rng, &mut Tally::default())
        });
        judged.map_err(|why| format!("{why}\n{}\nseed {seed}, {fault:?}", machine.oracle.story()))?;
        failures += 1;
    }
    Ok(failures)
}

/// Whoever asks a failed log for something is told so at once, and nothing is written any more.
fn stays_failed(machine: &mut Machine, rng: &mut SmallRng) -> Result<(), String> {
    if !machine.runs() || !machine.is_failed() {
        return Ok(());
    }
    let before = (machine.disk.steps(), machine.oracle.answered());
    for _ in 0..10 {
        machine.step(rng)?;
    }
    machine.settle()?;
    let after = (machine.disk.steps(), machine.oracle.answered());
    check(before == after, || format!("a failed log goes on: {before:?}, {after:?}"))
}

/// The last moment of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stop,
    Error,
    Full,
    /// It is ended from outside, at no moment in particular.
    Whenever,
    CleanStop,
}

fn lives(machine: &mut Machine, rng: &mut SmallRng, tally: &mut Tally) -> Result<(), String> {
    for _ in 0..rng.random_range(1..=6) {
        open(machine, rng, tally, 0.3)?;
        let fate = [(Fate::Stop, 50), (Fate::Error, 15), (Fate::Full, 10), (Fate::Whenever, 15), (Fate::CleanStop, 10)];
        live(machine, draw(rng, &fate), rng, tally)?;
        end(machine, rng, tally);
    }
    shows_what_it_keeps(machine, rng, tally)
}

/// What an opened log shows is there whatever happens next.
fn shows_what_it_keeps(machine: &mut Machine, rng: &mut SmallRng, tally: &mut Tally) -> Result<(), String> {
    open(machine, rng, tally, 0.0)?;
    machine.disk.crash_with(Loss::ALL, rng);
    open(machine, rng, tally, 0.0)?;
    machine.settle()?;
    machine.read_all()
}

/// Starts a process, if need be after some that die or are refused while they open.
fn open(machine: &mut Machine, rng: &mut SmallRng, tally: &mut Tally, chance_to_fail: f64) -> Result<(), String> {
    let mut chance = chance_to_fail;
    loop {
        let stop = rng.random_bool(chance);
        let error = !stop && rng.random_bool(chance / 4.0);
        if stop {
            machine.disk.stop_after(rng.random_range(0..12));
        }
        if error {
            machine.disk.fail(some_error(rng, 12));
        }
        let opened = machine.open();
        tally.openings += 1;
        match opened {
            Ok(report) => {
                tally.torn += u64::from(report.torn_frames > 0);
                machine.disk.heal();
                return Ok(());
            }
            Err(Shut::Wrong(why)) => return Err(why),
            Err(Shut::Refused(why)) if !error => return Err(format!("it does not open: {why}")),
            Err(Shut::Refused(_)) => tally.errors += 1,
            Err(Shut::Stopped) => tally.stops_in_opening += 1,
        }
        end(machine, rng, tally);
        chance /= 2.0;
    }
}

fn live(machine: &mut Machine, fate: Fate, rng: &mut SmallRng, tally: &mut Tally) -> Result<(), String> {
    match fate {
        Fate::Stop => machine.disk.stop_after(rng.random_range(0..100)),
        Fate::Error => machine.disk.fail(some_error(rng, 50)),
        Fate::Full => {
            let used = machine.disk.used_bytes();
            machine.disk.set_capacity(used + rng.random_range(0..60_000));
        }
        Fate::Whenever | Fate::CleanStop => {}
    }
    for _ in 0..rng.random_range(5..160) {
        machine.step(rng)?;
        if machine.disk.is_stopped() || machine.is_failed() {
            break;
        }
    }
    if fate == Fate::CleanStop {
        machine.close()?;
        tally.clean += 1;
    }
    tally.stops += u64::from(machine.disk.is_stopped());
    tally.errors += u64::from(fate == Fate::Error && machine.is_failed());
    tally.full += u64::from(fate == Fate::Full && machine.is_failed());
    tally.acts += machine.oracle.asked_count() as u64;
    tally.answered += machine.oracle.answered() as u64;
    Ok(())
}

fn end(machine: &mut Machine, rng: &mut SmallRng, tally: &mut Tally) {
    if rng.random_bool(0.25) {
        machine.kill();
        tally.kills += 1;
    } else {
        machine.crash(rng);
        tally.crashes += 1;
    }
    machine.disk.set_capacity(u64::MAX);
}

fn some_error(rng: &mut SmallRng, skip: u64) -> Fault {
    let op = draw(rng, &[(Op::Sync, 6), (Op::Write, 3), (Op::SyncDir, 1), (Op::Create, 1)]);
    Fault::eio(op, rng.random_range(0..skip))
}

fn draw<T: Copy>(rng: &mut SmallRng, weighted: &[(T, u32)]) -> T {
    let total = weighted.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.random_range(0..total);
    for (thing, weight) in weighted {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return *thing,
        }
    }
    unreachable!("the weights add up to more than any draw")
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.cases += other.cases;
        self.crashes += other.crashes;
        self.kills += other.kills;
        self.stops += other.stops;
        self.stops_in_opening += other.stops_in_opening;
        self.errors += other.errors;
        self.full += other.full;
        self.clean += other.clean;
        self.openings += other.openings;
        self.acts += other.acts;
        self.answered += other.answered;
        self.torn += other.torn;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "crash cases: {} (power cuts {}, kills {}, stopped at a step {}, stopped in opening {}, \
             disk errors {}, disk full {}, clean stops {}, openings {}, with a torn end {}, acts {}, \
             answered {})",
            self.cases,
            self.crashes,
            self.kills,
            self.stops,
            self.stops_in_opening,
            self.errors,
            self.full,
            self.clean,
            self.openings,
            self.torn,
            self.acts,
            self.answered
        )
    }
}
