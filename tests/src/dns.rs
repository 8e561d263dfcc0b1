//! A DNS server, as a rule one that only the agent asks.

use std::net::Ipv4Addr;
use std::process::Command;

use crate::process::Running;
use crate::{BACKEND_IP, World};

const OPTIONS: &str = "--keep-in-foreground --conf-file=/dev/null --pid-file= --user=root --bind-interfaces \
                       --no-resolv --no-hosts --no-round-robin --local=/example.com/";

impl World {
    /// Has the agent ask a DNS server with these records, as dnsmasq(8) has them: NAME,ADDRESS,TTL. It takes the place
    /// of the one before. To be called before the agent starts.
    #[track_caller]
    pub fn dns(&mut self, records: &[&str]) {
        // Each test has an address of its own: all of 127.0.0.0/8 are the machine's.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 32 | (high & 31), low, self.number);
        self.serve_dns(Self::in_cgroup, address, records);
    }

    /// The same for `nodetls exec`, which asks in the pod's netns: the server is in the backend's.
    #[track_caller]
    pub fn dns_for_exec(&mut self, records: &[&str]) {
        self.serve_dns(Self::in_backend, BACKEND_IP.parse().unwrap(), records);
    }

    /// The same wherever it is to be.
    #[track_caller]
    pub fn serve_dns(
        &mut self,
        within: fn(&Self, &str) -> Command,
        address: Ipv4Addr,
        records: &[&str],
    ) {
        self.name_server = None;
        let mut dnsmasq = within(self, "dnsmasq");
        dnsmasq.args(OPTIONS.split_whitespace());
        dnsmasq.arg(format!("--listen-address={address}"));
        for record in records {
            dnsmasq.arg(format!("--host-record={record}"));
        }
        self.name_server = Some(Running::new(dnsmasq));
        self.wait("the DNS server listens", |world| {
            let mut ss = within(world, "ss");
            ss.args(["-Hlun", "src", &format!("{address}:53")]);
            !ss.output().unwrap().stdout.is_empty()
        });
        self.file("resolv.conf", &format!("nameserver {address}\n"));
    }

    /// What a command begins with that is to have the test's `/etc/resolv.conf`, in a mount namespace of its own; it
    /// still sees the network namespaces that are made later.
    pub(crate) fn with_dns(&self) -> Vec<String> {
        if self.name_server.is_none() {
            return Vec::new();
        }
        let file = self.dir.path().join("resolv.conf");
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let words = [
            "unshare",
            "--mount",
            "--propagation=slave",
            "sh",
            "-c",
            mount,
        ];
        let file = file.display().to_string();
        words.map(str::to_owned).into_iter().chain([file]).collect()
    }
}
