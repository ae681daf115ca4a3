//! What the measurements are made of: test data, a sample upstream, the
//! servers, the clients, the network they meet in, and the figures that come
//! out. Each program uses its part of it.

pub(crate) mod configs;
pub(crate) mod data;
pub(crate) mod encrypted;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod meter;
pub(crate) mod netns;
pub(crate) mod others;
pub(crate) mod process;
pub(crate) mod pull;
pub(crate) mod requests;
pub(crate) mod servers;
pub(crate) mod stats;
pub(crate) mod tls;
pub(crate) mod upstream;
