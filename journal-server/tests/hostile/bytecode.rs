//! Inputs read as instructions, so that whatever a fuzzer draws means something.

/// Bytes as instructions; behind their end there are zeros.
pub struct Bytecode<'a>(pub &'a [u8]);

impl Bytecode<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn number(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.byte()))
    }
}
