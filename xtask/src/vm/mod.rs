//! The rows of tests/tests/hooks/ on other kernels: Debian's, in virtual machines that this one emulates.

mod apt;
mod guest;
mod image;
mod kernels;
mod table;

use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use self::guest::{Cgroups, Results};
use self::image::Programs;
use self::kernels::Kernel;
use self::table::Column;
use crate::{ebpf, setup, sh};

/// Run nodetls and its eBPF programs on Debian's kernels, in emulated machines
///
/// Boots each kernel twice, with cgroup v2 alone and with v1 hierarchies beside it (hybrid), and runs the rows of
/// tests/tests/hooks/ there. The first run downloads 360 MB and keeps 45 MB of it in ~/.cache/nodetls/kernels
/// (below NODETLS_CACHE, if that is set). A run of all kernels fails if docs/compatibility.md is not what it has shown;
/// with NODETLS_BLESS=1 it writes it.
///
/// Examples:
///   cargo xtask vm-test                         all kernels, 20 to 40 minutes
///   cargo xtask vm-test 6.1 6.12                two of them
///   cargo xtask vm-test 6.1 --row redirect::    some rows
///   NODETLS_BLESS=1 cargo xtask vm-test         and docs/compatibility.md is written anew
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// Which kernels, as MAJOR.MINOR [default: all that Debian's releases and backports have]
    kernels: Vec<String>,
    /// Only rows whose names contain this
    #[arg(long, value_name = "WORD")]
    row: Option<String>,
}

/// Prints what each row came to on each kernel, and the table.
///
/// # Errors
/// A row that failed, a kernel that can't be had or does not boot, a document that is not what was shown.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !setup::is_root() {
        bail!("vm-test needs root: it installs packages, and makes an image of device files");
    }
    setup::run(setup::For::Vm)?;
    ebpf::build(false)?;
    let programs = Programs::build(options.row.as_deref())?;
    let kernels = kernels::get(&options.kernels)?;
    let mut columns = Vec::new();
    for kernel in &kernels {
        let (series, start) = (&kernel.series, Instant::now());
        println!("\n==== Linux {series}: Debian's {} ====", kernel.version);
        for (cgroups, results) in both(kernel, &programs)? {
            columns.push(Column {
                title: format!("{series} {}", cgroups.name()),
                results,
            });
        }
        println!("{:.0} s", start.elapsed().as_secs_f64());
    }
    let table = table::Table {
        rows: &programs.rows,
        columns: &columns,
    };
    println!("\n{}", table.text());
    for kernel in &kernels {
        println!("{}: Debian's {}", kernel.series, kernel.version);
    }
    let failed = table.failed();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    if options.kernels.is_empty() && options.row.is_none() {
        table.check(&sh::top().join("docs/compatibility.md"))?;
    }
    Ok(())
}

/// Boots a kernel in both ways at a time: each guest has one CPU.
fn both(kernel: &Kernel, programs: &Programs) -> Result<Vec<(Cgroups, Results)>> {
    let image = programs.with_modules(kernel)?;
    let boot = |cgroups| guest::run(kernel, cgroups, &image, &programs.rows);
    thread::scope(|scope| {
        let guests = Cgroups::ALL.map(|cgroups| (cgroups, scope.spawn(move || boot(cgroups))));
        let results = guests.into_iter().map(|(cgroups, guest)| {
            let results = guest
                .join()
                .map_err(|_| anyhow!("a guest's thread panicked"))??;
            Ok((cgroups, results))
        });
        results.collect()
    })
}
