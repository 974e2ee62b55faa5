//! What the library counts, through the `metrics` facade: nothing, unless the program that uses it
//! installs a recorder, which it must do before it opens a journal.
//!
//! Entries are counted as nodes answer for them, a message at a time. An entry that a leader rejects
//! because it moves away is sent to the next one, and counted again there.

use metrics::{Counter, Gauge, Unit};
use proto::JournalId;
use tokio::time::Instant;

/// Of one journal.
pub(crate) struct Metrics {
    pub committed: Counter,
    pub rejected: Counter,
    pub unknown: Counter,
    /// Append streams that nodes have opened. All but the first are reconnections.
    pub streams: Counter,
    /// Of those, the ones that ended without a last word.
    pub streams_lost: Counter,
    /// Tail streams that were opened.
    pub tails: Counter,
    /// Attempts that failed, and after which another one was made.
    pub retries: Counter,
    /// Bytes of entries that callers wait for, on the stream that spoke last.
    pub unanswered_bytes: Gauge,
}

impl Metrics {
    pub fn of(journal: JournalId) -> Metrics {
        describe();
        let journal = journal.to_string();
        let entries = |answer: &'static str| metrics::counter!("journal_client_entries_total", "journal" => journal.clone(), "answer" => answer);
        Metrics {
            committed: entries("committed"),
            rejected: entries("rejected"),
            unknown: entries("unknown"),
            streams: metrics::counter!("journal_client_append_streams_total", "journal" => journal.clone()),
            streams_lost: metrics::counter!("journal_client_append_streams_lost_total", "journal" => journal.clone()),
            tails: metrics::counter!("journal_client_tail_streams_total", "journal" => journal.clone()),
            retries: metrics::counter!("journal_client_retries_total", "journal" => journal.clone()),
            unanswered_bytes: metrics::gauge!("journal_client_unanswered_bytes", "journal" => journal.clone()),
        }
    }
}

/// Counts a connection that was made or was not, and how long that took.
pub(crate) fn connected(ok: bool, since: Instant) {
    let outcome = if ok { "ok" } else { "failed" };
    metrics::counter!("journal_client_connections_total", "outcome" => outcome).increment(1);
    metrics::histogram!("journal_client_connect_seconds").record(since.elapsed());
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("journal_client_entries_total", "Entries that were sent, by what a node answered for them");
    describe_counter!("journal_client_append_streams_total", "Append streams opened; all but the first again");
    describe_counter!("journal_client_append_streams_lost_total", "Append streams that ended without a last word");
    describe_counter!("journal_client_tail_streams_total", "Tail streams opened; all but the first again");
    describe_counter!("journal_client_retries_total", "Attempts that failed and were followed by another one");
    describe_gauge!("journal_client_unanswered_bytes", Unit::Bytes, "Entries that wait for an answer, or to be sent");
    describe_counter!("journal_client_connections_total", "Connections to nodes that were tried, by outcome");
    describe_histogram!("journal_client_connect_seconds", Unit::Seconds, "How long connecting took, TLS included");
}
