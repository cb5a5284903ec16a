//! An allocator for programs that hold ten thousand sessions: large blocks get pages of their own.
//!
//! Each HTTP/2 connection allocates a write buffer of 16 KiB and a read buffer of 8 KiB, and an idle session uses
//! the first few hundred bytes of either. On pages never touched the rest costs nothing; on memory recycled from
//! something else it costs all of it, and after some reconnect storms all memory is recycled. [`Paged`] gives
//! blocks of that size slots of whole pages and returns the pages to the kernel when they are freed, so that a
//! session costs what it touches, however many came before it. Everything else goes to the system's allocator.
//!
//! A program opts in:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: fleet_controller::memory::Paged = fleet_controller::memory::Paged;
//! ```

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

/// Sizes that get a slot: from two pages, below which a page of one's own saves nothing, to HTTP/2's largest buffer.
const SMALLEST: usize = 8 * 1024;
const SLOT: usize = 16 * 1024;
const PAGE: usize = 4096;
/// Slots reserved, as address space only: two for each of 50,000 connections and some. Beyond it the system's
/// allocator serves.
const SLOTS: usize = 1 << 17;
const SPAN: usize = SLOTS * SLOT;

/// Gives memory that a storm of connections left behind back to the kernel; takes some milliseconds, during which
/// others may wait for memory. glibc does that by itself only at the end of its heap, where there is always
/// somebody.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: documented as callable at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The system's allocator, but for blocks of 8 to 16 KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paged;

/// First address of the slots; 0 before the first use, 1 if the kernel gave none.
static BASE: AtomicUsize = AtomicUsize::new(0);
const NONE: usize = 1;
/// Slots handed out at least once.
static FRESH: AtomicU32 = AtomicU32::new(0);
/// Freed slots, a stack: the top's number plus one (zero is empty) in the low half, in the high half a count of
/// changes, so that a top seen again is not mistaken for a top unchanged.
static FREE: AtomicU64 = AtomicU64::new(0);
/// Below each freed slot, the next one, as in `FREE`. Outside the slots, whose pages must stay untouched.
static BELOW: [AtomicU32; SLOTS] = [const { AtomicU32::new(0) }; SLOTS];

// SAFETY: a block comes either from `System`, under its own contract, or is a slot: aligned to a page, at least as
// large as asked for, and handed out to one owner at a time (see `take` and `give`). Which of the two a block is
// follows from its address alone, since nothing else lies within the reserved span.
unsafe impl GlobalAlloc for Paged {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match slot_for(layout.size(), layout.align()) {
            Some(slot) => slot,
            // SAFETY: the caller's promises, passed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match slot_for(layout.size(), layout.align()) {
            // Pages of a slot come from the kernel anew each time, and it gives them zeroed.
            Some(slot) => slot,
            // SAFETY: the caller's promises, passed on.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match number(block) {
            // SAFETY: the caller owned the block and gives it up.
            Some(slot) => unsafe { give(slot) },
            // SAFETY: not a slot, so `System` made it; the rest is the caller's promise.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let is_slot = number(block).is_some();
        if is_slot && (SMALLEST..=SLOT).contains(&size) {
            return block;
        }
        let moved = match slot_for(size, layout.align()) {
            Some(slot) => slot,
            // SAFETY: not a slot, so `System` made it; the rest is the caller's promise.
            None if !is_slot => return unsafe { System.realloc(block, layout, size) },
            // SAFETY: the caller promises that `size` is not zero and, rounded up to the alignment, not too large.
            None => unsafe { System.alloc(Layout::from_size_align_unchecked(size, layout.align())) },
        };
        if !moved.is_null() {
            // SAFETY: both blocks are at least that long, and the new one overlaps nothing. The caller owned the
            // old one, and has the new one instead.
            unsafe {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}

fn slot_for(size: usize, align: usize) -> Option<*mut u8> {
    if !(SMALLEST..=SLOT).contains(&size) || align > PAGE {
        return None;
    }
    let base = base()?;
    let slot = take()?;
    Some(ptr::with_exposed_provenance_mut(base + slot as usize * SLOT))
}

/// Which slot a block is, if it is one.
fn number(block: *mut u8) -> Option<u32> {
    let base = BASE.load(Ordering::Acquire);
    let offset = block.addr().wrapping_sub(base);
    // Before the first slot, and if there are none, the base is not an address a block can be within the span of.
    (base > NONE && offset < SPAN).then(|| u32::try_from(offset / SLOT).unwrap_or(u32::MAX))
}

/// A slot that is nobody's.
fn take() -> Option<u32> {
    let mut top = FREE.load(Ordering::Acquire);
    while low(top) != 0 {
        let slot = low(top) - 1;
        let below = BELOW[slot as usize].load(Ordering::Relaxed);
        match FREE.compare_exchange_weak(top, next(top, below), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(slot),
            Err(changed) => top = changed,
        }
    }
    let fresh = FRESH.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fresh| {
        ((fresh as usize) < SLOTS).then(|| fresh + 1)
    });
    fresh.ok()
}

/// Gives a slot back, its pages to the kernel.
///
/// # Safety
/// The caller owns the slot and uses it no more.
unsafe fn give(slot: u32) {
    let address = BASE.load(Ordering::Acquire) + slot as usize * SLOT;
    // SAFETY: the slot lies within our own mapping and is the caller's to discard. Failing leaves old bytes in it,
    // which matters to zeroed blocks only.
    let discarded =
        unsafe { libc::madvise(ptr::with_exposed_provenance_mut(address), SLOT, libc::MADV_DONTNEED) };
    if discarded != 0 {
        // SAFETY: as above.
        unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(address), 0, SLOT) };
    }
    let mut top = FREE.load(Ordering::Acquire);
    loop {
        BELOW[slot as usize].store(low(top), Ordering::Relaxed);
        match FREE.compare_exchange_weak(top, next(top, slot + 1), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(changed) => top = changed,
        }
    }
}

fn base() -> Option<usize> {
    match BASE.load(Ordering::Acquire) {
        0 => reserve(),
        NONE => None,
        base => Some(base),
    }
}

/// Reserves the span, once; whoever comes second gives theirs back.
#[cold]
fn reserve() -> Option<usize> {
    // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists. Huge pages
    // are declined, since one would make 128 slots resident at the first touch of any.
    let mapped = unsafe {
        let mapped = libc::mmap(
            ptr::null_mut(),
            SPAN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if mapped != libc::MAP_FAILED {
            libc::madvise(mapped, SPAN, libc::MADV_NOHUGEPAGE);
        }
        mapped
    };
    let ours = if mapped == libc::MAP_FAILED { NONE } else { mapped.expose_provenance() };
    match BASE.compare_exchange(0, ours, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => (ours != NONE).then_some(ours),
        Err(theirs) => {
            if ours != NONE {
                // SAFETY: our own mapping, which nobody has seen.
                unsafe { libc::munmap(mapped, SPAN) };
            }
            (theirs != NONE).then_some(theirs)
        }
    }
}

const fn low(top: u64) -> u32 {
    (top & 0xffff_ffff) as u32
}

const fn next(top: u64, slot: u32) -> u64 {
    ((top >> 32).wrapping_add(1) << 32) | slot as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Blocks of these tests; the test program itself runs on the system's allocator.
    struct Block {
        at: *mut u8,
        layout: Layout,
        mark: u8,
    }

    impl Block {
        fn new(size: usize, mark: u8, zeroed: bool) -> Self {
            let layout = Layout::from_size_align(size, 16).expect("a layout");
            // SAFETY: no size is zero.
            let at = unsafe { if zeroed { Paged.alloc_zeroed(layout) } else { Paged.alloc(layout) } };
            assert!(!at.is_null());
            let mut block = Self { at, layout, mark };
            if zeroed {
                assert!(block.bytes().iter().all(|byte| *byte == 0), "zeroed means zero");
            }
            block.bytes().fill(mark);
            block
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: the block is ours, that long, and was written when it was made.
            unsafe { std::slice::from_raw_parts_mut(self.at, self.layout.size()) }
        }

        fn resize(&mut self, size: usize) {
            let kept = size.min(self.layout.size());
            // SAFETY: the block is ours, made with this layout.
            self.at = unsafe { Paged.realloc(self.at, self.layout, size) };
            assert!(!self.at.is_null());
            self.layout = Layout::from_size_align(size, 16).expect("a layout");
            let mark = self.mark;
            // SAFETY: the first `kept` bytes were written before the move.
            let old = unsafe { std::slice::from_raw_parts(self.at, kept) };
            assert!(old.iter().all(|byte| *byte == mark), "contents survive a move");
            // SAFETY: the block is ours and that long.
            unsafe { ptr::write_bytes(self.at, mark, size) };
        }
    }

    impl Drop for Block {
        fn drop(&mut self) {
            let mark = self.mark;
            assert!(self.bytes().iter().all(|byte| *byte == mark), "nobody else wrote into it");
            // SAFETY: the block is ours, made with this layout.
            unsafe { Paged.dealloc(self.at, self.layout) };
        }
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![1..64_usize, 4000..9000_usize, 8190..8194_usize, 16_380..16_390_usize, 1..40_000_usize]
    }

    proptest! {
        #[test]
        fn blocks_are_ones_own(
            steps in prop::collection::vec((size(), any::<bool>(), 0..3_u8, any::<u8>()), 1..80)
        ) {
            let mut held: Vec<Block> = Vec::new();
            for (size, zeroed, what, which) in steps {
                let picked = (!held.is_empty()).then(|| usize::from(which) % held.len().max(1));
                match (what, picked) {
                    (1, Some(picked)) => drop(held.swap_remove(picked)),
                    (2, Some(picked)) => held[picked].resize(size),
                    _ => held.push(Block::new(size, which, zeroed)),
                }
            }
        }
    }

    #[test]
    fn threads_do_not_share_slots() {
        std::thread::scope(|scope| {
            for mark in 0..4_u8 {
                scope.spawn(move || {
                    for round in 0..300_usize {
                        let blocks: Vec<_> =
                            (0..8).map(|_| Block::new(SMALLEST + round, mark, round % 2 == 0)).collect();
                        drop(blocks);
                    }
                });
            }
        });
    }

    #[test]
    fn freed_slots_are_used_again() {
        let before = FRESH.load(Ordering::Relaxed);
        for _ in 0..10_000 {
            drop(Block::new(SLOT, 1, false));
        }
        let grown = FRESH.load(Ordering::Relaxed) - before;
        assert!(grown < 1_000, "{grown} new slots for one block at a time");
    }
}
