//! Servers and clients that are talked with.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use nodetls_tests::{CLUSTER_IP, binary};

use crate::rig::{HOST, Rig, s_server};

/// A process that is talked with, and killed at the latest when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// `openssl s_server`, which sends its standard input.
    pub(crate) fn server(rig: &Rig, port: u16) -> Self {
        let (certificate, key) = rig.ca.sign(HOST, 1);
        rig.world.file("server.crt", &certificate);
        rig.world.file("server.key", &key);
        let mut server = s_server(&rig.world, port, "-quiet -cert server.crt -key server.key");
        server.stdin(Stdio::piped()).stdout(Stdio::null());
        let running = Self::spawn(server);
        rig.world.wait("the server listens", |world| {
            let mut ss = world.in_backend("ss");
            ss.args(["-Hltn", &format!("sport = :{port}")]);
            !ss.output().unwrap().stdout.is_empty()
        });
        running
    }

    /// The test client, which sends this and prints what comes.
    pub(crate) fn client(rig: &Rig, port: u16, send: &str) -> Self {
        let mut client = rig.world.in_pod(&binary("dial"));
        client.args([&format!("{CLUSTER_IP}:{port}"), "--send", send]);
        client.stdout(Stdio::piped());
        Self::spawn(client)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdout }
    }

    /// Writes to its standard input.
    pub(crate) fn say(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Reads lines up to one that contains `word`.
    #[track_caller]
    pub(crate) fn read_until(&mut self, word: &str) {
        let mut seen = String::new();
        while self.stdout.as_mut().unwrap().read_line(&mut seen).unwrap() > 0 {
            if seen.contains(word) {
                return;
            }
        }
        panic!("{word} is not in {seen}");
    }

    /// Sends it SIG`name`.
    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args([&format!("-{name}"), &self.child.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    /// kill -9, and it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
