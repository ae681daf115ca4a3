//! What is wrong with a configuration: each mistake with its place and its fix.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Bytes of the file.
    Span(Range<usize>),
    /// Bytes of the file that hold a secret: named by line and column, never
    /// shown.
    Hidden(Range<usize>),
    /// An environment variable.
    Variable(String),
    /// Nowhere in particular.
    Nowhere,
}

/// One mistake.
#[derive(Debug)]
pub struct Problem {
    message: String,
    help: Option<String>,
    place: Place,
    source: Option<NamedSource<Arc<str>>>,
}

impl Problem {
    /// Line and column of the mistake, counted from 1, if it is in the file.
    pub fn line_and_column(&self) -> Option<(usize, usize)> {
        let (Place::Span(span) | Place::Hidden(span)) = &self.place else { return None };
        let before = self.source.as_ref()?.inner().get(..span.start)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Some((line, column))
    }

    /// What to do about it.
    pub fn fix(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(source), Some((line, column))) = (&self.source, self.line_and_column()) {
            write!(f, "{}:{line}:{column}: ", source.name())?;
        } else if let Place::Variable(name) = &self.place {
            write!(f, "environment variable {name}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match self.place {
            Place::Span(_) => self.source.as_ref().map(|source| source as &dyn SourceCode),
            _ => None,
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Place::Span(span) = &self.place else { return None };
        Some(Box::new(std::iter::once(LabeledSpan::at(span.clone(), "here"))))
    }
}

/// All mistakes of a configuration, in the order they were found.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("the configuration has {}", count(.problems.len()))]
pub struct ConfigErrors {
    /// The mistakes; never empty.
    #[related]
    pub problems: Vec<Problem>,
}

fn count(problems: usize) -> String {
    if problems == 1 { "a mistake".to_owned() } else { format!("{problems} mistakes") }
}

/// Collects mistakes, so that all of them are told at once.
pub(super) struct Problems {
    source: Option<NamedSource<Arc<str>>>,
    found: RefCell<Vec<Problem>>,
}

impl Problems {
    /// For the text of the file `name`; `None` when there is no file.
    pub(super) fn of(file: Option<(&str, &Arc<str>)>) -> Problems {
        let source = file.map(|(name, text)| NamedSource::new(name, Arc::clone(text)));
        Problems { source, found: RefCell::default() }
    }

    /// Notes a mistake.
    pub(super) fn add(&self, place: &Place, message: impl Into<String>, help: impl Into<Option<String>>) {
        self.found.borrow_mut().push(Problem {
            message: message.into(),
            help: help.into(),
            place: place.clone(),
            source: self.source.clone(),
        });
    }

    /// `value`, if nothing was wrong.
    pub(super) fn settle<T>(self, value: T) -> Result<T, ConfigErrors> {
        let problems = self.found.into_inner();
        if problems.is_empty() { Ok(value) } else { Err(ConfigErrors { problems }) }
    }
}

/// The known word nearest to `word`, if one is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, best) = known.into_iter().map(|candidate| (edits(word, candidate), candidate)).min()?;
    (distance <= 1 + word.len() / 4).then_some(best)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (cell, y) in row.iter().skip(1).zip(b.chars()) {
            left = (left + 1).min(cell + 1).min(diagonal + usize::from(x != y));
            diagonal = *cell;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_word_that_was_meant() {
        let known = ["listen", "public_url", "username"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("user_name", known), Some("username"));
        assert_eq!(nearest("quota", known), None);
        assert_eq!((edits("kitten", "sitting"), edits("", "abc"), edits("abc", "abc")), (3, 3, 0));
    }
}
