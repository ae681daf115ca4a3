//! TEMPORARY loader until the real one lands.
#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use crate::{access::Client, cache::*, registry::*, server::*, telemetry::LogSettings};
use std::{sync::Arc, time::Duration};
pub struct Settings {
    pub server: ServerSettings,
    pub cache: CacheSettings,
    pub registries: Vec<Arc<Registry>>,
    pub clients: Vec<Client>,
    pub log: LogSettings,
}
impl Settings {
    pub fn temporary(text: &str) -> Settings {
        let t: toml::Table = text.parse().unwrap();
        let s = |t: &toml::Value, k: &str| t.get(k).and_then(|v| v.as_str()).map(str::to_owned);
        let list = |t: &toml::Value, k: &str| -> Vec<String> {
            t.get(k)
                .and_then(|v| v.as_array())
                .map(|a| a.iter().map(|v| v.as_str().unwrap().to_owned()).collect())
                .unwrap_or_default()
        };
        let b = |t: &toml::Value, k: &str| t.get(k).and_then(|v| v.as_bool()).unwrap_or(false);
        let empty = toml::Value::Table(Default::default());
        let server = t.get("server").unwrap_or(&empty);
        let admin = t.get("admin").unwrap_or(&empty);
        let cache = t.get("cache").unwrap_or(&empty);
        let mut registries = vec![];
        for r in t.get("registry").and_then(|v| v.as_array()).unwrap_or(&vec![]) {
            let kind: Kind = s(r, "kind").unwrap().parse().unwrap();
            let mut form = Form::new(kind);
            for f in kind.fields() {
                match f.kind {
                    FieldKind::Text => {
                        if let Some(v) = s(r, f.name) {
                            form.set(f.name, Value::Text(v)).unwrap()
                        }
                    }
                    FieldKind::Secret => {
                        if let Some(v) = r.get(f.name) {
                            let v = s(v, "env")
                                .map(|e| std::env::var(e).unwrap())
                                .or_else(|| {
                                    s(v, "file").map(|f| std::fs::read_to_string(f).unwrap().trim_end().to_owned())
                                })
                                .unwrap();
                            form.set(f.name, Value::Secret(Secret::new(v))).unwrap()
                        }
                    }
                }
            }
            let c = form.connect().unwrap();
            let name = s(r, "name").unwrap();
            registries.push(Arc::new(Registry {
                name: name.parse().unwrap(),
                kind,
                origin: c.origin,
                endpoints: vec![],
                image_hosts: c.image_hosts,
                prefix: c.prefix,
                known_realms: c.known_realms,
                access: if s(r, "access").as_deref() == Some("anyone") || c.credential.is_anonymous() {
                    AccessMode::Anyone
                } else {
                    AccessMode::Grants
                },
                credential: c.credential,
                is_default: b(r, "default"),
                hosts: list(r, "hosts").iter().map(|h| h.parse().unwrap()).collect(),
                egress: EgressSettings {
                    insecure: b(r, "insecure"),
                    allow_private: list(r, "allow_private").iter().map(|h| h.parse().unwrap()).collect(),
                    token_realms: list(r, "token_realms").iter().map(|h| h.parse().unwrap()).collect(),
                    redirect_origins: list(r, "redirect_origins").iter().map(|h| h.parse().unwrap()).collect(),
                    ca_pem: None,
                    max_connections: 16,
                },
                tag_ttl: Duration::from_secs(60),
            }));
        }
        Settings {
            server: ServerSettings {
                listen: vec![s(server, "listen").unwrap_or("127.0.0.1:5000".into()).parse().unwrap()],
                admin_listen: s(admin, "listen").unwrap_or("127.0.0.1:5001".into()).parse().unwrap(),
                tls: None,
                ping: Default::default(),
                limits: Default::default(),
            },
            cache: CacheSettings {
                dir: s(cache, "dir").unwrap_or("cache".into()).into(),
                max_size: 100 << 30,
                min_free: MinFree::Percent(5.0),
                durability: Durability::Sync,
                max_fills: 256,
                max_blob_size: 64 << 30,
                idle_timeout: Duration::from_secs(30),
            },
            registries,
            clients: vec![],
            log: LogSettings::default(),
        }
    }
}
