//! `chaos`: clusters on this machine, for a first look, for tests and for measurements.

mod commands;
mod interpose;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "chaos", version, about = "Clusters on this machine: to try, to test, to measure")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster and keep it until Ctrl-C.
    Cluster(commands::cluster::Args),
    /// Measure everything that has a target, and write the table.
    Figures(commands::figures::Args),
    /// Load an etcd endpoint, or two in turn, and tell what came of it.
    Load(commands::load::Args),
    /// Simulate whole clusters under faults, by seed.
    Sim(commands::sim::Args),
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Cluster(args) => commands::cluster::run(args),
        Command::Figures(args) => commands::figures::run(args),
        Command::Load(args) => commands::load::run(args),
        Command::Sim(args) => commands::sim::run(args),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
