//! What a client's `Accept` headers allow (RFC 9110 §12.5.1).

use super::MediaType;

/// The media types a client will take, from all of its `Accept` lines.
///
/// Clients send one line with commas, or one line a type. No line at all, and
/// anything with `*/*`, takes everything. Quality values are not weighed: the
/// answer exists in one representation only, so a type is taken or it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accept {
    /// Everything.
    Anything,
    /// These types, and types of these families (`application/*`).
    Only(Vec<String>),
}

impl Accept {
    /// More types than any client lists; the rest is not looked at.
    const MAX_TYPES: usize = 64;

    /// Reads all `Accept` lines of a request.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Accept {
        let mut types = Vec::new();
        for item in lines.flat_map(|line| line.split(',')) {
            let mut parts = item.split(';').map(str::trim);
            let essence = parts.next().unwrap_or_default();
            let refused = parts.any(|parameter| {
                parameter.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
            });
            if essence == "*/*" && !refused {
                return Accept::Anything;
            }
            if !essence.is_empty() && !refused && types.len() < Self::MAX_TYPES {
                types.push(essence.to_ascii_lowercase());
            }
        }
        if types.is_empty() { Accept::Anything } else { Accept::Only(types) }
    }

    /// Whether a body of `media_type` may be sent.
    pub fn allows(&self, media_type: &MediaType) -> bool {
        match self {
            Accept::Anything => true,
            Accept::Only(types) => types.iter().any(|allowed| {
                allowed == media_type.as_str()
                    || allowed
                        .strip_suffix('*')
                        .is_some_and(|family| family.ends_with('/') && media_type.as_str().starts_with(family))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> MediaType {
        MediaType::parse("application/vnd.oci.image.index.v1+json").unwrap()
    }

    #[test]
    fn no_accept_and_a_wildcard_take_everything() {
        assert_eq!(Accept::parse([].into_iter()), Accept::Anything);
        assert_eq!(Accept::parse(["application/json, */*;q=0.1"].into_iter()), Accept::Anything);
        assert!(Accept::parse(["application/*"].into_iter()).allows(&index()));
    }

    #[test]
    fn several_lines_count_as_one_list() {
        let accept = Accept::parse(["text/plain", "application/vnd.oci.image.index.v1+json;q=0.5"].into_iter());
        assert!(accept.allows(&index()));
    }

    #[test]
    fn a_type_that_is_not_listed_or_refused_is_not_allowed() {
        assert!(!Accept::parse(["application/vnd.docker.distribution.manifest.v2+json"].into_iter()).allows(&index()));
        assert!(
            !Accept::parse(["application/vnd.oci.image.index.v1+json;q=0, text/plain"].into_iter()).allows(&index())
        );
    }

    #[test]
    fn ten_thousand_types_are_bounded() {
        let line = "a/b,".repeat(10_000);
        let Accept::Only(types) = Accept::parse([line.as_str()].into_iter()) else { panic!("a list") };
        assert_eq!(types.len(), Accept::MAX_TYPES);
    }
}
