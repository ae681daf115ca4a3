//! Reading one table of the file: every key is asked for by name, every
//! mistake is noted with its place, and what nobody asked for is a mistake.

use std::cell::RefCell;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problems, nearest};

/// Environment variables, as far as they concern the configuration.
pub(super) type Environment = BTreeMap<String, String>;

/// Begins as if it were a key of `[admin]`, and is for the commands that talk
/// to the admin listener.
const NO_KEY: &str = "TRANSSHIP_ADMIN_URL";

/// One table, with the environment variables that override its keys.
pub(super) struct Section<'a> {
    /// As it is called in messages: `[server]`, `[[registry]]`.
    pub(super) title: String,
    table: Option<&'a DeTable<'a>>,
    /// Where the table stands.
    pub(super) place: Place,
    /// `TRANSSHIP_SERVER_`: variables that begin so override keys.
    prefix: Option<String>,
    environment: &'a Environment,
    pub(super) problems: &'a Problems,
    known: RefCell<Vec<&'static str>>,
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        title: impl Into<String>,
        table: Option<&'a Spanned<DeValue<'a>>>,
        environment: &'a Environment,
        problems: &'a Problems,
    ) -> Section<'a> {
        let title = title.into();
        let place = table.map_or(Place::Nowhere, |table| Place::Span(table.span()));
        let inner = table.and_then(|value| value.get_ref().as_table());
        if table.is_some() && inner.is_none() {
            problems.add(&place, format!("{title} has to be a table"), None);
        }
        Section { title, table: inner, place, prefix: None, environment, problems, known: RefCell::default() }
    }

    /// Lets `TRANSSHIP_<NAME>_<KEY>` override keys.
    pub(super) fn overridden_by(mut self, name: &str) -> Section<'a> {
        self.prefix = Some(format!("TRANSSHIP_{}_", name.to_ascii_uppercase()));
        self
    }

    fn raw(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        self.table?.get(key)
    }

    fn variable(&self, key: &str) -> Option<Found<String>> {
        let name = format!("{}{}", self.prefix.as_ref()?, key.to_ascii_uppercase());
        let value = self.environment.get(&name)?.clone();
        Some(Found { value, place: Place::Variable(name) })
    }

    /// The text of a string or number.
    pub(super) fn text(&self, key: &'static str) -> Option<Found<String>> {
        let raw = self.raw(key);
        if let Some(overridden) = self.variable(key) {
            return Some(overridden);
        }
        let raw = raw?;
        let place = Place::Span(raw.span());
        match raw.get_ref() {
            DeValue::String(text) => Some(Found { value: text.to_string(), place }),
            DeValue::Integer(number) => {
                let decimal = u64::from_str_radix(number.as_str(), number.radix()).map(|value| value.to_string());
                Some(Found { value: decimal.unwrap_or_else(|_| number.to_string()), place })
            }
            other => {
                self.problems.add(&place, format!("`{key}` has to be text, not {}", article(other)), None);
                None
            }
        }
    }

    /// A text read by `parse`.
    pub(super) fn read<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.parsed(key, |place| place, parse)
    }

    /// A text read by `parse` that is never shown: what stands there by
    /// mistake may be a secret.
    pub(super) fn read_hidden<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.parsed(key, Place::hidden, parse)
    }

    fn parsed<T>(
        &self,
        key: &'static str,
        shown: impl Fn(Place) -> Place,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let found = self.text(key)?;
        match parse(&found.value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.add(&shown(found.place), format!("`{key}`: {error}"), None);
                None
            }
        }
    }

    /// Whether the file says anything about `key`.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.raw(key).is_some()
    }

    /// A list of texts, or a single one; `parse` reads each.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<Found<T>>> {
        let raw = self.raw(key);
        let mut items: Vec<Found<String>> = Vec::new();
        if let Some(Found { value, place }) = self.variable(key) {
            items.extend(value.split(',').map(|item| Found { value: item.trim().to_owned(), place: place.clone() }));
        } else {
            let raw = raw?;
            let one = std::slice::from_ref(raw);
            let all: Vec<&Spanned<DeValue<'_>>> = match raw.get_ref() {
                DeValue::Array(array) => array.iter().collect(),
                _ => one.iter().collect(),
            };
            for item in all {
                let place = Place::Span(item.span());
                match item.get_ref().as_str() {
                    Some(text) => items.push(Found { value: text.to_owned(), place }),
                    None => self.problems.add(&place, format!("`{key}` has to be text or a list of texts"), None),
                }
            }
        }
        let mut read = Vec::new();
        for Found { value, place } in items {
            match parse(&value) {
                Ok(value) => read.push(Found { value, place }),
                Err(error) => self.problems.add(&place, format!("`{key}`: {error}"), None),
            }
        }
        Some(read)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> Option<Found<bool>> {
        let raw = self.raw(key);
        if let Some(Found { value, place }) = self.variable(key) {
            return match value.as_str() {
                "true" | "1" => Some(Found { value: true, place }),
                "false" | "0" => Some(Found { value: false, place }),
                _ => {
                    self.problems.add(&place, format!("`{key}` has to be true or false"), None);
                    None
                }
            };
        }
        let raw = raw?;
        let place = Place::Span(raw.span());
        match raw.get_ref().as_bool() {
            Some(value) => Some(Found { value, place }),
            None => {
                self.problems.add(
                    &place,
                    format!("`{key}` has to be true or false, not {}", article(raw.get_ref())),
                    None,
                );
                None
            }
        }
    }

    /// A value of any type.
    pub(super) fn value(&self, key: &'static str) -> Option<Found<&'a DeValue<'a>>> {
        let raw = self.raw(key)?;
        Some(Found { value: raw.get_ref(), place: Place::Span(raw.span()) })
    }

    /// A table below this one.
    pub(super) fn table(&self, key: &'static str, title: &str) -> Option<Section<'a>> {
        let raw = self.raw(key)?;
        Some(Section::new(title, Some(raw), self.environment, self.problems))
    }

    /// The tables of `[[key]]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(raw) = self.raw(key) else { return Vec::new() };
        let Some(array) = raw.get_ref().as_array() else {
            let place = Place::Span(raw.span());
            self.problems.add(
                &place,
                format!("write each {key} as a table of its own"),
                format!("begin it with `[[{key}]]`"),
            );
            return Vec::new();
        };
        array
            .iter()
            .map(|item| Section::new(format!("[[{key}]]"), Some(item), self.environment, self.problems))
            .collect()
    }

    /// Where `key` stands, or the table if it is not there.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.table
            .and_then(|table| table.get(key))
            .map_or_else(|| self.place.clone(), |value| Place::Span(value.span()))
    }

    /// Declares keys as known that are read elsewhere.
    pub(super) fn also_knows(&self, keys: impl IntoIterator<Item = &'static str>) {
        self.known.borrow_mut().extend(keys);
    }

    /// Notes every key and variable that nobody asked for. `explain` may say
    /// more about one.
    pub(super) fn finish(self, explain: impl Fn(&str) -> Option<String>) {
        let known = self.known.borrow();
        let help = |key: &str| {
            explain(key)
                .or_else(|| nearest(key, known.iter().copied()).map(|near| format!("did you mean `{near}`?")))
                .unwrap_or_else(|| {
                    let mut all: Vec<&str> = known.clone();
                    all.sort_unstable();
                    all.dedup();
                    format!("known here: {}", all.join(", "))
                })
        };
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                self.problems.add(&Place::Span(key.span()), format!("{} has no key `{name}`", self.title), help(name));
            }
        }
        if let Some(prefix) = &self.prefix {
            for name in self.environment.keys().filter(|name| *name != NO_KEY) {
                let Some(key) = name.strip_prefix(prefix.as_str()).map(str::to_ascii_lowercase) else { continue };
                if !known.contains(&key.as_str()) {
                    let place = Place::Variable(name.clone());
                    self.problems.add(&place, format!("{} has no key `{key}`", self.title), help(&key));
                }
            }
        }
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
