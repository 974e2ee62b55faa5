//! What the segment engine counts. Labelled by journal id; handles are made once.

use metrics::{Counter, Gauge, Histogram};

pub(crate) struct Metrics {
    pub sync_seconds: Histogram,
    pub write_seconds: Histogram,
    pub batch_bytes: Histogram,
    pub batch_entries: Histogram,
    pub queue_age_seconds: Histogram,
    /// From asked for to synced.
    pub durable_seconds: Histogram,
    pub rotations: Counter,
    pub torn_frames: Counter,
    pub damaged_frames: Counter,
    pub repaired: Counter,
    pub damaged_segments: Gauge,
    pub scrub_bytes: Counter,
    pub scrub_passes: Counter,
    /// Share of the pass under way.
    pub scrub_progress: Gauge,
    pub disk_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new(group: u64) -> Self {
        let journal = group.to_string();
        let histogram = |name: &'static str| metrics::histogram!(name, "journal" => journal.clone());
        let counter = |name: &'static str| metrics::counter!(name, "journal" => journal.clone());
        Metrics {
            sync_seconds: histogram("journal_segment_sync_seconds"),
            write_seconds: histogram("journal_segment_write_seconds"),
            batch_bytes: histogram("journal_segment_batch_bytes"),
            batch_entries: histogram("journal_segment_batch_entries"),
            queue_age_seconds: histogram("journal_segment_queue_age_seconds"),
            durable_seconds: histogram("journal_segment_durable_seconds"),
            rotations: counter("journal_segment_rotations_total"),
            torn_frames: counter("journal_segment_torn_frames_cut_total"),
            damaged_frames: counter("journal_segment_damaged_frames_found_total"),
            repaired: counter("journal_segment_frames_repaired_total"),
            damaged_segments: metrics::gauge!("journal_segment_damaged_segments", "journal" => journal.clone()),
            scrub_bytes: counter("journal_segment_scrubbed_bytes_total"),
            scrub_passes: counter("journal_segment_scrub_passes_total"),
            scrub_progress: metrics::gauge!("journal_segment_scrub_progress_ratio", "journal" => journal.clone()),
            disk_bytes: metrics::gauge!("journal_segment_disk_bytes", "journal" => journal.clone()),
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}
