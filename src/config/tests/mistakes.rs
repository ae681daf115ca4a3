//! Every kind of mistake is found, with its place and its fix.

use super::problems;

/// A registry that is all right, to put something wrong into.
pub(super) const GENERIC: &str = "[[registry]]\nname = \"r\"\nkind = \"generic\"\nurl = \"https://r.example.com\"\n";

/// `text` has one mistake: there, saying `piece`, with `help` (none: "").
pub(super) fn one(text: &str, (line, column): (usize, usize), piece: &str, help: &str) {
    let found = problems(text);
    let all: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(all.len(), 1, "{text}\n{all:#?}");
    let said = &all[0];
    assert!(said.starts_with(&format!("t.toml:{line}:{column}: ")), "{text}\n{said}");
    assert!(said.contains(piece), "{text}\n{said}");
    let fix = found[0].fix().unwrap_or_default();
    assert!(fix.contains(help) && fix.is_empty() == help.is_empty(), "{text}\n{said}\n{fix}");
}

#[test]
fn what_is_wrong_in_the_tables_of_the_proxy_is_told_with_its_place() {
    for (text, place, piece, help) in [
        ("[server]\nlisen = 1", (2, 1), "[server] has no key `lisen`", "did you mean `listen`?"),
        (
            "[server]\nzzzzzzzzzz = 1",
            (2, 1),
            "has no key `zzzzzzzzzz`",
            "known here: body, cut_on_revoke, expose_private, foreign_credentials, listen, mirror_listen, ping",
        ),
        ("[sever]\n", (1, 2), "the file has no key `sever`", "did you mean `server`?"),
        ("server = 5", (1, 10), "[server] has to be a table", ""),
        ("[server]\nlisten = 5", (2, 10), "`listen` has to be text or a list of texts", ""),
        ("[server]\nlisten = \"5000\"", (2, 10), "`5000` is no address; write it as `127.0.0.1:5000`", ""),
        ("[server]\nlisten = [\"[::]:1\", \"x\"]", (2, 21), "`x` is no address", ""),
        ("[server]\nlisten = []", (2, 10), "`listen` names no address", "127.0.0.1:5000"),
        ("[server]\nmirror_listen = \"127.0.0.1:5000\"", (2, 17), "127.0.0.1:5000 is taken already", ""),
        ("[server]\nping = \"maybe\"", (2, 8), "it is \"auto\", \"open\" or \"challenge\"", ""),
        ("[server]\nping = true", (2, 8), "`ping` has to be text, not a boolean", ""),
        ("[server]\nexpose_private = \"yes\"", (2, 18), "has to be true or false, not a string", ""),
        ("[server]\npublic_url = \"proxy.example\"", (2, 14), "`proxy.example` is no URL; write it as `https://", ""),
        ("[server]\npublic_url = \"ftp://x\"", (2, 14), "`ftp://x` is no URL", ""),
        ("[server]\npublic_url = \"http://a:b@x\"", (2, 14), "must not carry a user name or password", ""),
        ("[server.tls]\nkey = 1.5\ncertificate = \"\"", (2, 7), "`key` has to be text, not a float", ""),
        ("[admin]\nlisten = \"localhost\"", (2, 10), "`localhost` is no address", ""),
        ("[admin]\nlisten = \"127.0.0.1:5000\"", (2, 10), "clients pull at 127.0.0.1:5000 already", ""),
        ("[cache]\nmax_size = \"1 parsec\"", (2, 12), "`1 parsec` is no size; write it as `512MiB`", ""),
        ("[cache]\nmax_size = -5", (2, 12), "`-5` is no size", ""),
        ("[cache]\nmin_free = \"101%\"", (2, 12), "`101%` is no share; write it as `5%`", ""),
        ("[cache]\ntag_ttl = \"soon\"", (2, 11), "`soon` is no duration; write it as `500ms`", ""),
        ("[cache]\ntag_ttl = 60", (2, 11), "`60` is no duration", ""),
        ("[cache]\ndurability = \"maybe\"", (2, 14), "it is \"sync\" or \"lazy\"", ""),
        ("[cache]\npolicy = \"fifo\"", (2, 10), "it is \"s3-fifo\" or \"lru\"", ""),
        ("[cache]\npin = \"alpine\"", (2, 7), "`alpine` is no image of a registry; write it as `registry/repo", ""),
        ("[cache]\npin = [\"docker-hub/a\", 5]", (2, 24), "`pin` has to be text or a list of texts", ""),
        (
            "[cache]\npin = [\"docker-hup/a\"]",
            (2, 8),
            "there is no registry `docker-hup`",
            "did you mean `docker-hub`?",
        ),
        ("[limits]\nmax_connections = 0", (2, 19), "`0` is no positive number", ""),
        ("[limits]\nmax_streams = 5000000000", (2, 15), "`5000000000` is too many", ""),
        ("[limits]\nmax_uri_bytes = \"0KiB\"", (2, 17), "`0` is no positive number", ""),
        ("[limits]\nheader_timeout = \"0s\"", (2, 18), "it has to be longer than nothing", ""),
        ("[limits]\nmax_header = 1", (2, 1), "[limits] has no key `max_header`", "did you mean `max_headers`?"),
        ("[log]\nlevel = \"loud\"", (2, 9), "`loud` is no log level; use error, warn, info", ""),
        ("[limits]\nmax_wrong_logins = 0", (2, 20), "`0` is no positive number", ""),
        ("[limits]\nmax_login_wait = \"0s\"", (2, 18), "it has to be longer than nothing", ""),
        ("[server]\nforeign_credentials = \"accept\"", (2, 23), "it is \"refuse\" or \"ignore\"", ""),
        ("[log]\nformat = \"xml\"", (2, 10), "it is \"text\" or \"json\"", ""),
        (
            "[registry]\nname = \"a\"",
            (1, 1),
            "write each registry as a table of its own",
            "begin it with `[[registry]]`",
        ),
    ] {
        // A file's mistake is the same whatever is added behind it.
        let text = text.replace("certificate = \"\"", "certificate = \"Cargo.toml\"");
        one(&text, place, piece, help);
    }
}

#[test]
fn what_is_wrong_with_a_registry_is_told_with_its_place() {
    // Lines 5 and on, behind a registry that lacks nothing.
    for (text, place, piece, help) in [
        ("colour = 1", (5, 1), "[[registry]] has no key `colour`", "known here: access, address, allow_plaintext"),
        ("usrname = 1", (5, 1), "[[registry]] has no key `usrname`", "did you mean `username`?"),
        (
            "region = \"eu\"",
            (5, 1),
            "has no key `region`",
            "that is a field of kind google, ecr; the fields of `generic`",
        ),
        ("default = 1", (5, 11), "`default` has to be true or false, not an integer", ""),
        ("access = \"all\"", (5, 10), "it is \"anyone\" or \"grants\"", ""),
        ("hosts = [\"a/b\"]", (5, 10), "`hosts`: ", ""),
        ("endpoints = [\"r.example.com\"]", (5, 14), "not a URL; write it as `https://", ""),
        ("endpoints = [\"https://a/b\"]", (5, 14), "put a path prefix into `namespace`", ""),
        ("endpoints = [\"http://a\"]", (5, 14), "registry `r`: http://a is plain HTTP", "or add `insecure = true`"),
        (
            "endpoints = [\"https://10.0.0.1\"]",
            (5, 14),
            "is not a public address",
            "add `allow_private = [\"10.0.0.1/32\"]`",
        ),
        ("token_realms = [\"ftp://a\"]", (5, 17), "the scheme must be https (or http)", ""),
        ("allow_private = [\"ten\"]", (5, 18), "`ten` is no network; write it as `10.0.0.0/8`", ""),
        ("ca = \"nowhere.crt\"", (5, 6), "nowhere.crt cannot be read: No such file", ""),
        ("ca = \"Cargo.toml\"", (5, 6), "Cargo.toml holds no certificate in PEM form", ""),
        ("max_connections = 0", (5, 19), "`0` is no positive number", ""),
        ("tag_ttl = \"1w\"", (5, 11), "`1w` is no duration", ""),
        ("quota = \"much\"", (5, 9), "`much` is no size", ""),
        ("namespace = \"a//b\"", (5, 13), "registry `r`: ", ""),
        ("username = \"u\"", (1, 1), "a user name without a password is no credential", ""),
        ("[[registry]]\nkind = \"ghcr\"", (5, 1), "[[registry]] needs a `name`", "for example `name = "),
        ("[[registry]]\nname = \"a\"", (5, 1), "[[registry]] needs a `kind`", "it is one of docker-hub, ghcr, google"),
        ("[[registry]]\nname = 1.5\nkind = \"ghcr\"", (6, 8), "`name` has to be text, not a float", ""),
        ("[[registry]]\nname = \"a\"\nkind = \"gchr\"", (7, 8), "there is no kind `gchr`; did you mean `ghcr`?", ""),
        (
            "[[registry]]\nname = \"a\"\nkind = \"harbor\"",
            (7, 8),
            "there is no kind `harbor`; the kinds are docker-hub,",
            "",
        ),
        ("[[registry]]\nname = \"ghcr.io\"\nkind = \"ghcr\"", (6, 8), "a name must not contain a dot or colon", ""),
        ("[[registry]]\nname = \"v2\"\nkind = \"ghcr\"", (6, 8), "this name is reserved", ""),
        ("[[registry]]\nname = \"R\"\nkind = \"ghcr\"", (6, 8), "there is a registry `r` already", "more than case"),
        (
            "[[registry]]\nname = \"a\"\nkind = \"google\"\nregion = \"eu\"",
            (5, 1),
            "`project` (Project) is required",
            "",
        ),
        (
            "[[registry]]\nname = \"a\"\nkind = \"google\"\nregion = \"e.u\"\nproject = \"p\"",
            (8, 10),
            "`e.u` cannot be part of a host name",
            "",
        ),
        (
            "[[registry]]\nname = \"a\"\nkind = \"ecr\"\nregion = \"eu\"\naccount_id = 12",
            (9, 14),
            "has twelve digits",
            "",
        ),
        (
            "[[registry]]\nname = \"a\"\nkind = \"generic\"",
            (5, 1),
            "registry `a`: `url` (Registry URL) is required",
            "",
        ),
        ("[[registry]]\nname = \"a\"\nkind = \"azure\"\nurl = \"a.azurecr.io\"", (8, 7), "not a URL", ""),
        (
            "[[registry]]\nname = \"a\"\nkind = \"ghcr\"\nallow_plaintext = true",
            (8, 1),
            "has no key `allow_plaintext`",
            "only a registry of kind `generic`",
        ),
        (
            "hosts = \"h\"\n[[registry]]\nname = \"a\"\nkind = \"ghcr\"\nhosts = [\"h\"]",
            (7, 8),
            "the virtual host h belongs to registry `r` already",
            "",
        ),
        (
            "default = true\n[[registry]]\nname = \"a\"\nkind = \"ghcr\"\ndefault = true",
            (9, 11),
            "registry `r` is the default already",
            "only one",
        ),
    ] {
        one(&format!("{GENERIC}{text}\n"), place, piece, help);
    }
    for (url, piece, help) in [
        ("http://r.example.com", "http://r.example.com is plain HTTP", "insecure = true"),
        ("https://127.0.0.1", "https://127.0.0.1 is not a public address", "allow_private = [\"127.0.0.1/32\"]"),
        ("https://[::1]:5000", "is not a public address", "allow_private = [\"::1/128\"]"),
        ("https://a:b@r.example.com", "must not carry a user name or password", ""),
    ] {
        one(&format!("[[registry]]\nname = \"r\"\nkind = \"generic\"\nurl = \"{url}\"\n"), (4, 7), piece, help);
    }
}
