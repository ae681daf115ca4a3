//! Log lines without what could disturb whoever reads them.

use std::borrow::Cow;
use std::io::{self, Write};

use crate::printable;

const ESCAPE: char = '\u{1b}';

/// The line as it may be shown. Where it is `coloured`, the escape character
/// stays: that of a stranger has been replaced before, field by field.
pub(super) fn plain(line: &[u8], coloured: bool) -> Vec<u8> {
    let line = String::from_utf8_lossy(line);
    if coloured {
        let parts: Vec<Cow<'_, str>> = line.split(ESCAPE).map(printable::lines).collect();
        return parts.join("\u{1b}").into_bytes();
    }
    printable::lines(&line).into_owned().into_bytes()
}

/// Standard error, for lines that come as a whole.
pub(super) struct PlainError {
    pub(super) coloured: bool,
}

impl Write for PlainError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&plain(line, self.coloured))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_stay_where_they_are_ours_and_nothing_else_does() {
        let line = "\x1b[32m INFO\x1b[0m user\u{202e}nimda\r\n".as_bytes();
        assert_eq!(plain(line, true), b"\x1b[32m INFO\x1b[0m user\\u202enimda\\u000d\n");
        assert_eq!(plain(line, false), b"\\u001b[32m INFO\\u001b[0m user\\u202enimda\\u000d\n");
    }
}
