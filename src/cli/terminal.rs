//! What commands write: every line goes through here, so that no text of a
//! stranger reaches a terminal as it came.

use std::fmt::Arguments;
use std::io::Write;

use crate::printable;

/// Writes a line of the command's answer.
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::terminal::answer(format_args!($($text)*)) };
}

/// Writes a line about the command itself: notes and errors.
macro_rules! errln {
    ($($text:tt)*) => { $crate::cli::terminal::remark(format_args!($($text)*)) };
}

pub(crate) use {errln, outln};

/// A line on standard output. Whoever reads it may go away in the middle: that
/// is the end of the output, not a failure of the command.
pub(super) fn answer(text: Arguments<'_>) {
    write(std::io::stdout().lock(), text);
}

/// A line on standard error.
pub(super) fn remark(text: Arguments<'_>) {
    write(std::io::stderr().lock(), text);
}

/// A question on standard error; the answer follows in the same line.
pub(super) fn prompt(text: &str) {
    let mut to = std::io::stderr().lock();
    let _ = write!(to, "{}", printable::one_line(text)).and_then(|()| to.flush());
}

fn write(mut to: impl Write, text: Arguments<'_>) {
    let text = text.to_string();
    let _ = writeln!(to, "{}", printable::lines(&text)).and_then(|()| to.flush());
}

/// Errors are drawn without colours: they quote what others wrote, and colours
/// are commands to the terminal like any other.
pub(super) fn draw_errors_plainly() {
    // A hook that is there already stays.
    let _ = miette::set_hook(Box::new(|_| Box::new(miette::MietteHandlerOpts::new().color(false).build())));
}
