//! Test data: random bytes that are the same on every machine, under their
//! real digests, laid out so that a static file server and the sample
//! upstream both serve them from the same directory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The repository everything lies in.
pub(crate) const REPOSITORY: &str = "bench/data";

/// The tag of the one manifest.
pub(crate) const TAG: &str = "latest";

/// The media type of that manifest.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A blob or a manifest that lies in the directory.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// `sha256:…`
    pub(crate) digest: String,
    /// Its length.
    pub(crate) size: u64,
}

impl Item {
    /// Where a registry serves it as a blob.
    pub(crate) fn blob_path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.digest)
    }

    /// Where a registry serves it as a manifest.
    pub(crate) fn manifest_path(&self) -> String {
        format!("/v2/{REPOSITORY}/manifests/{}", self.digest)
    }
}

/// A directory of test data, in the layout `v2/<repository>/blobs/<digest>`.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    root: PathBuf,
}

impl Data {
    /// Makes the directories below `root`.
    pub(crate) fn create(root: &Path) -> io::Result<Data> {
        for part in ["blobs", "manifests"] {
            fs::create_dir_all(root.join("v2").join(REPOSITORY).join(part))?;
        }
        // The ping, for those who ask.
        fs::write(root.join("v2").join("index.json"), "{}")?;
        Ok(Data { root: root.to_owned() })
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A blob of `size` random bytes; the same `seed` gives the same blob.
    pub(crate) fn blob(&self, seed: u64, size: u64) -> io::Result<Item> {
        let directory = self.root.join("v2").join(REPOSITORY).join("blobs");
        let unnamed = directory.join(format!(".{seed}"));
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&unnamed)?);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 1 << 20];
        let mut left = size;
        while left > 0 {
            let part = &mut chunk[..left.min(1 << 20) as usize];
            random.fill(part);
            hash.update(&part);
            file.write_all(part)?;
            left -= part.len() as u64;
        }
        file.flush()?;
        let digest = format!("sha256:{}", hex::encode(hash.finalize()));
        fs::rename(unnamed, directory.join(&digest))?;
        Ok(Item { digest, size })
    }

    /// A manifest of about 2 KiB over a config and layers, under its digest
    /// and under [`TAG`]. The blobs it names are made too: a registry may
    /// look for them before it keeps the manifest.
    pub(crate) fn manifest(&self) -> io::Result<Item> {
        let descriptor = |item: &Item, kind: &str| {
            serde_json::json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": item.digest,
                "size": item.size,
            })
        };
        let config = self.blob(1_000_000, 1024)?;
        let mut layers = Vec::new();
        for seed in 0..9 {
            layers.push(descriptor(&self.blob(1_000_001 + seed, 1024)?, "layer.v1.tar+gzip"));
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(&config, "config.v1+json"),
            "layers": layers,
        });
        let bytes = serde_json::to_vec(&manifest)?;
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        let directory = self.root.join("v2").join(REPOSITORY).join("manifests");
        fs::write(directory.join(&digest), &bytes)?;
        fs::write(directory.join(TAG), &bytes)?;
        Ok(Item { digest, size: bytes.len() as u64 })
    }
}
