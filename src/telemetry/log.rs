//! The log: structured events on standard error.

use std::io::IsTerminal as _;
use std::str::FromStr as _;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::{EnvFilter, fmt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, fields at its top level.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A level, or directives as `transship::upstream=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The log level is none.
#[derive(Debug, thiserror::Error)]
#[error("`{level}` is no log level; use error, warn, info, debug or trace")]
pub struct InvalidLevel {
    level: String,
}

impl LogSettings {
    /// Whether the level can be understood, before anything is started.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self) -> Result<(), InvalidLevel> {
        self.filter().map(drop)
    }

    /// The level speaks of this program; what libraries say at debug and below
    /// may hold what was sent to them. The audit's lines are written at any.
    fn filter(&self) -> Result<EnvFilter, InvalidLevel> {
        let level = self.level.clone();
        let directives = match LevelFilter::from_str(&level) {
            _ if level.contains('=') => level.clone(),
            Ok(_) if !level.is_empty() => format!("warn,audit=info,transship={level}"),
            _ => return Err(InvalidLevel { level }),
        };
        EnvFilter::try_new(directives).map_err(|_| InvalidLevel { level })
    }
}

/// Starts logging; a second start in one process changes nothing.
///
/// # Errors
/// When the level cannot be understood.
pub fn start(settings: &LogSettings) -> Result<(), InvalidLevel> {
    let filter = settings.filter()?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    // The one in force stays.
    drop(started);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_understood_and_nothing_else() {
        let settings = |level: &str| LogSettings { level: level.to_owned(), ..LogSettings::default() };
        for level in
            ["error", "warn", "info", "debug", "trace", "off", "transship::upstream=debug", "warn,transship=trace"]
        {
            assert!(settings(level).check().is_ok(), "{level}");
        }
        for level in ["", "loud", "info,debug", "transship=loud", "info transship"] {
            assert!(settings(level).check().is_err(), "{level}");
        }
    }
}
