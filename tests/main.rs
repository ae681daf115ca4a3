//! Behaviour of the real binary, one module per promise.
//!
//! Everything here talks to a `transship` process over sockets; nothing
//! reaches into its memory. `support` holds the scripted upstream, the
//! process harness and the real parts (registry, Docker, containerd, podman).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod administration;
mod support;

mod addresses;
mod behind_a_proxy;
mod boundaries;
mod cache_commands;
mod cases;
mod check;
mod client_command;
mod clients;
mod closed_world;
mod content;
mod crash;
mod credentials;
mod delivery;
mod demo;
mod disk;
mod failing_reads;
mod fills;
mod framing;
mod freshness;
mod http2_abuse;
mod leaks;
mod login;
mod mirror;
mod names;
mod odd_answers;
mod outage;
mod outbound;
mod permission;
mod providers;
mod ranges;
mod rate_limits;
mod real_clients;
mod redirects;
mod reference_command;
mod registries;
mod registry_command;
mod restart;
mod rewrite;
mod room;
mod segments;
mod several_ranges;
mod surface;
mod trouble;
mod upstream_auth;
