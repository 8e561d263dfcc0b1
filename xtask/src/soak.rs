//! `cargo xtask soak`: the soak test, for as long as one likes.

use anyhow::Result;
use clap::Args;

use crate::{ebpf, setup, sh, test};

/// Load an agent with all that clients do, while pods and policies come and go, and show what must not grow (needs root)
#[derive(Args)]
pub(crate) struct Options {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60)]
    minutes: u32,
}

/// Shows memory, files, map entries and connections ten times, and compares the end with the beginning.
///
/// # Errors
/// Something grew, or a connection was lost count of.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(setup::For::Test)?;
    ebpf::build(false)?;
    test::build_programs()?;
    let mut soak = sh::cargo("test --locked --package nodetls-tests --test soak -- --nocapture");
    soak.env("NODETLS_SOAK_SECONDS", (options.minutes * 60).to_string());
    sh::show_and_run(&mut soak)
}
