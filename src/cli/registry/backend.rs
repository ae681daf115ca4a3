//! Who does what a command asks for: the running proxy, or where there is none
//! this process, on the store itself.

use miette::miette;

use super::super::admin_client::{AdminClient, Answer, Target};
use crate::admin::document::{Registries, RegistryEntry, RegistryForm, TestQuestion, TestReport};
use crate::admin::{Caller, Operator, Refused, RegistryChange, form_change, try_registry};
use crate::cli::terminal::errln;
use crate::proxy;

/// One of the two.
pub(super) enum Backend {
    Running(Box<AdminClient>),
    Offline(Box<dyn Operator>),
}

impl Backend {
    pub(super) async fn open(target: &Target) -> miette::Result<Backend> {
        let client = target.client()?;
        if client.is_there().await {
            return Ok(Backend::Running(Box::new(client)));
        }
        if target.is_explicit() {
            // Says who cannot be reached, and what to do.
            client.get::<Registries>("registries", &[]).await?;
        }
        let (configuration, settings) = super::super::configuration(target.config(), false)?;
        let store = configuration.store().path().display().to_string();
        errln!("no proxy runs at {}: working on the store {store} itself", client.address());
        Ok(Backend::Offline(proxy::offline(configuration, settings)))
    }

    pub(super) async fn list(&self) -> miette::Result<Registries> {
        match self {
            Backend::Running(client) => client.get("registries", &[]).await,
            Backend::Offline(operator) => {
                Ok(Registries { registries: operator.registries(), retired: operator.retired_names() })
            }
        }
    }

    pub(super) async fn show(&self, name: &str) -> miette::Result<RegistryEntry> {
        match self {
            Backend::Running(client) => client.get(&format!("registries/{name}"), &[]).await,
            Backend::Offline(operator) => operator.registry(name).map_err(told),
        }
    }

    pub(super) async fn add(&mut self, form: RegistryForm) -> miette::Result<RegistryEntry> {
        match self {
            Backend::Running(client) => client.post("registries", &form).await?.or_fail(),
            Backend::Offline(operator) => operator.add_registry(changed(form)?, &local()).map_err(told),
        }
    }

    pub(super) async fn replace(&mut self, name: &str, form: RegistryForm) -> miette::Result<RegistryEntry> {
        match self {
            Backend::Running(client) => client.put_document(&format!("registries/{name}"), &form).await?.or_fail(),
            Backend::Offline(operator) => operator.replace_registry(name, changed(form)?, &local()).map_err(told),
        }
    }

    pub(super) async fn remove(&mut self, name: &str) -> miette::Result<()> {
        match self {
            Backend::Running(client) => {
                let answer: Answer<()> = client.delete(&format!("registries/{name}")).await?;
                answer.or_fail()
            }
            Backend::Offline(operator) => operator.remove_registry(name, &local()).map_err(told),
        }
    }

    pub(super) async fn test(
        &self,
        name: Option<&str>,
        form: Option<RegistryForm>,
        image: Option<String>,
    ) -> miette::Result<TestReport> {
        match self {
            Backend::Running(client) => {
                let path = name.map_or_else(|| "registries/test".to_owned(), |name| format!("registries/{name}/test"));
                client.post(&path, &TestQuestion { form, image }).await?.or_fail()
            }
            Backend::Offline(operator) => {
                let change = form.map(changed).transpose()?.unwrap_or_default();
                let registry = operator.candidate(name, change).map_err(told)?;
                try_registry(registry, image.as_deref()).await.map_err(|message| miette!("{message}"))
            }
        }
    }
}

fn told(refused: Refused) -> miette::Report {
    miette!("{refused}")
}

fn changed(form: RegistryForm) -> miette::Result<RegistryChange> {
    form_change(form).map_err(|message| miette!("{message}"))
}

/// Where the operator is who works on the store itself.
fn local() -> Caller {
    Caller::local(rustix::process::geteuid().as_raw())
}
