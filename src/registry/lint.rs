//! What looks like a slip in a registry's form. Operators are free to be right:
//! a slip is told, never refused.

use super::{Credential, Registry};

/// Everything about `registry` that looks like a slip, in plain words.
pub fn slips(registry: &Registry) -> Vec<String> {
    let host = registry.origin.host();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| host.ends_with(suffix));
    let is_azure = ends(&[".azurecr.io", ".azurecr.cn", ".azurecr.us", ".azurecr.de"]);
    let is_google = host == "gcr.io" || ends(&[".gcr.io", ".pkg.dev"]);
    let mut slips = Vec::new();
    let mut slip = |text: String| slips.push(text);
    let Credential::Password { username, secret } = &registry.credential else { return slips };
    let secret = secret.secret().expose();
    let is_key_name = username.starts_with("_json_key");
    if is_azure && is_key_name {
        slip(format!(
            "`{username}` is Google's user name for a JSON key; Azure takes the application (client) ID of a service principal as user \
             name and its client secret as password, or a token's name and password"
        ));
    } else if is_key_name && !is_google {
        slip(format!("`{username}` is Google's user name for a JSON key, and {host} is not Google's"));
    }
    if is_azure && is_guid(secret) {
        slip("the password looks like an ID, not like a secret: Azure wants the client secret's value".to_owned());
    }
    if is_google && !is_key_name && !matches!(username.as_str(), "oauth2accesstoken" | "_token") {
        slip(format!(
            "Google knows the user names `_json_key`, `_json_key_base64` and `oauth2accesstoken`, not `{username}`"
        ));
    }
    if is_google && username == "_json_key" && !secret.trim_start().starts_with('{') {
        slip("the JSON key does not begin with `{`: the whole key file is wanted, as it is".to_owned());
    }
    if host == "registry-1.docker.io" && username.contains('@') {
        slip("Docker Hub wants the user name, not the e-mail address".to_owned());
    }
    if secret != secret.trim() && !secret.trim_start().starts_with('{') {
        slip("the secret begins or ends with a blank".to_owned());
    }
    slips
}

/// Eight, four, four, four and twelve hexadecimal digits.
fn is_guid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    const GUID: &str = "11111111-2222-3333-4444-555555555555";

    fn of(url: &str, username: &str, password: &str) -> String {
        let text = format!(
            "[[registry]]\nname = \"r\"\nkind = \"generic\"\nallow_plaintext = true\nurl = \"{url}\"\n\
             username = \"{username}\"\npassword = '''{password}'''\n"
        );
        let settings = Settings::parse("t.toml", &text, &std::collections::BTreeMap::new()).unwrap();
        slips(&settings.registries[0]).join("\n")
    }

    #[test]
    fn the_slips_of_the_forms_are_seen_and_no_secret_is_repeated() {
        for (url, username, password, word) in [
            ("https://r.azurecr.io", "_json_key", "s3cret", "application (client) ID"),
            ("https://r.azurecr.io", "app", GUID, "looks like an ID"),
            ("https://registry.example", "_json_key", "{}", "is not Google's"),
            ("https://us-west1-docker.pkg.dev", "me@example.com", "{}", "oauth2accesstoken"),
            ("https://gcr.io", "_json_key", "s3cret", "begin with `{`"),
            ("https://registry.example", "robot", " s3cret", "blank"),
        ] {
            let said = of(url, username, password);
            assert!(said.contains(word), "{url} {username}: {said}");
            assert!(!said.contains("s3cret") && !said.contains(GUID), "{said}");
        }
    }

    #[test]
    fn what_is_right_is_left_in_peace() {
        for (url, username, password) in [
            ("https://r.azurecr.io", GUID, "Abc8Q~secret"),
            ("https://us-west1-docker.pkg.dev", "_json_key", "{\n}\n"),
            ("https://registry.example", "robot$ci", GUID),
        ] {
            assert_eq!(of(url, username, password), "", "{url}");
        }
    }
}
