//! Where a list goes on, as registries say it (RFC 8288).
//!
//! Behind a proxy of its own a registry names itself by another scheme, an
//! inner host or an inner path. The next page is asked where this one was, so
//! only the query of the link counts, and nothing in it can lead elsewhere.

/// The query of the next page, in the lines of `Link`; `None` when there is no
/// such link, or it says nothing that this page's address does not.
pub(super) fn next_query<'a>(lines: impl Iterator<Item = &'a str>) -> Option<String> {
    lines.flat_map(links).find(|link| link.is_next()).and_then(|link| {
        let before_fragment = link.target.split('#').next().unwrap_or_default();
        let (_, query) = before_fragment.split_once('?')?;
        (!query.is_empty()).then(|| query.to_owned())
    })
}

/// One link: its target, and its parameters as they stand there.
struct Link<'a> {
    target: &'a str,
    parameters: &'a str,
}

impl Link<'_> {
    fn is_next(&self) -> bool {
        split(self.parameters, ';').any(|parameter| {
            let Some((name, value)) = parameter.split_once('=') else { return false };
            // Several relations may stand in one value.
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').split_ascii_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
        })
    }
}

/// The links of one line.
fn links(line: &str) -> impl Iterator<Item = Link<'_>> {
    let mut rest = line;
    std::iter::from_fn(move || {
        // A target may have commas and semicolons in it, but nothing that ends it.
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let parameters = split(after, ',').next().unwrap_or_default();
        rest = after.get(parameters.len()..).unwrap_or_default();
        Some(Link { target: target.trim(), parameters })
    })
}

/// Splits where `separator` stands outside of quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c: char| {
        let is_escaped = escaped;
        escaped = quoted && c == '\\' && !is_escaped;
        if c == '"' && !is_escaped {
            quoted = !quoted;
        }
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_next_page_is_found_in_every_usual_form() {
        let next = |lines: &[&str]| next_query(lines.iter().copied());
        for (lines, expected) in [
            (&[r#"</v2/a/tags/list?n=2&last=b>; rel="next""#][..], Some("n=2&last=b")),
            (&["<https://r.example/v2/a/tags/list?next_page=x>; rel=next"], Some("next_page=x")),
            (&["<http://inner:5000/x/v2/a/tags/list?last=b>; rel=\"next\""], Some("last=b")),
            (&["<?n=1>;rel=next"], Some("n=1")),
            (&["<list?n=1#top>; REL = \"prev Next\""], Some("n=1")),
            (
                &[r#"</v2/?last=a>; rel="prev", </v2/?last=a,b;c>; title="x, \"y; rel=prev"; rel="next""#],
                Some("last=a,b;c"),
            ),
            (&["</a?x=1>; rel=prev", "</a?x=2>; rel=next"], Some("x=2")),
            (&[r#"</a?n=2>; rel="prev""#], None),
            (&[r#"</a?n=2>; title="rel=next""#], None),
            (&[r#"</a?n=2>; rel="nextish""#], None),
            (&["</a>; rel=next", "nonsense"], None),
            (&["<>; rel=next"], None),
            (&[], None),
        ] {
            assert_eq!(next(lines).as_deref(), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(line in "[<>;,=\"\\\\? a-z]{0,60}") {
            let _ = next_query([line.as_str()].into_iter());
        }
    }
}
