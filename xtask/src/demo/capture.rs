//! What passes on the wire between client and backend.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::process::Process;
use super::world::{BACKEND_IP, World};
use crate::{interrupt, sh};

/// A running tcpdump on the backend's side of the veth pair.
pub(super) struct Capture {
    _tcpdump: Process,
    file: PathBuf,
    /// How much of the file earlier calls of `take` have read.
    taken: usize,
}

impl Capture {
    /// Starts it; returns once it captures.
    pub(super) fn start(world: &World) -> Result<Self> {
        let file = world.dir().join("wire.pcap");
        let options = "-i eth0 -U --immediate-mode -Z root -w";
        let mut tcpdump = world.backend.command("tcpdump", options);
        tcpdump.arg(&file).arg("tcp or udp port 9");
        let mut tcpdump = Process::start("tcpdump", &mut tcpdump, world.dir())?;
        tcpdump.wait_for_line("listening on")?;
        Ok(Self {
            _tcpdump: tcpdump,
            file,
            taken: Wire::FILE_HEADER,
        })
    }

    /// All that passed since the last call, for sure: a packet sent now marks the end.
    pub(super) fn take(&mut self, world: &World) -> Result<Wire> {
        let mark = format!("mark-{}", self.taken);
        let script = format!("echo {mark} > /dev/udp/{BACKEND_IP}/9"); // RFC 863: discard
        sh::output(world.client.command("bash", "-c").arg(script))?;
        let wire = interrupt::poll(Duration::from_secs(5), || {
            let bytes = fs::read(&self.file)?;
            let wire = Wire::parse(bytes.get(self.taken..).unwrap_or_default());
            Ok((wire.occurrences(&mark) > 0).then_some((wire, bytes.len())))
        })?;
        let (mut wire, length) = wire.context("tcpdump did not capture the mark in 5 s")?;
        self.taken = length;
        wire.packets.pop(); // the mark itself
        Ok(wire)
    }
}

/// Captured packets.
pub(super) struct Wire {
    packets: Vec<Vec<u8>>,
}

impl Wire {
    /// A pcap file starts with 24 bytes, and each packet with 16: seconds, fraction, captured
    /// length and length on the wire, in the byte order of this machine (pcap-savefile(5)).
    const FILE_HEADER: usize = 24;
    const PACKET_HEADER: usize = 16;

    fn parse(mut bytes: &[u8]) -> Self {
        let mut packets = Vec::new();
        while let Some((header, rest)) = bytes.split_at_checked(Self::PACKET_HEADER) {
            let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            let Some((packet, rest)) = rest.split_at_checked(length as usize) else {
                break;
            };
            packets.push(packet.to_vec());
            bytes = rest;
        }
        Self { packets }
    }

    /// How many packets.
    pub(super) fn packets(&self) -> usize {
        self.packets.len()
    }

    /// How many bytes, headers too.
    pub(super) fn bytes(&self) -> usize {
        self.packets.iter().map(Vec::len).sum()
    }

    /// How often each of `needles` is in a packet.
    pub(super) fn find<'a>(&self, needles: &[&'a str]) -> Vec<(&'a str, usize)> {
        needles
            .iter()
            .map(|needle| (*needle, self.occurrences(needle)))
            .collect()
    }

    fn occurrences(&self, needle: &str) -> usize {
        let windows = self
            .packets
            .iter()
            .flat_map(|packet| packet.windows(needle.len()));
        windows
            .filter(|window| *window == needle.as_bytes())
            .count()
    }
}
