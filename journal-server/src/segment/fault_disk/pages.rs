//! The bytes of one file on a disk that fails: what the device holds, what the page cache holds over
//! it, and what of that is still to be written. Knows neither names nor processes.
//!
//! A sector (512 bytes) is what the device writes or loses as one. Bytes that no unsynced write
//! touched keep their value whatever happens: a write never harms its neighbours in a sector.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rand::{Rng, RngCore};

use super::Loss;

pub(super) const PAGE: u64 = 4096;
const SECTOR: usize = 512;
const SECTORS: usize = PAGE as usize / SECTOR;
static ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];

/// `None` is all zeroes. Shared, so that a copy of a disk costs little.
type Block = Option<Arc<[u8; PAGE as usize]>>;

#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    device: Vec<Block>,
    device_len: u64,
    /// Pages whose cached content may not be the device's.
    cache: BTreeMap<usize, Cached>,
    len: u64,
    /// What the device cannot read until it is written again.
    unreadable: Vec<Range<u64>>,
}

#[derive(Debug, Clone, Default)]
struct Cached {
    block: Block,
    /// Sectors that wait for a sync, a bit each.
    dirty: u8,
    /// Sectors that a failed sync gave up: cached, clean, and not on the device.
    stale: u8,
    /// What unsynced writes touched within each sector.
    touched: [(u16, u16); SECTORS],
    /// What dirty sectors held before they were written again; the kernel may have written that.
    older: Vec<(usize, [u8; SECTOR])>,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Space that a file of this length takes.
    pub(super) fn allocated(len: u64) -> u64 {
        len.next_multiple_of(PAGE)
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        if buffer.is_empty() {
            return Ok(());
        }
        if end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.unreadable.iter().any(|range| range.start < end && offset < range.end) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        for (page, within, part) in pieces(offset, buffer.len()) {
            let block = self.cache.get(&page).map_or_else(|| self.on_device(page), |it| &it.block);
            buffer[part].copy_from_slice(&bytes_of(block)[within]);
        }
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        for (page, within, part) in pieces(offset, bytes.len()) {
            let device = self.on_device(page).clone();
            let cached = self.cache.entry(page).or_insert_with(|| Cached { block: device, ..Cached::default() });
            cached.write(&bytes[part], within);
        }
        let end = offset + bytes.len() as u64;
        self.unreadable.retain(|range| range.start < offset || end < range.end);
        self.len = self.len.max(end);
    }

    /// Everything written reaches the device.
    pub(super) fn sync(&mut self) {
        let (device, cache) = (&mut self.device, &mut self.cache);
        for (page, cached) in cache.iter_mut().filter(|(_, it)| it.dirty != 0) {
            // The kernel writes pages: what an earlier sync gave up goes with its neighbours.
            *block_mut(device, *page) = cached.block.clone();
        }
        cache.retain(|_, it| it.dirty == 0);
        self.device_len = self.len;
    }

    /// A sync that fails as on ext4: some of the sectors reach the device, and all are clean after it,
    /// so that the next sync has nothing to write and succeeds.
    pub(super) fn fail_sync(&mut self, rng: &mut dyn RngCore) {
        let (device, cache) = (&mut self.device, &mut self.cache);
        for (page, cached) in cache.iter_mut() {
            for sector in 0..SECTORS {
                if cached.dirty & bit(sector) == 0 {
                    continue;
                }
                if rng.random_bool(0.5) {
                    let bytes: [u8; SECTOR] = sector_of(&cached.block, sector);
                    put(block_mut(device, *page), sector, &bytes);
                } else {
                    cached.stale |= bit(sector);
                }
            }
            cached.dirty = 0;
            cached.older.clear();
        }
        cache.retain(|_, it| it.stale != 0);
    }

    /// Clean pages leave the cache; those that were given up show what the device holds.
    pub(super) fn drop_cache(&mut self) {
        self.cache.retain(|_, it| it.dirty != 0);
    }

    /// The power goes. What was not synced is kept, lost or torn, sector by sector.
    pub(super) fn crash(&mut self, loss: &mut Loss, rng: &mut dyn RngCore) {
        let len = match self.len {
            len if len <= self.device_len => self.device_len,
            len if loss.keeps(rng) => len,
            len => match rng.random_range(self.device_len..=len) {
                cut if rng.random_bool(0.5) => cut / SECTOR as u64 * SECTOR as u64,
                _ => self.device_len,
            }
            .max(self.device_len),
        };
        for (page, cached) in std::mem::take(&mut self.cache) {
            for sector in (0..SECTORS).filter(|sector| cached.dirty & bit(*sector) != 0) {
                let old = sector_of(self.on_device(page), sector);
                if let Some(bytes) = cached.after_crash(sector, &old, loss, rng) {
                    put(block_mut(&mut self.device, page), sector, &bytes);
                }
            }
        }
        self.device_len = len;
        self.len = len;
        self.forget_beyond(len);
    }

    /// Changes a byte for good: on the device and wherever it is cached.
    pub(super) fn flip(&mut self, offset: u64, mask: u8) -> bool {
        if offset >= self.len {
            return false;
        }
        let (page, within) = ((offset / PAGE) as usize, (offset % PAGE) as usize);
        if let Some(cached) = self.cache.get_mut(&page) {
            own(&mut cached.block)[within] ^= mask;
        }
        if offset < self.device_len {
            own(block_mut(&mut self.device, page))[within] ^= mask;
        }
        true
    }

    pub(super) fn make_unreadable(&mut self, range: Range<u64>) {
        self.unreadable.push(range);
    }

    /// What a power cut that loses everything unsynced would leave.
    pub(super) fn durable_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.device_len as usize);
        for page in 0..self.device_len.div_ceil(PAGE) as usize {
            bytes.extend_from_slice(bytes_of(self.on_device(page)));
        }
        bytes.truncate(self.device_len as usize);
        bytes
    }

    pub(super) fn has_unsynced(&self) -> bool {
        self.len != self.device_len || self.cache.values().any(|it| it.dirty != 0)
    }

    fn on_device(&self, page: usize) -> &Block {
        self.device.get(page).unwrap_or(&None)
    }

    /// Bytes beyond the end of a file are zeroes when it grows again.
    fn forget_beyond(&mut self, len: u64) {
        self.device.truncate(len.div_ceil(PAGE) as usize);
        let within = (len % PAGE) as usize;
        if within != 0
            && let Some(block) = self.device.get_mut((len / PAGE) as usize)
            && block.is_some()
        {
            own(block)[within..].fill(0);
        }
    }
}

impl Cached {
    fn write(&mut self, bytes: &[u8], within: Range<usize>) {
        // From here on the whole page is dirty, with it what an earlier sync gave up.
        self.dirty |= self.stale;
        self.stale = 0;
        for sector in within.start / SECTOR..within.end.div_ceil(SECTOR) {
            let start = within.start.max(sector * SECTOR) - sector * SECTOR;
            let end = within.end.min((sector + 1) * SECTOR) - sector * SECTOR;
            let (mut low, mut high) = (start as u16, end as u16);
            if self.dirty & bit(sector) != 0 {
                self.older.push((sector, sector_of(&self.block, sector)));
                low = low.min(self.touched[sector].0);
                high = high.max(self.touched[sector].1);
            }
            self.touched[sector] = (low, high);
            self.dirty |= bit(sector);
        }
        if bytes.len() == PAGE as usize && bytes == ZEROES {
            self.block = None;
        } else {
            own(&mut self.block)[within].copy_from_slice(bytes);
        }
    }

    /// What a dirty sector holds after a power cut, if not what the device held before.
    fn after_crash(
        &self,
        sector: usize,
        old: &[u8; SECTOR],
        loss: &mut Loss,
        rng: &mut dyn RngCore,
    ) -> Option<[u8; SECTOR]> {
        let new = sector_of(&self.block, sector);
        if loss.keeps(rng) {
            let older: Vec<_> = self.older.iter().filter(|(of, _)| *of == sector).collect();
            let earlier = !older.is_empty() && !loss.is_none() && rng.random_bool(0.25);
            return Some(if earlier { older[rng.random_range(0..older.len())].1 } else { new });
        }
        if !loss.tears(rng) {
            return None;
        }
        let mut torn = *old;
        let (low, high) = (usize::from(self.touched[sector].0), usize::from(self.touched[sector].1));
        let cut = rng.random_range(low..=high);
        match rng.random_range(0..4) {
            0 => torn[low..cut].copy_from_slice(&new[low..cut]),
            1 => torn[cut..high].copy_from_slice(&new[cut..high]),
            2 => torn[low..high].fill(0),
            _ => rng.fill_bytes(&mut torn[low..high]),
        }
        Some(torn)
    }
}

fn bit(sector: usize) -> u8 {
    1 << sector
}

fn bytes_of(block: &Block) -> &[u8; PAGE as usize] {
    block.as_deref().unwrap_or(&ZEROES)
}

fn own(block: &mut Block) -> &mut [u8; PAGE as usize] {
    Arc::make_mut(block.get_or_insert_with(|| Arc::new(ZEROES)))
}

fn block_mut(device: &mut Vec<Block>, page: usize) -> &mut Block {
    if device.len() <= page {
        device.resize(page + 1, None);
    }
    &mut device[page]
}

fn sector_of(block: &Block, sector: usize) -> [u8; SECTOR] {
    bytes_of(block)[sector * SECTOR..][..SECTOR].try_into().expect("a sector's length")
}

fn put(block: &mut Block, sector: usize, bytes: &[u8; SECTOR]) {
    own(block)[sector * SECTOR..][..SECTOR].copy_from_slice(bytes);
}

/// The pages of a range: number, range within the page, range within the caller's buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let start = (at % PAGE) as usize;
        let take = (len - done).min(PAGE as usize - start);
        let part = done..done + take;
        done += take;
        (take > 0).then_some(((at / PAGE) as usize, start..start + take, part))
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn content(pages: &Pages) -> Vec<u8> {
        let mut bytes = vec![0; pages.len() as usize];
        pages.read(&mut bytes, 0).unwrap();
        bytes
    }

    fn synced(bytes: &[u8]) -> Pages {
        let mut pages = Pages::default();
        pages.write(bytes, 0);
        pages.sync();
        pages
    }

    #[test]
    fn what_was_synced_survives_every_power_cut_even_beside_a_torn_write() {
        for seed in 0..500 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut pages = synced(&[7; 700]);
            pages.write(&[9; 3000], 700);
            pages.crash(&mut Loss::draw(&mut rng), &mut rng);
            assert_eq!(content(&pages)[..700], [7; 700]);
        }
    }

    #[test]
    fn unsynced_sectors_are_kept_lost_and_torn_each_on_its_own() {
        let (mut kept, mut lost, mut torn, mut mixed) = (0, 0, 0, 0);
        for seed in 0..300 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut pages = synced(&[1; 4096]);
            pages.write(&[2; 4096], 0);
            pages.crash(&mut Loss::draw(&mut rng), &mut rng);
            let bytes = content(&pages);
            let kinds: Vec<u8> = bytes
                .chunks(SECTOR)
                .map(|sector| match sector {
                    _ if sector.iter().all(|byte| *byte == 2) => 0,
                    _ if sector.iter().all(|byte| *byte == 1) => 1,
                    _ => 2,
                })
                .collect();
            kept += kinds.iter().filter(|kind| **kind == 0).count();
            lost += kinds.iter().filter(|kind| **kind == 1).count();
            torn += kinds.iter().filter(|kind| **kind == 2).count();
            mixed += usize::from(kinds.iter().any(|kind| *kind != kinds[0]));
        }
        assert!(kept > 100 && lost > 100 && torn > 50 && mixed > 50, "{kept} {lost} {torn} {mixed}");
    }

    #[test]
    fn after_a_failed_sync_the_next_one_succeeds_and_the_data_is_gone() {
        let mut gone = 0;
        for seed in 0..50 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut pages = synced(&[1; 4096]);
            pages.write(&[2; 4096], 0);
            pages.fail_sync(&mut rng);
            assert_eq!(content(&pages), [2; 4096], "the cache still shows what was written");
            assert!(!pages.has_unsynced());
            pages.sync();
            pages.drop_cache();
            gone += usize::from(content(&pages) != [2; 4096]);
        }
        assert!(gone > 45, "{gone}");
    }

    #[test]
    fn an_earlier_content_of_a_sector_may_be_the_one_that_stays() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut pages = synced(&[1; 512]);
            pages.write(&[2; 512], 0);
            pages.write(&[3; 512], 0);
            pages.crash(&mut Loss { kept: 0.7, torn: 0.0, ordered: false, ended: false }, &mut rng);
            seen.insert(content(&pages)[0]);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_length_that_was_not_synced_may_shrink_and_never_shows_old_bytes() {
        for seed in 0..200 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut pages = synced(&[1; 600]);
            pages.write(&[2; 9000], 600);
            pages.crash(&mut Loss::draw(&mut rng), &mut rng);
            let len = pages.len();
            assert!((600..=9600).contains(&len));
            pages.write(&[5], 9600);
            let bytes = content(&pages);
            assert!(bytes[len as usize..9600].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_flip_is_on_the_device_and_an_unreadable_range_heals_when_written() {
        let mut pages = synced(&[0; 5000]);
        assert!(pages.flip(4100, 0x10));
        assert!(!pages.flip(5000, 0x10));
        assert_eq!(content(&pages)[4100], 0x10);
        pages.make_unreadable(10..20);
        assert!(pages.read(&mut [0; 4], 18).is_err());
        pages.read(&mut [0; 4], 20).unwrap();
        pages.write(&[1; 512], 0);
        pages.read(&mut [0; 4], 18).unwrap();
    }
}
