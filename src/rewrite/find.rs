//! Which values of a document are images.
//!
//! - Kubernetes (`apiVersion` and `kind`): the containers and image volumes of
//!   pod specifications, and nothing else. Lists of objects are gone through.
//! - Kustomize: `newName` of `images`.
//! - Compose: `image` of each service that is not built.
//! - Anything else, workflow specifications and Helm values among them: `image`
//!   wherever it stands, with the `containerRegistry` beside it; as a text, or
//!   as a mapping with `repository` and perhaps `registry`.

use std::collections::HashSet;

use super::tree::{Content, Entry, Id, Tree};

/// Something in a document that has to do with an image.
#[derive(Debug)]
pub(super) enum Found {
    /// An image.
    Image {
        /// Where it is used, perhaps as an alias.
        value: Id,
        /// The `containerRegistry` that goes with it.
        connection: Option<Entry>,
        /// It can be nothing but an image.
        certain: bool,
    },
    /// An image in parts.
    Parts {
        /// Host, or host and path.
        registry: Option<Id>,
        /// The rest of its name.
        repository: Id,
    },
    /// An image that cannot be turned.
    Left {
        /// Where it is.
        at: Id,
        /// Why.
        why: &'static str,
    },
}

/// The images of all documents.
pub(super) fn images(tree: &Tree) -> Vec<Found> {
    let mut found = Finder { tree, found: Vec::new(), pods: HashSet::new() };
    for document in &tree.documents {
        found.document(*document);
    }
    found.found
}

struct Finder<'a> {
    tree: &'a Tree,
    found: Vec<Found>,
    /// Pod specifications that have been looked at.
    pods: HashSet<Id>,
}

impl Finder<'_> {
    fn document(&mut self, root: Id) {
        let tree = self.tree;
        let text = |key| tree.at(root, &[key]).and_then(|value| tree.text(value));
        let services = tree.at(root, &["services"]);
        if text("kind") == Some("Kustomization") || text("kind").is_none() && self.looks_like_kustomization(root) {
            self.kustomization(root);
        } else if text("apiVersion").is_some() && text("kind").is_some() {
            self.objects(root);
        } else if let Some(services) = services.filter(|services| self.looks_like_compose(root, *services)) {
            for (_, service) in tree.pairs(services) {
                self.service(*service);
            }
        } else {
            self.anywhere(root);
        }
    }

    fn looks_like_kustomization(&self, root: Id) -> bool {
        let images = self.tree.at(root, &["images"]).map_or(&[][..], |images| self.tree.items(images));
        let overrides =
            |item: &Id| ["newName", "newTag", "digest"].iter().any(|key| self.tree.get(*item, key).is_some());
        !images.is_empty() && images.iter().all(|item| self.tree.get(*item, "name").is_some() && overrides(item))
    }

    fn looks_like_compose(&self, root: Id, services: Id) -> bool {
        let pairs = self.tree.pairs(services);
        self.tree.get(root, "jobs").is_none()
            && !pairs.is_empty()
            && pairs.iter().all(|(_, service)| self.tree.is_mapping(*service))
    }

    fn kustomization(&mut self, root: Id) {
        let images = self.tree.at(root, &["images"]).map_or(&[][..], |images| self.tree.items(images));
        for item in images {
            if let Some(name) = self.tree.get(*item, "newName") {
                self.found.push(Found::Image { value: name.value, connection: None, certain: true });
            } else if let Some(name) = self.tree.get(*item, "name") {
                // `name` says which images are meant; it is no image to pull.
                let why = "it has no `newName`; add one with the image, and rewrite again";
                self.found.push(Found::Left { at: name.value, why });
            }
        }
    }

    /// A Kubernetes object, or a list of them.
    fn objects(&mut self, root: Id) {
        let tree = self.tree;
        let (mut next, mut seen) = (vec![root], HashSet::new());
        while let Some(object) = next.pop() {
            if !seen.insert(tree.meant(object)) {
                continue;
            }
            let kind = tree.at(object, &["kind"]).and_then(|kind| tree.text(kind)).unwrap_or_default();
            let path: &[&str] = match kind {
                "Pod" => &["spec"],
                "PodTemplate" => &["template", "spec"],
                "CronJob" => &["spec", "jobTemplate", "spec", "template", "spec"],
                // Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, and what
                // custom resources have in their likeness.
                _ => &["spec", "template", "spec"],
            };
            if kind.ends_with("List") {
                let items = tree.at(object, &["items"]);
                next.extend(items.map_or(&[][..], |items| tree.items(items)).iter().rev());
            } else if let Some(pod) = tree.at(object, path)
                && self.pods.insert(tree.meant(pod))
            {
                self.pod(pod);
            }
        }
    }

    fn pod(&mut self, pod: Id) {
        let tree = self.tree;
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            for container in tree.at(pod, &[list]).map_or(&[][..], |list| tree.items(list)) {
                self.pair(*container, true);
            }
        }
        for volume in tree.at(pod, &["volumes"]).map_or(&[][..], |volumes| tree.items(volumes)) {
            if let Some(value) = tree.at(*volume, &["image", "reference"]) {
                self.found.push(Found::Image { value, connection: None, certain: true });
            }
        }
    }

    fn service(&mut self, service: Id) {
        match (self.tree.get(service, "build"), self.tree.get(service, "image")) {
            (Some(_), Some(image)) => {
                let why = "the service is built, and this is what the result is called";
                self.found.push(Found::Left { at: image.value, why });
            }
            _ => self.pair(service, true),
        }
    }

    /// Every mapping below `root`. What an alias means is gone through where it
    /// is written.
    fn anywhere(&mut self, root: Id) {
        let mut next = vec![root];
        while let Some(id) = next.pop() {
            match self.tree.node(id).map(|node| &node.content) {
                Some(Content::Sequence(items)) => next.extend(items.iter().rev()),
                Some(Content::Mapping { pairs, .. }) => {
                    self.pair(id, false);
                    next.extend(pairs.iter().rev().map(|(_, value)| value));
                }
                _ => {}
            }
        }
    }

    /// `image` of a mapping, and the `containerRegistry` beside it; either may
    /// be merged in.
    fn pair(&mut self, mapping: Id, certain: bool) {
        let tree = self.tree;
        let Some(image) = tree.get(mapping, "image") else { return };
        let connection = tree.get(mapping, "containerRegistry");
        let own = |entry: &Entry| entry.mapping == tree.meant(mapping);
        if !certain && !own(&image) && !connection.as_ref().is_some_and(own) {
            // The pair is another mapping's.
            return;
        }
        let meant = tree.meant(image.value);
        match tree.node(meant).map(|node| &node.content) {
            Some(Content::Scalar { value, style }) => {
                let plain = *style == granit_parser::ScalarStyle::Plain;
                if !(plain && matches!(value.as_str(), "" | "~" | "null" | "true" | "false")) {
                    let certain = certain || connection.is_some();
                    self.found.push(Found::Image { value: image.value, connection, certain });
                }
            }
            Some(Content::Mapping { pairs, .. }) if !certain => {
                let text = |key| tree.get(meant, key).filter(|entry| tree.text(entry.value).is_some());
                if let Some(repository) = text("repository").filter(|_| own(&image)) {
                    let registry = text("registry").map(|entry| entry.value);
                    let registry = registry.filter(|value| tree.text(*value).is_some_and(|text| !text.is_empty()));
                    self.found.push(Found::Parts { registry, repository: repository.value });
                } else if pairs.iter().any(|(key, _)| tree.is_mapping(*key)) {
                    self.found.push(Found::Left { at: image.value, why: "a template fills it in" });
                }
            }
            _ => {}
        }
    }
}
