//! The images of a document, turned to go through the proxy. Pure: text in,
//! text out.
//!
//! Every byte outside the changed values stays as it is: the document is
//! parsed only to learn where its images stand, and the text is edited there.
//! Rewriting what was rewritten changes nothing. A document with a mistake is
//! not rewritten at all; each mistake has its place.

mod edit;
mod find;
mod name;
mod tree;
mod turn;

use std::ops::Range;

use crate::registry::Through;

/// A replacement in the text of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The bytes that go.
    pub range: Range<usize>,
    /// What takes their place.
    pub text: String,
}

/// What became of a document.
#[derive(Debug)]
pub struct Rewritten {
    /// The new text.
    pub text: String,
    /// How it differs: in the order of the text, without overlaps.
    pub edits: Vec<Edit>,
    /// What was left as it is, and why, in the order of the text.
    pub notes: Vec<Remark>,
}

/// Something to say about a place in a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What there is to say.
    pub message: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// What happens to the `containerRegistry` beside a rewritten image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// It goes: the proxy holds the credential, and the connection's would be
    /// shown to the proxy in vain.
    Resolve,
    /// It stays.
    Keep,
}

/// Turns the images of `text`, one or more YAML or JSON documents.
///
/// # Errors
/// All mistakes, in the order of the text.
pub fn rewrite(text: &str, through: &Through, pairs: Pairs) -> Result<Rewritten, Vec<Remark>> {
    let tree = tree::Tree::parse(text).map_err(|error| vec![error])?;
    let found = find::images(&tree);
    turn::Turning::new(text, &tree, through, pairs).turn(found)
}

impl Remark {
    /// A remark about the byte `at` of `text`.
    fn at(text: &str, at: usize, message: impl Into<String>, fix: Option<String>) -> Remark {
        let before = text.get(..at).unwrap_or(text);
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Remark { line: before.matches('\n').count() + 1, column, message: message.into(), fix }
    }
}

#[cfg(test)]
mod tests;
