//! The parts that tests are built from.
