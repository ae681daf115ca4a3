//! Sample images: a config, layers and the manifest that names them.
//!
//! The same seed gives the same image, byte for byte. The layers are
//! uncompressed tar archives of one file each, filled with pseudo-random
//! bytes: nothing on the way can make them smaller than they are.

use bytes::Bytes;
use serde_json::json;

use crate::oci::Digest;

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const MIB: usize = 1 << 20;
/// Tar archives are made of these.
const BLOCK: usize = 512;

/// Content and its name.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) content: Bytes,
}

impl Blob {
    fn of(content: Vec<u8>) -> Blob {
        Blob { digest: Digest::sha256_of(&content), content: content.into() }
    }
}

/// One image.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) repository: &'static str,
    pub(super) tag: &'static str,
    pub(super) manifest: Blob,
    /// The config and the layers.
    pub(super) blobs: Vec<Blob>,
}

impl Image {
    /// Makes an image with layers of these sizes.
    pub(super) fn make(repository: &'static str, tag: &'static str, mebibytes: &[usize], seed: u64) -> Image {
        let mut random = fastrand::Rng::with_seed(seed);
        let layers: Vec<Blob> = mebibytes
            .iter()
            .enumerate()
            .map(|(n, size)| Blob::of(archive(&format!("sample/{n}.bin"), size * MIB, &mut random)))
            .collect();
        // A layer that is not compressed is its own diff.
        let diffs: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let config = Blob::of(config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &config),
            "layers": layers.iter().map(|layer| descriptor(LAYER_TYPE, layer)).collect::<Vec<_>>(),
        });
        let manifest = Blob::of(manifest.to_string().into_bytes());
        let blobs = std::iter::once(config).chain(layers).collect();
        Image { repository, tag, manifest, blobs }
    }

    /// Bytes of the config and all layers.
    pub(super) fn size(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.content.len() as u64).sum()
    }
}

fn descriptor(media_type: &str, blob: &Blob) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": blob.digest.to_string(), "size": blob.content.len() })
}

/// A tar archive (ustar) of so many bytes, which holds one file with random
/// content.
fn archive(name: &str, size: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    // A header goes before the file, and two empty blocks end an archive.
    let mut archive = header(name, size.saturating_sub(3 * BLOCK));
    let start = archive.len();
    archive.resize(size.saturating_sub(2 * BLOCK), 0);
    if let Some(content) = archive.get_mut(start..) {
        random.fill(content);
    }
    archive.resize(size, 0);
    archive
}

fn header(name: &str, size: usize) -> Vec<u8> {
    let with_sum = |sum: &str| {
        let mut header = Vec::with_capacity(BLOCK);
        let size = format!("{size:011o}");
        let fields = [
            (name, 100),
            ("0000644", 8),
            ("0000000", 8),
            ("0000000", 8),
            (size.as_str(), 12),
            ("00000000000", 12),
            (sum, 8),
            ("0", 1),
            ("", 100),
            ("ustar", 6),
            ("00", 2),
        ];
        for (text, width) in fields {
            let end = header.len() + width;
            header.extend_from_slice(text.as_bytes());
            header.resize(end, 0);
        }
        header.resize(BLOCK, 0);
        header
    };
    // The sum is made as if its own field were blank.
    let sum: u32 = with_sum("        ").iter().map(|byte| u32::from(*byte)).sum();
    with_sum(&format!("{sum:06o}\0 "))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_image_and_another_shares_no_layer_with_it() {
        let image = |seed| Image::make("demo/app", "1.0", &[1, 1], seed);
        assert_eq!(image(1).manifest.digest, image(1).manifest.digest);
        let (one, other) = (image(1), image(2));
        assert_eq!(one.blobs.len(), 3);
        assert!(one.blobs.iter().all(|blob| other.blobs.iter().all(|theirs| theirs.digest != blob.digest)));
    }

    #[test]
    fn a_layer_is_an_archive_that_others_can_read() {
        let image = Image::make("demo/app", "1.0", &[1], 1);
        let layer = &image.blobs[1].content;
        assert_eq!(layer.len(), MIB);
        let mut archive = tar::Archive::new(&layer[..]);
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("sample/0.bin"));
        let mut content = Vec::new();
        assert_eq!(entry.read_to_end(&mut content).unwrap(), MIB - 3 * BLOCK);
        assert!(entries.next().is_none());
    }
}
