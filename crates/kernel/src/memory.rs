//! Memory of this process.

/// Gives the system back what was freed (malloc_trim(3)): the allocator keeps it else for as long as the process runs,
/// which after a look at ten thousand forwards is some ten MiB. Nothing where the allocator is not glibc's.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and frees nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
