//! Log lines on their way to standard output or standard error.
//!
//! A worker gathers those of connections that have ended well: a system call for each would take a twentieth of a short
//! connection's time. All others are written at once, and with them what the same thread has gathered before.

use std::cell::RefCell;
use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::LogTo;

/// So many bytes are not gathered for longer.
const ENOUGH: usize = 16 * 1024;

thread_local! {
    /// `None`: this thread gathers nothing.
    static GATHERED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// From now on this thread gathers lines. It is to call [`write_lines`] now and then, and at its end.
pub(crate) fn gather_lines() {
    GATHERED.set(Some(Vec::new()));
}

/// Writes what this thread has gathered.
pub(crate) fn write_lines() {
    // As with other lines: there is nobody to tell.
    let _ = pass(&[], true, &mut io::stdout());
}

/// Writes log lines.
pub(super) struct Lines(pub(super) LogTo);

/// Writes one.
pub(super) struct Line {
    to: LogTo,
    at_once: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            to: self.0,
            at_once: true,
        }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Line {
        let ended_well = of.target() == "access" && *of.level() == Level::INFO;
        Line {
            to: self.0,
            at_once: !ended_well,
        }
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.to {
            LogTo::Stdout => pass(line, self.at_once, &mut io::stdout()),
            // A command's: somebody waits for it.
            LogTo::Stderr => io::stderr().write_all(line),
        }?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds a line to what this thread has gathered, and writes all if it is time. A thread that gathers nothing writes it.
fn pass(line: &[u8], at_once: bool, out: &mut impl Write) -> io::Result<()> {
    let due = GATHERED.try_with(|gathered| {
        let mut gathered = gathered.borrow_mut();
        let lines = gathered.as_mut()?;
        lines.extend_from_slice(line);
        match at_once || lines.len() >= ENOUGH {
            true => Some(std::mem::take(lines)),
            false => Some(Vec::new()),
        }
    });
    match due.ok().flatten() {
        Some(due) if due.is_empty() => Ok(()),
        Some(due) => out.write_all(&due),
        None => out.write_all(line),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::*;

    fn passed(line: &[u8], at_once: bool) -> String {
        let mut out = Vec::new();
        pass(line, at_once, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_gathered_until_one_is_urgent_or_there_are_many() {
        let gathering = || {
            assert_eq!(passed(b"first\n", false), "first\n");
            gather_lines();
            assert_eq!(passed(b"second\n", false), "");
            assert_eq!(passed(b"urgent\n", true), "second\nurgent\n");
            assert_eq!(passed(b"", true), "");
            let line = [b'x'; ENOUGH / 2];
            assert_eq!(passed(&line, false), "");
            assert_eq!(passed(&line, false).len(), ENOUGH);
        };
        thread::spawn(gathering).join().unwrap();
    }
}
