//! The hosts of Amazon ECR, and the API that belongs to each: a registry is
//! signed in to where its host says, nowhere else.

/// What the host of an ECR registry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EcrHost {
    /// The region.
    pub(super) region: String,
    /// Host of the API that gives out its logins.
    pub(super) api: String,
    /// ECR Public is a service of its own.
    pub(super) public: bool,
}

/// The domains of AWS, by partition.
const SUFFIXES: [&str; 6] =
    ["amazonaws.com", "amazonaws.com.cn", "sc2s.sgov.gov", "c2s.ic.gov", "cloud.adc-e.uk", "csp.hci.ic.gov"];

impl EcrHost {
    /// Reads `<account>.dkr.ecr.<region>.<domain>`, its FIPS and dual-stack
    /// forms, and `public.ecr.aws`.
    pub(super) fn parse(host: &str) -> Option<EcrHost> {
        if host == "public.ecr.aws" {
            let api = "api.ecr-public.us-east-1.amazonaws.com".to_owned();
            return Some(EcrHost { region: "us-east-1".to_owned(), api, public: true });
        }
        let (account, rest) = host.split_once('.')?;
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (service, rest) = match rest.strip_prefix("dkr.") {
            Some(rest) => rest.split_once('.')?,
            None => rest.strip_prefix("dkr-")?.split_once('.')?,
        };
        let is_dual_stack = host.contains(".dkr-");
        let (region, domain) = rest.split_once('.')?;
        let is_region = region.starts_with(|c: char| c.is_ascii_alphanumeric())
            && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let known = if is_dual_stack { domain == "on.aws" } else { SUFFIXES.contains(&domain) };
        if !is_region || !known {
            return None;
        }
        let api = match (service, is_dual_stack) {
            ("ecr" | "ecr-fips", true) => format!("{service}.{region}.api.aws"),
            ("ecr", false) => format!("api.ecr.{region}.{domain}"),
            ("ecr-fips", false) if domain == "amazonaws.com" => format!("ecr-fips.{region}.{domain}"),
            ("ecr-fips", false) => format!("api.ecr-fips.{region}.{domain}"),
            _ => return None,
        };
        Some(EcrHost { region: region.to_owned(), api, public: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_its_own_api() {
        for (host, region, api) in [
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1", "api.ecr.eu-west-1.amazonaws.com"),
            ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1", "api.ecr.cn-north-1.amazonaws.com.cn"),
            ("123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", "us-east-1", "ecr-fips.us-east-1.amazonaws.com"),
            ("123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", "api.ecr.us-iso-east-1.c2s.ic.gov"),
            ("123456789012.dkr-ecr.us-west-2.on.aws", "us-west-2", "ecr.us-west-2.api.aws"),
            ("123456789012.dkr-ecr-fips.us-west-2.on.aws", "us-west-2", "ecr-fips.us-west-2.api.aws"),
            ("public.ecr.aws", "us-east-1", "api.ecr-public.us-east-1.amazonaws.com"),
        ] {
            let found = EcrHost::parse(host).expect(host);
            assert_eq!((found.region.as_str(), found.api.as_str()), (region, api), "{host}");
            assert_eq!(found.public, host == "public.ecr.aws");
        }
    }

    #[test]
    fn a_host_that_only_looks_like_it_is_none() {
        for host in [
            "12345678901.dkr.ecr.eu-west-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
            "123456789012.dkr.ecr.evil.example",
            "123456789012.dkr.ecr..amazonaws.com",
            "123456789012.dkr.s3.eu-west-1.amazonaws.com",
            "123456789012.dkr-ecr.us-west-2.amazonaws.com",
            "123456789012.ecr.eu-west-1.amazonaws.com",
            "evil.public.ecr.aws",
            "registry.example",
        ] {
            assert_eq!(EcrHost::parse(host), None, "{host}");
        }
    }
}
