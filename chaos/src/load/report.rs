//! What a run came to: counted while it goes, told afterwards.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::plan::Plan;
use super::profile::{KINDS, Kind};

use crate::procfs;

/// Counts what is answered between the end of the warm-up and the end.
pub struct Tally {
    from: Instant,
    upto: Instant,
    kinds: Vec<Histogram<u64>>,
    failed: u64,
    first_failure: Option<String>,
    /// Answers in each second.
    seconds: Vec<u64>,
    events: u64,
    messages: u64,
    event_latencies: Histogram<u64>,
    /// How long after the answer to their put events came; 0 for those that came before it.
    event_lags: Histogram<u64>,
    cpu: Option<Cpu>,
    pids: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Cpu {
    client: f64,
    servers: f64,
}

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub endpoints: Vec<String>,
    pub profile: String,
    pub clients: usize,
    pub rate: Option<u64>,
    pub seconds: f64,
    pub answers: u64,
    pub per_second: f64,
    pub all: Latency,
    pub kinds: Vec<(&'static str, Latency)>,
    pub failed: u64,
    pub first_failure: Option<String>,
    pub client_cpu_us: f64,
    pub server_cpu_us: Option<f64>,
    pub events_per_second: Option<f64>,
    pub server_cpu_us_per_event: Option<f64>,
    pub event_latency: Option<Latency>,
    pub event_lag: Option<Latency>,
    pub each_second: Vec<u64>,
    /// Latency in microseconds at rising shares, for a plot.
    pub curve: Vec<(f64, u64)>,
}

/// In microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

fn histogram() -> Histogram<u64> {
    // A microsecond to a minute, to one in a thousand.
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    Latency {
        count: histogram.len(),
        p50_us: histogram.value_at_quantile(0.5),
        p99_us: histogram.value_at_quantile(0.99),
        p999_us: histogram.value_at_quantile(0.999),
        max_us: histogram.max(),
    }
}

impl Tally {
    pub fn new(plan: &Plan, from: Instant, upto: Instant) -> Tally {
        Tally {
            from,
            upto,
            kinds: KINDS.iter().map(|_| histogram()).collect(),
            failed: 0,
            first_failure: None,
            seconds: vec![0; upto.duration_since(from).as_secs() as usize + 1],
            events: 0,
            messages: 0,
            event_latencies: histogram(),
            event_lags: histogram(),
            cpu: None,
            pids: plan.server_pids.clone(),
        }
    }

    /// To be called often: takes the processors' time when the measured part begins.
    pub fn tick(&mut self, now: Instant) {
        if self.cpu.is_none() && now >= self.from {
            self.cpu = Some(self.cpu_now());
        }
    }

    fn cpu_now(&self) -> Cpu {
        let of = |pid: &u32| procfs::cpu_seconds(*pid).unwrap_or(0.0);
        Cpu { client: of(&std::process::id()), servers: self.pids.iter().map(of).sum() }
    }

    fn counts(&self, now: Instant) -> bool {
        now >= self.from && now < self.upto
    }

    pub fn count(&mut self, kind: Kind, now: Instant, latency: Duration, wrong: Option<String>) {
        if !self.counts(now) {
            return;
        }
        if let Some(why) = wrong {
            self.failed += 1;
            self.first_failure.get_or_insert(why);
            return;
        }
        self.kinds[kind as usize].saturating_record(latency.as_micros() as u64);
        if let Some(second) = self.seconds.get_mut(now.duration_since(self.from).as_secs() as usize) {
            *second += 1;
        }
    }

    /// Whether the message is one that is to be looked into.
    pub fn take_events(&mut self, events: u64, now: Instant, look_into: u64) -> bool {
        if !self.counts(now) || events == 0 {
            return false;
        }
        self.events += events;
        self.messages += 1;
        self.messages.is_multiple_of(look_into)
    }

    /// An event came so long after its put was sent, and so long after it was answered.
    pub fn event_latency(&mut self, after_put: Duration, after_answer: Duration) {
        self.event_latencies.saturating_record(after_put.as_micros() as u64);
        self.event_lags.saturating_record(after_answer.as_micros() as u64);
    }

    pub fn watch_ended(&mut self, why: &str) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| format!("a watch has ended: {why}"));
    }

    pub fn finish(self, plan: &Plan) -> Outcome {
        let end = self.cpu_now();
        let begin = self.cpu.unwrap_or(end);
        let seconds = self.upto.min(Instant::now()).saturating_duration_since(self.from).as_secs_f64().max(1e-3);
        let mut all = histogram();
        self.kinds.iter().for_each(|kind| all.add(kind).expect("of the same bounds"));
        let answers = all.len();
        let per = |cpu: f64, count: u64| cpu * 1e6 / count.max(1) as f64;
        let servers = end.servers - begin.servers;
        let has_servers = !self.pids.is_empty();
        let watched = self.events > 0;
        let kinds = KINDS.iter().zip(&self.kinds).filter(|(_, kind)| !kind.is_empty());
        let shares = (0..=40).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 10.0));
        let mut each_second = self.seconds;
        each_second.truncate(seconds as usize);
        Outcome {
            endpoints: plan.endpoints.clone(),
            profile: format!("{:?}", plan.profile).to_lowercase(),
            clients: plan.clients,
            rate: plan.rate,
            seconds,
            answers,
            per_second: answers as f64 / seconds,
            kinds: kinds.map(|((_, name), kind)| (*name, latency(kind))).collect(),
            failed: self.failed,
            first_failure: self.first_failure,
            client_cpu_us: per(end.client - begin.client, answers),
            server_cpu_us: has_servers.then(|| per(servers, answers)),
            events_per_second: watched.then(|| self.events as f64 / seconds),
            server_cpu_us_per_event: (watched && has_servers).then(|| per(servers, self.events)),
            event_latency: watched.then(|| latency(&self.event_latencies)),
            event_lag: watched.then(|| latency(&self.event_lags)),
            each_second,
            curve: shares.map(|share| (share, all.value_at_quantile(share))).collect(),
            all: latency(&all),
        }
    }
}

impl Outcome {
    /// A few lines for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{:<16} {:>9.0}/s   p50 {}   p99 {}   p99.9 {}   max {}   failed {}",
            self.profile,
            self.per_second,
            time(self.all.p50_us),
            time(self.all.p99_us),
            time(self.all.p999_us),
            time(self.all.max_us),
            self.failed,
        )];
        if self.kinds.len() > 1 {
            lines.extend(self.kinds.iter().map(|(name, one)| {
                let share = one.count as f64 * 100.0 / self.answers.max(1) as f64;
                format!("  {name:<14} {share:>8.1} %   p50 {}   p99 {}", time(one.p50_us), time(one.p99_us))
            }));
        }
        let servers = self.server_cpu_us.map_or("not asked for".into(), |us| format!("{us:.1} µs"));
        lines.push(format!("  processor an answer: client {:.1} µs, servers {servers}", self.client_cpu_us));
        if let (Some(rate), Some(latency), Some(lag)) = (self.events_per_second, self.event_latency, self.event_lag) {
            let cpu = self.server_cpu_us_per_event.map_or(String::new(), |us| format!(", servers {us:.2} µs an event"));
            lines.push(format!(
                "  events {rate:.0}/s{cpu}; from put to event p50 {} p99 {}, from its answer p99 {}",
                time(latency.p50_us),
                time(latency.p99_us),
                time(lag.p99_us)
            ));
        }
        if let Some(why) = &self.first_failure {
            lines.push(format!("  the first failure: {why}"));
        }
        lines.push(format!("  each second {}", sparkline(&self.each_second)));
        lines
    }
}

fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..100_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.0} ms", us as f64 / 1e3),
    }
}

fn sparkline(values: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().max().unwrap_or(0).max(1);
    values.iter().map(|value| BARS[(value * 7 / most) as usize]).collect()
}
