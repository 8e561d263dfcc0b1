//! `cargo xtask fuzz`: the targets of fuzz/, each for a while.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{interrupt, setup, sh};

/// An input that takes longer than this is a find too, seconds.
const TIMEOUT: u32 = 10;
/// Longer ones show nothing new: a ClientHello or a chain of certificates fits.
const MAX_LENGTH: u32 = 32 * 1024;

/// Fuzz what reads other people's bytes: openings, HTTP, certificates, PEM, manifests, policies, map layouts
///
/// Builds fuzz/ with cargo-fuzz, which is installed if it is missing (the first time all takes some 15 minutes), and runs
/// each target from the inputs in fuzz/corpus and from what earlier runs have found (fuzz/target/corpus). Fails if an
/// input makes a target panic, or takes 10 s or 2 GiB, and says how to run it again.
///
/// Examples:
///   cargo xtask fuzz                           all targets, 20 s each
///   cargo xtask fuzz manifest --seconds 600    one, for longer
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// Which targets [default: all]
    targets: Vec<String>,
    /// How long each runs
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u32,
}

/// What a target's run came to, as libFuzzer has it.
struct Row {
    target: String,
    executions: String,
    /// Edges of the code that were reached.
    coverage: String,
    /// How many inputs that each reach something new, and their bytes.
    corpus: String,
    find: Option<Find>,
}

struct Find {
    input: PathBuf,
    cause: String,
}

/// Runs the targets, and prints a table of what they came to.
///
/// # Errors
/// An unknown target, one that does not build, and every find.
pub(crate) fn run(options: &Options) -> Result<()> {
    let known = targets()?;
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(name)) {
        bail!("no target {unknown}: there are {}", known.join(", "));
    }
    let chosen = match options.targets.as_slice() {
        [] => &known,
        chosen => chosen,
    };
    setup::cargo_fuzz()?;
    sh::show_and_run(&mut cargo_fuzz("build"))?;
    let rows = chosen.iter().map(|target| fuzz(target, options.seconds));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    print(&rows);
    let finds = rows
        .iter()
        .filter_map(|row| Some((&row.target, row.find.as_ref()?)));
    let finds = finds.map(|(target, Find { input, cause })| {
        let mut again = cargo_fuzz("run");
        again.arg(target).arg(input);
        format!("{target}: {cause}\n  again: {}", sh::line(&again))
    });
    let finds: Vec<_> = finds.collect();
    if !finds.is_empty() {
        bail!("{} inputs do harm\n{}", finds.len(), finds.join("\n"));
    }
    Ok(())
}

/// Their names: each is a file.
fn targets() -> Result<Vec<String>> {
    let files = fs::read_dir(directory().join("fuzz_targets"))?;
    let paths = files
        .map(|file| Ok(file?.path()))
        .collect::<Result<Vec<_>>>()?;
    let sources = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let names = sources.filter_map(|path| path.file_stem()?.to_str());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

fn directory() -> PathBuf {
    sh::top().join("fuzz")
}

/// Without a sanitizer, which takes an unstable compiler: what is fuzzed is safe Rust. By default a crate is compiled in one
/// piece, on one core.
fn cargo_fuzz(verb: &str) -> Command {
    sh::cargo(&format!("fuzz {verb} --sanitizer none --codegen-units 16"))
}

fn fuzz(target: &str, seconds: u32) -> Result<Row> {
    let file = |place: &str| directory().join(place).join(target);
    // New inputs go to the first corpus: the repository's stays as it is.
    let found = file("target/corpus");
    fs::create_dir_all(&found)?;
    let mut command = cargo_fuzz("run");
    command.arg(target).args([found, file("corpus")]).arg("--");
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-timeout={TIMEOUT}"),
        format!("-max_len={MAX_LENGTH}"),
        "-print_final_stats=1".to_owned(),
    ]);
    let words = file("dictionaries").with_extension("dict");
    if words.exists() {
        command.arg(format!("-dict={}", words.display()));
    }
    let log = file("target").with_extension("log");
    println!("$ {}", sh::line(&command));
    command.stderr(File::create(&log).with_context(|| log.display().to_string())?);
    let ended = sh::run(&mut command);
    interrupt::check()?;
    let row = Row::read(target, &log)?;
    if row.find.is_none() {
        ended.with_context(|| format!("target {target} did not run: see {}", log.display()))?;
    }
    Ok(row)
}

impl Row {
    /// From libFuzzer's output.
    fn read(target: &str, log: &Path) -> Result<Self> {
        let said = String::from_utf8_lossy(&fs::read(log)?).into_owned();
        let word_after = |label: &str| {
            let rest = said.rsplit_once(label).map(|(_, rest)| rest);
            let word = rest.and_then(|rest| rest.split_whitespace().next());
            word.map(str::to_owned)
        };
        let figure = |label| word_after(label).unwrap_or_else(|| "?".to_owned());
        let cause = said.split_once("panicked at ").map(|(_, rest)| rest);
        let cause = cause.or_else(|| Some(said.split_once("SUMMARY: ")?.1));
        let cause: Vec<_> = cause.unwrap_or_default().lines().take(2).collect();
        Ok(Self {
            target: target.to_owned(),
            executions: figure("stat::number_of_executed_units: "),
            coverage: figure(" cov: "),
            corpus: figure(" corp: "),
            find: word_after("Test unit written to ").map(|input| Find {
                input: input.into(),
                cause: cause.join(" "),
            }),
        })
    }
}

fn print(rows: &[Row]) {
    println!(
        "\n{:12}{:>12}{:>10}{:>14}  result",
        "target", "executions", "coverage", "corpus"
    );
    for row in rows {
        let result = if row.find.is_some() { "found" } else { "ok" };
        let Row {
            target,
            executions,
            coverage,
            corpus,
            ..
        } = row;
        println!("{target:12}{executions:>12}{coverage:>10}{corpus:>14}  {result}");
    }
}
