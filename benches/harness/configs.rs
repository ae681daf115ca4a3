//! The configuration file of each server that is compared.

use std::path::Path;

use super::data::MANIFEST_TYPE;
use super::servers::Setup;

pub(crate) fn transship(setup: &Setup, dir: &Path, port: u16, admin: u16) -> String {
    let (cache, upstream) = (dir.join("cache"), setup.upstream);
    let mut text = format!("[server]\nlisten = \"127.0.0.1:{port}\"\n");
    if let Some(tls) = &setup.tls {
        let (certificate, key) = (&tls.certificate, &tls.key);
        text += &format!("[server.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    }
    let size = setup.max_size.map_or_else(String::new, |size| format!("max_size = \"{size}\"\n"));
    let policy = setup.policy.map_or_else(String::new, |policy| format!("policy = \"{policy}\"\n"));
    text += &format!(
        "[admin]\nlisten = \"127.0.0.1:{admin}\"\n[cache]\ndir = {cache:?}\n{size}{policy}[log]\nlevel = \"warn\"\n\
         [[registry]]\nname = \"sample\"\nkind = \"generic\"\nurl = \"http://127.0.0.1:{upstream}\"\n\
         insecure = true\nallow_private = [\"127.0.0.0/8\"]\ndefault = true\n"
    );
    text
}

/// nginx, caching the upstream or serving the data itself.
pub(crate) fn nginx(setup: &Setup, dir: &Path, port: u16, cache: bool) -> String {
    let (upstream, data, dir) = (setup.upstream, setup.data.display(), dir.display());
    let size = setup.max_size.unwrap_or(100 << 30);
    let tls = setup.tls.as_ref().map_or_else(String::new, |tls| {
        format!(
            "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3; ssl_session_cache shared:tls:1m;",
            tls.certificate.display(),
            tls.key.display()
        )
    });
    let ssl = if tls.is_empty() { "" } else { " ssl http2" };
    // A lock that times out would fetch the same blob twice; that is not what
    // it is meant to be compared with.
    let content = if cache {
        "location / {
            proxy_pass http://upstream; proxy_http_version 1.1; proxy_set_header Connection '';
            proxy_cache blobs; proxy_cache_valid 200 1d;
            proxy_cache_lock on; proxy_cache_lock_timeout 10m; proxy_cache_lock_age 10m;
        }"
        .to_owned()
    } else {
        format!(
            "root {data};
            location / {{ default_type application/octet-stream; }}
            location ~ /manifests/ {{ default_type {MANIFEST_TYPE}; }}"
        )
    };
    format!(
        "user root; daemon off; worker_processes 2; worker_rlimit_nofile 8192; pid {dir}/nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
    keepalive_requests 100000000; keepalive_timeout 10m; open_file_cache max=4096;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    proxy_cache_path {dir}/cache levels=1:2 keys_zone=blobs:64m max_size={size} inactive=1d use_temp_path=off;
    upstream upstream {{ server 127.0.0.1:{upstream}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port}{ssl} backlog=4096;
        {tls}
        {content}
    }}
}}
"
    )
}

pub(crate) fn docker_registry(setup: &Setup, dir: &Path, port: u16) -> String {
    let (upstream, storage) = (setup.upstream, dir.join("storage"));
    let tls = setup.tls.as_ref().map_or_else(String::new, |tls| {
        format!("  tls:\n    certificate: {:?}\n    key: {:?}\n", tls.certificate, tls.key)
    });
    format!(
        "version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {storage:?}
  cache:
    blobdescriptor: inmemory
http:
  addr: 127.0.0.1:{port}
  secret: bench
{tls}proxy:
  remoteurl: http://127.0.0.1:{upstream}
"
    )
}

pub(crate) fn drayage(setup: &Setup, dir: &Path, port: u16) -> String {
    let (upstream, cache) = (setup.upstream, dir.join("cache"));
    // What it takes a request for that names no registry.
    format!(
        "listen = \"127.0.0.1:{port}\"\ncache_dir = {cache:?}\nmanifest_ttl_seconds = 900\n\
         [upstreams.docker_io]\nregistry = \"http://127.0.0.1:{upstream}\"\n"
    )
}
