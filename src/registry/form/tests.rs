use super::*;

fn form(kind: Kind, fields: &[(&str, &str)]) -> Form {
    let mut form = Form::new(kind);
    for (name, value) in fields {
        let field = kind.fields().iter().find(|field| field.name == *name).unwrap();
        let value = match field.kind {
            FieldKind::Text => Value::Text((*value).into()),
            FieldKind::Secret => Value::Secret(Secret::new((*value).into())),
        };
        form.set(name, value).unwrap();
    }
    form
}

fn shape(kind: Kind, fields: &[(&str, &str)]) -> (String, String, String, String) {
    let connection = form(kind, fields).connect().unwrap();
    let secret = connection.credential.sources().next().map(|source| source.secret().expose().to_owned());
    let user = match &connection.credential {
        Credential::Password { username, .. } => username.clone(),
        Credential::TokenAsBoth(token) => token.secret().expose().to_owned(),
        Credential::IdentityToken(_) => "(identity token)".into(),
        Credential::Aws(key) => format!("{} at {}", key.id, key.endpoint),
        Credential::Google(key) => format!("at {}", key.endpoint),
        Credential::Entra(app) => format!("{} of {} at {}", app.client_id, app.tenant, app.endpoint),
        _ => "-".into(),
    };
    let secret = secret.unwrap_or("-".into());
    (connection.origin.to_string(), connection.prefix.map_or("-".into(), |p| p.to_string()), user, secret)
}

fn expect(origin: &str, prefix: &str, user: &str, secret: &str) -> (String, String, String, String) {
    (origin.into(), prefix.into(), user.into(), secret.into())
}

#[test]
fn every_form_of_the_documentation_becomes_its_connection() {
    assert_eq!(
        shape(Kind::DigitalOcean, &[("registry_name", "your-registry-name"), ("api_token", "dop_v1")]),
        expect("https://registry.digitalocean.com", "your-registry-name", "dop_v1", "dop_v1"),
    );
    assert_eq!(
        shape(Kind::DockerHub, &[("namespace", "example-repository"), ("username", "me"), ("password", "pw")]),
        expect("https://registry-1.docker.io", "example-repository", "me", "pw"),
    );
    assert_eq!(
        shape(Kind::Google, &[("region", "us-west1"), ("project", "project-name"), ("json_key", "{\"a\":\n1}")]),
        expect("https://us-west1-docker.pkg.dev", "project-name", "_json_key", "{\"a\":\n1}"),
    );
    assert_eq!(
        shape(Kind::Ghcr, &[("organization", "Example-Org"), ("email", "dev@example.com"), ("password", "ghp")]),
        expect("https://ghcr.io", "example-org", "dev@example.com", "ghp"),
    );
    assert_eq!(
        shape(
            Kind::Azure,
            &[
                ("url", "https://example-registry.azurecr.io"),
                ("namespace", "/"),
                ("username", "app-id"),
                ("password", "s")
            ],
        ),
        expect("https://example-registry.azurecr.io", "-", "app-id", "s"),
    );
}

#[test]
fn the_further_kinds_become_their_connections() {
    assert_eq!(
        shape(Kind::Ecr, &[("account_id", "123456789012"), ("region", "eu-west-1"), ("password", "p")]),
        expect("https://123456789012.dkr.ecr.eu-west-1.amazonaws.com", "-", "AWS", "p"),
    );
    assert_eq!(
        shape(Kind::Ngc, &[("organization", "nvidia"), ("team", "tao"), ("api_key", "k")]),
        expect("https://nvcr.io", "nvidia/tao", "$oauthtoken", "k"),
    );
    assert_eq!(
        shape(Kind::Quay, &[("organization", "org"), ("username", "org+robot"), ("password", "p")]),
        expect("https://quay.io", "org", "org+robot", "p"),
    );
    assert_eq!(
        shape(
            Kind::Gitlab,
            &[("namespace", "group/project"), ("username", "gitlab+deploy-token-1"), ("password", "p")]
        ),
        expect("https://registry.gitlab.com", "group/project", "gitlab+deploy-token-1", "p"),
    );
    assert_eq!(
        shape(Kind::Generic, &[("url", "https://registry.internal:5000/"), ("username", "<token>"), ("password", "t")]),
        expect("https://registry.internal:5000", "-", "(identity token)", "t"),
    );
    assert_eq!(shape(Kind::DockerHub, &[]), expect("https://registry-1.docker.io", "-", "-", "-"));
}

#[test]
fn a_cloud_is_signed_in_to_at_its_own_place_unless_another_is_written() {
    let key = [("access_key_id", "AKIA"), ("secret_access_key", "s")];
    let ecr = |fields: &[(&str, &str)]| shape(Kind::Ecr, &[fields, &key].concat());
    assert_eq!(
        ecr(&[("account_id", "123456789012"), ("region", "cn-north-1")]),
        expect(
            "https://123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
            "-",
            "AKIA at https://api.ecr.cn-north-1.amazonaws.com.cn",
            "s"
        ),
    );
    let fips = "https://123456789012.dkr.ecr-fips.us-east-1.amazonaws.com";
    assert_eq!(ecr(&[("url", fips)]), expect(fips, "-", "AKIA at https://ecr-fips.us-east-1.amazonaws.com", "s"));
    assert_eq!(
        ecr(&[("url", "https://public.ecr.aws"), ("namespace", "team")]),
        expect("https://public.ecr.aws", "team", "AKIA at https://api.ecr-public.us-east-1.amazonaws.com", "s"),
    );
    assert_eq!(
        ecr(&[
            ("url", "https://ecr.internal"),
            ("region", "eu-west-1"),
            ("sign_in_endpoint", "https://vpce-1.example/")
        ]),
        expect("https://ecr.internal", "-", "AKIA at https://vpce-1.example", "s"),
    );
    let google = [("region", "us"), ("project", "p"), ("json_key", "{}"), ("sign_in", "access-token")];
    assert_eq!(
        shape(Kind::Google, &google),
        expect("https://us-docker.pkg.dev", "p", "at https://oauth2.googleapis.com", "{}"),
    );
    let legacy = [("url", "https://gcr.io"), ("project", "p"), ("json_key", "{}")];
    assert_eq!(shape(Kind::Google, &legacy), expect("https://gcr.io", "p", "_json_key", "{}"));
    for (host, endpoint) in [
        ("r.azurecr.io", "https://login.microsoftonline.com"),
        ("r.azurecr.cn", "https://login.partner.microsoftonline.cn"),
        ("r.azurecr.us", "https://login.microsoftonline.us"),
    ] {
        let url = format!("https://{host}");
        let fields = [("url", url.as_str()), ("tenant", "t-1"), ("username", "app"), ("password", "s")];
        assert_eq!(shape(Kind::Azure, &fields), expect(&url, "-", &format!("app of t-1 at {endpoint}"), "s"));
    }
}

#[test]
fn a_login_that_is_kept_elsewhere_stands_in_for_the_secret() {
    let config = r#"{"auths": {"quay.io/org": {"username": "org+robot", "password": "p"}}}"#;
    let login = |username: Option<&str>, value: Value| {
        let mut form = Form::new(Kind::Quay);
        form.set("organization", Value::Text("org".into())).unwrap();
        if let Some(username) = username {
            form.set("username", Value::Text(username.into())).unwrap();
        }
        form.set("password", value).unwrap();
        form.connect().map(|connection| format!("{:?}", connection.credential)).map_err(|error| error.field)
    };
    let file = |text: &str| Value::DockerConfig(Secret::new(text.into()).into());
    assert!(login(None, file(config)).unwrap().contains("username: None"));
    assert!(login(Some("org+robot"), file(config)).unwrap().contains("username: Some(\"org+robot\")"));
    assert_eq!(login(Some("somebody"), file(config)), Err("username"), "contradicts the file");
    assert_eq!(login(None, file("{}")), Err("password"));
    assert!(login(None, Value::Helper("desktop".parse().unwrap())).unwrap().contains("quay.io"));
}

#[test]
fn a_form_that_cannot_work_names_the_field() {
    for (kind, fields, field) in [
        (Kind::Google, &[("region", "us-west1")][..], "project"),
        (Kind::Google, &[("region", "us.evil/"), ("project", "p")], "region"),
        (Kind::Generic, &[("url", "registry.internal")], "url"),
        (Kind::Generic, &[("url", "https://r.internal/path")], "url"),
        (Kind::Generic, &[("url", "https://r.internal"), ("namespace", "a//b")], "namespace"),
        (Kind::Generic, &[("url", "https://r.internal"), ("username", "u")], "password"),
        (Kind::Generic, &[("url", "https://r.internal"), ("password", "p")], "username"),
        (Kind::Generic, &[("url", "https://r.internal"), ("username", "a:b"), ("password", "p")], "username"),
        (Kind::Ecr, &[("account_id", "12"), ("region", "eu-west-1")], "account_id"),
        (Kind::Ecr, &[("url", "https://public.ecr.aws"), ("access_key_id", "A")], "secret_access_key"),
        (Kind::Ecr, &[("url", "https://public.ecr.aws"), ("secret_access_key", "A")], "access_key_id"),
        (Kind::Ecr, &[("url", "https://public.ecr.aws"), ("session_token", "A")], "session_token"),
        (
            Kind::Ecr,
            &[("url", "https://public.ecr.aws"), ("access_key_id", "A"), ("secret_access_key", "s"), ("password", "p")],
            "password",
        ),
        (Kind::Ecr, &[("url", "https://e.internal"), ("access_key_id", "A"), ("secret_access_key", "s")], "region"),
        (Kind::Google, &[("region", "us"), ("project", "p"), ("sign_in", "magic")], "sign_in"),
        (Kind::Google, &[("region", "us"), ("project", "p"), ("sign_in", "access-token")], "json_key"),
        (Kind::Azure, &[("url", "https://r.azurecr.io"), ("tenant", "t")], "tenant"),
        (Kind::Azure, &[("url", "https://r.azurecr.io"), ("tenant", "../x")], "tenant"),
        (
            Kind::Azure,
            &[
                ("url", "https://r.azurecr.io"),
                ("tenant", "t"),
                ("username", "a"),
                ("password", "s"),
                ("sign_in_endpoint", "login.microsoftonline.com"),
            ],
            "sign_in_endpoint",
        ),
    ] {
        assert_eq!(form(kind, fields).connect().unwrap_err().field, field, "{kind} {fields:?}");
    }
}

#[test]
fn a_field_of_another_kind_is_refused() {
    assert!(Form::new(Kind::Ghcr).set("region", Value::Text("eu".into())).is_err());
    assert!(Form::new(Kind::Ghcr).set("password", Value::Text("clear".into())).is_err());
}
