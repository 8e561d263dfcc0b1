//! `docs/compatibility.md`: what a run of all rows on all kernels has shown.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::guest::Results;

const INTRODUCTION: &str = "\
# Compatibility

What nodetls and its eBPF programs do on Debian's kernels: each row is a test of that name in
[tests/tests/hooks/](../tests/tests/hooks/), run with nodetls' own loader in an emulated machine, with cgroup v2 alone
(v2) and with hierarchies of version 1 beside it (hybrid).

Written by `NODETLS_BLESS=1 cargo xtask vm-test`, only when no row fails; `cargo xtask vm-test` fails if this file is not
what its run has shown. Kernels are named by their series: it prints which package's it took. Kernels between the columns
are not tested, as Debian's archive has none.

- passed: what is asserted holds. (EPERM): refused, but with EPERM in the place of ECONNREFUSED.
- refused: nodetls does not start on this kernel; its error says what it needs.
- absent: this machine has no such thing.
";

/// One test, and one line of the table.
pub(super) struct Row {
    group: String,
    pub(super) name: String,
    asserted: String,
}

impl Row {
    /// As `hooks --rows` prints them.
    pub(super) fn read(printed: &str) -> Vec<Self> {
        let row = |line: &str| {
            let mut fields = line.split('\t').map(str::to_owned);
            Some(Self {
                group: fields.next()?,
                name: fields.next()?,
                asserted: fields.next()?,
            })
        };
        printed.lines().filter_map(row).collect()
    }

    /// What the guest itself looks at, after all rows.
    pub(super) fn kernel_quiet() -> Self {
        Self {
            group: "The kernel".to_owned(),
            name: "kernel::quiet".to_owned(),
            asserted: "Nothing of the above made it log a warning or worse.".to_owned(),
        }
    }
}

/// What one boot has shown.
pub(super) struct Column {
    pub(super) title: String,
    pub(super) results: Results,
}

impl Column {
    fn of(&self, row: &Row) -> &str {
        self.results
            .get(&row.name)
            .map_or("failed: not run", |it| it)
    }
}

/// Rows × kernels.
pub(super) struct Table<'a> {
    pub(super) rows: &'a [Row],
    pub(super) columns: &'a [Column],
}

impl Table<'_> {
    /// What failed: kernel and row.
    pub(super) fn failed(&self) -> Vec<String> {
        let all = self.columns.iter().flat_map(|column| {
            let failed = |row: &&Row| column.of(row).starts_with("failed");
            let rows = self.rows.iter().filter(failed);
            rows.map(|row| format!("{} {}", column.title, row.name))
        });
        all.collect()
    }

    /// In Markdown, a table for each group of rows.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut group = "";
        for row in self.rows {
            if row.group != group {
                group = &row.group;
                let titles = self.columns.iter().map(|column| &*column.title);
                let titles = titles.collect::<Vec<_>>().join(" | ");
                let _ = write!(text, "\n## {group}\n\n| Row | Asserted | {titles} |\n");
                text += &format!("|{}\n", "---|".repeat(self.columns.len() + 2));
            }
            let results = self.columns.iter().map(|column| column.of(row));
            let results = results.collect::<Vec<_>>().join(" | ");
            let _ = writeln!(text, "| `{}` | {} | {results} |", row.name, row.asserted);
        }
        text
    }

    /// Compares the file with what it should be; with `NODETLS_BLESS` set, writes it.
    ///
    /// # Errors
    /// What to do about a difference.
    pub(super) fn check(&self, file: &Path) -> Result<()> {
        let text = format!("{INTRODUCTION}{}", self.text());
        if env::var_os("NODETLS_BLESS").is_some() {
            return fs::write(file, text).with_context(|| file.display().to_string());
        }
        if fs::read_to_string(file).unwrap_or_default() != text {
            bail!(
                "docs/compatibility.md is not what this run has shown: NODETLS_BLESS=1 cargo xtask vm-test"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_each_result_and_what_failed() {
        let rows = Row::read("One\ta::b\tHolds.\nTwo\tc::d\tHolds too.\n");
        let results = [("a::b", "passed (EPERM)"), ("c::d", "failed: status 101")];
        let results = results.map(|(row, outcome)| (row.to_owned(), outcome.to_owned()));
        let columns = [Column {
            title: "6.1 v2".to_owned(),
            results: results.into(),
        }];
        let table = Table {
            rows: &rows,
            columns: &columns,
        };
        let text = table.text();
        assert!(text.contains("## One\n\n| Row | Asserted | 6.1 v2 |\n|---|---|---|\n| `a::b` | Holds. | passed (EPERM) |"), "{text}");
        assert_eq!(table.failed(), ["6.1 v2 c::d"]);
    }
}
