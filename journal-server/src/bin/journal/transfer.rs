//! `journal transfer-leader`: moves leaderships, without a gap that anybody notices.

use anyhow::Context;
use clap::ArgGroup;
use journal_client::Error;
use proto::JournalId;

use crate::connect::Connection;
use crate::exit::Usage;
use crate::members::find;
use crate::view::View;

#[derive(clap::Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["journal", "from"]),
    after_help = "\
Before a node is stopped by hand, move everything away from it (SIGTERM does this by itself).

Examples:
  journal transfer-leader audit --to n2
  journal transfer-leader audit             # to the healthiest
  journal transfer-leader system            # the catalogue's
  journal transfer-leader --from n1         # everything that n1 leads"
)]
pub struct Args {
    /// The journal, or `system`
    journal: Option<String>,
    /// All leaderships that this node holds
    #[arg(long, value_name = "NODE")]
    from: Option<String>,
    /// The new leader; nothing: the healthiest
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
}

pub async fn run(connection: &Connection, args: Args) -> anyhow::Result<()> {
    let admin = connection.admin()?;
    let to = match &args.to {
        Some(to) => Some(find(&admin, to).await?),
        None => None,
    };
    let view = View::take(&admin).await?;
    let address_of = |called: &str| {
        let node = view.node(called).ok_or_else(|| Usage(format!("no node is called `{called}`")))?;
        anyhow::Ok(node.address.clone())
    };
    let moved = match (&args.from, &args.journal) {
        (Some(from), _) => admin.transfer_all_leaders(&address_of(from)?, to).await,
        (None, Some(name)) => {
            let journal = view.journals.iter().find(|journal| journal.name == *name);
            let journal = journal.with_context(|| format!("there is no journal called {name}"))?;
            admin.transfer_leader(JournalId(journal.id), to).await
        }
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let moved = moved.map_err(|error| match error {
        Error::Unconfirmed(_) => anyhow::Error::new(error).context("`journal status` shows who leads"),
        error => error.into(),
    })?;
    if moved.is_empty() {
        println!("nothing had to be moved");
    }
    moved.iter().for_each(|moved| println!("{moved}"));
    Ok(())
}
