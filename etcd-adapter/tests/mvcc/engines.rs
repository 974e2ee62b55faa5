//! The two engines side by side.
