//! Images that a container can really be run from.
//!
//! Made from the machine's static busybox and a few files; every byte follows
//! from that, so two runs of the tests push the same digests.

use std::fs;
use std::io::Write as _;

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// What a container of [`app`] prints when it is run without a command.
pub(crate) const GREETING: &str = "hello from a layer";

/// The size of the layer that is large enough to arrive in many pieces.
const LARGE: usize = 3 * 1024 * 1024;

/// A layer or a config.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    /// `sha256:…` of `bytes`.
    pub(crate) digest: String,
    /// What it is.
    pub(crate) bytes: Vec<u8>,
}

/// A manifest or an index, as bytes that are not to change on their way.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Its media type.
    pub(crate) media_type: &'static str,
    /// `sha256:…` of `bytes`.
    pub(crate) digest: String,
    /// What it is.
    pub(crate) bytes: Vec<u8>,
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Its manifest.
    pub(crate) manifest: Document,
    /// Its config and its layers.
    pub(crate) blobs: Vec<Blob>,
}

/// Images for several platforms under one name.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// The index itself.
    pub(crate) document: Document,
    /// The image for this machine first, then the one for another.
    pub(crate) images: Vec<Image>,
}

/// The two families of media types that are in use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flavour {
    /// Docker's image manifest, version 2 schema 2.
    Docker,
    /// OCI's.
    Oci,
}

impl Flavour {
    fn manifest(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::Oci => "application/vnd.oci.image.index.v1+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.container.image.v1+json",
            Self::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }
}

/// A runnable image of three layers; a container of it prints [`GREETING`].
pub(crate) fn app(flavour: Flavour) -> Image {
    let layers = [busybox_layer(), large_layer(), file_layer("etc/greeting", GREETING)];
    image(flavour, this_architecture(), &layers)
}

/// A small image like no other: its one layer holds `text`.
pub(crate) fn unique(flavour: Flavour, text: &str) -> Image {
    image(flavour, this_architecture(), &[file_layer("etc/greeting", text)])
}

/// [`app`] for this machine, and an image for another that nothing here runs.
pub(crate) fn multi_architecture(flavour: Flavour) -> Index {
    let here = this_architecture();
    let elsewhere = if here == "arm64" { "amd64" } else { "arm64" };
    let dummy = image(flavour, elsewhere, &[file_layer("etc/greeting", "from another world")]);
    let images = vec![app(flavour), dummy];
    let manifests: Vec<Value> = images
        .iter()
        .zip([here, elsewhere])
        .map(|(image, architecture)| {
            let mut descriptor = descriptor(flavour.manifest(), &image.manifest.digest, image.manifest.bytes.len());
            descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
            descriptor
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": flavour.index(), "manifests": manifests});
    Index { document: document(flavour.index(), &index), images }
}

/// The digest of `bytes` as registries write it.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The architecture of this machine in the words of an image config.
fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A layer before compression: its config names that digest too.
type Tar = Vec<u8>;

fn image(flavour: Flavour, architecture: &str, layers: &[Tar]) -> Image {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest_of(layer)).collect();
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Cmd": ["/bin/cat", "/etc/greeting"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": diff_ids.iter().map(|_| json!({"created": "2024-01-01T00:00:00Z"})).collect::<Vec<_>>(),
    });
    let mut blobs = vec![blob(config.to_string().into_bytes())];
    blobs.extend(layers.iter().map(|layer| blob(gzip(layer))));
    let described = |blob: &Blob, media_type| descriptor(media_type, &blob.digest, blob.bytes.len());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": flavour.manifest(),
        "config": described(&blobs[0], flavour.config()),
        "layers": blobs[1..].iter().map(|blob| described(blob, flavour.layer())).collect::<Vec<_>>(),
    });
    Image { manifest: document(flavour.manifest(), &manifest), blobs }
}

fn blob(bytes: Vec<u8>) -> Blob {
    Blob { digest: digest_of(&bytes), bytes }
}

fn descriptor(media_type: &str, digest: &str, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// Written with white space that a parser would lose: who sends it on
/// re-encoded gets another digest.
fn document(media_type: &'static str, value: &Value) -> Document {
    let bytes = format!("{value:#}\n").into_bytes();
    Document { media_type, digest: digest_of(&bytes), bytes }
}

/// `/bin/busybox` and the names by which it is called.
fn busybox_layer() -> Tar {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok());
    let mut tar = Builder::new(Vec::new());
    directory(&mut tar, "bin/");
    file(&mut tar, "bin/busybox", 0o755, &busybox.expect("busybox-static is installed"));
    for name in ["sh", "cat", "echo", "ls", "sha256sum"] {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    tar.into_inner().unwrap()
}

/// Bytes that do not compress, the same every time (an xorshift sequence).
fn large_layer() -> Tar {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = Vec::with_capacity(LARGE);
    while noise.len() < LARGE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    let mut tar = Builder::new(Vec::new());
    directory(&mut tar, "srv/");
    file(&mut tar, "srv/noise", 0o644, &noise);
    tar.into_inner().unwrap()
}

fn file_layer(path: &str, content: &str) -> Tar {
    let mut tar = Builder::new(Vec::new());
    let (parent, _) = path.rsplit_once('/').unwrap();
    directory(&mut tar, &format!("{parent}/"));
    file(&mut tar, path, 0o644, format!("{content}\n").as_bytes());
    tar.into_inner().unwrap()
}

fn directory(tar: &mut Builder<Vec<u8>>, path: &str) {
    let mut header = header(EntryType::Directory, 0o755, 0);
    tar.append_data(&mut header, path, &[][..]).unwrap();
}

fn file(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = header(EntryType::Regular, mode, content.len());
    tar.append_data(&mut header, path, content).unwrap();
}

/// Owned by root and as old as the epoch, whoever makes it and whenever.
fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Without a time or a file name in its header.
fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
    writer.write_all(tar).unwrap();
    writer.finish().unwrap()
}

#[test]
fn an_image_has_the_same_bytes_every_time() {
    if fs::exists("/usr/bin/busybox").unwrap_or(false) || fs::exists("/bin/busybox").unwrap_or(false) {
        let [one, other] = [(); 2].map(|()| multi_architecture(Flavour::Oci));
        assert_eq!(one.document.digest, other.document.digest);
    }
}
