//! Changing one value, or taking out one pair, and no byte more.

use std::ops::Range;

use granit_parser::ScalarStyle;

use super::Edit;
use super::tree::{Content, Entry, Node, Tree};

/// Replaces `old`, with which the scalar begins, by `new`. Quotes stay, and so
/// does whatever follows `old`.
pub(super) fn replace(text: &str, node: &Node, old: &str, new: &str) -> Option<Edit> {
    let Content::Scalar { value, style } = &node.content else { return None };
    let raw = text.get(node.span.clone())?;
    let whole = value.trim();
    let rest = whole.strip_prefix(old)?;
    let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
    // The last, for the header of a block may have a comment.
    let at = raw.rfind(whole).filter(|_| !quoted || raw.len() == value.len() + 2);
    if let Some(at) = at
        && (*style != ScalarStyle::Plain || begins_plain(new))
    {
        let start = node.span.start + at;
        return Some(Edit { range: start..start + old.len(), text: new.to_owned() });
    }
    let whole = format!("{new}{rest}");
    let text = match style {
        ScalarStyle::SingleQuoted => format!("'{}'", whole.replace('\'', "''")),
        ScalarStyle::DoubleQuoted | ScalarStyle::Plain => {
            format!("\"{}\"", whole.replace('\\', "\\\\").replace('"', "\\\""))
        }
        _ => return None,
    };
    Some(Edit { range: node.span.clone(), text })
}

/// Whether a plain scalar may begin so: an IPv6 address in brackets would be a
/// list.
fn begins_plain(new: &str) -> bool {
    !new.starts_with('[')
}

/// Takes a pair out of its mapping, with the comment in its line. `None` where
/// that would take more than the pair.
pub(super) fn remove(text: &str, tree: &Tree, entry: Entry) -> Option<Edit> {
    let (mapping, key, value) = (tree.node(entry.mapping)?, tree.node(entry.key)?, tree.node(entry.value)?);
    let Content::Mapping { pairs, flow } = &mapping.content else { return None };
    let index = pairs.iter().position(|(key, _)| *key == entry.key)?;
    let block_scalar =
        matches!(value.content, Content::Scalar { style: ScalarStyle::Literal | ScalarStyle::Folded, .. });
    // An empty mapping is another thing than no mapping, and an alias may need
    // what an anchor names.
    if pairs.len() < 2 || value.anchored || key.anchored || block_scalar {
        return None;
    }
    let next = pairs.get(index + 1).and_then(|(key, _)| tree.node(*key));
    let previous = index.checked_sub(1).and_then(|before| pairs.get(before)).and_then(|(_, value)| tree.node(*value));
    let range = match flow {
        true => in_flow(text, key.span.start..value.span.end, previous, next)?,
        false => in_block(text, key.span.start..value.span.end, next)?,
    };
    Some(Edit { range, text: String::new() })
}

fn in_flow(text: &str, pair: Range<usize>, previous: Option<&Node>, next: Option<&Node>) -> Option<Range<usize>> {
    // Other tokens than commas and blanks are comments, tags or anchors.
    let gap =
        |range: Range<usize>| text.get(range).is_some_and(|gap| gap.chars().all(|c| c == ',' || c.is_whitespace()));
    if let Some(previous) = previous.filter(|previous| gap(previous.span.end..pair.start)) {
        return Some(previous.span.end..pair.end);
    }
    let next = next.filter(|next| gap(pair.end..next.span.start))?;
    Some(pair.start..next.span.start)
}

fn in_block(text: &str, pair: Range<usize>, next: Option<&Node>) -> Option<Range<usize>> {
    let line_start = text.get(..pair.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let rest = text.get(pair.end..)?;
    let line = rest.split_inclusive('\n').next().unwrap_or_default();
    let content = line.trim_end_matches(['\n', '\r']);
    // A comment begins behind a blank.
    let blank = content.trim_start();
    let comment = blank.starts_with('#') && blank.len() < content.len();
    if !blank.is_empty() && !comment {
        return None;
    }
    let before = text.get(line_start..pair.start)?;
    if before.trim().is_empty() {
        let end = pair.end + line.len();
        if line.ends_with('\n') || line_start == 0 {
            return Some(line_start..end);
        }
        // The last line of a text that does not end its last line.
        let kept = text.get(..line_start)?;
        let kept = kept.strip_suffix('\n').map(|kept| kept.strip_suffix('\r').unwrap_or(kept)).unwrap_or(kept);
        return Some(kept.len()..end);
    }
    // The first pair of an item: `- containerRegistry: …`.
    if !before.trim_start().chars().all(|c| c == '-' || c == ' ') {
        return None;
    }
    let next = next?;
    let gap = text.get(pair.end..next.span.start)?;
    match gap.trim().is_empty() || only_line_comment(gap, content) {
        true => Some(pair.start..next.span.start),
        false => Some(pair.start..pair.end + content.len()),
    }
}

/// Whether there is nothing in `gap` but the comment of its first line.
fn only_line_comment(gap: &str, first_line: &str) -> bool {
    gap.strip_prefix(first_line).is_some_and(|rest| rest.trim().is_empty())
}
