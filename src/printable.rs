//! Text of strangers, as it may be shown.
//!
//! What a client, an upstream or a file wrote must not command a terminal, nor
//! make one line look like two, nor show in another order than it is read.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether `c` does something to whoever shows it instead of being shown:
/// control characters, and the invisible ones that turn the direction of text
/// round or hide within a word (Unicode TR 36, "bidirectional text spoofing").
pub fn is_disturbing(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` in one line: whatever disturbs is written as `\u001b`, as JSON
/// writes it too.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// `text` in the lines it has.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, may_stay: impl Fn(char) -> bool) -> Cow<'_, str> {
    let disturbs = |c: char| is_disturbing(c) && !may_stay(c);
    if !text.chars().any(disturbs) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if disturbs(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_of_any_script_stays_as_it_is() {
        for text in ["Team Registry", "Ünïcode", "团队", "سجل", "", "a\"b\\c"] {
            assert!(matches!(one_line(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn nothing_reaches_a_terminal_that_it_would_obey() {
        assert_eq!(one_line("a\x1b[2Jb\nc\u{9b}1m"), "a\\u001b[2Jb\\u000ac\\u009b1m");
        assert_eq!(one_line("user\u{202e}nimda\u{e0041}"), "user\\u202enimda\\udb40\\udc41");
        assert_eq!(lines("one\n\ttwo\rthree"), "one\n\ttwo\\u000dthree");
    }

    #[test]
    fn a_document_says_the_same_afterwards() {
        let document = serde_json::json!({ "name": "x\u{9b}\u{202e}\u{7f}\u{e0041}\n" });
        let shown = lines(&format!("{document:#}")).into_owned();
        assert!(!shown.chars().any(|c| is_disturbing(c) && c != '\n'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), document);
    }
}
