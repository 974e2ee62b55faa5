//! Loads: who sends how much and when, whatever the target is.
//!
//! The generator shares the machine with what it measures, so it is lean: single-threaded runtimes,
//! one task an appender, one histogram a thread, no allocation of its own per entry but its task's
//! answer.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::cpu;
use super::report::{Latencies, Load};

/// Something that takes values one by one and answers each.
pub trait Target: Send + Sync + 'static {
    /// Puts one value; `worker` says whose, for those who spread over connections.
    fn put(&self, worker: usize, number: u64) -> impl Future<Output = Result<(), Failed>> + Send;
}

/// An answer that is none.
pub struct Failed {
    /// Whether it is certain that nothing happened.
    pub certainly: bool,
    pub why: String,
}

/// When the measurement begins and ends.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub warm_up: Duration,
    pub duration: Duration,
}

/// What is known of a load before it runs.
pub struct Plan {
    pub target: &'static str,
    pub entry_bytes: usize,
    pub times: Times,
    pub server_pids: Vec<u32>,
}

/// One entry's turn is never waited for longer than this after the end: then it counts as unknown.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// Entries under way in an open loop; a target that falls further behind is not keeping up at all,
/// and the entries wait for their turn here, their latency running.
const UNDER_WAY_MAX: usize = 100_000;
/// The pacer rests at least so long. Entries that fell due meanwhile are sent together, their latency
/// running: a wake-up for each of tens of thousands a second would take a good part of a core from
/// what is measured.
const PACER_REST: Duration = Duration::from_micros(200);
/// An appender that failed waits before it goes on: a refusal costs nothing to give.
const AFTER_FAILURE: Duration = Duration::from_millis(5);

/// `appenders` tasks, each of which waits for its answer before it sends the next entry.
pub async fn closed<T: Target>(target: Arc<T>, appenders: usize, plan: &Plan) -> Load {
    let tally = Arc::new(Tally::default());
    let workers: Vec<_> = (0..appenders)
        .map(|worker| {
            let (target, tally) = (target.clone(), tally.clone());
            tokio::spawn(async move {
                let mut number = worker as u64;
                let mut before = Instant::now();
                while !tally.over.load(Ordering::Relaxed) {
                    let outcome = target.put(worker, number).await;
                    let now = Instant::now();
                    let failed = outcome.is_err();
                    tally.count(now - before, outcome);
                    number += appenders as u64;
                    before = now;
                    if failed {
                        tokio::time::sleep(AFTER_FAILURE).await;
                        before = Instant::now();
                    }
                }
            })
        })
        .collect();
    let window = tally.watch(plan).await;
    let last = tokio::time::timeout(LAST_ANSWERS, futures::future::join_all(workers)).await;
    if last.is_err() {
        tally.fail(Failed { certainly: false, why: "no answer until long after the end".into() });
    }
    tally.load("closed", Some(appenders), None, plan, window)
}

/// Entries due `rate` times a second, whether or not those before were answered. Latency counts from
/// the time at which an entry was due: what a stall costs those who come behind it is not omitted.
pub async fn open<T: Target>(target: Arc<T>, rate: u64, plan: &Plan) -> Load {
    let tally = Arc::new(Tally::default());
    // The pacer sends the numbers of what is due; a small queue, since whoever waits in it is late
    // by the clock anyway.
    let (due, mut turns) = mpsc::channel::<Range<u64>>(64);
    let pace = Pace { begun: Instant::now(), every: Duration::from_nanos(1_000_000_000 / rate.max(1)) };
    let pacer = {
        let tally = tally.clone();
        std::thread::spawn(move || pace.keep(&tally.over, &due))
    };
    let sending = {
        let tally = tally.clone();
        tokio::spawn(async move {
            let under_way = Arc::new(AtomicUsize::new(0));
            while let Some(numbers) = turns.recv().await {
                for number in numbers {
                    while under_way.load(Ordering::Relaxed) >= UNDER_WAY_MAX {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    under_way.fetch_add(1, Ordering::Relaxed);
                    let due = pace.due(number);
                    let (target, tally, under_way) = (target.clone(), tally.clone(), under_way.clone());
                    tokio::spawn(async move {
                        let outcome = target.put(number as usize, number).await;
                        tally.count(due.elapsed(), outcome);
                        under_way.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            }
            let deadline = Instant::now() + LAST_ANSWERS;
            while under_way.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            under_way.load(Ordering::Relaxed)
        })
    };
    let window = tally.watch(plan).await;
    let unanswered = sending.await.unwrap_or(0);
    for _ in 0..unanswered {
        tally.fail(Failed { certainly: false, why: "no answer until long after the end".into() });
    }
    let _ = pacer.join();
    tally.load("open", None, Some(rate), plan, window)
}

/// When entries are due.
#[derive(Debug, Clone, Copy)]
struct Pace {
    begun: Instant,
    every: Duration,
}

impl Pace {
    fn due(&self, number: u64) -> Instant {
        self.begun + Duration::from_nanos((self.every.as_nanos() as u64).saturating_mul(number))
    }

    /// Says what is due, from a thread of its own: timers of the runtime round to milliseconds.
    fn keep(&self, over: &AtomicBool, due: &mpsc::Sender<Range<u64>>) {
        let mut next = 0;
        while !over.load(Ordering::Relaxed) {
            let passed = self.begun.elapsed().as_nanos() / self.every.as_nanos().max(1);
            let upto = u64::try_from(passed).unwrap_or(u64::MAX) + 1;
            if upto <= next {
                let rest = self.due(next).saturating_duration_since(Instant::now());
                std::thread::sleep(rest.max(PACER_REST));
                continue;
            }
            if due.blocking_send(next..upto).is_err() {
                return;
            }
            next = upto;
        }
    }
}

/// What happened, counted only between the end of the warm-up and the end.
#[derive(Default)]
struct Tally {
    measuring: AtomicBool,
    over: AtomicBool,
    latencies: Mutex<Option<Latencies>>,
    rejected: AtomicU64,
    unknown: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

/// The measured time, and what CPU was spent in it.
struct Window {
    length: Duration,
    client_cpu: f64,
    server_cpu: f64,
}

impl Tally {
    fn count(&self, latency: Duration, outcome: Result<(), Failed>) {
        if !self.measuring.load(Ordering::Relaxed) {
            return;
        }
        match outcome {
            Ok(()) => {
                if let Some(latencies) = self.latencies.lock().as_mut() {
                    latencies.record(latency);
                }
            }
            Err(failed) => self.fail(failed),
        }
    }

    fn fail(&self, failed: Failed) {
        let count = if failed.certainly { &self.rejected } else { &self.unknown };
        count.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().get_or_insert(failed.why);
    }

    /// Lets the load run its time. What ends later is not counted.
    async fn watch(&self, plan: &Plan) -> Window {
        tokio::time::sleep(plan.times.warm_up).await;
        *self.latencies.lock() = Some(Latencies::new());
        let (client, servers) = (own_cpu(), cpu::seconds_of_all(&plan.server_pids));
        let begun = Instant::now();
        self.measuring.store(true, Ordering::Relaxed);
        tokio::time::sleep(plan.times.duration).await;
        self.measuring.store(false, Ordering::Relaxed);
        let length = begun.elapsed();
        let window = Window {
            length,
            client_cpu: own_cpu() - client,
            server_cpu: cpu::seconds_of_all(&plan.server_pids) - servers,
        };
        self.over.store(true, Ordering::Relaxed);
        window
    }

    fn load(&self, kind: &str, appenders: Option<usize>, rate: Option<u64>, plan: &Plan, window: Window) -> Load {
        let latency = self.latencies.lock().take().unwrap_or_else(Latencies::new).over(window.length);
        let per_answer = |seconds: f64| (seconds * 1e7 / latency.count.max(1) as f64).round() / 10.0;
        Load {
            target: plan.target.into(),
            kind: kind.into(),
            appenders,
            rate,
            entry_bytes: plan.entry_bytes,
            latency,
            rejected: self.rejected.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            client_cpu_us: per_answer(window.client_cpu),
            server_cpu_us: (!plan.server_pids.is_empty()).then(|| per_answer(window.server_cpu)),
            tail_lag: None,
            first_failure: self.first_failure.lock().take(),
        }
    }
}

fn own_cpu() -> f64 {
    cpu::seconds_of(std::process::id()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleeper(Duration);

    impl Target for Sleeper {
        async fn put(&self, _: usize, _: u64) -> Result<(), Failed> {
            tokio::time::sleep(self.0).await;
            Ok(())
        }
    }

    /// Answers nothing for a while once, then at once.
    struct Stalls {
        from: Instant,
        stall: Duration,
    }

    impl Target for Stalls {
        async fn put(&self, _: usize, _: u64) -> Result<(), Failed> {
            tokio::time::sleep(self.stall.saturating_sub(self.from.elapsed())).await;
            Ok(())
        }
    }

    struct Refuses;

    impl Target for Refuses {
        async fn put(&self, _: usize, number: u64) -> Result<(), Failed> {
            Err(Failed { certainly: number.is_multiple_of(2), why: "no".into() })
        }
    }

    fn plan(warm_up: u64, duration: u64) -> Plan {
        let times = Times { warm_up: Duration::from_millis(warm_up), duration: Duration::from_millis(duration) };
        Plan { target: "test", entry_bytes: 1, times, server_pids: Vec::new() }
    }

    #[tokio::test]
    async fn a_closed_loop_has_as_many_under_way_as_it_has_appenders() {
        let load = closed(Arc::new(Sleeper(Duration::from_millis(10))), 20, &plan(50, 400)).await;
        // 20 appenders, 10 to 12 ms each: about 1,800 a second.
        assert!((900.0..2_100.0).contains(&load.latency.per_second), "{load:?}");
        assert!(load.latency.p50_us >= 9_900.0, "{load:?}");
    }

    #[tokio::test]
    async fn an_open_loop_keeps_its_rate() {
        let load = open(Arc::new(Sleeper(Duration::from_millis(20))), 1_000, &plan(100, 500)).await;
        assert!((900.0..1_100.0).contains(&load.latency.per_second), "{load:?}");
    }

    #[tokio::test]
    async fn a_stall_is_felt_by_all_who_were_due_in_it() {
        let stall = Duration::from_millis(300);
        let target = Stalls { from: Instant::now(), stall };
        let load = open(Arc::new(target), 1_000, &plan(0, 600)).await;
        // Half of the entries were due during the stall: the median is not that of a quick target.
        assert!(load.latency.p99_us > 250_000.0, "{load:?}");
        assert!(load.latency.p50_us < 200_000.0, "{load:?}");
    }

    #[tokio::test]
    async fn refusals_and_unknowns_are_told_apart_and_never_counted_as_answers() {
        let load = open(Arc::new(Refuses), 500, &plan(0, 200)).await;
        assert_eq!(load.latency.count, 0);
        assert!(load.rejected > 20 && load.unknown > 20, "{load:?}");
        assert_eq!(load.first_failure.as_deref(), Some("no"));
    }
}
