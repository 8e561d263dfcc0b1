//! Sockets in other network namespaces. A socket keeps the netns it was made in, so only `socket()` and `bind()` happen
//! inside: a single socket at once on the thread that wants it, all else on one thread of its own. No async task ever runs
//! in a foreign netns.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process;
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;

use crate::sys;

type Job = Box<dyn FnOnce() + Send>;

/// The thread that enters network namespaces.
#[derive(Clone)]
pub struct NetnsThread {
    jobs: mpsc::Sender<(Arc<File>, Job)>,
    home: Arc<File>,
}

impl NetnsThread {
    /// Starts the thread; it ends when the last handle is dropped.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<(Arc<File>, Job)>();
        let home = Arc::new(File::open("/proc/thread-self/ns/net")?);
        let way_back = Arc::clone(&home);
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                for (netns, job) in queue {
                    if let Err(error) = within(&netns, &way_back, job) {
                        // Dropping the job tells the caller.
                        tracing::warn!(%error, "a network namespace can't be entered");
                    }
                }
            })?;
        Ok(Self { jobs, home })
    }

    /// A TCP socket in `netns`, non-blocking. The calling thread goes there and back, which takes some 2 µs: less than to
    /// wake another one.
    pub fn tcp_socket(&self, netns: &File, address: SocketAddr) -> io::Result<Socket> {
        within(netns, &self.home, || tcp_socket(address))?
    }

    /// Runs `work` in `netns`; it must not block.
    pub async fn run<T: Send + 'static>(
        &self,
        netns: &Arc<File>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (reply, result) = oneshot::channel();
        let job = Box::new(move || {
            // A caller that was cancelled needs no answer.
            let _ = reply.send(work());
        });
        self.jobs
            .send((Arc::clone(netns), job))
            .map_err(|_| io::Error::other("the netns thread has ended"))?;
        result.await.map_err(|_| {
            io::Error::other("the network namespace can't be entered (needs CAP_SYS_ADMIN)")
        })?
    }
}

fn within<T>(netns: &File, home: &File, work: impl FnOnce() -> T) -> io::Result<T> {
    enter(netns)?;
    let done = work();
    if let Err(error) = enter(home) {
        // Going on would open sockets of one pod in another's netns.
        tracing::error!(%error, "the way back from a network namespace failed");
        process::abort();
    }
    Ok(done)
}

fn enter(netns: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(
        netns.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

/// A TCP socket in the current netns, non-blocking.
pub fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let kind = Type::STREAM.nonblocking().cloexec();
    Socket::new(domain, kind, Some(Protocol::TCP))
}

/// The cookie of the current netns.
pub fn current_cookie() -> io::Result<u64> {
    let kind = Type::DGRAM.cloexec();
    sys::netns_cookie(Socket::new(Domain::UNIX, kind, None)?)
}
