//! The parts that tests are built from.

pub mod real;
