//! An etcd that is a function of the journal: it holds no durable state of its own.
//!
//! What an entry says is [`command`]; what it means is [`mvcc`], which is pure; what it leaves behind
//! is kept by [`store`]. Commands get into the journal through [`proposal`]; [`applier`] follows the
//! tail, and makes visible, in this order, what can be read ([`view`]), what watchers are told
//! ([`watch`]), and what callers are answered. [`grpc`] and [`http`] translate, over [`http2`]; [`answers`]
//! bounds the memory of what they say; [`adapter`] owns the tasks and the sockets.
//!
//! Arrows go one way: `store → mvcc → command`, `watch → view → store`, `grpc → {proposal, watch}`.

pub mod adapter;
pub mod agreement;
pub mod answers;
pub mod applier;
pub mod auto_compaction;
pub mod boot;
pub mod command;
pub mod config;
pub mod env;
pub mod grpc;
pub mod http;
pub mod http2;
pub mod lease_clock;
pub mod meters;
pub mod mvcc;
pub mod proposal;
pub mod reads;
pub mod room;
pub mod store;
pub mod view;
pub mod watch;
