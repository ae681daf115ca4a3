//! transship: a pull-through proxy that holds the registry credentials.
//!
//! The modules, in the order a pull meets them. Each knows only those below.

pub mod server;

pub mod api;

pub mod pull;

pub mod access;
pub mod cache;
pub mod upstream;

pub mod registry;

pub mod oci;

pub mod kernel;
