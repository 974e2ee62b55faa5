//! Torn or damaged: the one decision of recovery, as a pure function of what was found.

/// What a frame that cannot be read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A crash took it while nobody had been told of it: cut, with all behind it, asking nobody.
    Torn,
    /// It was synced once. Never cut: its entries are somebody's only proof.
    Damaged,
}

/// Judges the frame at `at` that cannot be read. `promises` are the `synced_upto` of all readable
/// frames behind it; `followed` says that another segment was begun after this one.
///
/// Why this is enough: one plan is written and synced before the next is laid out, and every header
/// states what the plans before it had made durable. So a frame of the last plan is promised by
/// nobody, and nobody was told of it, or it was synced and nobody can know (the idle mark closes that
/// window after ten milliseconds). Every older frame is promised by every frame of every later plan.
/// A segment is sealed and synced before a byte of the next is written. (One more proof is seen by the
/// caller: a segment is removed only once the purge mark that allows it is synced.)
pub(crate) fn judge(at: u64, promises: impl IntoIterator<Item = u64>, followed: bool) -> Verdict {
    let promised = promises.into_iter().any(|synced_upto| synced_upto > at);
    if promised || followed { Verdict::Damaged } else { Verdict::Torn }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nothing_proves_to_be_synced_is_torn() {
        let rows: &[(&str, &[u64], bool, Verdict)] = &[
            ("nothing behind it", &[], false, Verdict::Torn),
            ("frames of its own plan behind it", &[4096, 4096], false, Verdict::Torn),
            ("a frame that promises all before it, but not it", &[8192], false, Verdict::Torn),
            ("a frame of the next plan", &[8193], false, Verdict::Damaged),
            ("frames of its own plan, then one of the next", &[4096, 4096, 9000], false, Verdict::Damaged),
            ("a mark", &[8500], false, Verdict::Damaged),
            ("a segment that follows", &[], true, Verdict::Damaged),
            ("a segment that follows, and frames of its own plan", &[4096], true, Verdict::Damaged),
        ];
        for (what, promises, followed, verdict) in rows {
            assert_eq!(judge(8192, promises.iter().copied(), *followed), *verdict, "{what}");
        }
    }
}
