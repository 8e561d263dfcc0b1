//! The few system calls, and a function of the allocator's, that no library we use wraps: with the allocator itself, the only
//! unsafe code in user space.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
/// With those of the cgroups above, in the order in which they run.
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
const F_SETSIG: libc::c_int = 10;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The cookie of the network namespace that `socket` belongs to: unforgeable and never used again.
///
/// # Errors
/// Before Linux 5.17: `Unsupported`.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to locals of the lengths given.
    check(
        unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        }
        .into(),
    )
    .map_err(|error| match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel has no SO_NETNS_COOKIE: nodetls needs Linux 5.17 or newer",
        ),
        _ => error,
    })?;
    Ok(cookie)
}

/// Has the allocator return memory to the kernel: what this thread freed a while ago, and what belongs to no thread. Else that
/// happens only by and by, when more is allocated and freed.
pub fn give_back_memory() {
    // SAFETY: no pointer is passed. In a program with another allocator mimalloc has nothing to return.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

/// How many bytes of a TCP socket's send queue the peer has not acknowledged yet (tcp(7), SIOCOUTQ).
pub fn unsent_bytes(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the pointer is to a local of the type that this ioctl writes.
    check(
        unsafe {
            libc::ioctl(
                socket.as_fd().as_raw_fd(),
                libc::TIOCOUTQ as _,
                &raw mut bytes,
            )
        }
        .into(),
    )?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Takes a lease (`F_RDLCK`) on a file opened for reading, or ends it (`F_UNLCK`): fcntl(2), "Leases".
///
/// # Errors
/// `WouldBlock` when somebody has the file open for writing; or, at the end, when the lease was lost before. Otherwise
/// the file system has no leases, or the file belongs to another user and `CAP_LEASE` is missing.
pub fn set_lease(file: impl AsFd, kind: libc::c_int) -> io::Result<()> {
    // The signal for "a writer waits": SIGIO, the default, would end the process; SIGURG is ignored.
    for (operation, argument) in [(F_SETSIG, libc::SIGURG), (libc::F_SETLEASE, kind)] {
        // SAFETY: both operations take an integer, and no memory of ours.
        check(unsafe { libc::fcntl(file.as_fd().as_raw_fd(), operation, argument) }.into())?;
    }
    Ok(())
}

/// Marks every descriptor but the standard streams to be closed by execve(2) (kernel 5.11).
pub fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: closes nothing now, and whoever runs after execve has no other way to these descriptors.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Opens what is pinned at `path` on a bpffs.
pub fn bpf_obj_get(path: &Path) -> io::Result<OwnedFd> {
    let fd = bpf_obj(BPF_OBJ_GET, path, 0)?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Pins a map or a link at `path` on a bpffs.
pub fn bpf_obj_pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    bpf_obj(BPF_OBJ_PIN, path, object.as_fd().as_raw_fd() as u32)?;
    Ok(())
}

/// Both take the same attribute (linux/bpf.h); what the call returns.
fn bpf_obj(command: libc::c_long, path: &Path, fd: u32) -> io::Result<libc::c_long> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Attr {
        path: path.as_ptr() as u64,
        fd,
        flags: 0,
    };
    // SAFETY: the attribute is of the size given and its path lives until the call returns.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<Attr>()) })
}

/// Attaches a program to a cgroup, with flags of linux/bpf.h; until the link is closed, and no pin of it is left.
pub fn bpf_link_create(
    program: impl AsFd,
    cgroup: impl AsFd,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        cgroup: u32,
        attach_type: u32,
        flags: u32,
        relative_to: u32,
        padding: u32,
        revision: u64,
    }
    let attr = Attr {
        program: program.as_fd().as_raw_fd() as u32,
        cgroup: cgroup.as_fd().as_raw_fd() as u32,
        attach_type,
        flags,
        relative_to: 0,
        padding: 0,
        revision: 0,
    };
    // SAFETY: the attribute is of the size given.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw const attr,
            size_of::<Attr>(),
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Detaches a link at once. One that has lost its last pin and descriptor stays attached for a moment.
///
/// # Errors
/// Those of bpf(2), BPF_LINK_DETACH (Linux 5.9).
pub fn bpf_link_detach(link: impl AsFd) -> io::Result<()> {
    let link = link.as_fd().as_raw_fd() as u32;
    // SAFETY: the attribute is of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_DETACH,
            &raw const link,
            size_of::<u32>(),
        )
    })?;
    Ok(())
}

/// Replaces the program of an attached link, keeping its position: no packet or connect sees neither.
pub fn bpf_link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let attr = Attr {
        link: link.as_fd().as_raw_fd() as u32,
        program: program.as_fd().as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    // SAFETY: the attribute is of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_UPDATE,
            &raw const attr,
            size_of::<Attr>(),
        )
    })?;
    Ok(())
}

/// The ids of the programs that see what processes of a cgroup do at a hook, in their order.
///
/// # Errors
/// More than 512: `StorageFull`.
pub fn bpf_prog_query(cgroup: impl AsFd, attach_type: u32) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attr {
        cgroup: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        // Linux 6.17 to 7.1 writes at offset 56, whatever size it is told.
        rest: [u32; 9],
    }
    let mut ids = vec![0_u32; 512];
    let mut attr = Attr {
        cgroup: cgroup.as_fd().as_raw_fd() as u32,
        attach_type,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        rest: [0; 9],
    };
    // SAFETY: the attribute is of the size given, which holds all that the kernel writes to it, and there is room for as many
    // ids as it says.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut attr,
            size_of::<Attr>(),
        )
    })?;
    ids.truncate(attr.count as usize);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs::{File, OpenOptions};
    use std::io::ErrorKind::WouldBlock;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_lease_tells_of_writers_and_keeps_them_waiting() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("file");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        let lease = |kind| set_lease(&reader, kind).map_err(|error| error.kind());
        assert_eq!(lease(libc::F_RDLCK), Err(WouldBlock));
        drop(writer);
        assert_eq!(lease(libc::F_RDLCK), Ok(()));
        let mut options = OpenOptions::new();
        let options = options.write(true).custom_flags(libc::O_NONBLOCK);
        // Breaks the lease: we get the signal, and live.
        assert_eq!(options.open(&path).unwrap_err().kind(), WouldBlock);
        assert_eq!(lease(libc::F_UNLCK), Ok(()));
        assert_eq!(lease(libc::F_UNLCK), Err(WouldBlock));
        let _writer = options.open(&path).unwrap();
        assert_eq!(lease(libc::F_RDLCK), Err(WouldBlock));
    }
}
