//! The two calls by which libraries reach the machine's clock and chance, answered by this program.
//!
//! Outside a simulation they do what the C library does. Within one they answer from
//! [`chaos::sim::clock`], so that hash maps and library timers behave the same in every run of a
//! seed. Only the `chaos` program is linked with this; no production binary is.
#![expect(unsafe_code, reason = "symbols of the C library can only be answered with its own signatures")]

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use chaos::sim::clock;

type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;

/// The C library's own `clock_gettime`, which needs no system call.
static REAL_CLOCK: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// SAFETY: the signature is the C library's; the caller promises `len` writable bytes at `buffer`.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, len: usize, flags: c_uint) -> isize {
    let Some(first) = clock::chance() else {
        // SAFETY: handed on as it came.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) } as isize;
    };
    // SAFETY: see above; a null buffer is only ever passed with no length.
    let bytes = match len {
        0 => return 0,
        _ => unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) },
    };
    let mut word = first;
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        word = clock::chance().unwrap_or(word);
    }
    len as isize
}

/// SAFETY: the signature is the C library's; the caller promises a writable `timespec`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(id: libc::clockid_t, at: *mut libc::timespec) -> c_int {
    match clock::now_ms() {
        Some(ms) if !at.is_null() => {
            // SAFETY: not null, and the caller's to be written.
            unsafe {
                (*at).tv_sec = (ms / 1000) as libc::time_t;
                (*at).tv_nsec = (ms % 1000 * 1_000_000) as c_long;
            }
            0
        }
        _ => real_clock(id, at),
    }
}

fn real_clock(id: libc::clockid_t, at: *mut libc::timespec) -> c_int {
    let mut real = REAL_CLOCK.load(Ordering::Relaxed);
    if real.is_null() {
        // SAFETY: looks up a name; the answer is checked.
        real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
        REAL_CLOCK.store(real, Ordering::Relaxed);
    }
    if real.is_null() {
        // SAFETY: handed on as it came.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, id, at) as c_int };
    }
    // SAFETY: the C library's function of that name has this signature.
    let real: ClockGettime = unsafe { std::mem::transmute(real) };
    // SAFETY: handed on as it came.
    unsafe { real(id, at) }
}
