//! The log: structured events on standard error.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Mutex;

use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use super::plain::PlainError;
use super::trail::Trail;

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
    /// Where the audit trail goes besides, as JSON lines.
    pub audit: Option<PathBuf>,
    /// The proxy is not ready while that cannot be written.
    pub audit_required: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { level: "info".to_owned(), format: LogFormat::Text, audit: None, audit_required: false }
    }
}

/// Why there can be no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log level is none.
    #[error("`{level}` is no log level; use error, warn, info, debug or trace")]
    Level {
        /// What stands in its place.
        level: String,
    },
    /// The file of the audit trail cannot be written.
    #[error("the audit trail cannot be written to {path}: {cause}")]
    Audit {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
}

impl LogSettings {
    /// Whether the level can be understood, before anything is started.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self) -> Result<(), LogError> {
        self.filter().map(drop)
    }

    /// The level speaks of this program; what libraries say at debug and below
    /// may hold what was sent to them. The audit trail is no matter of level.
    fn filter(&self) -> Result<EnvFilter, LogError> {
        let level = self.level.clone();
        let directives = match LevelFilter::from_str(&level) {
            _ if level.contains('=') => level.clone(),
            Ok(_) if !level.is_empty() => format!("warn,transship={level}"),
            _ => return Err(LogError::Level { level }),
        };
        let directives = format!("{directives},{}=info", super::audit::TARGET);
        EnvFilter::try_new(directives).map_err(|_| LogError::Level { level })
    }

    /// The file of the audit trail: its owner's alone, and only ever added to.
    fn audit_file(&self) -> Result<Option<File>, LogError> {
        let Some(path) = &self.audit else { return Ok(None) };
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        opened.map(Some).map_err(|cause| LogError::Audit { path: path.clone(), cause })
    }
}

/// Starts logging; a second start in one process changes nothing.
///
/// # Errors
/// When the level cannot be understood, or the audit trail cannot be written.
pub fn start(settings: &LogSettings) -> Result<(), LogError> {
    let filter = settings.filter()?;
    let audit = settings.audit_file()?.map(|file| {
        let lines = fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
        let audits = filter_fn(|metadata| metadata.target() == super::audit::TARGET);
        lines.with_target(false).with_writer(Mutex::new(Trail::new(file))).with_filter(audits)
    });
    let coloured = settings.format == LogFormat::Text && io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(move || PlainError { coloured }).with_target(false);
    let started = match settings.format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            tracing_subscriber::registry().with(audit).with(lines.with_filter(filter)).try_init()
        }
        LogFormat::Text => {
            let lines = lines.with_ansi(coloured);
            tracing_subscriber::registry().with(audit).with(lines.with_filter(filter)).try_init()
        }
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
