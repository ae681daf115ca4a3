//! The line of the file that a mistake is in, as far as it may be shown.

use std::ops::Range;

use super::mask::mask;
use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// One line: the mistake, and the key before it. What else stands there is
/// left out, and no line around it is shown: the value of a misspelt
/// `pasword` is a secret too.
#[derive(Debug)]
pub(super) struct Excerpt {
    text: String,
    mark: Range<usize>,
    line: usize,
}

impl Excerpt {
    /// The excerpt for `span` of `file`, which is in line `line`.
    pub(super) fn of(file: &str, span: &Range<usize>, line: usize) -> Option<Excerpt> {
        let (before, marked, after) = (file.get(..span.start)?, file.get(span.clone())?, file.get(span.end..)?);
        // Perhaps a URL with user information.
        if marked.contains('@') {
            return None;
        }
        let shown = match marked.lines().next().unwrap_or_default().trim_end() {
            table if table.starts_with('{') => "{ … }",
            other => other,
        };
        let shown = &*mask(shown);
        let mut text = before_mark(before.rsplit('\n').next().unwrap_or_default());
        let mark = text.len()..text.len() + shown.len();
        text.push_str(shown);
        let after = if marked.contains('\n') { "" } else { after.lines().next().unwrap_or_default().trim() };
        text.push_str(match after {
            "" => "",
            "]" => "]",
            comment if comment.starts_with('#') => "",
            value if value.starts_with('=') => " = …",
            _ => " …",
        });
        (!mark.is_empty()).then_some(Excerpt { text, mark, line })
    }

    /// The bytes of it that are wrong.
    pub(super) fn mark(&self) -> Range<usize> {
        self.mark.clone()
    }
}

/// Of what stands before a mistake in its line, the key only.
fn before_mark(before: &str) -> String {
    let is_key = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if before.trim().is_empty() {
        return before.to_owned();
    }
    match before.split_once('=') {
        Some((key, rest)) if is_key(key.trim()) => match rest.trim() {
            "" | "[" => mask(before).into_owned(),
            _ => format!("{} = … ", mask(key.trim())),
        },
        _ => "… ".to_owned(),
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        _span: &SourceSpan,
        _lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let whole = SourceSpan::from(0..self.text.len());
        Ok(Box::new(MietteSpanContents::new(self.text.as_bytes(), whole, self.line.saturating_sub(1), 0, 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(file: &str, marked: &str) -> Option<String> {
        let start = file.find(marked).unwrap();
        Excerpt::of(file, &(start..start + marked.len()), 1).map(|excerpt| {
            assert_eq!(excerpt.text.get(excerpt.mark()).unwrap(), marked.lines().next().unwrap());
            excerpt.text
        })
    }

    #[test]
    fn the_mistake_and_its_key_are_shown_and_nothing_beside_them() {
        assert_eq!(shown("a = 1\nlisen = \"x\"", "lisen").as_deref(), Some("lisen = …"));
        assert_eq!(shown("size = \"big\" # so", "\"big\"").as_deref(), Some("size = \"big\""));
        assert_eq!(shown("  l = [\"a\"]", "\"a\"").as_deref(), Some("  l = [\"a\"]"));
        assert_eq!(shown("l = [\"a\", \"b\", \"c\"]", "\"b\"").as_deref(), Some("l = … \"b\" …"));
        assert_eq!(shown("x = { password = \"canary\", foo = 1 }", "foo").as_deref(), Some("x = … foo = …"));
        assert_eq!(shown("\"my key\" = \"canary\"", "\"my key\"").as_deref(), Some("\"my key\" = …"));
        assert_eq!(shown("s = \"\"\"a\ncanary\"\"\"", "\"\"\"a\ncanary\"\"\"").as_deref(), Some("s = \"\"\"a"));
    }

    #[test]
    fn tables_and_urls_with_user_information_are_not_shown() {
        let table = "{ password = \"canary\" }";
        let excerpt = Excerpt::of(table, &(0..table.len()), 1).unwrap();
        assert_eq!(excerpt.text, "{ … }");
        assert_eq!(shown("url = \"https://me:canary@host\"", "\"https://me:canary@host\""), None);
    }
}
