//! Messages that no correct node sends, read as if a node had sent them.

use journal_server::raft::inspect;

use super::bytecode::Bytecode;

/// Reads the rest of `data` as the message that its first byte says.
pub fn read(data: &[u8]) {
    let mut code = Bytecode(data);
    let kind = code.byte();
    let _ = inspect(kind, code.0);
}
