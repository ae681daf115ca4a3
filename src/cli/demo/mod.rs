//! `transship demo`: a tour that needs nothing but this program.

mod registry;
mod sample;
mod scratch;
