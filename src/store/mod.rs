//! The store: what an operator added at run time, with its secrets, in one
//! sealed file.
//!
//! * `contents`: what is in it
//! * `key`: what it is sealed with
//! * `seal`: contents ↔ sealed bytes
//! * `seen`: the note of which one was seen last
//! * `file`: the file, its lock and its modes
//!
//! The file is replaced as a whole, so it is the old one or the new one
//! whenever the process is killed. Nothing is made before something is stored,
//! and a file that cannot be opened is left as it is. What is stored is written
//! as configuration is: reading, checking and joining it with the
//! configuration file is `config`'s.

mod contents;
mod file;
mod key;
mod seal;
mod seen;

pub use contents::{Contents, Section, SectionKind, StoredSecret};
pub use file::{Store, StoreError};
pub use key::{KeySource, Keys, StoreSettings};
pub use seal::Broken;

#[cfg(test)]
mod tests;
