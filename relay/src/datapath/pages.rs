//! What the system should know of our memory: what is looked at here and there is better in pages of 2 MiB, where it has them,
//! for the processor need not look up where each one is; and what is not needed any more can be others'.

/// Asks for huge pages under what `memory` lies in; a system that has none, or does not want to, leaves it as it is.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "advice to the kernel about an address range")]
pub fn prefer_huge<T>(memory: &[T]) {
    const PAGE_BYTES: usize = 4096;
    let range = memory.as_ptr_range();
    let first = range.start.addr().next_multiple_of(PAGE_BYTES);
    let length = (range.end.addr() / PAGE_BYTES * PAGE_BYTES).saturating_sub(first);
    if length == 0 {
        return;
    }
    let start = range.start.with_addr(first).cast_mut();
    // SAFETY: whole pages within memory that is borrowed; the advice changes nothing of what is in them.
    let refused = unsafe { libc::madvise(start.cast(), length, libc::MADV_HUGEPAGE) } != 0;
    if refused {
        tracing::debug!("no huge pages here");
    }
}

/// Elsewhere the system decides by itself.
#[cfg(not(target_os = "linux"))]
pub fn prefer_huge<T>(_: &[T]) {}

/// Gives back what has been freed, also between what is still in use; takes some milliseconds.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "advice to the allocator")]
pub fn give_back() {
    // SAFETY: concerns free memory only.
    unsafe { libc::malloc_trim(0) };
}

/// Bytes that the program has asked for and not freed, as far as the allocator says; what it keeps for later is not among them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "asks the allocator")]
pub fn heap_in_use() -> Option<usize> {
    // SAFETY: reads the allocator's own counts, under its locks (mallinfo(3)).
    let info = unsafe { libc::mallinfo2() };
    Some(info.uordblks + info.hblkhd)
}

/// Elsewhere nobody says.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn heap_in_use() -> Option<usize> {
    None
}

/// Elsewhere the allocator does so by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
