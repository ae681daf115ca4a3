//! From the address in a request to (registry, repository).
//!
//! Two sorts of address exist. One names a *host* (in the path, by `ns`, or
//! silently, as a Docker mirror request does): the rest is the image's full
//! name there, and the registry of that host whose prefix fits best answers.
//! The other names a *registry* (in the path or by a virtual host): the rest is
//! relative to it, and the registry's prefix goes in front.
//!
//! Whatever no registry answers for is [`DirectoryError::Unknown`]. In every
//! result the repository lies within the registry's prefix.

use std::sync::Arc;
use std::time::SystemTime;

use super::{HostPort, Kind, Registry, RegistryName};
use crate::nearest::nearest;
use crate::oci::Repository;

/// The address part of a request: everything that may say which registry is
/// meant, and the name as it stood in the path.
#[derive(Debug, Clone)]
pub struct Address {
    /// The repository name of the request path.
    pub name: Repository,
    /// What else the request said.
    pub hint: AddressHint,
}

/// The parts of a request that may name a registry, beside the path name.
#[derive(Debug, Clone, Default)]
pub struct AddressHint {
    /// The path segment before `/v2/`, if any.
    pub before_v2: Option<String>,
    /// The `ns` query parameter, if any.
    pub ns: Option<HostPort>,
    /// The `Host` header, if it parses.
    pub host: Option<HostPort>,
    /// Which listener it came by.
    pub door: Door,
}

/// Which listener a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Door {
    /// The one where every style of address works.
    #[default]
    Main,
    /// One of a mirror: a name is a name at the default registry, whatever it
    /// looks like.
    Mirror,
}

/// A name that was a registry's not long ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredName {
    /// The name as it stood in addresses.
    pub slug: String,
    /// Until then it means nothing.
    pub until: SystemTime,
}

/// What an address means.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The registry that answers.
    pub registry: Arc<Registry>,
    /// The repository's full name at the upstream.
    pub repository: Repository,
    /// `ns` made the decision: the answer has to say so (`OCI-Namespace`).
    pub by_ns: bool,
}

/// Why an address means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// No configured registry answers for it.
    #[error("no configured registry answers for this name")]
    Unknown,
}

/// All configured registries, in configuration order.
#[derive(Debug, Default)]
pub struct Directory {
    registries: Vec<Arc<Registry>>,
    /// Names that mean no repository of the default registry either.
    retired: Vec<RetiredName>,
    /// The default registry has listeners of its own: elsewhere it answers by
    /// its name.
    mirrored: bool,
}

impl Directory {
    /// Names are unique and at most one registry is the default: the
    /// configuration has seen to that.
    pub fn new(registries: Vec<Arc<Registry>>) -> Directory {
        Directory { registries, ..Directory::default() }
    }

    /// The same, where the default registry has listeners of its own.
    #[must_use]
    pub fn mirrored(self, mirrored: bool) -> Directory {
        Directory { mirrored, ..self }
    }

    /// The same, with names that nobody may take for the default registry's.
    #[must_use]
    pub fn without(self, retired: Vec<RetiredName>) -> Directory {
        Directory { retired, ..self }
    }

    /// Whether the default registry has listeners of its own.
    pub fn is_mirrored(&self) -> bool {
        self.mirrored
    }

    /// Names that were a registry's not long ago.
    pub fn retired(&self) -> &[RetiredName] {
        &self.retired
    }

    /// The default registry, where `registry`'s name in a path hides what is
    /// called so there.
    pub fn hidden_by(&self, registry: &Registry) -> Option<&Arc<Registry>> {
        self.default_registry().filter(|default| !self.mirrored && default.name != registry.name)
    }

    /// The name among `known` that may have been meant by `name`, which went to
    /// the default registry because no registry is called so.
    pub fn near(&self, name: &Repository, known: impl Fn(&Registry) -> bool) -> Option<&Arc<Registry>> {
        let (first, _) = name.split_first()?;
        let known = || self.registries.iter().filter(|registry| known(registry));
        let near = nearest(first, known().map(|registry| registry.name.address()))?;
        known().find(|registry| registry.name.address() == near)
    }

    /// All registries, in configuration order.
    pub fn registries(&self) -> &[Arc<Registry>] {
        &self.registries
    }

    /// The registry that answers root mirror requests.
    pub fn default_registry(&self) -> Option<&Arc<Registry>> {
        self.registries.iter().find(|registry| registry.is_default)
    }

    /// The registry that answers for docker.io where the request says no more
    /// than that, as a mirror's does.
    ///
    /// Where a registry for docker.io is configured, it is that one. Where none
    /// is, a mirror that is asked for docker.io means its default registry: a
    /// runtime that says nothing, and one that says `ns=docker.io`, get the same.
    pub fn of_docker_hub(&self) -> Option<&Arc<Registry>> {
        let hub = || self.registries.iter().filter(|registry| registry.serves_docker_hub());
        let whole = hub().find(|registry| registry.prefix.is_none()).or_else(|| hub().next());
        self.in_place_of(&HostPort::docker_hub()).or(whole)
    }

    /// The default registry, where it stands in for `host`: docker.io, for
    /// which nothing else is configured.
    pub(super) fn in_place_of(&self, host: &HostPort) -> Option<&Arc<Registry>> {
        let is_configured = |registry: &Arc<Registry>| registry.serves_docker_hub() && !registry.is_implied;
        let default = self.default_registry().filter(|default| host.is_docker_hub() && !default.serves_docker_hub())?;
        (!self.registries.iter().any(is_configured)).then_some(default)
    }

    /// Which registry, if any, a ping (`/v2/` and its variants) is about.
    ///
    /// # Errors
    /// When the address names something that is not configured.
    pub fn resolve_ping(&self, hint: &AddressHint) -> Result<Option<Arc<Registry>>, DirectoryError> {
        if hint.door == Door::Mirror {
            let registry = self.default_registry().filter(|default| {
                hint.before_v2.is_none() && hint.ns.as_ref().is_none_or(|ns| self.mirrors(default, ns))
            });
            return registry.cloned().map(Some).ok_or(DirectoryError::Unknown);
        }
        if let Some(segment) = &hint.before_v2 {
            let by_host = || self.of_host(&segment.parse().ok()?).next().cloned();
            return self.by_name(segment).cloned().or_else(by_host).map(Some).ok_or(DirectoryError::Unknown);
        }
        if let Some(ns) = &hint.ns {
            let registry = self.in_place_of(ns).or_else(|| self.of_host(ns).next());
            return registry.cloned().map(Some).ok_or(DirectoryError::Unknown);
        }
        Ok(self.by_virtual_host(hint).or(self.default_registry().filter(|_| !self.mirrored)).cloned())
    }

    /// Finds what `address` means. `granted` breaks ties between registries
    /// whose prefix fits equally well.
    ///
    /// # Errors
    /// When nothing that is configured answers for it.
    pub fn resolve(
        &self,
        address: &Address,
        granted: impl Fn(&Registry, &Repository) -> bool,
    ) -> Result<Resolved, DirectoryError> {
        let Address { name, hint } = address;
        if hint.door == Door::Mirror {
            let default = self.default_registry().ok_or(DirectoryError::Unknown)?;
            return match &hint.ns {
                _ if hint.before_v2.is_some() => Err(DirectoryError::Unknown),
                None => self.at_root(default, name, granted),
                Some(ns) if self.mirrors(default, ns) => {
                    Ok(Resolved { by_ns: true, ..self.at_root(default, name, granted)? })
                }
                Some(_) => Err(DirectoryError::Unknown),
            };
        }
        if let Some(segment) = &hint.before_v2 {
            return match self.by_name(segment) {
                Some(registry) => self.relative(registry, name),
                None => self.at_host(&segment.parse().map_err(|_| DirectoryError::Unknown)?, name, granted),
            };
        }
        let virtual_host = self.by_virtual_host(hint);
        if let Some((first, rest)) = name.split_first() {
            // Written twice by clients that put `/v2` behind an address with it.
            let rest = match rest.split_first() {
                Some(("v2", rest)) => rest,
                _ => rest.clone(),
            };
            let host: Option<HostPort> = HostPort::looks_like_host(first).then(|| first.parse().ok()).flatten();
            // Once it is known which registry is meant, a first part is no more
            // than that, unless it says the same. An `ns` that nobody serves says
            // nothing: containerd sends one to whatever stands in for its host.
            // Neither does docker.io for a name of three parts, which Docker Hub
            // cannot have.
            let may_have = |registry: &Arc<Registry>| !registry.serves_docker_hub() || name.components().count() <= 2;
            let ns = hint.ns.as_ref().filter(|ns| self.of_host(ns).any(may_have));
            let is_asked = |registry: &Registry| ns.is_none_or(|ns| registry.serves(ns));
            if let Some(registry) = self.by_name(first).filter(|registry| is_asked(registry)) {
                return self.relative(registry, &rest);
            }
            if let Some(host) = host.filter(|host| self.of_host(host).any(|registry| is_asked(registry))) {
                return self.at_host(&host, &rest, granted);
            }
            let is_known = hint.ns.is_some() || virtual_host.is_some();
            if HostPort::looks_like_host(first) && !is_known {
                return Err(DirectoryError::Unknown);
            }
        }
        if let Some(ns) = &hint.ns {
            let resolved = match self.in_place_of(ns) {
                Some(default) => self.relative(default, name)?,
                None => self.at_host(ns, name, granted)?,
            };
            return Ok(Resolved { by_ns: true, ..resolved });
        }
        if let Some(registry) = virtual_host {
            return self.relative(registry, name);
        }
        // Who could make a repository of a name that was a registry's would
        // answer what is still asked of that one.
        let first = name.split_first().map(|(first, _)| first);
        let is_retired = |first: &str| {
            self.retired
                .iter()
                .any(|retired| retired.slug.eq_ignore_ascii_case(first) && SystemTime::now() < retired.until)
        };
        if self.mirrored || first.is_some_and(is_retired) {
            return Err(DirectoryError::Unknown);
        }
        self.at_root(self.default_registry().ok_or(DirectoryError::Unknown)?, name, granted)
    }

    /// Whether a mirror of `default` is meant by `ns`.
    fn mirrors(&self, default: &Registry, ns: &HostPort) -> bool {
        self.in_place_of(ns).is_some() || default.image_hosts.iter().any(|known| known.same_registry(ns))
    }

    /// `name` as a request to a mirror at its root has it.
    fn at_root(
        &self,
        default: &Arc<Registry>,
        name: &Repository,
        granted: impl Fn(&Registry, &Repository) -> bool,
    ) -> Result<Resolved, DirectoryError> {
        if default.kind == Kind::DockerHub {
            // A Docker mirror request is about docker.io without saying so.
            return default
                .image_hosts
                .first()
                .ok_or(DirectoryError::Unknown)
                .and_then(|hub| self.at_host(hub, name, granted));
        }
        self.relative(default, name)
    }

    /// `name` within the registry that is called `registry`.
    ///
    /// # Errors
    /// When there is none, or the name is not its.
    pub fn within(&self, registry: &str, name: &Repository) -> Result<Resolved, DirectoryError> {
        self.relative(self.by_name(registry).ok_or(DirectoryError::Unknown)?, name)
    }

    /// The registry of that name, in either of its forms.
    pub fn called(&self, name: &str) -> Option<&Arc<Registry>> {
        let parsed: Option<RegistryName> = name.parse().ok();
        let is_it = |registry: &&Arc<Registry>| Some(&registry.name) == parsed.as_ref();
        self.by_name(name).or_else(|| self.registries.iter().find(is_it))
    }

    /// The registry whose name stands in an address as `component`.
    pub fn by_name(&self, component: &str) -> Option<&Arc<Registry>> {
        self.registries.iter().find(|registry| registry.name.matches(component))
    }

    fn by_virtual_host(&self, hint: &AddressHint) -> Option<&Arc<Registry>> {
        let asked = hint.host.as_ref()?;
        // The port clients reach us by is ours; a virtual host need not name it.
        self.registries
            .iter()
            .find(|registry| registry.hosts.iter().any(|host| host == asked || host.to_string() == asked.host()))
    }

    fn of_host(&self, host: &HostPort) -> impl Iterator<Item = &Arc<Registry>> {
        self.registries.iter().filter(move |registry| registry.serves(host))
    }

    /// `name` is a full name at `host`.
    fn at_host(
        &self,
        host: &HostPort,
        name: &Repository,
        granted: impl Fn(&Registry, &Repository) -> bool,
    ) -> Result<Resolved, DirectoryError> {
        let repository = with_library(host.is_docker_hub(), name);
        let depth = |registry: &Registry| registry.prefix.as_ref().map_or(0, |prefix| prefix.components().count());
        let mut best: Option<(&Arc<Registry>, (usize, bool))> = None;
        for registry in self.of_host(host).filter(|registry| registry.covers(&repository)) {
            let rank = (depth(registry), granted(registry, &repository));
            // Strictly better only: of equals the first configured wins.
            if best.is_none_or(|(_, so_far)| rank > so_far) {
                best = Some((registry, rank));
            }
        }
        let (registry, _) = best.ok_or(DirectoryError::Unknown)?;
        Ok(Resolved { registry: Arc::clone(registry), repository, by_ns: false })
    }

    /// `name` is relative to `registry`, or a full image name behind it.
    fn relative(&self, registry: &Arc<Registry>, name: &Repository) -> Result<Resolved, DirectoryError> {
        let resolved = |repository| Ok(Resolved { registry: Arc::clone(registry), repository, by_ns: false });
        if let Some((first, rest)) = name.split_first()
            && HostPort::looks_like_host(first)
        {
            let host: HostPort = first.parse().map_err(|_| DirectoryError::Unknown)?;
            let repository = with_library(host.is_docker_hub(), &rest);
            if registry.serves(&host) && registry.covers(&repository) {
                return resolved(repository);
            }
            // A repository may begin like a host; one that another registry
            // serves is not taken for that.
            if self.of_host(&host).next().is_some() {
                return Err(DirectoryError::Unknown);
            }
        }
        match &registry.prefix {
            Some(prefix) => resolved(name.under(prefix).map_err(|_| DirectoryError::Unknown)?),
            None => resolved(with_library(registry.kind == Kind::DockerHub, name)),
        }
    }
}

/// Docker Hub keeps its official images under `library/`.
pub(super) fn with_library(is_docker_hub: bool, name: &Repository) -> Repository {
    if is_docker_hub && name.components().count() == 1 {
        format!("library/{name}").parse().unwrap_or_else(|_| name.clone())
    } else {
        name.clone()
    }
}

#[cfg(test)]
mod tests;
