//! A unified diff of what was edited. The edits are known, so nothing has to
//! be compared.

use std::fmt;
use std::ops::Range;

use crate::rewrite::Edit;

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// A diff, to be shown; empty when nothing was edited.
pub(super) struct Diff<'a> {
    pub(super) name: &'a str,
    pub(super) old: &'a str,
    /// In the order of the text.
    pub(super) edits: &'a [Edit],
    pub(super) coloured: bool,
}

/// Lines that are replaced by others.
#[derive(Debug)]
struct Change {
    old: Range<usize>,
    new: Vec<String>,
}

impl Diff<'_> {
    /// What changes, line by line.
    fn changes(&self, lines: &[&str]) -> Vec<Change> {
        let mut starts = Vec::with_capacity(lines.len());
        let mut at = 0;
        for line in lines {
            starts.push(at);
            at += line.len();
        }
        let line_of = |byte: usize| starts.partition_point(|start| *start <= byte).saturating_sub(1);
        let start_of = |line: usize| starts.get(line).copied().unwrap_or(self.old.len());
        let mut changes = Vec::new();
        let mut edits = self.edits.iter().peekable();
        while let Some(first) = edits.next() {
            let last_line = |edit: &Edit| line_of(edit.range.end.saturating_sub(1).max(edit.range.start)) + 1;
            let (begin, mut end) = (line_of(first.range.start), last_line(first));
            let (mut new, mut at) = (String::new(), start_of(begin));
            let mut put = |edit: &Edit| {
                new.push_str(self.old.get(at..edit.range.start).unwrap_or_default());
                new.push_str(&edit.text);
                at = edit.range.end;
            };
            put(first);
            // Neighbours too: first all that goes, then all that comes.
            while let Some(edit) = edits.next_if(|edit| line_of(edit.range.start) <= end) {
                put(edit);
                end = end.max(last_line(edit));
            }
            new.push_str(self.old.get(at..start_of(end)).unwrap_or_default());
            let mut new: Vec<String> = new.split_inclusive('\n').map(str::to_owned).collect();
            let mut old = begin..end;
            // Lines at the border that stay as they are.
            while new.first().is_some_and(|line| lines.get(old.start) == Some(&line.as_str())) && !old.is_empty() {
                new.remove(0);
                old.start += 1;
            }
            while new.last().is_some_and(|line| lines.get(old.end - 1) == Some(&line.as_str())) && !old.is_empty() {
                new.pop();
                old.end -= 1;
            }
            changes.push(Change { old, new });
        }
        changes
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, sign: char, line: &str) -> fmt::Result {
        let (colour, reset) = match (self.coloured, sign) {
            (true, '-') => ("\x1b[31m", "\x1b[0m"),
            (true, '+') => ("\x1b[32m", "\x1b[0m"),
            (true, '@') => ("\x1b[36m", "\x1b[0m"),
            _ => ("", ""),
        };
        let text = line.strip_suffix('\n').unwrap_or(line);
        match sign {
            '@' => writeln!(f, "{colour}{text}{reset}")?,
            _ => writeln!(f, "{colour}{sign}{text}{reset}")?,
        }
        if sign != '@' && !line.ends_with('\n') {
            writeln!(f, "\\ No newline at end of file")?;
        }
        Ok(())
    }
}

impl fmt::Display for Diff<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.old.split_inclusive('\n').collect();
        let changes = self.changes(&lines);
        if changes.is_empty() {
            return Ok(());
        }
        let (bold, reset) = if self.coloured { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        writeln!(f, "{bold}--- {}{reset}\n{bold}+++ {}{reset}", self.name, self.name)?;
        // Lines more in the new text than in the old, so far.
        let mut shift = 0_isize;
        // Changes whose context touches are one hunk.
        for hunk in changes.chunk_by(|one, next| next.old.start <= one.old.end + 2 * CONTEXT) {
            let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
            let begin = first.old.start.saturating_sub(CONTEXT);
            let end = (last.old.end + CONTEXT).min(lines.len());
            let grown: isize = hunk.iter().map(|change| change.new.len() as isize - change.old.len() as isize).sum();
            let old_count = end - begin;
            let new_count = old_count.saturating_add_signed(grown);
            let new_begin = begin.saturating_add_signed(shift);
            // A side without lines is named by the line before it.
            let from = |begin: usize, count: usize| if count == 0 { begin } else { begin + 1 };
            let (old_from, new_from) = (from(begin, old_count), from(new_begin, new_count));
            self.line(f, '@', &format!("@@ -{old_from},{old_count} +{new_from},{new_count} @@"))?;
            let mut at = begin;
            for change in hunk {
                for line in lines.get(at..change.old.start).unwrap_or_default() {
                    self.line(f, ' ', line)?;
                }
                for line in lines.get(change.old.clone()).unwrap_or_default() {
                    self.line(f, '-', line)?;
                }
                for line in &change.new {
                    self.line(f, '+', line)?;
                }
                at = change.old.end;
            }
            for line in lines.get(at..end).unwrap_or_default() {
                self.line(f, ' ', line)?;
            }
            shift += grown;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: &str, edits: &[(Range<usize>, &str)]) -> String {
        let edits: Vec<Edit> =
            edits.iter().map(|(range, text)| Edit { range: range.clone(), text: (*text).to_owned() }).collect();
        Diff { name: "f", old, edits: &edits, coloured: false }.to_string()
    }

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let old = "1\n2\n3\n4\nimage: a\nreg: b\n7\n8\n9\n10\n";
        assert_eq!(
            shown(old, &[(15..16, "x"), (17..24, "")]),
            "--- f\n+++ f\n@@ -2,8 +2,7 @@\n 2\n 3\n 4\n-image: a\n-reg: b\n+image: x\n 7\n 8\n 9\n"
        );
        assert_eq!(shown(old, &[]), "");
    }

    #[test]
    fn distant_changes_are_hunks_of_their_own() {
        let old: String = (0..20).map(|n| format!("{n:02}\n")).collect();
        let diff = shown(&old, &[(0..3, ""), (45..47, "xx")]);
        let hunks: Vec<&str> = diff.lines().filter(|line| line.starts_with('@')).collect();
        assert_eq!(hunks, ["@@ -1,4 +1,3 @@", "@@ -13,7 +12,7 @@"]);
    }

    #[test]
    fn a_last_line_without_its_end_is_shown_as_such() {
        assert_eq!(
            shown("a\nb", &[(2..3, "c")]),
            "--- f\n+++ f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n"
        );
        assert_eq!(
            shown("a\nb", &[(1..3, "")]),
            "--- f\n+++ f\n@@ -1,2 +1,1 @@\n-a\n-b\n\\ No newline at end of file\n+a\n\\ No newline at end of file\n"
        );
    }
}
