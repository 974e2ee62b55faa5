//! The differential oracle: the named cases of etcd's surface and drawn sequences, played against an
//! adapter and against etcd itself, with every answer compared.
//!
//! The program is in `tests-peers/oracle`. It runs etcd within itself, starts the adapters that it
//! needs, and prints what it takes to see a failure again.

// A test that cannot go on says why by failing.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use etcd_adapter::grpc::status::{ALL, Known};

/// The program, built if it is not there yet. Nothing, and the reason told, where that cannot be done.
fn oracle() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests-peers/oracle/build");
    let built = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    let path = String::from_utf8(built.stdout).unwrap().trim().to_owned();
    (!path.is_empty()).then(|| path.into())
}

/// Says that there is no result, and leaves a line in the file that `make test` counts by.
fn skipped(why: &str) {
    println!("    SKIPPED: {why}");
    if let Some(list) = std::env::var_os("SKIPPED_LIST") {
        let mut list = std::fs::OpenOptions::new().append(true).create(true).open(list).unwrap();
        writeln!(list, "{why}").unwrap();
    }
}

/// Clients compare the words, and act on the code.
#[test]
fn every_error_has_the_words_and_the_code_that_etcd_gives_it() {
    let Some(oracle) = oracle() else {
        skipped("there is no etcd to compare with");
        return;
    };
    let mut child = Command::new(oracle).arg("--texts").stdin(Stdio::piped()).spawn().unwrap();
    let mut texts = child.stdin.take().unwrap();
    for (name, Known(code, text)) in ALL {
        writeln!(texts, "{name}\t{}\t{text}", *code as i32).unwrap();
    }
    drop(texts);
    assert!(child.wait().unwrap().success());
}

/// `ORACLE_SEQUENCES` asks for more, and `ORACLE_SEED` for others.
#[test]
fn an_adapter_cannot_be_told_from_etcd() {
    let Some(oracle) = oracle() else {
        skipped("there is no etcd to compare with");
        return;
    };
    let asked = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let mut command = Command::new(oracle);
    command
        .args(["--adapter", env!("CARGO_BIN_EXE_etcd-adapter")])
        .args(["--cases", "--workers", "4", "--steps", "40"])
        .args(["--seed", &asked("ORACLE_SEED", "1"), "--sequences", &asked("ORACLE_SEQUENCES", "2000")]);
    assert!(command.status().unwrap().success(), "{command:?}");
}
