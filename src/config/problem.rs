//! What is wrong with a configuration: each mistake with its place and its fix.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, MietteHandlerOpts, ReportHandler as _, SourceCode};

use super::excerpt::Excerpt;
use super::mask::mask;
pub(super) use crate::nearest::nearest;
use crate::printable::one_line;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Bytes of the file.
    Span(Range<usize>),
    /// Bytes of the file that hold a secret, or might: named by line and
    /// column, never shown.
    Hidden(Range<usize>),
    /// An environment variable.
    Variable(String),
    /// Nowhere in particular.
    Nowhere,
}

impl Place {
    /// The same place, not to be shown.
    pub(super) fn hidden(self) -> Place {
        match self {
            Place::Span(span) => Place::Hidden(span),
            other => other,
        }
    }
}

/// One mistake.
#[derive(Debug)]
pub struct Problem {
    message: String,
    help: Option<String>,
    place: Place,
    at: Option<At>,
    excerpt: Option<Excerpt>,
    stored: bool,
}

/// A point of the file, counted from 1.
#[derive(Debug)]
struct At {
    file: Arc<str>,
    line: usize,
    column: usize,
}

impl Problem {
    /// Line and column of the mistake, counted from 1, if it is in the file.
    pub fn line_and_column(&self) -> Option<(usize, usize)> {
        self.at.as_ref().map(|at| (at.line, at.column))
    }

    /// What is wrong, without its place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn fix(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// What comes first in the file is told first; then what is not in it.
    fn order(&self) -> (usize, usize) {
        self.line_and_column().unwrap_or((usize::MAX, 0))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(At { file, line, column }) = &self.at {
            write!(f, "{file}:{line}:{column}: ")?;
        } else if let Place::Variable(name) = &self.place {
            write!(f, "environment variable {name}: ")?;
        } else if self.stored {
            f.write_str("the store: ")?;
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
        self.excerpt.as_ref().map(|excerpt| excerpt as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let mark = self.excerpt.as_ref()?.mark();
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(None, mark))))
    }
}

/// All mistakes of a configuration, in the order of the file; what is in no
/// file comes last.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("the configuration has {}", count(.problems.len()))]
pub struct ConfigErrors {
    /// The mistakes; never empty.
    #[related]
    pub problems: Vec<Problem>,
}

impl ConfigErrors {
    /// The mistakes one below the other, for a terminal: the first line of
    /// each begins with file, line and column, and is never broken.
    pub fn render(&self) -> String {
        let handler = MietteHandlerOpts::new().wrap_lines(false).context_lines(0).build();
        let mut text = String::new();
        for problem in &self.problems {
            text.push_str(format!("{:?}", Rendered(&handler, problem)).trim_end());
            text.push_str("\n\n");
        }
        text.push_str(&self.to_string());
        text
    }
}

/// Drawing is offered for a formatter only.
struct Rendered<'a>(&'a miette::MietteHandler, &'a Problem);

impl fmt::Debug for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.debug(self.1, f)
    }
}

fn count(problems: usize) -> String {
    if problems == 1 { "a mistake".to_owned() } else { format!("{problems} mistakes") }
}

/// Collects mistakes, so that all of them are told at once.
pub(super) struct Problems {
    file: Option<(Arc<str>, Arc<str>)>,
    found: RefCell<Vec<Problem>>,
    stored: bool,
}

impl Problems {
    /// For the text of the file `name`; `None` when there is no file.
    pub(super) fn of(file: Option<(&str, &Arc<str>)>) -> Problems {
        Problems {
            file: file.map(|(name, text)| (name.into(), Arc::clone(text))),
            found: RefCell::default(),
            stored: false,
        }
    }

    /// For what the store holds.
    pub(super) fn of_the_store() -> Problems {
        Problems { file: None, found: RefCell::default(), stored: true }
    }

    /// Both together; those of `self` are told first.
    pub(super) fn and(self, other: Problems) -> Problems {
        self.found.borrow_mut().append(&mut other.found.into_inner());
        self
    }

    /// Notes a mistake.
    pub(super) fn add(&self, place: &Place, message: impl Into<String>, help: impl Into<Option<String>>) {
        let text = self.file.as_ref().map_or("", |(_, text)| text);
        let at = self.file.as_ref().and_then(|(file, _)| {
            let (Place::Span(span) | Place::Hidden(span)) = place else { return None };
            let before = text.get(..span.start)?;
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Some(At { file: Arc::clone(file), line, column })
        });
        let excerpt = match (place, &at) {
            (Place::Span(span), Some(at)) => Excerpt::of(text, span, at.line),
            _ => None,
        };
        let help = help.into().map(|help| one_line(&mask(&help)).into_owned());
        let problem = Problem {
            message: one_line(&mask(&message.into())).into_owned(),
            help,
            place: place.clone(),
            at,
            excerpt,
            stored: self.stored,
        };
        let mut found = self.found.borrow_mut();
        // A key that is looked at twice is wrong once.
        if !found.iter().any(|earlier| earlier.place == problem.place && earlier.message == problem.message) {
            found.push(problem);
        }
    }

    /// `value`, if nothing was wrong. A value is absent only where something
    /// was; should nobody have said what, the caller still learns of it.
    pub(super) fn settle<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        if value.is_none() && self.found.borrow().is_empty() {
            self.add(&Place::Nowhere, "the configuration is incomplete", None);
        }
        let mut problems = self.found.into_inner();
        problems.sort_by_key(Problem::order);
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ConfigErrors { problems }),
        }
    }
}
