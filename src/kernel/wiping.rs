//! Memory that held something small is wiped when it is let go of.
//!
//! Secrets pass through many hands: the file or request that brought them, the
//! text that was parsed, the header that was sent. Each is a buffer on the heap,
//! some of other crates, and when a secret is replaced none of them should have
//! the old one still. So it is the allocator that wipes, whatever the buffer is
//! of. Large ones are not wiped: they hold the bytes of blobs.

use std::alloc::{GlobalAlloc, Layout, System};

/// Allocations up to this size are wiped.
const SMALL: usize = 64 * 1024;

/// The system's allocator, wiping what is freed.
#[derive(Debug, Clone, Copy, Default)]
pub struct WipingAllocator;

/// Overwrites an allocation that is about to be freed.
///
/// # Safety
/// `memory` is an allocation of `layout`, which nobody uses any more.
unsafe fn wipe(memory: *mut u8, layout: Layout) {
    // SAFETY: the allocation has that many bytes, and is the caller's.
    unsafe { memory.write_bytes(0, layout.size()) };
    // Memory that is freed next counts as never read, and writing to it as
    // needless, unless somebody may have looked at it.
    std::hint::black_box(memory);
}

// SAFETY: memory comes from the system's allocator and goes back to it, with the
// layout that it was asked for; what lies between keeps to the contract of
// `GlobalAlloc`, as said at each place.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if layout.size() <= SMALL {
            // SAFETY: the caller gives up an allocation of this layout.
            unsafe { wipe(memory, layout) };
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size() > SMALL {
            // SAFETY: the caller's promise, passed on.
            return unsafe { System.realloc(memory, layout, size) };
        }
        // The system would move it and leave the old place as it is.
        // SAFETY: `size` is not zero and, rounded up to the alignment, no more
        // than `isize::MAX`: the caller's promise.
        let new = unsafe { System.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both have at least the smaller size, and a new allocation
            // overlaps no other; the old one is the caller's to give up.
            unsafe {
                std::ptr::copy_nonoverlapping(memory, new, layout.size().min(size));
                self.dealloc(memory, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wiped_is_zero_and_what_grows_or_shrinks_keeps_its_content() {
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: each pointer is used within the size that it was asked for
        // with, and freed once, with its layout.
        unsafe {
            let memory = WipingAllocator.alloc(layout);
            memory.write_bytes(7, 100);
            wipe(memory, layout);
            assert_eq!(std::slice::from_raw_parts(memory, 100), [0; 100]);
            memory.write_bytes(9, 100);
            let memory = WipingAllocator.realloc(memory, layout, 300_000);
            assert_eq!(std::slice::from_raw_parts(memory, 100), [9; 100]);
            let memory = WipingAllocator.realloc(memory, Layout::from_size_align(300_000, 8).unwrap(), 50);
            assert_eq!(std::slice::from_raw_parts(memory, 50), [9; 50]);
            WipingAllocator.dealloc(memory, Layout::from_size_align(50, 8).unwrap());
            let zeroed = WipingAllocator.alloc_zeroed(layout);
            assert_eq!(std::slice::from_raw_parts(zeroed, 100), [0; 100]);
            WipingAllocator.dealloc(zeroed, layout);
        }
    }
}
