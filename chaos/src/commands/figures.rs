//! `chaos figures`: every benchmark that has a target.

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;
use chaos::figures::{self, Plan};
use chaos::procfs;

#[derive(clap::Args)]
pub struct Args {
    /// On the disk that is to be measured
    #[arg(long, default_value = "data/figures")]
    dir: PathBuf,
    /// Only figures whose names begin so
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds of a load that do not count
    #[arg(long, value_name = "S", default_value_t = 5)]
    warm_up: u64,
    /// Seconds that count
    #[arg(long, value_name = "S", default_value_t = 30)]
    duration: u64,
    /// Seconds that count of each load of adapters
    #[arg(long, value_name = "S", default_value_t = 10)]
    adapter_duration: u64,
    /// Pairs of runs, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    pairs: usize,
    /// Leaders killed, and leaders moved
    #[arg(long, value_name = "N", default_value_t = 20)]
    kills: usize,
    /// Seconds of watching an idle cluster
    #[arg(long, value_name = "S", default_value_t = 60)]
    idle: u64,
    /// Where the repository is
    #[arg(long, default_value = ".")]
    repository: PathBuf,
    /// Do not write docs/PERFORMANCE.md
    #[arg(long)]
    dry: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let document = args.repository.join("docs/PERFORMANCE.md");
    ensure!(args.dry || document.is_file(), "{} is not there: name the repository", document.display());
    let plan = Plan {
        dir: args.dir,
        repository: args.repository.clone(),
        only: args.only,
        warm_up_s: args.warm_up,
        duration_s: args.duration,
        adapter_duration_s: args.adapter_duration,
        pairs: args.pairs,
        kills: args.kills,
        idle_s: args.idle,
        restart_bytes: 1 << 30,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let table = runtime.block_on(figures::measure(&plan))?;
    if !args.dry {
        let commit = git(&args.repository, &["rev-parse", "--short=12", "HEAD"]);
        figures::write_into(&document, &table.markdown(&procfs::machine(), &commit))?;
        eprintln!("==> {} has the table", document.display());
    }
    table.figures.iter().for_each(|figure| println!("{}", figure.line()));
    Ok(())
}

fn git(repository: &std::path::Path, args: &[&str]) -> String {
    let answer = Command::new("git").arg("-C").arg(repository).args(args).output();
    let answer = answer.map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned());
    answer.ok().filter(|commit| !commit.is_empty()).unwrap_or_else(|| "unknown".into())
}
