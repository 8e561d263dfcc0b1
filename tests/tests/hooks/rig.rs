//! A pod's netns, a server that a leaked connect would reach, and the programs at the cgroup that this process is in.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nodetls::pods::netns::NetnsThread;
use nodetls::pods::{Enrolled, Pod, open};
use nodetls::redirect::{Effect, Maps, Redirect, default_cgroup};
use nodetls_tests::{ADDRESS, World, inside, target};
use socket2::{Domain, Socket, Type};

/// A row that holds, with a word on how; or one that this kernel is too old for.
pub(crate) type Outcome = Result<&'static str, NotHere>;

/// Why a row says nothing of this kernel.
#[derive(Debug)]
pub(crate) enum NotHere {
    /// nodetls refuses, and says that it needs this.
    Refused(&'static str),
    /// There is no such thing on this machine.
    Absent(&'static str),
}

impl fmt::Display for NotHere {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(needs) => write!(formatter, "refused: needs {needs}"),
            Self::Absent(what) => write!(formatter, "absent: {what}"),
        }
    }
}

/// (major, minor) of the kernel that runs.
pub(crate) fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().unwrap().parse().unwrap();
    (number(), number())
}

/// The programs at a cgroup of their own, which this process has joined. Dropping it takes everything back.
pub(crate) struct Rig {
    pub(crate) redirect: Redirect,
    pub(crate) maps: Maps,
    /// Has the Service's addresses: what passes the programs comes here.
    pub(crate) server: TcpListener,
    pub(crate) world: World,
    home: PathBuf,
}

/// The pod, enrolled as the agent does it.
pub(crate) struct Enrolment {
    pub(crate) cookie: u64,
    /// The proxy's: IPv4, IPv6.
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) enrolled: Enrolled,
}

impl Rig {
    /// The programs are attached and their canary was seen; [`ADDRESS`] is a target, the pod is not enrolled.
    pub(crate) fn new() -> Self {
        Self::below(|_| {})
    }

    /// The same, after `before` has done something to the cgroup above.
    pub(crate) fn below(before: impl FnOnce(&World)) -> Self {
        let world = World::new();
        let server = inside(&world.backend, || TcpListener::bind("[::]:443").unwrap());
        let home = own_cgroup();
        join(&world.cgroup);
        before(&world);
        let cgroup = pods(&world);
        fs::create_dir(&cgroup).unwrap();
        join(&cgroup);
        let (mut redirect, mut maps) = Redirect::load(&world.pins, Effect::Enforce).unwrap();
        redirect.attach(&cgroup, &mut maps).unwrap();
        let mut rig = Self {
            redirect,
            maps,
            server,
            world,
            home,
        };
        rig.target(ADDRESS);
        rig
    }

    /// [`Rig::new`], and the pod is enrolled.
    pub(crate) fn enrolled() -> Result<(Self, Enrolment), NotHere> {
        let mut rig = Self::new();
        let enrolment = rig.enrol()?;
        Ok((rig, enrolment))
    }

    /// Enrols the pod.
    pub(crate) fn enrol(&mut self) -> Result<Enrolment, NotHere> {
        let enrolment = enrol(&self.world, &self.redirect)?;
        enrolment.enrolled.redirect(&mut self.maps.pods).unwrap();
        Ok(enrolment)
    }

    /// Makes `address` a target; its id.
    pub(crate) fn target(&mut self, address: &str) -> u32 {
        target(&self.redirect, &mut self.maps, address)
    }

    /// What a client in the pod gets that connects to `address` with a socket that `prepare` has seen.
    pub(crate) fn connect(
        &self,
        address: &str,
        prepare: impl FnOnce(&Socket) + Send,
    ) -> io::Result<TcpStream> {
        let address: SocketAddr = address.parse().unwrap();
        self.in_pod(|| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            // Holds for connect(2) too.
            socket.set_write_timeout(Some(Duration::from_secs(10)))?;
            prepare(&socket);
            socket.connect(&address.into())?;
            Ok(socket.into())
        })
    }

    /// Runs `work` in the pod's netns.
    pub(crate) fn in_pod<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.world.pod, work)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        join(&self.home);
        let _ = fs::remove_dir_all(&self.world.pins);
        let _ = fs::remove_dir(pods(&self.world));
    }
}

impl Enrolment {
    /// The proxy's end of a redirected connection, and the address that the client was turned to.
    #[track_caller]
    pub(crate) fn accept(&self) -> (TcpStream, SocketAddr) {
        let (stream, _) = accept(&self.listeners).expect("nothing was redirected");
        let local = stream.local_addr().unwrap();
        (stream, local)
    }
}

/// The cgroup that the programs are attached to.
pub(crate) fn pods(world: &World) -> PathBuf {
    world.cgroup.join("pods")
}

/// Listeners and sk_lookup program of the pod, for an instance. Without the kernel's netns cookies it must say so.
pub(crate) fn enrol(world: &World, redirect: &Redirect) -> Result<Enrolment, NotHere> {
    let netns = Arc::new(File::open(format!("/run/netns/{}", world.pod)).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let thread = NetnsThread::start().unwrap();
    let ready = match runtime.block_on(open(&thread, &netns, 7)) {
        Err(error) if kernel() < (5, 17) => {
            let said = format!("{error:#}");
            assert!(said.contains("Linux 5.17 or newer"), "{said}");
            return Err(NotHere::Refused("Linux 5.17"));
        }
        result => result.unwrap(),
    };
    let cookie = ready.cookie;
    let copies = ready.listeners.iter().map(|one| one.try_clone().unwrap());
    let listeners = copies.collect();
    let pod = Pod::new(&world.pod, None, netns);
    let mut enrolled = Enrolled::new(redirect, pod, ready).unwrap();
    enrolled.listen().unwrap();
    Ok(Enrolment {
        cookie,
        listeners,
        enrolled,
    })
}

/// The first connection that comes to one of these within 10 s.
pub(crate) fn accept(listeners: &[TcpListener]) -> Option<(TcpStream, SocketAddr)> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        for listener in listeners {
            listener.set_nonblocking(true).unwrap();
            if let Ok((stream, peer)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                return Some((stream, peer));
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Has this process join a cgroup.
pub(crate) fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
}

/// This process' cgroup of the v2 hierarchy.
pub(crate) fn own_cgroup() -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    default_cgroup().unwrap().join(path.unwrap())
}

/// The kernel removes cgroups and netns a little after they were given up.
pub(crate) fn soon(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
        thread::sleep(Duration::from_millis(10));
    }
}
