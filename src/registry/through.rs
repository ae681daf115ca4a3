//! From an image to the reference that pulls it through this proxy: the way of
//! the [directory](super::Directory) backwards.
//!
//! Every reference made here resolves to the very registry and repository it
//! was made for; one that goes through the proxy already is left as it is.

use std::fmt;
use std::sync::Arc;

use super::image::{ImageLocation, InvalidReference, split_image};
use super::{Address, AddressHint, Directory, HostPort, Registry, Scheme};
use crate::nearest::nearest;
use crate::oci::Repository;

/// What references through one proxy are made of.
#[derive(Debug)]
pub struct Through {
    /// Host and port, as they stand in a reference.
    host: String,
    directory: Directory,
}

/// The proxy's URL cannot stand in a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no image reference can name {0}: clients ask for `/v2/` at the root of a host, so `public_url` must have no path"
)]
pub struct NotReferable(url::Url);

/// An image, turned.
#[derive(Debug, Clone)]
pub struct Turned {
    /// The registry it goes through.
    pub registry: Arc<Registry>,
    /// The name to pull it by, without tag and digest.
    pub name: String,
    /// It went through the proxy already.
    pub unchanged: bool,
}

/// Why an image has no reference through this proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// No image at all.
    #[error("`{image}`: {error}")]
    Invalid {
        /// As written.
        image: String,
        /// What is wrong with it.
        error: InvalidReference,
    },
    /// The named registry does not exist.
    #[error("there is no registry `{name}`")]
    NoSuchRegistry {
        /// As written.
        name: String,
        /// The one that may have been meant.
        near: Option<String>,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The named registry is another host, or another part of it.
    #[error("`{image}` is no image of registry `{registry}`, which is {place}")]
    NotOfRegistry {
        /// Where the image is.
        image: String,
        /// The registry's name.
        registry: String,
        /// What it covers.
        place: String,
        /// The registry that does cover the image.
        fits: Option<String>,
    },
    /// No registry has this host.
    #[error("no registry is configured for {host}, so `{image}` cannot come through this proxy")]
    HostUnknown {
        /// Where the image is.
        image: String,
        /// Its host.
        host: String,
    },
    /// Registries have this host, but none covers the image.
    #[error("no registry covers `{image}`")]
    NotCovered {
        /// Where the image is.
        image: String,
        /// What is covered of its host.
        places: Vec<String>,
    },
    /// It names the proxy, and nothing that the proxy has.
    #[error("`{image}` goes through this proxy, but no registry answers for it")]
    NotServed {
        /// As written.
        image: String,
        /// The registries there are.
        known: Vec<String>,
    },
    /// No address can say it.
    #[error(
        "`{image}` of registry `{registry}` cannot be written as a reference through this proxy: its first part would be \
         read as a host"
    )]
    NotReferable {
        /// Where the image is.
        image: String,
        /// The registry's name.
        registry: String,
    },
}

impl TurnError {
    /// What to do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            TurnError::NoSuchRegistry { near: Some(near), .. } => Some(format!("did you mean `{near}`?")),
            TurnError::NoSuchRegistry { known, .. } | TurnError::NotServed { known, .. } if known.is_empty() => {
                Some("no registry is configured".to_owned())
            }
            TurnError::NoSuchRegistry { known, .. } | TurnError::NotServed { known, .. } => {
                Some(format!("the registries are {}", quoted(known)))
            }
            TurnError::NotOfRegistry { fits: Some(fits), .. } => Some(format!("it belongs to registry `{fits}`")),
            TurnError::NotOfRegistry { fits: None, .. } => {
                Some("no other registry covers it; correct the image, or add a registry for it".to_owned())
            }
            TurnError::HostUnknown { host, .. } => Some(format!("add a registry for {host}")),
            TurnError::NotCovered { places, .. } => {
                Some(format!("covered are {}; add a registry for it", quoted(places)))
            }
            TurnError::NotReferable { .. } => Some("give the registry a prefix that includes this part".to_owned()),
            TurnError::Invalid { .. } => None,
        }
    }
}

fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

/// What a registry covers, as it begins its images.
struct Covered<'a>(&'a Registry);

impl fmt::Display for Covered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.image_hosts.first() {
            Some(host) => write!(f, "{host}")?,
            None => write!(f, "{}", self.0.origin.host_port())?,
        }
        match &self.0.prefix {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

impl Through {
    /// References through the proxy that clients reach at `public_url` and that
    /// has these registries.
    ///
    /// # Errors
    /// When the URL has a path.
    pub fn new(public_url: &url::Url, registries: Vec<Arc<Registry>>) -> Result<Through, NotReferable> {
        let refused = || NotReferable(public_url.clone());
        if !public_url.path().trim_matches('/').is_empty() || public_url.query().is_some() {
            return Err(refused());
        }
        let origin = super::Origin::of(public_url).map_err(|_| refused())?;
        let mut host = origin.host_port().to_string();
        if !HostPort::looks_like_host(&host) {
            // Without a port, runtimes would take it for a name on Docker Hub.
            host = format!("{host}:{}", origin.port());
        } else if origin.scheme() == Scheme::Http && origin.port() == 443 {
            host = format!("{}:443", origin.host());
        }
        Ok(Through { host, directory: Directory::new(registries) })
    }

    /// The registries.
    pub fn registries(&self) -> &[Arc<Registry>] {
        self.directory.registries()
    }

    /// The host of every reference, with its port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The reference through this proxy for `image`, tag and digest kept.
    ///
    /// # Errors
    /// When there is none; see [`Through::turn`].
    pub fn reference(&self, image: &str, registry: Option<&str>) -> Result<String, TurnError> {
        let (name, rest) = split_image(image).map_err(|error| TurnError::Invalid { image: image.to_owned(), error })?;
        Ok(format!("{}{rest}", self.turn(name, registry)?.name))
    }

    /// Turns the image called `name`, which is without tag and digest, by the
    /// registry it is to be pulled with, if one is named.
    ///
    /// # Errors
    /// When `name` is no image, the registry does not exist or is not the
    /// image's, or no registry answers for the image.
    pub fn turn(&self, name: &str, registry: Option<&str>) -> Result<Turned, TurnError> {
        let place = ImageLocation::of(name).map_err(|error| TurnError::Invalid { image: name.to_owned(), error })?;
        let named = registry.map(|registry| self.called(registry)).transpose()?;
        if let Some(own) = self.own(name, &place) {
            let registry = own?;
            if let Some(named) = named.filter(|named| named.name != registry.name) {
                return Err(not_of(named, name.to_owned(), Some(&registry)));
            }
            return Ok(Turned { registry, name: name.to_owned(), unchanged: true });
        }
        let (registry, repository) = match named {
            Some(named) => {
                let hosted = named.image_hosts.iter().any(|host| host.same_registry(&place.host));
                if !hosted || !named.covers(&place.repository) {
                    let fits = self.answering(&place).map(|(registry, _)| registry);
                    return Err(not_of(named, place.to_string(), fits.as_ref()));
                }
                (Arc::clone(named), place.repository.clone())
            }
            None => self.answering(&place).ok_or_else(|| self.unanswered(&place))?,
        };
        let name = self
            .address(&registry, &repository)
            .ok_or_else(|| TurnError::NotReferable { image: place.to_string(), registry: registry.name.to_string() })?;
        Ok(Turned { registry, name: format!("{}/{name}", self.host), unchanged: false })
    }

    fn called(&self, name: &str) -> Result<&Arc<Registry>, TurnError> {
        self.directory.called(name).ok_or_else(|| {
            let known = self.names();
            // Capitals are no difference between names.
            let lower: Vec<String> = known.iter().map(|name| name.to_lowercase()).collect();
            let near = nearest(&name.to_lowercase(), lower.iter().map(String::as_str));
            let near = known.iter().find(|name| Some(name.to_lowercase().as_str()) == near).cloned();
            TurnError::NoSuchRegistry { name: name.to_owned(), near, known }
        })
    }

    fn names(&self) -> Vec<String> {
        self.registries().iter().map(|registry| registry.name.to_string()).collect()
    }

    /// The registry of an image that names this proxy; `None` when it does not.
    fn own(&self, name: &str, place: &ImageLocation) -> Option<Result<Arc<Registry>, TurnError>> {
        let public: Option<HostPort> = self.host.parse().ok();
        let listed = || self.registries().iter().any(|registry| registry.hosts.contains(&place.host));
        if public.as_ref() != Some(&place.host) && !listed() {
            return None;
        }
        let hint = AddressHint { host: Some(place.host.clone()), ..AddressHint::default() };
        let address = Address { name: place.repository.clone(), hint };
        let resolved = self.directory.resolve(&address, |_, _| false);
        let unknown = |_| TurnError::NotServed { image: name.to_owned(), known: self.names() };
        Some(resolved.map(|resolved| resolved.registry).map_err(unknown))
    }

    /// The registry that answers for an image of the outside, and the
    /// repository there: by host and prefix, or, for an image that a Docker
    /// daemon would ask its mirror for, the default one.
    fn answering(&self, place: &ImageLocation) -> Option<(Arc<Registry>, Repository)> {
        let hint = AddressHint { before_v2: Some(place.host.to_string()), ..AddressHint::default() };
        let address = Address { name: place.repository.clone(), hint };
        let by_host = self.directory.resolve(&address, |_, _| false);
        let in_place = self.directory.in_place_of(&place.host);
        let in_place = in_place.and_then(|default| self.directory.within(default.name.slug(), &place.repository).ok());
        let resolved = in_place.or_else(|| by_host.ok())?;
        Some((resolved.registry, resolved.repository))
    }

    fn unanswered(&self, place: &ImageLocation) -> TurnError {
        let at_host =
            |registry: &&Arc<Registry>| registry.image_hosts.iter().any(|known| known.same_registry(&place.host));
        let places: Vec<String> =
            self.registries().iter().filter(at_host).map(|registry| Covered(registry).to_string()).collect();
        match places.is_empty() {
            true => TurnError::HostUnknown { image: place.to_string(), host: place.host.to_string() },
            false => TurnError::NotCovered { image: place.to_string(), places },
        }
    }

    /// The shortest address by name that means this repository of `registry`.
    fn address(&self, registry: &Arc<Registry>, repository: &Repository) -> Option<Repository> {
        let slug = registry.name.address();
        let short = format!("{slug}/{}", registry.relative(repository));
        let full = registry.image_hosts.iter().map(|host| format!("{slug}/{host}/{repository}"));
        std::iter::once(short).chain(full).filter_map(|text| text.parse().ok()).find(|name: &Repository| {
            let address = Address { name: name.clone(), hint: AddressHint::default() };
            let meant = self.directory.resolve(&address, |_, _| false);
            meant.is_ok_and(|meant| meant.registry.name == registry.name && meant.repository == *repository)
        })
    }
}

fn not_of(registry: &Registry, image: String, fits: Option<&Arc<Registry>>) -> TurnError {
    TurnError::NotOfRegistry {
        image,
        registry: registry.name.to_string(),
        place: Covered(registry).to_string(),
        fits: fits.filter(|fits| fits.name != registry.name).map(|fits| fits.name.to_string()),
    }
}

#[cfg(test)]
mod tests;
