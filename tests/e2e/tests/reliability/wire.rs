//! What tcpdump has captured.

use std::time::Duration;

/// Of pcap-savefile(5): of the file, and of each packet.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

/// Packets with `mark` in them: when they came, since 1970, and their text.
pub(crate) fn packets_with(file: &[u8], mark: &[u8]) -> Vec<(Duration, String)> {
    let magic = u32::from_le_bytes(file[..4].try_into().unwrap());
    assert_eq!(
        magic, 0xa1b2_c3d4,
        "microseconds, of this machine's endianness"
    );
    let (mut found, mut rest) = (Vec::new(), &file[FILE_HEADER..]);
    while let Some((header, behind)) = rest.split_at_checked(PACKET_HEADER) {
        let field = |i: usize| u32::from_le_bytes(header[4 * i..4 * i + 4].try_into().unwrap());
        // The last one may be cut.
        let (packet, next) = behind.split_at(behind.len().min(field(2) as usize));
        if packet.windows(mark.len()).any(|bytes| bytes == mark) {
            let at = Duration::new(field(0).into(), field(1) * 1000);
            found.push((
                at,
                String::from_utf8_lossy(packet).escape_debug().to_string(),
            ));
        }
        rest = next;
    }
    found
}
