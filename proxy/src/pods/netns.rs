//! Sockets in other network namespaces. A socket keeps the netns it was made in, so only `socket()` and `bind()` happen
//! inside, on one thread of its own; no async task ever runs in a foreign netns.

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
}

impl NetnsThread {
    /// Starts the thread; it ends when the last handle is dropped.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<(Arc<File>, Job)>();
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                let home = match File::open("/proc/thread-self/ns/net") {
                    Ok(home) => home,
                    Err(error) => {
                        tracing::error!(%error, "our own netns can't be opened");
                        return;
                    }
                };
                for (netns, job) in queue {
                    run_in(&netns, &home, job);
                }
            })?;
        Ok(Self { jobs })
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

fn run_in(netns: &File, home: &File, job: Job) {
    if let Err(error) = enter(netns) {
        // Dropping the job tells the caller.
        tracing::warn!(%error, "a network namespace can't be entered");
        return;
    }
    job();
    if let Err(error) = enter(home) {
        // Going on would open sockets of one pod in another's netns.
        tracing::error!(%error, "the way back from a network namespace failed");
        process::abort();
    }
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
