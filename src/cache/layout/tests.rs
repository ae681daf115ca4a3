use super::*;

#[test]
fn a_directory_that_others_could_write_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let open_to_all = parent.path().join("open");
    fs::create_dir(&open_to_all).unwrap();
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Layout::open(&open_to_all), Err(LayoutError::Unsafe { .. })));

    let link = parent.path().join("link");
    std::os::unix::fs::symlink(parent.path().join("elsewhere"), &link).unwrap();
    assert!(Layout::open(&link).is_err());
    fs::create_dir(parent.path().join("elsewhere")).unwrap();
    assert!(matches!(Layout::open(&link), Err(LayoutError::Unsafe { .. })));
}

#[test]
fn one_process_writes_and_a_second_one_only_reads() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("cache");
    let first = Layout::open(&root).unwrap();
    let second = Layout::open(&root).unwrap();
    assert!(first.is_writer() && !second.is_writer());
    assert_eq!((first.take_over().unwrap(), second.take_over().unwrap()), (Hold::Kept, Hold::Elsewhere));
    drop(first);
    assert_eq!(second.take_over().unwrap(), Hold::Taken);
    drop(second);
    assert!(Layout::open(&root).unwrap().is_writer());
}

#[test]
fn a_directory_that_was_deleted_is_made_again_and_taken() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("below/cache");
    let layout = Layout::open(&root).unwrap();
    let digest = Digest::sha256_of(b"content");
    fs::remove_dir_all(dir.path().join("below")).unwrap();
    // In its place there is what nothing can be kept in: nothing is.
    fs::write(dir.path().join("below"), "a file").unwrap();
    assert!(matches!(layout.take_over(), Err(LayoutError::Io { .. })));
    assert!(!layout.is_writer());
    fs::remove_file(dir.path().join("below")).unwrap();
    assert_eq!(layout.take_over().unwrap(), Hold::Taken);
    layout.write_small(&digest, b"content", Durability::Sync).unwrap();
    assert!(!Layout::open(&root).unwrap().is_writer(), "the new directory is locked too");
    // Its lock alone may go as well.
    fs::remove_file(root.join("LOCK")).unwrap();
    assert_eq!(layout.take_over().unwrap(), Hold::Taken);
    assert_eq!(layout.list_blobs().unwrap().len(), 1);
}

#[test]
fn a_small_blob_is_kept_without_touching_a_fill_of_the_same_content() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(&dir.path().join("cache")).unwrap();
    let bytes = b"what both of them write";
    let digest = Digest::sha256_of(bytes);
    let mut growing = layout.open_partial(&digest).unwrap().file;
    growing.write_all(&bytes[..10]).unwrap();
    layout.write_small(&digest, bytes, Durability::Sync).unwrap();
    assert_eq!(fs::read(layout.partial(&digest)).unwrap(), bytes[..10]);
    assert_eq!(fs::read(layout.blob(&digest)).unwrap(), bytes);
    growing.write_all(&bytes[10..]).unwrap();
    layout.publish(&digest, None).unwrap();
    assert_eq!(fs::read(layout.blob(&digest)).unwrap(), bytes);
    assert_eq!(fs::read_dir(dir.path().join("cache/partial")).unwrap().count(), 0);
}

#[test]
fn h3_a_link_in_the_place_of_a_growing_file_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(&dir.path().join("cache")).unwrap();
    let digest = Digest::sha256_of(b"content");
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, b"precious").unwrap();
    std::os::unix::fs::symlink(&elsewhere, layout.partial(&digest)).unwrap();
    assert_eq!(layout.open_partial(&digest).err().unwrap().raw_os_error(), Some(40), "ELOOP");
    assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
}

#[test]
fn a_directory_of_a_newer_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("cache");
    drop(Layout::open(&root).unwrap());
    fs::write(root.join("VERSION"), "{\"format\":2}").unwrap();
    assert!(matches!(Layout::open(&root), Err(LayoutError::Format { found, .. }) if found == "2"));
}

#[test]
fn a_link_planted_among_the_partials_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(&dir.path().join("cache")).unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let digest = Digest::sha256_of(b"x");
    std::os::unix::fs::symlink(&victim, layout.partial(&digest)).unwrap();
    assert!(layout.open_partial(&digest).is_err());
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
}
