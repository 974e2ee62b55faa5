//! The question before something that cannot be taken back.

use std::io::{IsTerminal, Write};

use anyhow::bail;

use crate::exit::Usage;

/// Says what is about to happen, and goes on only if its name is typed. Where nobody is there to ask, --yes
/// must have been said instead.
pub fn confirm(what: &str, name: &str, to_do: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Usage(format!("say --yes to {to_do} without being asked")).into());
    }
    eprint!("{what} Type `{name}` to go on: ");
    std::io::stderr().flush()?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed)?;
    if typed.trim() != name {
        bail!("nothing was changed");
    }
    Ok(())
}
