//! Programs of others: a second instance of ours stands for them, attached as they may be and aya has no word for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::programs::{ProgramFd, loaded_programs};
use nodetls::redirect::{Maps, Redirect, TargetIds, address_key};

/// Makes `address` a target of an instance; its id.
pub fn target(redirect: &Redirect, maps: &mut Maps, address: &str) -> u32 {
    let key = address_key(address.parse().unwrap());
    let mut ids = TargetIds::read(maps, redirect.ids());
    let (id, _) = ids.allocate(maps, key, |_| false).unwrap();
    maps.targets.insert(key, id, 0).unwrap();
    id
}

/// Flags of linux/bpf.h. Without any, no other program may be attached below.
pub const EXCLUSIVE: u32 = 0;
/// Others may be attached too.
pub const ALLOW_MULTI: u32 = 1 << 1;
/// Linux 6.15: before those of the cgroups below.
pub const PREORDER: u32 = 1 << 6;

const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
/// The hooks, as linux/bpf.h numbers them.
const CONNECT: [(&str, u32); 2] = [("connect4", 10), ("connect6", 11)];

/// Programs that are attached to a cgroup until this is dropped, or the cgroup goes.
pub struct Foreign {
    programs: Vec<(ProgramFd, u32)>,
    cgroup: File,
    flags: u32,
}

impl Foreign {
    /// Attaches the `connect4` and the `connect6` that were loaded last.
    pub fn attach(cgroup: &Path, flags: u32) -> Self {
        let last = |(hook, attach_type)| {
            let programs = loaded_programs().flatten();
            let programs = programs.filter(|program| program.name_as_str() == Some(hook));
            let program = programs.max_by_key(|program| program.id()).unwrap();
            (program.fd().unwrap(), attach_type)
        };
        let foreign = Self {
            programs: CONNECT.into_iter().map(last).collect(),
            cgroup: File::open(cgroup).unwrap(),
            flags,
        };
        foreign.attach_again();
        foreign
    }

    /// The same programs, after [`Self::detach`].
    pub fn attach_again(&self) {
        for program in &self.programs {
            let result = self.bpf(BPF_PROG_ATTACH, program, self.flags);
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
        }
    }

    /// Until [`Self::attach_again`].
    pub fn detach(&self) {
        for program in &self.programs {
            self.bpf(BPF_PROG_DETACH, program, 0);
        }
    }

    fn bpf(
        &self,
        command: libc::c_long,
        (program, attach_type): &(ProgramFd, u32),
        flags: u32,
    ) -> libc::c_long {
        #[repr(C)]
        struct Attr {
            cgroup: u32,
            program: u32,
            attach_type: u32,
            flags: u32,
        }
        let attr = Attr {
            cgroup: self.cgroup.as_raw_fd() as u32,
            program: program.as_fd().as_raw_fd() as u32,
            attach_type: *attach_type,
            flags,
        };
        // SAFETY: the attribute is of the size given, and the kernel writes nothing to it.
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<Attr>()) }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.detach();
    }
}
