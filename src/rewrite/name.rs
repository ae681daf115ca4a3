//! What of a value is the name of an image, and what a template fills in.

use crate::registry::{ImageLocation, InvalidReference, split_image};

/// A value that is meant as an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// Its name is known; what follows, tag and digest, may hold variables.
    Known(&'a str),
    /// A template fills in its name, or part of it.
    Template,
    /// No image.
    Invalid(InvalidReference),
}

/// Reads `value`. A variable is `$NAME`, `${NAME}` with any default, or
/// `${{ … }}` or `{{ … }}`.
pub(super) fn name(value: &str) -> Name<'_> {
    let Some(first) = [value.find('$'), value.find("{{")].into_iter().flatten().min() else {
        return match split_image(value).and_then(|(name, _)| ImageLocation::of(name).map(|_| name)) {
            Ok(name) => Name::Known(name),
            Err(error) => Name::Invalid(error),
        };
    };
    let literal = value.get(..first).unwrap_or_default();
    let last = literal.rfind('/').map_or(0, |slash| slash + 1);
    let separator = literal.get(last..).and_then(|part| part.find([':', '@'])).map(|at| last + at);
    let Some((name, rest)) = separator.and_then(|at| value.split_at_checked(at)) else { return Name::Template };
    // A slash would make a port of what looks like a tag.
    if without_variables(rest)
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_alphanumeric() || "._-:@".contains(c)))
    {
        Name::Known(name)
    } else {
        Name::Template
    }
}

/// What is not variables; `None` when one does not end.
fn without_variables(text: &str) -> Option<String> {
    let (mut literal, mut rest) = (String::new(), text);
    while let Some(at) = [rest.find('$'), rest.find("{{")].into_iter().flatten().min() {
        let (before, variable) = rest.split_at_checked(at)?;
        literal.push_str(before);
        let after = variable.strip_prefix('$').unwrap_or(variable);
        rest = match after.starts_with('{') {
            true => after.get(closing(after)?..)?,
            false => {
                let name = after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
                (name.len() < after.len()).then_some(name)?
            }
        };
    }
    literal.push_str(rest);
    Some(literal)
}

/// The length of what stands in the braces that `text` begins with.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_where_variables_are_in_tag_or_digest_only() {
        for (value, name_of_it) in [
            ("nginx:1.27", "nginx"),
            ("nginx:${TAG}", "nginx"),
            ("nginx:$TAG", "nginx"),
            ("nginx:1-${TAG:-a/b}-x", "nginx"),
            ("ghcr.io/org/app@${DIGEST}", "ghcr.io/org/app"),
            ("r.internal:5000/app:{{ .Values.tag }}", "r.internal:5000/app"),
            ("app:${{ inputs.tag || 'latest' }}", "app"),
            ("app:1${SUFFIX}@${DIGEST:?no digest}", "app"),
        ] {
            assert_eq!(name(value), Name::Known(name_of_it), "{value}");
        }
        for value in [
            "$IMAGE",
            "${REGISTRY:-docker.io}/nginx:1",
            "nginx${SUFFIX}",
            "localhost:${PORT}/app:1",
            "ghcr.io/${ORG}/app:1",
            "{{ .Values.image }}",
            "nginx:${TAG",
            "nginx:$",
            "nginx:$$TAG",
        ] {
            assert_eq!(name(value), Name::Template, "{value}");
        }
        assert!(matches!(name("https://example.com/a.png"), Name::Invalid(_)));
    }
}
