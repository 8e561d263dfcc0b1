//! Clients in the pod's netns, and what is seen of them on the way.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Running, binary, netns_exec, text};
use crate::{ADDRESS, World};

impl World {
    /// A command as a pod would run it: in its netns, and in the cgroup that the agent looks after.
    pub fn in_pod(&self, program: &str) -> Command {
        self.in_netns(&self.pod, program)
    }

    /// The same in any named netns.
    pub fn in_netns(&self, netns: &str, program: &str) -> Command {
        let mut command = self.in_cgroup("ip");
        command.args(["netns", "exec", netns, program]);
        command
    }

    /// Sets the range of a netns' local ports, as ip_sysctl has it.
    pub fn local_ports(&self, netns: &str, range: &str) {
        let mut write = self.in_netns(netns, "sh");
        let script = "echo $0 > /proc/sys/net/ipv4/ip_local_port_range";
        assert!(
            write
                .args(["-c", script, range])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Leaves a netns without a port for the agent's listeners, until it has its local ports again.
    pub fn without_ports(&self, netns: &str) -> [Running; 2] {
        self.local_ports(netns, "40000 40000");
        let taken = ["0.0.0.0:1", "0.0.0.0:40000"].map(|listen| {
            let mut server = self.in_netns(netns, &binary("banner"));
            server.args([listen, ""]);
            Running::new(server)
        });
        self.wait("the ports are taken", |world| {
            let mut ss = world.in_netns(netns, "ss");
            text(&ss.args(["-Hltn"]).output().unwrap()).lines().count() == 2
        });
        taken
    }

    /// `nodetls exec` in the pod's netns, below the cgroup that the agent looks after. (`ip netns exec` would hide /sys.)
    pub fn exec(&self, command: &[&str]) -> Command {
        self.exec_with(&self.dir.path().join("manifests"), command)
    }

    /// The same with other manifests.
    pub fn exec_with(&self, manifests: &Path, command: &[&str]) -> Command {
        let mut exec = self.in_cgroup("nsenter");
        exec.arg(format!("--net=/run/netns/{}", self.pod));
        exec.args(self.with_dns());
        exec.args([&binary("nodetls"), "exec", "--manifests"])
            .arg(manifests);
        exec.arg("--pins").arg(&self.pins).arg("--").args(command);
        exec
    }

    /// Runs curl in the pod; its output, and the HTTP status on the last line (000: no answer).
    pub fn curl(&self, arguments: &[&str]) -> String {
        let mut command = self.in_pod("curl");
        command
            .args(["-s", "-m", "10", "-w", "\n%{http_code}"])
            .args(arguments);
        text(&command.output().unwrap())
    }

    /// Runs the test client in the pod.
    pub fn dial(&self, arguments: &[&str]) -> String {
        let mut dial = self.in_pod(&binary("dial"));
        text(&dial.args(arguments).output().unwrap())
    }

    /// Starts the test client in the pod.
    pub fn dialling(&self, arguments: &[&str]) -> Running {
        let mut dial = self.in_pod(&binary("dial"));
        dial.args(arguments);
        Running::talking(dial)
    }

    /// A client in the middle of an exchange with the echo server; [`Self::end_of_exchange`] is the rest of it.
    pub fn exchange(&self) -> Running {
        self.exchange_at(ADDRESS)
    }

    /// The same at another address.
    pub fn exchange_at(&self, address: &str) -> Running {
        let mut client = self.dialling(&[address, "--talk", "--patience", "40"]);
        let head = "PUT /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 23\r\n";
        client.say(&format!("{head}\r\nfirst half\n"));
        client.read_until("first half");
        client
    }

    /// The exchange goes on to its proper end.
    #[track_caller]
    pub fn end_of_exchange(&self, mut client: Running) {
        client.say("second half\n");
        let rest = client.finish();
        assert!(
            rest.starts_with("second half\n") && !rest.contains("error"),
            "{rest}"
        );
    }

    /// The test client's word on `requests` new connections, while `change` is called twice a second.
    pub fn load(&mut self, requests: u32, mut change: impl FnMut(&mut Self, u32)) -> String {
        let mut client = self.dialling(&[ADDRESS, "--load", &requests.to_string()]);
        let started = Instant::now();
        for turn in 0.. {
            if client.has_ended() || started.elapsed() > Duration::from_secs(300) {
                break;
            }
            change(self, turn);
            std::thread::sleep(Duration::from_millis(500));
        }
        client.finish()
    }

    /// Captures what reaches the backend while `work` runs; the raw capture.
    pub fn capture(&mut self, work: impl FnOnce(&mut Self)) -> Vec<u8> {
        let file = self.dir.path().join("capture.pcap");
        let summary = self.dir.path().join("tcpdump.log");
        let mut command = netns_exec(&self.backend, "tcpdump");
        // Each slot of the ring takes a whole snapshot: of short ones there are enough for a busy machine.
        command.args("-i any -Q in --immediate-mode -s 2048 -B 65536 -w".split(' '));
        command.arg(&file);
        command.stderr(Stdio::from(fs::File::create(&summary).unwrap()));
        let mut tcpdump = Running::new(command);
        self.wait("tcpdump captures", |_| {
            fs::read_to_string(&summary).is_ok_and(|summary| summary.contains("listening on"))
        });
        work(self);
        std::thread::sleep(Duration::from_millis(300));
        tcpdump.signal("INT");
        tcpdump.wait();
        let summary = fs::read_to_string(summary).unwrap();
        assert!(
            summary.contains("\n0 packets dropped by kernel"),
            "{summary}"
        );
        fs::read(file).unwrap()
    }
}
