//! The registries as a whole: those of the file, those of the store, and the
//! one for docker.io that is there when nothing else serves it.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::load::Input;
use super::problem::Problems;
use super::registry::{self, Parsed};
use super::secret::Sources;
use super::section::Section;
use crate::registry::RegistryName;

/// The registry that a configuration has for docker.io when it names none. It
/// is the default unless another one is.
const IMPLIED: &str = "[[registry]]\nname = \"docker-hub\"\nkind = \"docker-hub\"\n";

/// Whether docker.io is answered without being named.
pub(super) fn implies_docker_hub(root: &Section<'_>) -> bool {
    root.flag("docker_hub").is_none_or(|flag| flag.value)
}

/// The file's registries, the stored ones, and the implied one.
pub(super) fn read<'a>(
    input: &Input<'a>,
    of_file: Vec<Section<'a>>,
    names: &mut Vec<RegistryName>,
    defaults: registry::Defaults,
    docker_hub: bool,
    withheld: bool,
) -> Option<Vec<Parsed<'a>>> {
    let stored = |name: &RegistryName, field: &str| {
        let key = (name.slug().to_owned(), field.to_owned());
        input.contents.secrets.get(&key).map(|stored| stored.secret.clone())
    };
    let sources = Sources { environment: input.environment, stored: Some(&stored), withheld };
    let mut registries: Vec<Parsed<'a>> = Vec::new();
    let in_file = of_file.len();
    // A part of docker.io that the file names is all of it that is wanted; one
    // that is stored later closes nothing that was open.
    let mut is_named = false;
    for (index, section) in of_file.into_iter().chain(input.stored("registry")).enumerate() {
        let problems = section.problems;
        let Some(parsed) = registry::read(section, &sources, names, defaults) else { continue };
        for earlier in &registries {
            let (new, old) = (&parsed.registry, &earlier.registry);
            if let (Some(place), true) = (&parsed.default_place, old.is_default) {
                problems.add(
                    place,
                    format!("registry `{}` is the default already", old.name),
                    "only one registry can be it".to_owned(),
                );
            }
            if let Some(host) = new.hosts.iter().find(|host| old.hosts.contains(host)) {
                problems.add(
                    &parsed.name_place,
                    format!("the virtual host {host} belongs to registry `{}` already", old.name),
                    None,
                );
            }
        }
        let registry = &parsed.registry;
        is_named |= registry.serves_docker_hub() && (index < in_file || registry.prefix.is_none());
        registries.push(parsed);
    }
    if docker_hub
        && !is_named
        && let Some(parsed) = implied(input, names, defaults)
    {
        // Last among equals where there are others; where it is the only one
        // of the file, it stands where the file's would.
        let at = if in_file == 0 { 0 } else { registries.len() };
        registries.insert(at, parsed);
    }
    if !registries.iter().any(|parsed| parsed.registry.is_default)
        && let Some(hub) = registries
            .iter_mut()
            .find(|Parsed { registry, .. }| registry.serves_docker_hub() && registry.prefix.is_none())
    {
        hub.registry.is_default = true;
    }
    Some(registries)
}

/// Docker Hub, anonymous; unless something stored is called so.
fn implied<'a>(input: &Input<'a>, names: &mut Vec<RegistryName>, defaults: registry::Defaults) -> Option<Parsed<'a>> {
    if names.iter().any(|name| name.matches("docker-hub")) {
        return None;
    }
    let problems = Problems::of(None);
    let document = DeTable::parse(IMPLIED).ok()?;
    let root = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
    let root = Section::new("the defaults", Some(&root), input.environment, &problems);
    let sources = Sources { environment: input.environment, stored: None, withheld: false };
    let parsed = registry::read(root.tables("registry").into_iter().next()?, &sources, names, defaults)?;
    let Parsed { mut registry, way, name_place, default_place, access_place, .. } = parsed;
    registry.is_implied = true;
    Some(Parsed { registry, way, name_place, default_place, access_place, problems: input.problems })
}
