//! The clients of the configuration and those that commands add, as one list.
//!
//! A change is stored first, then in force at the gate at once. Those of the
//! configuration are changed there only.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;

use super::record::ClientRecord;
use super::{Client, Gate};
use crate::telemetry::{Audit, Event};

/// Where clients are kept that commands add.
pub trait ClientStore: Send + Sync {
    /// All of them.
    ///
    /// # Errors
    /// When they cannot be read.
    fn list(&self) -> io::Result<Vec<ClientRecord>>;

    /// Keeps one, in place of another of that name; durable when it returns.
    ///
    /// # Errors
    /// When it cannot be kept; nothing has changed then.
    fn put(&self, client: &ClientRecord) -> io::Result<()>;

    /// Removes one; durable when it returns.
    ///
    /// # Errors
    /// When it cannot be removed; nothing has changed then.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// Why the list is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// There is one of that name.
    #[error("there is a client `{0}` already")]
    Taken(String),
    /// There is none of that name.
    #[error("there is no client `{0}`")]
    Absent(String),
    /// It is not a command's to change.
    #[error("client `{0}` stands in the configuration file: change it there")]
    Configured(String),
    /// The store failed.
    #[error("the clients cannot be stored: {0}")]
    Store(#[source] io::Error),
}

/// All clients.
pub struct Roster {
    store: Box<dyn ClientStore>,
    gate: Arc<Gate>,
    audit: Arc<Audit>,
    lists: Mutex<Lists>,
}

#[derive(Default)]
struct Lists {
    configured: Vec<Client>,
    stored: Vec<Client>,
}

impl Lists {
    fn is_configured(&self, name: &str) -> bool {
        self.configured.iter().any(|client| client.name == name)
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.stored.iter().position(|client| client.name == name)
    }
}

impl Roster {
    /// The clients of the configuration and of `store`, in force at `gate`.
    /// Where both have one of a name, the configuration's counts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(
        configured: Vec<Client>,
        store: Box<dyn ClientStore>,
        gate: Arc<Gate>,
        audit: Arc<Audit>,
    ) -> io::Result<Roster> {
        let mut stored = Vec::new();
        for record in store.list()? {
            match Client::try_from(record) {
                Ok(client) => stored.push(client),
                Err(error) => warn!(%error, "a stored client is left out"),
            }
        }
        let roster = Roster { store, gate, audit, lists: Mutex::new(Lists { configured, stored }) };
        roster.apply(&roster.lists.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(roster)
    }

    /// All clients, by name; with each, whether the configuration says so.
    pub fn list(&self) -> Vec<(Client, bool)> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = lists.stored.iter().filter(|client| !lists.is_configured(&client.name));
        let all = lists.configured.iter().map(|client| (client, true)).chain(stored.map(|client| (client, false)));
        let mut all: Vec<_> = all.map(|(client, configured)| (client.clone(), configured)).collect();
        all.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        all
    }

    /// Adds a client, or with `replace` puts it in the place of another;
    /// whether there was one.
    ///
    /// # Errors
    /// As [`RosterError`] says; nothing has changed then.
    pub fn put(&self, client: Client, replace: bool) -> Result<bool, RosterError> {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if lists.is_configured(&client.name) {
            return Err(RosterError::Configured(client.name));
        }
        let before = lists.position(&client.name);
        if before.is_some() && !replace {
            return Err(RosterError::Taken(client.name));
        }
        self.store.put(&ClientRecord::from(&client)).map_err(RosterError::Store)?;
        self.tell(if before.is_some() { "client_changed" } else { "client_added" }, &client.name);
        match before.and_then(|at| lists.stored.get_mut(at)) {
            Some(earlier) => *earlier = client,
            None => lists.stored.push(client),
        }
        self.apply(&lists);
        Ok(before.is_some())
    }

    /// Removes a client: its next request is a stranger's.
    ///
    /// # Errors
    /// As [`RosterError`] says; nothing has changed then.
    pub fn remove(&self, name: &str) -> Result<(), RosterError> {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if lists.is_configured(name) {
            return Err(RosterError::Configured(name.to_owned()));
        }
        let at = lists.position(name).ok_or_else(|| RosterError::Absent(name.to_owned()))?;
        self.store.remove(name).map_err(RosterError::Store)?;
        lists.stored.remove(at);
        self.tell("client_removed", name);
        self.apply(&lists);
        Ok(())
    }

    /// Takes another configuration's clients.
    pub fn configure(&self, clients: Vec<Client>) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.configured = clients;
        self.apply(&lists);
    }

    fn apply(&self, lists: &Lists) {
        let stored = lists.stored.iter().filter(|client| !lists.is_configured(&client.name));
        self.gate.replace(lists.configured.iter().chain(stored).cloned().collect());
    }

    fn tell(&self, event: &'static str, name: &str) {
        self.audit.operator(&Event { event, outcome: "success", principal: Some(name), ..Event::default() });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::access::{Evidence, GateSettings, Proof};

    /// Clients in memory; every handle shows the same.
    #[derive(Clone, Default)]
    pub(crate) struct MemoryStore {
        clients: Arc<Mutex<Vec<ClientRecord>>>,
        broken: bool,
    }

    impl ClientStore for MemoryStore {
        fn list(&self) -> io::Result<Vec<ClientRecord>> {
            Ok(self.clients.lock().unwrap().clone())
        }

        fn put(&self, client: &ClientRecord) -> io::Result<()> {
            if self.broken {
                return Err(io::Error::other("the disk is full"));
            }
            self.remove(&client.name)?;
            self.clients.lock().unwrap().push(client.clone());
            Ok(())
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            self.clients.lock().unwrap().retain(|client| client.name != name);
            Ok(())
        }
    }

    fn client(name: &str, token: &str) -> Client {
        let proof = Proof::Token { sha256: crate::oci::Digest::sha256_of(token.as_bytes()).hex() };
        Client { name: name.into(), proof, grants: vec!["hub/**".parse().unwrap()] }
    }

    async fn who(gate: &Gate, token: &str) -> Option<String> {
        let header = format!("Bearer {token}");
        let evidence = Evidence { authorization: vec![header.as_bytes()], ..Evidence::default() };
        gate.identify(evidence).await.ok()?.name().map(str::to_owned)
    }

    fn open(configured: Vec<Client>, store: &MemoryStore) -> (Roster, Arc<Gate>) {
        let gate = Arc::new(Gate::new(vec![], GateSettings::default(), Arc::default()));
        (Roster::open(configured, Box::new(store.clone()), Arc::clone(&gate), Arc::default()).unwrap(), gate)
    }

    #[tokio::test]
    async fn a_client_is_known_from_its_adding_to_its_removal_and_over_a_restart() {
        let store = MemoryStore::default();
        let (roster, gate) = open(vec![client("file", "t-file")], &store);
        assert!(!roster.put(client("ci", "t-old"), false).unwrap());
        assert_eq!(who(&gate, "t-old").await.as_deref(), Some("ci"));
        assert!(matches!(roster.put(client("ci", "t-new"), false), Err(RosterError::Taken(_))));
        assert!(roster.put(client("ci", "t-new"), true).unwrap());
        assert_eq!((who(&gate, "t-old").await, who(&gate, "t-new").await.as_deref()), (None, Some("ci")));

        let (again, gate) = open(vec![client("file", "t-file")], &store);
        assert_eq!(who(&gate, "t-new").await.as_deref(), Some("ci"));
        let names: Vec<_> = again.list().into_iter().map(|(client, configured)| (client.name, configured)).collect();
        assert_eq!(names, [("ci".to_owned(), false), ("file".to_owned(), true)]);
        again.remove("ci").unwrap();
        assert_eq!((who(&gate, "t-new").await, who(&gate, "t-file").await.as_deref()), (None, Some("file")));
        assert!(matches!(again.remove("ci"), Err(RosterError::Absent(_))));
    }

    #[tokio::test]
    async fn a_client_of_the_configuration_is_no_commands_to_change() {
        let store = MemoryStore::default();
        let (roster, gate) = open(vec![], &store);
        roster.put(client("ci", "t-stored"), false).unwrap();
        roster.configure(vec![client("ci", "t-file")]);
        assert_eq!((who(&gate, "t-stored").await, who(&gate, "t-file").await.as_deref()), (None, Some("ci")));
        assert!(matches!(roster.put(client("ci", "x"), true), Err(RosterError::Configured(_))));
        assert!(matches!(roster.remove("ci"), Err(RosterError::Configured(_))));
        roster.configure(vec![]);
        assert_eq!(who(&gate, "t-stored").await.as_deref(), Some("ci"));
    }

    #[tokio::test]
    async fn what_could_not_be_stored_is_not_in_force() {
        let (roster, gate) = open(vec![client("file", "f")], &MemoryStore { broken: true, ..MemoryStore::default() });
        assert!(matches!(roster.put(client("ci", "t"), false), Err(RosterError::Store(_))));
        assert_eq!((who(&gate, "t").await, roster.list().len()), (None, 1));
    }
}
