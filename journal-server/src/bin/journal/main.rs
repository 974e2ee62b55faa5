//! `journal`: what an operator says to a cluster, and what the cluster answers.
//!
//! One file a command. Text goes to standard output, progress and complaints to standard error; the
//! exit codes of [`exit`] are for scripts.

mod append;
mod bench;
mod confirm;
mod connect;
mod data_dir;
mod dump;
mod exit;
mod format;
mod journals;
mod members;
mod repair;
mod status;
mod tail;
mod term;
mod top;
mod transfer;
mod trim;
mod verify;
mod view;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use connect::Connection;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(
    name = "journal",
    version,
    about = "Runs, watches, grows, repairs and measures a journal cluster",
    after_help = exit::HELP,
    after_long_help = exit::HELP,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Members, leaders, lag, disks and sync times at a glance
    Status(status::Args),
    /// The same, live
    Top(top::Args),

    /// Create a journal
    Create(journals::Create),
    /// Delete a journal and everything in it
    Delete(journals::Delete),
    /// List the journals
    List(journals::List),
    /// Show or set how much disk a journal may take
    Quota(journals::Quota),

    /// Who belongs to the cluster
    #[command(subcommand)]
    Members(members::Command),
    /// Move the leadership of one journal, or all that a node has
    TransferLeader(transfer::Args),

    /// Append entries: arguments, lines of standard input, or a file
    Append(append::Args),
    /// Read entries
    Tail(tail::Args),
    /// Give up the entries below a position
    Trim(trim::Args),

    /// Check a stopped node's data directory for damage
    Verify(verify::Args),
    /// Show the frames of a data directory, a log or a segment
    Dump(dump::Args),
    /// Give up, on a stopped node, what no peer can give back
    Repair(repair::Args),

    /// Measure disk, network and journal on this machine
    Bench(bench::Args),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  journal completions bash > /etc/bash_completion.d/journal")]
    Completions { shell: clap_complete::Shell },
    #[command(name = bench::PING_SERVER, hide = true)]
    PingServer,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let hint = cli.connection.hint();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run(cli));
            // A read of the terminal or a slow name lookup must not keep a finished command.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(error.into()),
    };
    exit::code(done, hint)
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let connection = &cli.connection;
    match cli.command {
        Command::Status(args) => status::run(connection, args).await,
        Command::Top(args) => top::run(connection, args).await,
        Command::Create(args) => journals::create(connection, args).await,
        Command::Delete(args) => journals::delete(connection, args).await,
        Command::List(args) => journals::list(connection, args).await,
        Command::Quota(args) => journals::quota(connection, args).await,
        Command::Members(command) => members::run(connection, command).await,
        Command::TransferLeader(args) => transfer::run(connection, args).await,
        Command::Append(args) => append::run(connection, args).await,
        Command::Tail(args) => tail::run(connection, args).await,
        Command::Trim(args) => trim::run(connection, args).await,
        Command::Verify(args) => verify::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Repair(args) => repair::run(args),
        Command::Bench(args) => bench::run(connection, args).await,
        Command::PingServer => bench::serve_pings().await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "journal", &mut std::io::stdout());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                assert!(sub.get_about().is_some(), "{} says nothing", sub.get_name());
                walk(sub);
            }
        }
        walk(&Cli::command());
    }
}
