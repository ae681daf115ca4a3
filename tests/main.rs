//! Behaviour of the real binary, one module per promise.
//!
//! Everything here talks to a `transship` process over sockets; nothing
//! reaches into its memory. `support` holds the scripted upstream, the
//! process harness and the real parts (registry, Docker, containerd, podman).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

mod addresses;
mod cache_commands;
mod check;
mod closed_world;
mod content;
mod delivery;
mod demo;
mod disk;
mod fills;
mod framing;
mod leaks;
mod names;
mod permission;
mod ranges;
mod real_clients;
mod redirects;
mod reference_command;
mod restart;
mod rewrite;
mod segments;
mod surface;
mod upstream_auth;
