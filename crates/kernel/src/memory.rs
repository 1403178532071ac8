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

/// Lets go of this program's code, of which most has run once, in the beginning: what runs again comes back page by page
/// from the file, which the system keeps in memory as it sees fit (MADV_DONTNEED of madvise(2), which forgets nothing of
/// what cannot be written to).
pub fn let_go_of_code() {
    // SAFETY: the callback keeps to what dl_iterate_phdr(3) says of its arguments, and nothing is handed to it.
    unsafe {
        libc::dl_iterate_phdr(Some(let_go_of_object), std::ptr::null_mut());
    }
}

/// The first object is the program itself.
extern "C" fn let_go_of_object(info: *mut libc::dl_phdr_info, _: libc::size_t, _: *mut libc::c_void) -> libc::c_int {
    // SAFETY: dl_iterate_phdr hands over a whole structure, which lives for as long as the call.
    let info = unsafe { &*info };
    // SAFETY: it takes no pointer.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    for nth in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: there are as many headers.
        let header = unsafe { &*info.dlpi_phdr.add(nth) };
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_X == 0 || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let (begin, length) = ((info.dlpi_addr + header.p_vaddr) as usize, header.p_memsz as usize);
        let (from, to) = (begin / page * page, (begin + length).next_multiple_of(page));
        // SAFETY: these pages are a private mapping of the program's file that nobody writes to: whoever comes to one of
        // them, this function's own included, finds what the file says, as before.
        unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(from), to - from, libc::MADV_DONTNEED);
        }
    }
    1
}
