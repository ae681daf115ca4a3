//! The parts that tests are built from.

pub(crate) mod real;
