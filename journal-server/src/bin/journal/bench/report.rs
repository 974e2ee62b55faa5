//! What was measured: in numbers for programs, in tables for people.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies as they are collected. Resolution 0.1 %, up to ten minutes.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are in order"))
    }

    /// Beyond ten minutes counts as ten minutes.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// The figures, of a window of that length.
    pub fn over(&self, window: Duration) -> Latency {
        let micros = |nanos: u64| (nanos as f64 / 100.0).round() / 10.0;
        let at = |quantile| if self.0.is_empty() { 0.0 } else { micros(self.0.value_at_quantile(quantile)) };
        Latency {
            count: self.0.len(),
            per_second: (self.0.len() as f64 / window.as_secs_f64() * 10.0).round() / 10.0,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.0.max()),
        }
    }
}

/// One line of figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// One load on one target.
#[derive(Debug, Clone, Serialize)]
pub struct Load {
    /// `journal` or `etcd`.
    pub target: String,
    /// `closed` (appenders wait for their answers) or `open` (entries are due at fixed times).
    pub kind: String,
    pub appenders: Option<usize>,
    pub rate: Option<u64>,
    pub entry_bytes: usize,
    #[serde(flatten)]
    pub latency: Latency,
    pub rejected: u64,
    pub unknown: u64,
    /// Microseconds of CPU an answer, of this process and of the servers that were named.
    pub client_cpu_us: f64,
    pub server_cpu_us: Option<f64>,
    /// How long after its answer an entry was seen by a tail reader, where there was one.
    pub tail_lag: Option<Latency>,
    /// What the first failure said.
    pub first_failure: Option<String>,
}

/// Everything that one run measured, in the order in which it did.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// By the number of concurrent streams.
    pub disk: Vec<Disk>,
    pub ping: Option<Latency>,
    pub loads: Vec<Load>,
}

#[derive(Debug, Serialize)]
pub struct Disk {
    pub dir: String,
    pub streams: usize,
    #[serde(flatten)]
    pub latency: Latency,
}

pub const LOAD_HEADER: &str = "  target   load            bytes     answers/s       p50       p99     p99.9       max  cpu/answer client+servers  failed";

impl Load {
    pub fn line(&self) -> String {
        let load = match (self.appenders, self.rate) {
            (Some(appenders), _) => format!("{appenders} waiting"),
            (None, Some(rate)) => format!("{rate}/s due"),
            (None, None) => "-".into(),
        };
        let servers = self.server_cpu_us.map_or("-".into(), |us| format!("{us:.1} µs"));
        let failed = match (self.rejected, self.unknown) {
            (0, 0) => "none".to_owned(),
            (rejected, unknown) => format!(
                "{rejected} rejected, {unknown} unknown ({})",
                self.first_failure.as_deref().unwrap_or("no reason given")
            ),
        };
        format!(
            "  {:<8} {:<14} {:>6}  {:>12.0}  {:>8}  {:>8}  {:>8}  {:>8}  {:>12} + {:<10}  {failed}",
            self.target,
            load,
            self.entry_bytes,
            self.latency.per_second,
            time(self.latency.p50_us),
            time(self.latency.p99_us),
            time(self.latency.p999_us),
            time(self.latency.max_us),
            format!("{:.1} µs", self.client_cpu_us),
            servers,
        )
    }
}

impl Latency {
    pub fn line(&self) -> String {
        format!(
            "p50 {:>8}   p99 {:>8}   p99.9 {:>8}   max {:>8}   {:.0}/s",
            time(self.p50_us),
            time(self.p99_us),
            time(self.p999_us),
            time(self.max_us),
            self.per_second
        )
    }
}

/// Three digits that matter, with their unit.
fn time(micros: f64) -> String {
    match micros {
        micros if micros < 1_000.0 => format!("{micros:.0} µs"),
        micros if micros < 100_000.0 => format!("{:.2} ms", micros / 1_000.0),
        micros if micros < 1_000_000.0 => format!("{:.0} ms", micros / 1_000.0),
        micros => format!("{:.2} s", micros / 1_000_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_a_hundred_equal_steps_is_in_the_middle() {
        let mut latencies = Latencies::new();
        (1..=100).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let figures = latencies.over(Duration::from_secs(10));
        assert_eq!(figures.count, 100);
        assert_eq!(figures.per_second, 10.0);
        assert!((figures.p50_us / 50_000.0 - 1.0).abs() < 0.002, "{figures:?}");
        assert!((figures.max_us / 100_000.0 - 1.0).abs() < 0.002, "{figures:?}");
    }

    #[test]
    fn nothing_measured_is_zero_and_not_nonsense() {
        let figures = Latencies::new().over(Duration::from_secs(1));
        assert_eq!((figures.count, figures.p50_us, figures.max_us), (0, 0.0, 0.0));
    }

    #[test]
    fn times_keep_their_unit() {
        assert_eq!(time(812.4), "812 µs");
        assert_eq!(time(12_340.0), "12.34 ms");
        assert_eq!(time(2_500_000.0), "2.50 s");
    }
}
