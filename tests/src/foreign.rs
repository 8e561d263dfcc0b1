//! Attaching a program as others may do it, and aya has no word for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::programs::loaded_programs;

/// Flags of linux/bpf.h. Without any, no other program may be attached below.
pub const EXCLUSIVE: u32 = 0;
/// Others may be attached too.
pub const ALLOW_MULTI: u32 = 1 << 1;
/// Linux 6.15: before those of the cgroups below.
pub const PREORDER: u32 = 1 << 6;

const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;

/// A program that is attached to a cgroup until this is dropped, or the cgroup goes.
pub struct Foreign {
    program: aya::programs::ProgramFd,
    cgroup: File,
}

impl Foreign {
    /// Attaches the `connect4` that was loaded last.
    pub fn attach(cgroup: &Path, flags: u32) -> Self {
        let connect4 = loaded_programs()
            .flatten()
            .filter(|program| program.name_as_str() == Some("connect4"));
        let program = connect4.max_by_key(|program| program.id()).unwrap();
        let foreign = Self {
            program: program.fd().unwrap(),
            cgroup: File::open(cgroup).unwrap(),
        };
        let result = foreign.bpf(BPF_PROG_ATTACH, flags);
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        foreign
    }

    fn bpf(&self, command: libc::c_long, flags: u32) -> libc::c_long {
        #[repr(C)]
        struct Attr {
            cgroup: u32,
            program: u32,
            attach_type: u32,
            flags: u32,
        }
        let attr = Attr {
            cgroup: self.cgroup.as_raw_fd() as u32,
            program: self.program.as_fd().as_raw_fd() as u32,
            attach_type: BPF_CGROUP_INET4_CONNECT,
            flags,
        };
        // SAFETY: the attribute is of the size given, and the kernel writes nothing to it.
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<Attr>()) }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.bpf(BPF_PROG_DETACH, 0);
    }
}
