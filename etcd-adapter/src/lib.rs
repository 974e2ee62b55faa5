//! An etcd that is a function of the journal: it holds no durable state of its own.
//!
//! What an entry says is [`command`]; what it means is [`mvcc`], which is pure; what it leaves behind
//! is kept by [`store`]. Arrows go one way: `store → mvcc → command`.

pub mod command;
pub mod mvcc;
pub mod store;
