//! The engine of production: RocksDB, on tmpfs.
//!
//! `log` is written in the order of its keys and never changed, so its memtables and files hardly
//! overlap; `meta` is small and rewritten. There is no write-ahead log: `atomic_flush` makes both
//! column families survive together or not at all. Files are read through mmap: on tmpfs that is the
//! memory they lie in. No snapshot is ever taken: rows do not change, and the filter would not respect
//! one.
//!
//! The filter asks the index, which readers lock: nothing here may be called while the index is locked
//! for writing, or a stalled write would wait for a compaction that waits for the lock.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBRawIterator, FlushOptions, IteratorMode, LogLevel, Options, ReadOptions, ReadTier, WriteBatch,
    WriteOptions,
};

use super::engine::{Engine, StoreError};
use super::row::{nearest_place, put_place, put_row, read_place, read_row};
use super::sweep::Sweeps;
use crate::mvcc::{At, Row, RowRef};

/// What an operator may want to change.
#[derive(Clone, Copy, Debug)]
pub struct RocksOptions {
    /// How much of `log` is gathered before it is flushed.
    pub memtable_bytes: usize,
    /// Threads for flushes and compactions.
    pub background_jobs: u8,
}

impl Default for RocksOptions {
    fn default() -> Self {
        RocksOptions { memtable_bytes: 64 << 20, background_jobs: 2 }
    }
}

const LOG: &str = "log";
const META: &str = "meta";
/// Passing over a few rows costs less than looking one up: places are walked to if there are no more than so
/// many revisions to each, and no farther than so many rows at once, for a revision may have any number.
const DENSE: usize = 4;

pub struct Rocks {
    db: DB,
}

impl Rocks {
    pub(super) fn open(dir: &Path, options: &RocksOptions, sweeps: Arc<Sweeps>) -> Result<Rocks, StoreError> {
        let families = [
            ColumnFamilyDescriptor::new(LOG, log_options(options, sweeps)),
            ColumnFamilyDescriptor::new(META, meta_options()),
            ColumnFamilyDescriptor::new("default", meta_options()),
        ];
        Ok(Rocks { db: DB::open_cf_descriptors(&db_options(options), dir, families).map_err(engine)? })
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("both families are opened with the database")
    }

    fn log(&self) -> &ColumnFamily {
        self.family(LOG)
    }

    fn meta(&self) -> &ColumnFamily {
        self.family(META)
    }

    /// At the first row of `[from, to)`.
    fn cursor(&self, from: At, to: At) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(put_place(to));
        let mut cursor = self.db.raw_iterator_cf_opt(self.log(), options);
        cursor.seek(put_place(from));
        cursor
    }

    /// Shows places that lie so close together that it is cheaper to pass over what is between them.
    fn walk(&self, places: &[At], order: &[usize], see: &mut dyn FnMut(usize, RowRef<'_>)) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (order.first(), order.last()) else { return Ok(()) };
        let mut cursor = self.cursor(places[*first], At::end_of(places[*last].main));
        for i in order {
            let wanted = places[*i];
            let mut passed = 0;
            while here(&cursor)?.is_some_and(|(at, _)| at < wanted) {
                match passed < 2 * DENSE {
                    true => cursor.next(),
                    false => cursor.seek(put_place(wanted)),
                }
                passed += 1;
            }
            let value = here(&cursor)?.filter(|(at, _)| *at == wanted).map(|(_, value)| value);
            see(*i, read(wanted, value)?);
        }
        Ok(())
    }

    /// Shows places one by one, wherever they are.
    fn look_up(
        &self,
        places: &[At],
        order: &[usize],
        see: &mut dyn FnMut(usize, RowRef<'_>),
    ) -> Result<(), StoreError> {
        let keys: Vec<_> = order.iter().map(|i| put_place(places[*i])).collect();
        let values = self.db.batched_multi_get_cf(self.log(), keys.iter().map(|key| &key[..]), true);
        for (i, value) in order.iter().zip(values) {
            see(*i, read(places[*i], value.map_err(engine)?.as_deref())?);
        }
        Ok(())
    }
}

/// Where the cursor stands, if it has not come to its end.
fn here<'a>(cursor: &'a DBRawIterator<'_>) -> Result<Option<(At, &'a [u8])>, StoreError> {
    match cursor.item() {
        Some((place, value)) => {
            let at = read_place(place).map_err(|why| StoreError::Row { at: nearest_place(place), why })?;
            Ok(Some((at, value)))
        }
        None => cursor.status().map(|()| None).map_err(engine),
    }
}

fn read(at: At, value: Option<&[u8]>) -> Result<RowRef<'_>, StoreError> {
    read_row(value.ok_or(StoreError::Missing(at))?).map_err(|why| StoreError::Row { at, why })
}

fn db_options(options: &RocksOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_atomic_flush(true);
    db.set_allow_mmap_reads(true);
    db.set_max_background_jobs(options.background_jobs.max(2).into());
    db.set_max_open_files(-1);
    db.set_keep_log_file_num(2);
    db.set_log_level(LogLevel::Warn);
    db.set_stats_dump_period_sec(0);
    // One task writes; readers never wait for it.
    db.set_allow_concurrent_memtable_write(false);
    db
}

fn table() -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    // The page cache is the store itself: a second copy would only cost memory.
    table.disable_cache();
    table.set_format_version(5);
    table
}

fn log_options(options: &RocksOptions, sweeps: Arc<Sweeps>) -> Options {
    let mut log = Options::default();
    log.set_write_buffer_size(options.memtable_bytes);
    log.set_max_write_buffer_number(4);
    log.set_block_based_table_factory(&table());
    // Fresh rows are read the most and dropped the soonest; what stays is compressed harder.
    let mut levels = vec![DBCompressionType::Lz4; 7];
    levels[0] = DBCompressionType::None;
    log.set_compression_per_level(&levels);
    log.set_bottommost_compression_type(DBCompressionType::Zstd);
    log.set_bottommost_compression_options(-14, 1, 0, 0, true);
    // Nothing is compacted before the index is rebuilt.
    log.set_disable_auto_compactions(true);
    log.set_compaction_filter("what-the-index-forgot", move |_level, place, value| {
        let (Ok(at), Ok(row)) = (read_place(place), read_row(value)) else { return Decision::Keep };
        if sweeps.drops(row.key, at, row.is_tombstone()) { Decision::Remove } else { Decision::Keep }
    });
    log
}

fn meta_options() -> Options {
    let mut meta = Options::default();
    meta.set_write_buffer_size(16 << 20);
    meta.set_block_based_table_factory(&table());
    meta.set_compression_type(DBCompressionType::None);
    meta
}

fn engine(error: rocksdb::Error) -> StoreError {
    StoreError::Engine(error.to_string())
}

impl Engine for Rocks {
    fn write(&self, rows: Vec<Row>, records: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let (log, meta) = (self.log(), self.meta());
        let mut value = Vec::new();
        for row in &rows {
            put_row(&mut value, row);
            batch.put_cf(log, put_place(row.at), &value);
        }
        for (key, record) in records {
            match record {
                Some(record) => batch.put_cf(meta, key, record),
                None => batch.delete_cf(meta, key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(engine)
    }

    fn visit(&self, places: &[At], see: &mut dyn FnMut(usize, RowRef<'_>)) -> Result<(), StoreError> {
        if let [at] = places {
            let value = self.db.get_pinned_cf(self.log(), put_place(*at)).map_err(engine)?;
            see(0, read(*at, value.as_deref())?);
            return Ok(());
        }
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_unstable_by_key(|i| places[*i]);
        let (Some(first), Some(last)) = (order.first(), order.last()) else { return Ok(()) };
        let (first, last) = (places[*first], places[*last]);
        match (last.main - first.main) as usize <= places.len() * DENSE {
            true => self.walk(places, &order, see),
            false => self.look_up(places, &order, see),
        }
    }

    fn scan(&self, from: At, to: At, rows_max: usize, bytes_max: usize) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        if from >= to {
            return Ok(rows);
        }
        let mut bytes = 0;
        let mut cursor = self.cursor(from, to);
        while let Some((at, value)) = here(&cursor)? {
            bytes += value.len();
            rows.push(read(at, Some(value))?.to_row(at));
            if rows.len() >= rows_max || bytes >= bytes_max {
                break;
            }
            cursor.next();
        }
        Ok(rows)
    }

    fn records(&self) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        let items = self.db.iterator_cf(self.meta(), IteratorMode::Start);
        items.map(|item| item.map(|(key, value)| (key.into_vec(), value.into())).map_err(engine)).collect()
    }

    fn flushed_record(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        Ok(self.db.get_cf_opt(self.meta(), key, &options).map_err(engine)?.map(Bytes::from))
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&[&self.log(), &self.meta()], &options).map_err(engine)
    }

    fn unflushed_bytes(&self) -> u64 {
        let bytes = self.db.property_int_value_cf(self.log(), rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES);
        bytes.ok().flatten().unwrap_or(0)
    }

    fn attached(&self) {
        // A store that cannot be told still works; it is only never compacted by itself.
        let _ = self.db.set_options_cf(self.log(), &[("disable_auto_compactions", "false")]);
    }

    fn compact(&self, from: At, to: At, _sweeps: &Sweeps) -> Result<(), StoreError> {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db.compact_range_cf_opt(self.log(), Some(put_place(from)), Some(put_place(to)), &options);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_where_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let rocks = Rocks::open(dir.path(), &RocksOptions::default(), Arc::new(Sweeps::new())).unwrap();
        let torn = put_place(At { main: 7, sub: 9 });
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        rocks.db.put_cf_opt(rocks.log(), &torn[..11], b"row", &options).unwrap();
        let damage = rocks.scan(At::default(), At::end_of(100), 10, 1000).unwrap_err();
        assert!(damage.is_damage());
        assert_eq!(damage.to_string(), "the row 7.0 is malformed: a number is longer than it may be");
    }
}
