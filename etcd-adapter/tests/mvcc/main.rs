//! What `mvcc` and `store` promise, tried against a model that is too simple to be wrong, and against
//! each other: whatever the batching, the engine, the forgetting and the restarts.

#![allow(clippy::unwrap_used)]

mod agreement;
mod determinism;
mod engines;
mod generate;
mod golden;
mod held;
mod model;
mod producers;
mod replica;
