//! Query parameters: `ns` for any request, `n`, `last` and what an upstream's
//! own links carry for lists.

use http::HeaderMap;
use url::form_urlencoded;

use crate::oci::ErrorCode;
use crate::pull::ListQuery;
use crate::registry::HostPort;

/// Why a query is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueryError {
    pub(super) code: ErrorCode,
    pub(super) message: &'static str,
}

/// A parsed query.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) ns: Option<HostPort>,
    pub(super) list: ListQuery,
}

/// Parses the raw query of a request.
pub(super) fn parse(raw: &str) -> Result<Query, QueryError> {
    let mut query = Query::default();
    for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
        if name.chars().chain(value.chars()).any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
            return Err(QueryError { code: ErrorCode::NameInvalid, message: "the query has control characters" });
        }
        match &*name {
            "ns" => {
                let invalid = QueryError { code: ErrorCode::NameInvalid, message: "`ns` is no registry host" };
                let ns: HostPort = value.parse().map_err(|_| invalid)?;
                if query.ns.replace(ns.clone()).is_some_and(|other| other != ns) {
                    return Err(QueryError { code: ErrorCode::NameInvalid, message: "`ns` is given twice" });
                }
            }
            "n" => {
                let digits = !value.is_empty() && value.len() <= 10 && value.bytes().all(|b| b.is_ascii_digit());
                let n: u64 = digits.then(|| value.parse().ok()).flatten().ok_or(QueryError {
                    code: ErrorCode::PaginationNumberInvalid,
                    message: "`n` is no number of entries",
                })?;
                query.list.pairs.push(("n".to_owned(), n.to_string()));
            }
            _ => query.list.pairs.push((name.into_owned(), value.into_owned())),
        }
    }
    Ok(query)
}

/// The registry host that is asked for: by the query, or by the header that
/// lazy snapshotters send in its place.
pub(super) fn namespace(of_query: Option<HostPort>, headers: &HeaderMap) -> Result<Option<HostPort>, QueryError> {
    let invalid = |message| QueryError { code: ErrorCode::NameInvalid, message };
    let mut namespace = of_query;
    for value in headers.get_all("oci-namespace") {
        let host = value.to_str().ok().and_then(|text| text.trim().parse::<HostPort>().ok());
        let host = host.ok_or_else(|| invalid("`OCI-Namespace` is not a registry host"))?;
        if namespace.replace(host.clone()).is_some_and(|other| other != host) {
            return Err(invalid("`ns` and `OCI-Namespace` name different registries"));
        }
    }
    Ok(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn page_sizes_are_numbers_and_bounded() {
        let n = |raw: &str| parse(raw).map(|query| query.list.pairs).map_err(|error| error.code);
        assert_eq!(n("n=5&last=b"), Ok(vec![("n".into(), "5".into()), ("last".into(), "b".into())]));
        // As much as upstream gives: what it leaves out it tells of.
        assert_eq!(n("n=100000"), Ok(vec![("n".into(), "100000".into())]));
        for raw in ["n=", "n=-1", "n=0x10", "n=99999999999999999999", "n=1.5", "n=+1"] {
            assert_eq!(n(raw), Err(ErrorCode::PaginationNumberInvalid), "{raw}");
        }
    }

    #[test]
    fn a_namespace_is_a_host_and_nothing_else() {
        assert_eq!(parse("ns=Docker.IO").unwrap().ns, Some("docker.io".parse().unwrap()));
        assert!(parse("ns=docker.io&ns=docker.io").is_ok());
        for raw in [
            "ns=http://evil/",
            "ns=user:p@docker.io",
            "ns=docker.io/../x",
            "ns=docker.io%0d%0aX:1",
            "ns=a&ns=b",
            "ns=",
            "ns=docker.io%00",
        ] {
            assert_eq!(parse(raw).unwrap_err().code, ErrorCode::NameInvalid, "{raw}");
        }
        assert!(parse("last=a%0d%0ab").is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(raw in "\\PC{0,80}") {
            let _ = parse(&raw);
        }
    }
}
