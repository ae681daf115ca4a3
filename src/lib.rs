//! transship: a pull-through proxy that holds the registry credentials.
//!
//! The modules, in the order a pull meets them; each knows only those below.
//! `cli`, `config`, the sealed `store`, `telemetry` and the wiring in `proxy`
//! stand beside the way of a pull, and so does `rewrite`, which turns the images
//! of documents.

// Commands write through `cli::terminal`, the log through `telemetry`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
pub mod config;
pub mod proxy;
pub mod store;
pub mod telemetry;

pub mod admin;
pub mod server;

pub mod api;

pub mod pull;

pub mod access;
pub mod cache;
pub mod upstream;

pub mod rewrite;

pub mod registry;

pub mod oci;

pub mod kernel;

pub mod nearest;
pub mod printable;
