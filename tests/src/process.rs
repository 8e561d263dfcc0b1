//! Processes that a test starts, and talks with.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::thread;

use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A process that ends with the test, however that ends.
pub struct Running {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it.
    pub fn new(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdout }
    }

    /// Starts it to be talked with.
    pub fn talking(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self::new(command)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    pub fn say(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Reads lines up to one that contains `word`; what was read.
    #[track_caller]
    pub fn read_until(&mut self, word: &str) -> String {
        let mut seen = String::new();
        while self.stdout.as_mut().unwrap().read_line(&mut seen).unwrap() > 0 {
            if seen.contains(word) {
                return seen;
            }
        }
        panic!("{word} is not in {seen}");
    }

    /// Closes its standard input; all that it still says.
    pub fn finish(&mut self) -> String {
        drop(self.child.stdin.take());
        let stdout = self.stdout.take().unwrap();
        std::io::read_to_string(stdout).unwrap()
    }

    /// Sends it SIG`name`.
    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args([&format!("-{name}"), &self.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    /// Sends it SIGSTOP, and every thread of it stands still: until then one may read what comes.
    pub fn stop(&self) {
        self.signal("STOP");
        let status = waitpid(Some(Pid::from_child(&self.child)), WaitOptions::UNTRACED).unwrap();
        assert!(status.unwrap().1.stopped());
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// kill -9, and it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program built from this workspace; the tests run from target/PROFILE/deps.
pub fn binary(name: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let path = test
        .ancestors()
        .nth(2)
        .map_or_else(PathBuf::new, Path::to_owned)
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask test`",
        path.display()
    );
    path.display().to_string()
}

pub(crate) fn netns_exec(netns: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", netns, program])
        .stdin(Stdio::null());
    command
}

/// Runs `work` on a thread in a named netns.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    let netns = File::open(format!("/run/netns/{netns}")).unwrap();
    let work = || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(work).join()).unwrap()
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    let mut command = Command::new("ip");
    let output = command.args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", text(&output));
}

/// Both of its streams.
pub fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}
