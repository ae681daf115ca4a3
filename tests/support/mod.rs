//! The parts that tests are built from.

pub(crate) mod black_hole;
pub(crate) mod digest;
pub(crate) mod forward_proxy;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod provider;
pub(crate) mod proxy;
pub(crate) mod real;
pub(crate) mod upstream;
