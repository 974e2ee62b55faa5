//! The segment log as openraft's log storage.
//!
//! openraft awaits every call here inside the task that also sends heartbeats and counts votes, so
//! nothing here blocks: appends, truncations, purges and hints are queued, and only a vote is waited
//! for. Entries are readable from the ring as soon as `append` returns.
//!
//! `save_committed` is the journal's commit hook: it moves the mark that tail streams follow, before
//! openraft does anything else with a commit.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::types::{self, Entry, LogId, TypeConfig, Vote};
use crate::marks::Marks;
use crate::offload::Offload;
use crate::segment::{Log, LogId as SegmentId};

/// One request of replication carries at most so many bytes of entries, or one entry.
pub const REPLICATE_BYTES_MAX: usize = 1 << 20;
/// What apply and openraft's own scans read at once.
const SCAN_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Clone)]
pub struct LogStore {
    log: Log,
    marks: Arc<Marks>,
    offload: Offload,
}

impl LogStore {
    pub fn new(log: Log, marks: Arc<Marks>, offload: Offload) -> Self {
        LogStore { log, marks, offload }
    }

    /// A log that has failed takes nothing any more, and so does not hold what Raft believes it does.
    /// Raft must hear of that before it goes on: it would call committed what is not there, and
    /// readers would be shown what is there instead.
    fn check(&self) -> io::Result<()> {
        match self.log.failed() {
            None => Ok(()),
            Some(why) => Err(io::Error::other(format!("the disk failed: {why}"))),
        }
    }

    /// Reads `[from, to)`, as much as `max_bytes` allows but at least one entry.
    async fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let entries = crate::reading::read(&self.log, self.offload, from, to, max_bytes).await?;
        entries.into_iter().map(types::entry).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let mut from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let mut to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        // openraft asks for ranges that may stick out on either side; what is not there is left out.
        from = from.max(self.log.first_position());
        to = to.min(self.log.last().map_or(0, |id| id.position + 1));
        let mut entries = Vec::new();
        while from < to {
            let more = self.read(from, to, SCAN_BYTES_MAX).await?;
            from += more.len() as u64;
            if more.is_empty() {
                return Err(io::Error::other(format!("the log has no entry at {from}, but should")));
            }
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().map(types::vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, REPLICATE_BYTES_MAX).await
    }

    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        // The last log id of each term in the range: known without reading.
        let (first, last) = (types::segment_id(range.start()), types::segment_id(range.end()));
        let runs = self.log.term_runs();
        let inside = |begin: &&SegmentId| begin.position > first.position && begin.position <= last.position;
        let ends = runs.iter().filter(inside).filter_map(|begin| self.log.log_id_at(begin.position - 1));
        let mut ids: Vec<SegmentId> = ends.filter(|end| end.term != last.term).collect();
        ids.push(last);
        ids.dedup();
        Ok(ids.into_iter().map(types::log_id).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(LogState {
            last_purged_log_id: self.log.purged().map(types::log_id),
            last_log_id: self.log.last().map(types::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    /// Waits until the vote is durable, and with it everything appended before: openraft takes the
    /// end of this call as proof that all earlier entries are flushed.
    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, saved) = oneshot::channel();
        let vote = types::segment_vote(vote);
        self.log.save_vote(vote, Box::new(move |result| drop(done.send(result))));
        saved.await.unwrap_or_else(|_| Err(io::Error::other("the segment writer is gone")))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.check()?;
        if let Some(committed) = committed {
            let id = types::segment_id(&committed);
            self.log.commit_hint(id);
            self.marks.committed(id);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.recovered_commit().map(types::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(types::log_entry).collect();
        self.log.append(entries, Box::new(move |result| callback.io_completed(result)));
        self.check()
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.log.truncate_after(last.as_ref().map(types::segment_id));
        self.check()
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.log.purge(types::segment_id(&upto));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use openraft::StorageError;
    use openraft::testing::log::{StoreBuilder, Suite};

    use super::*;
    use crate::raft::state_machine::StateMachine;
    use crate::segment::fault_disk::FaultDisk;
    use crate::segment::{self, Ids, Opened, Options};
    use crate::state::{Catalogue, GroupState};

    /// Each store is a journal of its own on one disk, with real writer threads.
    struct Builder {
        disk: FaultDisk,
        made: AtomicU64,
    }

    struct Open(Log);

    impl Drop for Open {
        fn drop(&mut self) {
            self.0.close();
        }
    }

    impl StoreBuilder<TypeConfig, LogStore, StateMachine, Open> for Builder {
        async fn build(&self) -> Result<(Open, LogStore, StateMachine), StorageError<TypeConfig>> {
            let group = self.made.fetch_add(1, Ordering::Relaxed) + 1;
            let dir = format!("/{group}");
            let ids = Ids { cluster: 1, node: 1, group };
            let options = Options { segment_bytes: 64 << 10, ..Options::default() };
            let opened = segment::open(self.disk.mount(), Path::new(&dir), ids, options);
            let Ok(Opened::Ready { log, writer, keeper, .. }) = opened else { panic!("an empty disk is not damaged") };
            segment::spawn_writer_thread(writer, "writer".into()).expect("there are threads");
            segment::spawn_keeper_thread(keeper, "keeper".into()).expect("there are threads");
            let genesis = GroupState::Catalogue(Catalogue::default());
            let marks = Arc::new(Marks::new(1));
            let machine = StateMachine::recover(log.clone(), marks.clone(), Offload::Inline, genesis);
            let machine = machine.expect("an empty log has no state");
            Ok((Open(log.clone()), LogStore::new(log, marks, Offload::Inline), machine))
        }
    }

    #[tokio::test]
    async fn openrafts_own_storage_suite_passes_on_segments() {
        let builder = Builder { disk: FaultDisk::new(7), made: AtomicU64::new(0) };
        Suite::test_all(builder).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_called_committed_on_a_log_that_could_not_take_it() {
        let disk = FaultDisk::new(7);
        let ids = Ids { cluster: 1, node: 1, group: 1 };
        let opened = segment::open(disk.mount(), Path::new("/1"), ids, Options::default());
        let Ok(Opened::Ready { log, writer, .. }) = opened else { panic!("an empty disk is not damaged") };
        segment::spawn_writer_thread(writer, "writer".into()).expect("there are threads");
        let marks = Arc::new(Marks::new(1));
        let mut store = LogStore::new(log.clone(), marks.clone(), Offload::Inline);
        let entry = |term, position| segment::LogEntry::new(SegmentId::new(term, position), segment::Kind::Blank, "");
        let append = async |entries| {
            let (done, answered) = oneshot::channel();
            log.append(entries, Box::new(move |result| drop(done.send(result))));
            answered.await.unwrap()
        };
        append(vec![entry(1, 0), entry(1, 1), entry(1, 2)]).await.unwrap();
        store.save_committed(Some(types::log_id(SegmentId::new(1, 0)))).await.unwrap();
        let before = marks.get();

        disk.fail(segment::fault_disk::Fault::eio(segment::fault_disk::Op::Write, 0));
        append(vec![entry(1, 3)]).await.unwrap_err();
        // A new leader's word: 1 and 2 are others. The log cannot follow, and still holds the old ones.
        store.truncate_after(Some(types::log_id(SegmentId::new(1, 0)))).await.unwrap_err();
        assert_eq!(log.log_id_at(2), Some(SegmentId::new(1, 2)));
        store.save_committed(Some(types::log_id(SegmentId::new(2, 2)))).await.unwrap_err();
        assert_eq!(marks.get(), before, "what a new leader committed was claimed of the old entries");
    }

    fn unwritten_store() -> LogStore {
        let ids = Ids { cluster: 1, node: 1, group: 1 };
        let opened = segment::open(FaultDisk::new(7).mount(), Path::new("/1"), ids, Options::default());
        let Ok(Opened::Ready { log, .. }) = opened else { panic!("an empty disk is not damaged") };
        LogStore::new(log, Arc::new(Marks::new(1)), Offload::Inline)
    }

    fn entry(term: u64, position: u64, bytes: usize) -> Entry {
        let body = vec![7; bytes];
        let entry = segment::LogEntry::new(SegmentId::new(term, position), segment::Kind::Entry, body);
        types::entry(entry).unwrap()
    }

    /// openraft waits for these calls in the task that also sends heartbeats and counts votes.
    #[tokio::test]
    async fn nothing_but_a_vote_waits_for_the_writer() {
        // There is none.
        let mut store = unwritten_store();
        let id = |position| types::log_id(SegmentId::new(1, position));
        let calls = async {
            let entries = [entry(1, 0, 10), entry(1, 1, 10), entry(1, 2, 10)];
            store.append(entries, IOFlushed::noop()).await.unwrap();
            store.save_committed(Some(id(0))).await.unwrap();
            store.truncate_after(Some(id(1))).await.unwrap();
            store.purge(id(0)).await.unwrap();
        };
        tokio::time::timeout(std::time::Duration::from_secs(5), calls).await.expect("a call waits for the disk");
        let vote = types::vote(segment::Vote { term: 2, node: 1, committed: false });
        let saved = tokio::time::timeout(std::time::Duration::from_millis(50), store.save_vote(&vote)).await;
        assert!(saved.is_err(), "a vote was given that is on no disk");
    }

    #[tokio::test]
    async fn one_request_of_replication_is_bounded_in_bytes_and_never_empty() {
        let mut store = unwritten_store();
        let half = REPLICATE_BYTES_MAX / 2 + 1;
        let sizes = [half, half, 10, 10, 3 * REPLICATE_BYTES_MAX, 10];
        let entries = sizes.iter().zip(0..).map(|(bytes, position)| entry(1, position, *bytes));
        store.append(entries.collect::<Vec<_>>(), IOFlushed::noop()).await.unwrap();
        let mut from = 0;
        let mut taken = Vec::new();
        while from < sizes.len() as u64 {
            let count = store.limited_get_log_entries(from, sizes.len() as u64).await.unwrap().len();
            from += count as u64;
            taken.push(count);
        }
        assert_eq!(taken, [1, 3, 1, 1]);
    }

    #[tokio::test]
    async fn a_commit_is_shown_to_readers_at_once_and_not_when_it_is_applied_or_measured() {
        let disk = FaultDisk::new(7);
        let ids = Ids { cluster: 1, node: 1, group: 1 };
        let opened = segment::open(disk.mount(), Path::new("/1"), ids, Options::default());
        let Ok(Opened::Ready { log, .. }) = opened else { panic!("an empty disk is not damaged") };
        let marks = Arc::new(Marks::new(1));
        let reader = marks.watch();
        // Nothing runs but this call: no state machine, no metrics, not even a writer.
        let mut store = LogStore::new(log, marks, Offload::Inline);
        store.save_committed(Some(types::log_id(SegmentId::new(3, 7)))).await.unwrap();
        assert!(reader.has_changed().unwrap());
        let mark = *reader.borrow();
        assert_eq!((mark.tail, mark.tail_term, mark.applied), (8, 3, 0));
    }
}
