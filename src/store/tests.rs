use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::registry::Secret;

fn settings(dir: &Path) -> StoreSettings {
    StoreSettings { file: dir.join("store/transship.store"), ..StoreSettings::default() }
}

fn key(dir: &Path, name: &str, text: &str) -> KeySource {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    KeySource::File(path)
}

fn with_secret(text: &str) -> Contents {
    let mut contents = Contents::default();
    let mut keys = toml::Table::new();
    keys.insert("name".into(), "My-Registry".into());
    contents.registries.push(Section { keys, updated_at: 1 });
    let secret = StoredSecret { secret: Secret::new(text.to_owned()), updated_at: 2 };
    contents.secrets.insert(("my-registry".into(), "password".into()), secret);
    contents
}

fn stored(store: &Store) -> Option<String> {
    let secret = store.contents().secrets.get(&("my-registry".to_owned(), "password".to_owned()))?;
    Some(secret.secret.expose().to_owned())
}

#[test]
fn what_was_stored_is_there_again_and_stands_nowhere_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(settings(dir.path())).unwrap();
    assert!(store.contents().is_empty() && !dir.path().join("store").exists(), "nothing is made before it is needed");
    store.replace(with_secret("canary")).unwrap();
    drop(store);
    let store = Store::open(settings(dir.path())).unwrap();
    assert_eq!(stored(&store).as_deref(), Some("canary"));
    assert_eq!(store.contents().registries, with_secret("").registries);
    assert!(!format!("{:?}", store.contents()).contains("canary"));
    for entry in std::fs::read_dir(dir.path().join("store")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        assert!(!String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).contains("canary"), "{entry:?}");
    }
    assert_eq!(dir.path().join("store").metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_fingerprint_tells_secrets_apart_and_belongs_to_the_key() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = |dir: &Path| {
        let mut store = Store::open(settings(dir)).unwrap();
        store.replace(Contents::default()).unwrap();
        store
    };
    let (one, two) = (made(dir.path()), made(other.path()));
    let of = |store: &Store, text: &str| store.fingerprint(&Secret::new(text.to_owned())).unwrap();
    assert_eq!(of(&one, "a"), of(&one, "a"));
    assert_ne!(of(&one, "a"), of(&one, "b"));
    assert_ne!(of(&one, "a"), of(&two, "a"));
}

#[test]
fn a_changed_byte_anywhere_is_noticed_and_the_file_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    Store::open(settings.clone()).unwrap().replace(with_secret("s")).unwrap();
    let whole = std::fs::read(&settings.file).unwrap();
    for index in 0..whole.len() {
        let mut changed = whole.clone();
        changed[index] ^= 1;
        std::fs::write(&settings.file, &changed).unwrap();
        assert!(matches!(Store::open(settings.clone()), Err(StoreError::Broken { .. })), "byte {index}");
        assert_eq!(std::fs::read(&settings.file).unwrap(), changed);
    }
    for length in 0..whole.len() {
        std::fs::write(&settings.file, &whole[..length]).unwrap();
        assert!(matches!(Store::open(settings.clone()), Err(StoreError::Broken { .. })), "{length} bytes");
    }
}

#[test]
fn a_new_key_takes_over_and_the_old_one_opens_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let old = key(dir.path(), "old", &"o".repeat(32));
    let new = key(dir.path(), "new", &"n".repeat(32));
    let with = |key: &KeySource, previous: &[&KeySource]| StoreSettings {
        key: Some(key.clone()),
        previous_keys: previous.iter().map(|&key| key.clone()).collect(),
        ..settings(dir.path())
    };
    Store::open(with(&old, &[])).unwrap().replace(with_secret("s")).unwrap();
    assert!(matches!(Store::open(with(&new, &[])), Err(StoreError::Broken { cause: Broken::OtherKey(_), .. })));
    assert_eq!(stored(&Store::open(with(&new, &[&old])).unwrap()).as_deref(), Some("s"));
    assert_eq!(stored(&Store::open(with(&new, &[])).unwrap()).as_deref(), Some("s"));
    assert!(Store::open(with(&old, &[])).is_err());
}

#[test]
fn what_others_could_read_and_what_is_no_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    Store::open(settings.clone()).unwrap().replace(with_secret("s")).unwrap();
    let chmod = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let store = dir.path().join("store");
    for (path, wide, right) in
        [(settings.file.clone(), 0o640, 0o600), (store.join("key"), 0o604, 0o600), (store, 0o777, 0o700)]
    {
        chmod(&path, wide);
        let error = Store::open(settings.clone()).err().unwrap();
        assert!(matches!(error, StoreError::Mode { .. }), "{error}");
        assert!(error.to_string().contains("chmod"), "{error}");
        chmod(&path, right);
    }
    let short = StoreSettings { key: Some(key(dir.path(), "short", "hunter2")), ..settings.clone() };
    let error = Store::open(short).err().unwrap().to_string();
    assert!(error.contains("at least 32") && !error.contains("hunter2"), "{error}");
    std::fs::remove_file(dir.path().join("store/key")).unwrap();
    assert!(matches!(Store::open(settings), Err(StoreError::Key { .. })), "a lost key is not replaced by a new one");
}

#[test]
fn a_newer_format_and_a_foreign_file_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    Store::open(settings.clone()).unwrap().replace(Contents::default()).unwrap();
    let cause = |text: &str| {
        std::fs::write(&settings.file, text).unwrap();
        match Store::open(settings.clone()) {
            Err(StoreError::Broken { cause, .. }) => cause,
            other => panic!("{:?}", other.err()),
        }
    };
    assert_eq!(cause("transship-store 2 0011223344556677 00\nx"), Broken::Newer(2));
    assert_eq!(cause("{\"auths\": {}}\n"), Broken::Foreign);
    assert_eq!(cause(""), Broken::Foreign);
}

#[test]
fn one_process_changes_the_store_and_others_only_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Store::open(settings(dir.path())).unwrap();
    first.replace(with_secret("one")).unwrap();
    // A lock belongs to an open file: a second one in this process is as good as another process.
    let mut second = Store::open(settings(dir.path())).unwrap();
    assert_eq!(stored(&second).as_deref(), Some("one"));
    assert!(matches!(second.replace(with_secret("two")), Err(StoreError::Locked(_))));
    first.replace(with_secret("three")).unwrap();
    drop(first);
    second.prepare().unwrap();
    assert_eq!(stored(&second).as_deref(), Some("three"), "what the other wrote is read before anything is changed");
}

#[test]
fn an_older_store_than_the_last_one_seen_is_refused_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = settings(dir.path()).file;
    Store::open(settings(dir.path())).unwrap().replace(with_secret("old")).unwrap();
    let copy = std::fs::read(&file).unwrap();
    Store::open(settings(dir.path())).unwrap().replace(with_secret("new")).unwrap();
    let put_back = || std::fs::write(&file, &copy).unwrap();
    put_back();
    let error = Store::open(settings(dir.path())).err().unwrap();
    assert!(matches!(error, StoreError::Older { found: 1, seen: 2, .. }), "{error}");
    assert!(error.to_string().contains("--allow-rollback"));
    assert_eq!(std::fs::read(&file).unwrap(), copy, "it is left as it is");
    let asked_for = StoreSettings { allow_rollback: true, ..settings(dir.path()) };
    assert_eq!(stored(&Store::open(asked_for.clone()).unwrap()).as_deref(), Some("old"));
    // From now on that is the one that was seen.
    let mut store = Store::open(settings(dir.path())).unwrap();
    store.replace(with_secret("newer")).unwrap();
    drop(store);
    put_back();
    assert!(Store::open(settings(dir.path())).is_err());
    // One that was deleted is begun anew, and is newer.
    std::fs::remove_file(&file).unwrap();
    Store::open(settings(dir.path())).unwrap().replace(with_secret("anew")).unwrap();
    assert_eq!(stored(&Store::open(settings(dir.path())).unwrap()).as_deref(), Some("anew"));
    put_back();
    assert!(Store::open(settings(dir.path())).is_err());
    // A note that cannot be read is not taken for none.
    std::fs::write(file.with_extension("seen"), "many").unwrap();
    assert!(matches!(Store::open(settings(dir.path())), Err(StoreError::Io { .. })));
    assert!(Store::open(asked_for).is_ok() && Store::open(settings(dir.path())).is_ok());
}
