//! How a command ends: what is said, and the code that a script sees.

use std::io;
use std::process::ExitCode;

use journal_client::{AppendError, Error, TailError};

/// Shown under the help of the whole program.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  refused or failed; nothing was changed, unless the message says otherwise. Of `verify`: damage was found
  2  the command line is wrong
  3  no node answers
  4  the outcome is unknown: look before you repeat it

Examples:
  export JOURNAL_ENDPOINTS=10.0.0.1:7400,10.0.0.2:7400,10.0.0.3:7400
  journal status
  journal create audit --quota 10GiB
  journal append audit 'user 7 logged in'
  journal tail audit --follow";

const NO_ANSWER: u8 = 3;

/// Damage was found; what and where has been said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Damage(pub String);

/// The command line asks for something that makes no sense, as only a look at the cluster could tell.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Says what went wrong, if anything did; and `hint`, if it was that nobody answered.
pub fn code(done: anyhow::Result<()>, hint: Option<&str>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    if is_closed_pipe(&error) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    let number = number(&error);
    eprintln!("journal: {error:#}");
    if let Some(hint) = hint.filter(|_| number == NO_ANSWER) {
        eprintln!("journal: {hint}");
    }
    ExitCode::from(number)
}

fn number(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Damage>() {
            return 1;
        }
        if cause.is::<Usage>() {
            return 2;
        }
        if let Some(AppendError::Unknown(_)) = cause.downcast_ref() {
            return 4;
        }
        match cause.downcast_ref() {
            Some(Error::Unavailable(_)) => return NO_ANSWER,
            Some(Error::Unconfirmed(_)) => return 4,
            _ => {}
        }
        if let Some(TailError::Failed(Error::Unavailable(_))) = cause.downcast_ref() {
            return NO_ANSWER;
        }
    }
    1
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use journal_client::{Reason, Refusal};

    #[test]
    fn scripts_can_tell_the_ends_apart() {
        let unavailable = Err::<(), _>(Error::Unavailable("all down".into())).context("cannot list").unwrap_err();
        let unknown = anyhow::Error::from(AppendError::Unknown("cut off".into())).context("line 7");
        assert_eq!(number(&unavailable), 3);
        assert_eq!(number(&unknown), 4);
        let unconfirmed = anyhow::Error::from(Error::Unconfirmed("no answer in 10s".into())).context("look first");
        assert_eq!(number(&unconfirmed), 4);
        let refused = Error::Refused(Refusal::new(Reason::Invalid, "that node is no member"));
        assert_eq!(number(&refused.into()), 1);
        assert_eq!(number(&Damage("2 frames".into()).into()), 1);
        assert_eq!(number(&Usage("no such node".into()).into()), 2);
        assert_eq!(number(&anyhow::anyhow!("anything else")), 1);
    }
}
