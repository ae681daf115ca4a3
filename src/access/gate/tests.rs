use super::*;

/// `correct horse`, hashed with small parameters.
fn hash() -> String {
    use argon2::{CustomizedPasswordHasher as _, Params};
    let params = Params::new(64, 1, 1, None).unwrap();
    Argon2::default()
        .hash_password_customized(b"correct horse", b"salt-of-tests-16", None, None, params)
        .unwrap()
        .to_string()
}

fn client(name: &str, proof: Proof) -> Client {
    Client { name: name.into(), proof, grants: vec![] }
}

fn gate_of(clients: Vec<Client>) -> Gate {
    let limits = LoginLimits { max_wrong_logins: 1000, ..LoginLimits::default() };
    Gate::new(clients, GateSettings { limits, ..GateSettings::default() }, Arc::default())
}

fn clients() -> Vec<Client> {
    vec![
        client("ci", Proof::Password { hash: hash() }),
        client("robot", Proof::Token { sha256: crate::oci::Digest::sha256_of(b"t0ken").hex() }),
        client("rack", Proof::Networks(vec!["10.1.0.0/16".parse().unwrap()])),
        client("node", Proof::Certificate("CN=node".parse().unwrap())),
    ]
}

fn gate() -> Gate {
    gate_of(clients())
}

fn certificate(name: &str) -> CertificateNames {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    CertificateNames::read(params.self_signed(&key).unwrap().der()).unwrap()
}

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

async fn who(gate: &Gate, evidence: Evidence<'_>) -> Result<String, Rejected> {
    gate.identify(evidence).await.map(|identity| match identity.principal {
        Principal::Anonymous => "-".into(),
        Principal::Client(client) => client.name.clone(),
    })
}

fn sends(value: &[u8]) -> Evidence<'_> {
    Evidence { authorization: vec![value], ..Evidence::default() }
}

#[tokio::test]
async fn strangers_at_many_addresses_wait_in_a_bounded_queue_and_who_is_known_in_none() {
    let gate = Arc::new(gate());
    let known = basic("ci:correct horse");
    assert_eq!(who(&gate, sends(known.as_bytes())).await, Ok("ci".into()));
    // The checks of others take as long as they like.
    let held = gate.checks.acquire_many(2).await.unwrap();
    let (told, mut verdicts) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..200_u8 {
        let (gate, told) = (Arc::clone(&gate), told.clone());
        tokio::spawn(async move {
            let header = basic(&format!("u{n}:wrong"));
            let peer = Some(IpAddr::from([10, 9, n, 1]));
            let evidence = Evidence { peer, ..sends(header.as_bytes()) };
            let _ = told.send(matches!(gate.identify(evidence).await, Err(Rejected::TooMany { .. })));
        });
    }
    for _ in 0..200 - MAX_WAITING {
        assert!(verdicts.recv().await.unwrap(), "turned away");
    }
    assert_eq!(who(&gate, sends(known.as_bytes())).await, Ok("ci".into()));
    drop(held);
    for _ in 0..MAX_WAITING {
        assert!(!verdicts.recv().await.unwrap(), "looked at, in the end");
    }
}

#[tokio::test]
async fn each_proof_names_its_client() {
    let gate = gate();
    let basic = format!("Basic {}", STANDARD.encode("ci:correct horse"));
    for _ in 0..2 {
        assert_eq!(who(&gate, sends(basic.as_bytes())).await, Ok("ci".into()));
    }
    assert_eq!(who(&gate, sends(b"bearer t0ken")).await, Ok("robot".into()));
    let from = |peer: &str| Evidence { peer: peer.parse().ok(), ..Evidence::default() };
    assert_eq!(who(&gate, from("10.1.2.3")).await, Ok("rack".into()));
    assert_eq!(who(&gate, from("::ffff:10.1.2.3")).await, Ok("rack".into()));
    assert_eq!(who(&gate, from("10.2.0.1")).await, Ok("-".into()));
    for (name, expected) in [("node", "node"), ("other", "-")] {
        let names = certificate(name);
        let certified = Evidence { certificate: Some(&names), ..Evidence::default() };
        assert_eq!(who(&gate, certified).await, Ok(expected.into()));
    }
}

#[tokio::test]
async fn a_token_of_ours_is_its_client_until_the_proof_changes() {
    let gate = gate();
    let scope = Scope::default();
    let token = async |header: &str| {
        let identity = gate.identify(sends(header.as_bytes())).await.unwrap();
        format!("Bearer {}", gate.issue(&identity.principal, &scope).unwrap().token)
    };
    let (ci, robot) = (token(&basic("ci:correct horse")).await, token("Bearer t0ken").await);
    assert_eq!(who(&gate, sends(ci.as_bytes())).await, Ok("ci".into()));
    assert_eq!(who(&gate, sends(robot.as_bytes())).await, Ok("robot".into()));
    assert_eq!(who(&gate, sends(b"Bearer tsp1.e30.AA")).await, Err(Rejected::Ended));
    // What a network shows cannot be carried out of it.
    let rack = Evidence { peer: "10.1.2.3".parse().ok(), ..Evidence::default() };
    let rack = gate.identify(rack).await.unwrap();
    assert_eq!(rack.principal.name(), Some("rack"));
    let carried = format!("Bearer {}", gate.issue(&rack.principal, &scope).unwrap().token);
    assert_eq!(who(&gate, sends(carried.as_bytes())).await, Ok("-".into()));
    let mut next = clients();
    next[0].grants = vec!["hub/**".parse().unwrap()];
    next[1].proof = Proof::Token { sha256: crate::oci::Digest::sha256_of(b"new").hex() };
    gate.replace(next);
    assert_eq!(who(&gate, sends(ci.as_bytes())).await, Ok("ci".into()), "grants are looked up when they count");
    assert_eq!(who(&gate, sends(robot.as_bytes())).await, Err(Rejected::Ended));
    gate.replace(vec![client("other", Proof::Networks(vec![]))]);
    assert_eq!(who(&gate, sends(ci.as_bytes())).await, Err(Rejected::Ended));
}

#[tokio::test]
async fn wrong_and_malformed_credentials_are_rejected() {
    let gate = gate();
    for text in ["ci:wrong", "ci:", "ci:correct horse\0", "nobody:correct horse", "robot:t0ken", "ci"] {
        let header = format!("Basic {}", STANDARD.encode(text));
        assert_eq!(who(&gate, sends(header.as_bytes())).await, Err(Rejected::Wrong), "{text}");
    }
    let long = format!("Basic {}", "A".repeat(64 * 1024));
    for header in
        [&b"x"[..], b"Basic", b"Basic ", b"Basic !!!", b"Basic \xff\xfe", b"Bearer nope", b"Digest x", long.as_bytes()]
    {
        assert_eq!(who(&gate, sends(header)).await, Err(Rejected::Wrong));
    }
    let twice = Evidence { authorization: vec![b"bearer t0ken", b"bearer t0ken"], ..Evidence::default() };
    assert_eq!(who(&gate, twice).await, Err(Rejected::Wrong));
}

#[tokio::test]
async fn without_clients_nobody_is_asked() {
    let gate = gate_of(vec![]);
    assert_eq!(who(&gate, sends(b"Basic c29tZWJvZHk6ZWxzZQ==")).await, Ok("-".into()));
}

#[tokio::test]
async fn c4_only_the_exact_password_passes() {
    let password = "pass:with:colons";
    let hash = {
        use argon2::{CustomizedPasswordHasher as _, Params};
        let params = Params::new(64, 1, 1, None).unwrap();
        let hashed =
            Argon2::default().hash_password_customized(password.as_bytes(), b"salt-of-tests-16", None, None, params);
        hashed.unwrap().to_string()
    };
    let gate = gate_of(vec![client("ci", Proof::Password { hash })]);
    assert_eq!(who(&gate, sends(basic("ci:pass:with:colons").as_bytes())).await, Ok("ci".into()));
    for text in [
        "ci:",
        "ci:pass",
        "ci:pass:with",
        "ci:pass:with:colons ",
        "ci:pass:with:colons\0",
        "ci:\0",
        "ci::pass:with:colons",
    ] {
        assert_eq!(who(&gate, sends(basic(text).as_bytes())).await, Err(Rejected::Wrong), "{text:?}");
    }
}

#[tokio::test]
async fn a_client_that_changed_is_known_by_its_new_self_only() {
    let gate = gate();
    let (old, token) = (basic("ci:correct horse"), b"bearer t0ken");
    assert_eq!(who(&gate, sends(old.as_bytes())).await, Ok("ci".into()));
    assert_eq!(who(&gate, sends(token)).await, Ok("robot".into()));
    let mut next = clients();
    next.remove(0);
    next.push(client("ci", Proof::Token { sha256: crate::oci::Digest::sha256_of(b"new").hex() }));
    gate.replace(next);
    assert_eq!(who(&gate, sends(old.as_bytes())).await, Err(Rejected::Wrong));
    assert_eq!(who(&gate, sends(b"bearer new")).await, Ok("ci".into()));
    assert_eq!(who(&gate, sends(token)).await, Ok("robot".into()), "who did not change is still known");
    gate.replace(vec![client("other", Proof::Networks(vec![]))]);
    assert_eq!(who(&gate, sends(token)).await, Err(Rejected::Wrong));
}

#[tokio::test]
async fn c10_a_grant_that_is_removed_counts_for_the_next_request_no_longer() {
    let text = "[[registry]]\nname = \"hub\"\nkind = \"docker-hub\"\naccess = \"grants\"\n";
    let registry = crate::config::Settings::parse("t.toml", text, &Default::default()).unwrap().registries.remove(0);
    let repository: Repository = "library/alpine".parse().unwrap();
    let mut robot = client("robot", Proof::Token { sha256: crate::oci::Digest::sha256_of(b"t0ken").hex() });
    robot.grants = vec!["hub/library/*".parse().unwrap()];
    let gate = gate_of(vec![robot.clone()]);
    let ask = async || gate.identify(sends(b"bearer t0ken")).await.unwrap().principal;
    let principal = ask().await;
    assert!(gate.may_pull(&principal, &registry, &repository));
    robot.grants.clear();
    gate.replace(vec![robot]);
    let principal = ask().await;
    assert_eq!(principal.name(), Some("robot"));
    assert!(!gate.may_pull(&principal, &registry, &repository));
}

#[tokio::test]
async fn an_unknown_user_never_passes_by_the_password_of_another() {
    let gate = gate();
    for n in 0..20 {
        assert_eq!(who(&gate, sends(basic(&format!("user-{n}:correct horse")).as_bytes())).await, Err(Rejected::Wrong));
    }
}

#[tokio::test]
async fn a_login_for_somewhere_else_is_ignored_where_that_is_the_rule() {
    let settings = GateSettings { foreign_credentials: ForeignCredentials::Ignore, ..GateSettings::default() };
    let gate = Gate::new(clients(), settings, Arc::default());
    let foreign = basic("hub-user:hub-password");
    for _ in 0..50 {
        assert_eq!(who(&gate, sends(foreign.as_bytes())).await, Ok("-".into()));
    }
    let from_the_rack =
        Evidence { authorization: vec![foreign.as_bytes()], peer: "10.1.0.1".parse().ok(), certificate: None };
    assert_eq!(who(&gate, from_the_rack).await, Ok("rack".into()));
    // Our own are never taken for foreign.
    assert_eq!(who(&gate, sends(basic("ci:wrong").as_bytes())).await, Err(Rejected::Wrong));
    assert_eq!(who(&gate, sends(b"Bearer wrong")).await, Err(Rejected::Wrong));
    assert_eq!(who(&gate, sends(b"Basic !!!")).await, Err(Rejected::Wrong));
}

#[tokio::test]
async fn after_too_many_wrong_logins_right_ones_have_to_wait_except_those_known_already() {
    let gate = Gate::new(clients(), GateSettings::default(), Arc::default());
    let right = basic("ci:correct horse");
    let from = |peer: &str, header: &'static str| (peer.parse().ok(), header.to_owned());
    let ask = async |(peer, header): (Option<IpAddr>, String)| {
        let evidence = Evidence { authorization: vec![header.as_bytes()], peer, certificate: None };
        who(&gate, evidence).await
    };
    assert_eq!(ask(("10.0.0.1".parse().ok(), right.clone())).await, Ok("ci".into()));
    let guesses = (0..200).map(|n| ask(("10.0.0.1".parse().ok(), basic(&format!("ci:guess-{n}")))));
    let answers = futures_util::future::join_all(guesses).await;
    let looked_at = answers.iter().filter(|answer| **answer == Err(Rejected::Wrong)).count();
    assert!((10..=12).contains(&looked_at), "{looked_at} of 200 at once");
    assert!(matches!(ask(from("10.0.0.1", "Bearer t0ken")).await, Err(Rejected::TooMany { .. })));
    assert_eq!(ask(("10.0.0.1".parse().ok(), right.clone())).await, Ok("ci".into()));
    assert_eq!(ask(from("10.0.0.2", "Bearer t0ken")).await, Ok("robot".into()));
}

/// How long a wrong login takes, the least of some: what else runs on the
/// machine only ever adds to it.
async fn least(gate: &Gate, user: &str) -> Duration {
    let mut least = Duration::MAX;
    for n in 0..40 {
        let header = basic(&format!("{user}:wrong-{n}"));
        let sent = Sent::parse(header.as_bytes()).unwrap();
        let begun = Instant::now();
        assert!(gate.check(&sent, None).await.is_err());
        least = least.min(begun.elapsed());
    }
    least
}

#[tokio::test]
async fn c3_an_unknown_user_takes_as_long_as_a_known_one() {
    let heavy = {
        use argon2::{CustomizedPasswordHasher as _, Params};
        let params = Params::new(4096, 1, 1, None).unwrap();
        Argon2::default().hash_password_customized(b"x", b"salt-of-tests-16", None, None, params).unwrap().to_string()
    };
    let gate = gate_of(vec![client("ci", Proof::Password { hash: heavy })]);
    let (known, unknown) = (least(&gate, "ci").await, least(&gate, "nobody").await);
    // Without the check an unknown one would take a hundredth of it.
    assert!(unknown > known / 2 && known > unknown / 2, "known {known:?}, unknown {unknown:?}");
}

#[test]
fn the_dummy_hash_is_a_hash() {
    assert!(argon2::password_hash::phc::PasswordHash::new(NOBODY).is_ok());
}
