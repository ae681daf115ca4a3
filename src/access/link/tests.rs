use super::*;
use crate::config::Settings;

/// Everything in `links`, sorted.
fn all(links: &Links) -> Vec<String> {
    let mut all = Vec::new();
    links.for_each(|registry, repository, digest, link| {
        all.push(format!("{registry} {repository} {} {:?}", &digest.hex()[..4], link.size));
    });
    all.sort();
    all
}

#[test]
fn a_link_that_is_removed_is_gone_at_once_and_for_good() {
    let registries = Settings::parse("t.toml", "", &std::collections::BTreeMap::new()).unwrap().registries;
    let (registry, repository, digest) = (&registries[0], "a".parse().unwrap(), Digest::Sha256([1; 32]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("links.redb");
    let links = Links::open(&path);
    links.put(registry, &repository, &digest, None, Some(1));
    links.close();
    drop(links);
    let links = Links::open(&path);
    // It is still on disk for a moment.
    links.remove(registry, &repository, &digest);
    assert_eq!((links.last(registry, &repository, &digest), all(&links)), (None, vec![]));
    links.close();
    drop(links);
    assert_eq!(Links::open(&path).last(registry, &repository, &digest), None);
}

#[test]
fn c11_revoked_links_are_gone_at_once_and_on_disk_and_others_stay() {
    let text = ["hub", "hub-2"]
        .map(|name| format!("[[registry]]\nname = \"{name}\"\nkind = \"generic\"\nurl = \"https://{name}.example\"\n"));
    let registries = Settings::parse(
        "t.toml",
        &format!("docker_hub = false\n{}", text.concat()),
        &std::collections::BTreeMap::new(),
    )
    .unwrap()
    .registries;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("links.redb");
    let repository = |name: &str| name.parse::<Repository>().unwrap();
    let digest = |n| Digest::Sha256([n; 32]);
    let fill = |links: &Links| {
        for registry in &registries {
            for name in ["app", "app/sub", "app2"] {
                for n in 0..3 {
                    links.put(registry, &repository(name), &digest(n), None, None);
                }
            }
        }
    };
    for links in [Links::in_memory(), Links::open(&path)] {
        fill(&links);
        assert_eq!(links.revoke(&registries[0], Some(&repository("app"))).links, 3);
        assert_eq!(links.get(&registries[0], &repository("app"), &digest(1)), None);
        assert!(links.get(&registries[0], &repository("app/sub"), &digest(1)).is_some());
        assert!(links.get(&registries[0], &repository("app2"), &digest(1)).is_some());
        assert!(links.get(&registries[1], &repository("app"), &digest(1)).is_some());
        assert_eq!(links.revoke(&registries[0], None).links, 6);
        assert_eq!(all(&links).len(), 9);
        // Upstream may allow it again.
        links.put(&registries[0], &repository("app"), &digest(1), None, None);
        assert!(links.get(&registries[0], &repository("app"), &digest(1)).is_some());
        links.close();
    }
    let links = Links::open(&path);
    assert_eq!(links.get(&registries[0], &repository("app2"), &digest(1)), None);
    assert_eq!((all(&links).len(), links.revoke(&registries[1], None).links), (10, 9));
}

#[test]
fn a_link_holds_for_its_time_then_only_while_upstream_cannot_answer() {
    let text = "[[registry]]\nname = \"a\"\nkind = \"docker-hub\"\n[[registry]]\nname = \"b\"\nkind = \"docker-hub\"\n\
                link_ttl = \"0s\"\n[[registry]]\nname = \"c\"\nkind = \"docker-hub\"\nlink_ttl = \"1h\"\n\
                link_stale_if_error = \"1h\"\n";
    let registries = Settings::parse("t.toml", text, &std::collections::BTreeMap::new()).unwrap().registries;
    let (hour, day) = (3600, 86_400);
    for (registry, age, holds, stands_in) in [
        (0, 7 * day - 60, true, true),
        (0, 7 * day + 60, false, true),
        (0, 14 * day + 60, false, false),
        // Strict: upstream is asked every time, and has to answer.
        (1, 0, false, false),
        (2, hour - 60, true, true),
        (2, hour + 60, false, true),
        (2, 2 * hour + 60, false, false),
    ] {
        let link = Link { seen_at: now() - age, media_type: None, size: None };
        let registry = &registries[registry];
        assert_eq!((link.holds_for(registry), link.may_stand_in_for(registry)), (holds, stands_in), "{age}");
    }
    // During a rate limit, a link to private content counts for five minutes only.
    let text = "[[registry]]\nname = \"p\"\nkind = \"docker-hub\"\nusername = \"u\"\npassword = { env = \"P\" }\n";
    let variables = [("P".to_owned(), "s".to_owned())].into();
    let private = Settings::parse("t.toml", text, &variables).unwrap().registries;
    for (registry, age, outlasts) in [
        (&private[0], day + 240, true),
        (&private[0], day + 360, false),
        (&registries[0], 14 * day - 60, true),
        (&registries[0], 14 * day + 60, false),
        (&registries[1], 0, false),
    ] {
        let link = Link { seen_at: now() - age, media_type: None, size: None };
        assert_eq!(link.outlasts_a_rate_limit(registry), outlasts, "{age}");
    }
    let links = Links::in_memory();
    let (repository, digest) = ("library/a".parse().unwrap(), Digest::Sha256([1; 32]));
    links.put(&registries[1], &repository, &digest, None, None);
    assert_eq!(links.get(&registries[1], &repository, &digest), None);
    assert_eq!(
        links.last(&registries[1], &repository, &digest).filter(|link| link.may_stand_in_for(&registries[1])),
        None
    );
}

#[test]
fn every_link_is_shown_once_whether_it_is_written_already_or_not() {
    let registries = Settings::parse("t.toml", "", &std::collections::BTreeMap::new()).unwrap().registries;
    let registry = &registries[0];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("links.redb");
    let links = Links::open(&path);
    assert_eq!((all(&links), links.count()), (vec![], 0));
    let put = |links: &Links, repository: &str, n: u8, size| {
        links.put(registry, &repository.parse().unwrap(), &Digest::Sha256([n; 32]), None, Some(size));
    };
    put(&links, "library/a", 1, 10);
    put(&links, "library/a", 2, 20);
    links.close();
    assert_eq!((all(&links).len(), links.count()), (2, 2));
    drop(links);
    let links = Links::open(&path);
    put(&links, "library/a", 2, 21);
    put(&links, "library/b", 2, 20);
    let expected = ["library/a 0101 Some(10)", "library/a 0202 Some(21)", "library/b 0202 Some(20)"]
        .map(|link| format!("{} {link}", registry.owner()));
    assert_eq!(all(&links), expected);
    links.close();
    assert_eq!((all(&links).as_slice(), links.count()), (expected.as_slice(), 3));
}
