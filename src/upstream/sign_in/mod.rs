//! From the recipe the operator wrote to what upstream is shown now.
//!
//! A secret that stands in a file is read again every few seconds while it is
//! in use; a helper is asked again after a while; a login that a cloud gave
//! out is renewed when half its life is over. One request does that for all,
//! and as long as the last login is good nobody waits for the next. Where the
//! new one cannot be had, the old one is kept.
//!
//! A new secret is a new *generation*: nothing that an earlier one was given
//! is shown any more. A renewed login of the same secret is not.

mod attempts;
mod aws;
mod entra;
mod file;
mod google;
mod helper;
mod login;
mod signature;
mod token_claims;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tracing::{info, warn};

pub(super) use attempts::Attempts;
pub(super) use login::{Login, Shown};
pub(super) use token_claims::lifetime as jwt_lifetime;

use self::login::{Fresh, plain};
use super::error::{Error, Result};
use super::send::Sender;
use crate::registry::{Credential, Entry, RegistryName, find_login};

/// How often files are looked at while their registry is in use.
const FILES_EVERY: Duration = Duration::from_secs(3);
/// A login that has been refused is looked for anew at most so often.
const REFUSED_EVERY: Duration = Duration::from_secs(5);
/// When to try again after a renewal that failed.
const RETRY: Duration = Duration::from_secs(10);
/// The same, where a second try may well succeed.
const RETRY_SOON: Duration = Duration::from_secs(2);
/// How long a renewal may keep the one who makes it waiting while the old login
/// is good still.
const PATIENCE: Duration = Duration::from_secs(10);

/// The recipe, and what has come of it.
#[derive(Clone)]
struct Current {
    generation: u64,
    recipe: Arc<Credential>,
    shown: Option<Arc<Shown>>,
    /// Of the last login there was.
    serial: u64,
    /// When the login ends, if it does.
    good_until: Option<Instant>,
    renew_at: Option<Instant>,
    files_at: Option<Instant>,
    /// Why there is no login, and until when that is not tried again.
    failure: Option<(Error, Instant)>,
    /// Sign-ins that were rejected, one after the other.
    rejections: u32,
}

impl Current {
    fn new(generation: u64, recipe: Arc<Credential>) -> Current {
        let files_at = file::has_any(&recipe).then(|| Instant::now() + FILES_EVERY);
        let mut current = Current {
            generation,
            recipe,
            shown: None,
            serial: 0,
            good_until: None,
            renew_at: None,
            files_at,
            failure: None,
            rejections: 0,
        };
        if let Some(login) = plain(&current.recipe) {
            current.show(Fresh::lasting(login), 0);
        }
        current
    }

    fn show(&mut self, fresh: Fresh, serial: u64) {
        let now = Instant::now();
        self.serial = serial;
        self.shown = Some(Arc::new(Shown { generation: self.generation, serial, login: fresh.login }));
        self.good_until = fresh.good_for.map(|time| now + time);
        self.renew_at = fresh.renew_in.map(|time| now + time);
        self.failure = None;
        self.rejections = 0;
    }

    /// No login could be had.
    fn fail(&mut self, error: Error, registry: &RegistryName) {
        warn!(%registry, %error, kept = self.good().is_some(), "no new login could be had");
        let pause = match &error {
            Error::CredentialRejected { .. } => {
                let pause = attempts::pause(self.rejections);
                self.rejections = self.rejections.saturating_add(1);
                attempts::tell_rejected(registry, self.generation, pause, &error);
                pause
            }
            error if error.is_transient() => RETRY_SOON,
            _ => RETRY,
        };
        let again = Instant::now() + pause;
        self.renew_at = Some(again);
        self.failure = Some((error, again));
    }

    /// The login, unless it has ended.
    fn good(&self) -> Option<&Arc<Shown>> {
        self.shown.as_ref().filter(|_| self.good_until.is_none_or(|end| Instant::now() < end))
    }

    fn is_due(&self) -> bool {
        let over = |at: Option<Instant>| at.is_some_and(|at| Instant::now() >= at);
        self.good().is_none() || over(self.renew_at) || over(self.files_at)
    }

    fn failed(&self) -> Option<Error> {
        let (error, until) = self.failure.as_ref()?;
        (Instant::now() < *until).then(|| error.clone())
    }
}

/// One registry's login.
pub(super) struct SignIn {
    registry: RegistryName,
    current: ArcSwap<Current>,
    /// Held by the one who looks for a new login. Until when a refused login is
    /// not looked for again.
    renewal: tokio::sync::Mutex<Option<Instant>>,
    warned: file::Warned,
}

impl SignIn {
    pub(super) fn new(registry: RegistryName, credential: Credential) -> SignIn {
        file::tell_of_exposed(&credential, &registry);
        SignIn {
            registry,
            current: ArcSwap::from_pointee(Current::new(0, Arc::new(credential))),
            renewal: tokio::sync::Mutex::new(None),
            warned: file::Warned::default(),
        }
    }

    /// The generation of the secret in use, and its recipe.
    pub(super) fn in_use(&self) -> Option<(u64, Arc<Credential>)> {
        let current = self.current.load();
        current.shown.as_ref().map(|shown| (shown.generation, Arc::clone(&current.recipe)))
    }

    /// Follows another recipe from now on.
    pub(super) fn replace(&self, credential: Credential) {
        file::tell_of_exposed(&credential, &self.registry);
        let recipe = Arc::new(credential);
        self.current.rcu(|current| Current::new(current.generation + 1, Arc::clone(&recipe)));
    }

    /// What to show now.
    ///
    /// # Errors
    /// When no login can be had.
    pub(super) async fn current(&self, sender: &Sender) -> Result<Arc<Shown>> {
        let current = self.current.load_full();
        let good = current.good();
        if let Some(shown) = good.filter(|_| !current.is_due()) {
            return Ok(Arc::clone(shown));
        }
        let _one = match (good, self.renewal.try_lock()) {
            (_, Ok(one)) => one,
            (Some(shown), Err(_)) => return Ok(Arc::clone(shown)),
            (None, Err(_)) => self.renewal.lock().await,
        };
        let current = self.current.load_full();
        if let Some(error) = current.failed().filter(|_| current.good().is_none()) {
            return Err(error);
        }
        if !current.is_due() {
            return current.good().map(Arc::clone).ok_or(Error::NotFound);
        }
        self.look(&current, sender, false).await
    }

    /// What was shown has been refused: whether there is something else to show.
    ///
    /// # Errors
    /// When a new login was looked for and could not be had.
    pub(super) async fn refused(&self, refused: &Shown, sender: &Sender) -> Result<Option<Arc<Shown>>> {
        let is_other = |shown: &Arc<Shown>| (shown.generation, shown.serial) != (refused.generation, refused.serial);
        let current = self.current.load_full();
        if let Some(other) = current.good().filter(|shown| is_other(shown)) {
            return Ok(Some(Arc::clone(other)));
        }
        if plain(&current.recipe).is_some() && current.files_at.is_none() {
            return Ok(None);
        }
        let mut not_before = self.renewal.lock().await;
        let current = self.current.load_full();
        if let Some(other) = current.good().filter(|shown| is_other(shown)) {
            return Ok(Some(Arc::clone(other)));
        }
        if let Some(error) = current.failed() {
            return Err(error);
        }
        let now = Instant::now();
        if not_before.is_some_and(|time| now < time) {
            return Ok(None);
        }
        *not_before = Some(now + REFUSED_EVERY);
        Ok(Some(self.look(&current, sender, true).await?).filter(is_other))
    }

    /// Brings files and login up to date; the caller holds the renewal.
    /// `refused`: the login there is, is worth nothing.
    async fn look(&self, current: &Arc<Current>, sender: &Sender, refused: bool) -> Result<Arc<Shown>> {
        let mut next = Current::clone(current);
        let mut is_other = false;
        if let Some(recipe) = file::changed(&current.recipe, &self.registry, &self.warned).await {
            match self.follow(current.generation + 1, recipe, sender).await {
                Ok(other) => {
                    info!(target: "audit", event = "credential_changed", registry = %self.registry, source = "file");
                    (next, is_other) = (other, true);
                }
                Err(error) => self.warned.tell(&self.registry, &error.to_string()),
            }
        }
        next.files_at = next.files_at.map(|_| Instant::now() + FILES_EVERY);
        let due = next.renew_at.is_some_and(|at| Instant::now() >= at);
        let renewable = !is_other && plain(&next.recipe).is_none();
        if renewable && (next.good().is_none() || due || refused) {
            let result = match next.good().filter(|_| !refused) {
                Some(_) => match tokio::time::timeout(PATIENCE, self.obtain(&next.recipe, sender)).await {
                    Ok(result) => result,
                    Err(_) => Err(self.none("signing in takes too long")),
                },
                None => self.obtain(&next.recipe, sender).await,
            };
            match result {
                Ok(fresh) => next = self.adopt(next, fresh),
                Err(error) => {
                    if refused {
                        next.shown = None;
                    }
                    next.fail(error, &self.registry);
                }
            }
        }
        let result = match (next.good(), &next.failure) {
            (Some(shown), _) => Ok(Arc::clone(shown)),
            (None, Some((error, _))) => Err(error.clone()),
            (None, None) => Err(self.none("its secret makes no header")),
        };
        // Whoever replaced the credential meanwhile has the last word.
        let before = self.current.compare_and_swap(current, Arc::new(next));
        if !Arc::ptr_eq(&before, current) {
            return before.good().map(Arc::clone).ok_or_else(|| self.none("it is being replaced"));
        }
        result
    }

    /// What comes of a recipe whose files have changed. An error: nothing can,
    /// as when a file is half written.
    async fn follow(&self, generation: u64, recipe: Credential, sender: &Sender) -> Result<Current> {
        let mut next = Current::new(generation, Arc::new(recipe));
        if next.shown.is_none() {
            match self.obtain(&next.recipe, sender).await {
                Ok(fresh) => next = self.adopt(next, fresh),
                Err(error @ Error::NoLogin { .. }) => return Err(error),
                Err(error) => next.fail(error, &self.registry),
            }
        }
        Ok(next)
    }

    /// Takes up a login that was got.
    fn adopt(&self, mut next: Current, fresh: Fresh) -> Current {
        let is_same = next.shown.as_ref().is_some_and(|shown| shown.login == fresh.login);
        let serial = if is_same { next.serial } else { next.serial + 1 };
        let is_new = next.shown.is_some() && !is_same;
        // What is kept elsewhere is a secret like any other; what a cloud gives
        // out belongs to the secret that it was given for.
        let kept_elsewhere = matches!(*next.recipe, Credential::DockerConfig { .. } | Credential::Helper { .. });
        if is_new && kept_elsewhere {
            info!(target: "audit", event = "credential_changed", registry = %self.registry, source = "helper");
            next.generation += 1;
        }
        next.show(fresh, serial);
        next
    }

    /// Follows a recipe that needs more than itself.
    async fn obtain(&self, recipe: &Credential, sender: &Sender) -> Result<Fresh> {
        match recipe {
            Credential::DockerConfig { file, server, username } => {
                let entry = find_login(file.secret(), server);
                match entry.map_err(|error| self.none(&format!("the configuration file of Docker {error}")))? {
                    Entry::Login { username: found, secret } => {
                        self.check_user(username.as_deref(), &found)?;
                        let login = Login::basic(&found, &secret);
                        Ok(Fresh::lasting(login.ok_or_else(|| self.none("its secret makes no header"))?))
                    }
                    Entry::IdentityToken(token) => Ok(Fresh::lasting(Login::identity(&token))),
                    Entry::Helper(name) => self.ask_helper(&name, &server.key(), username.as_deref()).await,
                }
            }
            Credential::Helper { helper, server, username } => {
                self.ask_helper(helper, &server.key(), username.as_deref()).await
            }
            Credential::Aws(key) => aws::sign_in(key, &self.registry, sender).await,
            Credential::Google(key) => google::sign_in(key, &self.registry, sender).await,
            Credential::Entra(app) => entra::sign_in(app, &self.registry, sender).await,
            recipe => {
                plain(recipe).map(Fresh::lasting).ok_or_else(|| self.none("its user name and secret make no header"))
            }
        }
    }

    async fn ask_helper(
        &self,
        name: &crate::registry::HelperName,
        server: &str,
        username: Option<&str>,
    ) -> Result<Fresh> {
        let answer = helper::get(name, server).await.map_err(|cause| self.none(&cause))?;
        let login = match answer {
            helper::Answer::Login { username: found, secret } => {
                self.check_user(username, &found)?;
                Login::basic(&found, &secret).ok_or_else(|| self.none("what the helper gave makes no header"))?
            }
            helper::Answer::IdentityToken(token) => Login::identity(&token),
        };
        Ok(Fresh { login, good_for: None, renew_in: Some(helper::ASK_AGAIN) })
    }

    fn check_user(&self, wanted: Option<&str>, found: &str) -> Result<()> {
        if wanted.is_none_or(|wanted| wanted == found) {
            return Ok(());
        }
        Err(self.none("the login that is kept for it is another user's than `username` says"))
    }

    fn none(&self, cause: &str) -> Error {
        no_login(&self.registry, cause)
    }
}

fn no_login(registry: &RegistryName, cause: impl Into<String>) -> Error {
    Error::NoLogin { registry: registry.to_string(), cause: cause.into() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::connect::Connector;
    use super::super::egress::Egress;
    use super::*;
    use crate::registry::{AccessMode, EgressSettings, Form, Kind, Registry, Secret, Value};

    /// A registry with an access key, whose sign-in nobody answers.
    fn registry() -> Arc<Registry> {
        let mut form = Form::new(Kind::Ecr);
        for (field, text) in [
            ("url", "http://127.0.0.1:1"),
            ("region", "eu-west-1"),
            ("access_key_id", "AKIA"),
            ("sign_in_endpoint", "http://127.0.0.1:1"),
        ] {
            form.set(field, Value::Text(text.into())).unwrap();
        }
        form.set("secret_access_key", Value::Secret(Secret::new("s".into()))).unwrap();
        let connection = form.connect().unwrap();
        let egress = EgressSettings {
            insecure: true,
            allow_private: vec!["127.0.0.0/8".parse().unwrap()],
            max_connections: 1,
            ..EgressSettings::default()
        };
        Arc::new(Registry {
            name: "r".parse().unwrap(),
            kind: Kind::Ecr,
            origin: connection.origin,
            endpoints: vec![],
            image_hosts: connection.image_hosts,
            prefix: None,
            known_realms: vec![],
            credential: connection.credential,
            access: AccessMode::Grants,
            is_default: false,
            owner: Default::default(),
            is_implied: false,
            hosts: vec![],
            egress,
            tag_ttl: Duration::ZERO,
            immutable_tags: vec![],
            stale_if_error: Duration::ZERO,
            offline: false,
            links: crate::registry::LinkSettings::for_credential(&crate::registry::Credential::Anonymous),
            quota: None,
        })
    }

    fn sign_in() -> (SignIn, Sender) {
        let registry = registry();
        let egress = Egress::new(Arc::clone(&registry));
        let connector =
            Connector::new(egress.clone(), None, registry.origins().cloned(), &registry.egress.outbound).unwrap();
        let sign_in = SignIn::new(registry.name.clone(), registry.credential.clone());
        (sign_in, Sender::new(&registry, egress, connector))
    }

    /// As if a login had been got that is due, and ends after `left`.
    fn give(sign_in: &SignIn, left: Duration) {
        let mut current = Current::clone(&sign_in.current.load());
        current.show(Fresh::given_for(Login::ready(Some("AWS"), "QVdTOjE=").unwrap(), left), 1);
        current.renew_at = Some(Instant::now());
        sign_in.current.store(Arc::new(current));
    }

    #[tokio::test]
    async fn a_login_that_cannot_be_renewed_stays_in_use_until_it_ends() {
        let (sign_in, sender) = sign_in();
        give(&sign_in, Duration::from_secs(600));
        assert_eq!(sign_in.current(&sender).await.ok().unwrap().serial, 1);
        let failed = sign_in.current.load().failure.is_some();
        assert!(failed, "it was tried");
        assert!(!sign_in.current.load().is_due(), "and is not tried again at once");
        give(&sign_in, Duration::ZERO);
        assert!(matches!(sign_in.current(&sender).await, Err(Error::Unreachable { .. })));
    }

    #[tokio::test]
    async fn a_login_that_was_refused_is_not_shown_again() {
        let (sign_in, sender) = sign_in();
        give(&sign_in, Duration::from_secs(600));
        let shown = Arc::clone(sign_in.current.load().shown.as_ref().unwrap());
        assert!(sign_in.refused(&shown, &sender).await.is_err());
        assert!(sign_in.current(&sender).await.is_err());
    }

    #[tokio::test]
    async fn a_replaced_recipe_is_another_generation_at_once() {
        let (sign_in, sender) = sign_in();
        give(&sign_in, Duration::from_secs(600));
        let old = Arc::clone(sign_in.current.load().shown.as_ref().unwrap());
        sign_in.replace(Credential::new("u".into(), Secret::new("p".into())));
        let new = sign_in.current(&sender).await.ok().unwrap();
        assert_eq!((new.generation, new.login == old.login), (1, false));
        assert_eq!(sign_in.refused(&old, &sender).await.ok().unwrap().map(|shown| shown.generation), Some(1));
        assert!(sign_in.refused(&new, &sender).await.ok().unwrap().is_none(), "there is no other");
    }

    #[test]
    fn a_sign_in_that_is_rejected_is_tried_less_and_less_often() {
        let name: RegistryName = "r".parse().unwrap();
        let (sign_in, _) = sign_in();
        let mut current = Current::clone(&sign_in.current.load());
        let at = "https://api.example".parse().unwrap();
        let error = Error::CredentialRejected { registry: "r".into(), at, status: 400 };
        let pauses = [(); 4].map(|()| {
            current.fail(error.clone(), &name);
            let (_, until) = current.failure.as_ref().unwrap();
            until.saturating_duration_since(Instant::now()).as_secs_f64().ceil()
        });
        assert_eq!(pauses, [5.0, 10.0, 20.0, 40.0]);
    }
}
