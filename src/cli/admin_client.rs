//! Talking to the admin API of a running proxy: plain HTTP to one address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use miette::{Context as _, IntoDiagnostic as _, miette};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::admin::document::Failure;
use crate::config::Settings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Hashing a large blob takes minutes on a slow disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);

/// Which proxy is meant.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// Where the proxy's admin listener is [default: that of --config, else http://127.0.0.1:5001]
    #[arg(long, value_name = "URL", env = "TRANSSHIP_ADMIN_URL", value_parser = admin_url, global = true)]
    admin: Option<Url>,
    /// The configuration file of the proxy, for the address of its admin listener
    #[arg(long, value_name = "FILE", env = "TRANSSHIP_CONFIG", global = true)]
    config: Option<PathBuf>,
}

/// The admin API of one proxy.
pub(super) struct AdminClient {
    base: Url,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What the API answers where it can do what was asked.
pub(super) enum Answer<T> {
    Done(T),
    /// It says no: why.
    Refused(StatusCode, String),
}

impl Target {
    /// The client of the proxy that is meant.
    pub(super) fn client(&self) -> miette::Result<AdminClient> {
        let base = match &self.admin {
            Some(url) => url.clone(),
            None => url_of(Settings::admin_listen(self.config.as_deref())?)?,
        };
        Ok(AdminClient::of(base))
    }

    /// Whether somebody said where the proxy is.
    pub(super) fn is_explicit(&self) -> bool {
        self.admin.is_some()
    }

    /// The configuration file of the proxy.
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

fn admin_url(text: &str) -> Result<Url, String> {
    let url = text.parse::<Url>().ok().filter(|url| url.scheme() == "http" && url.has_host());
    url.ok_or_else(|| "write it as http://127.0.0.1:5001".to_owned())
}

/// How a listener's address is reached from the same machine.
fn url_of(address: SocketAddr) -> miette::Result<Url> {
    if address.port() == 0 {
        return Err(miette!("the configuration lets the admin listener take any port: name its address with --admin"));
    }
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port())).parse().into_diagnostic()
}

impl AdminClient {
    /// The admin API at `base`.
    pub(super) fn of(base: Url) -> AdminClient {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        AdminClient { base, client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// The document at `path`, which is relative to `/api/v1/` and not encoded.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> miette::Result<T> {
        self.ask(Method::GET, path, query, None).await?.or_fail()
    }

    /// Whether anybody listens there.
    pub(super) async fn is_there(&self) -> bool {
        let url = self.base.join("/healthz").map(String::from).unwrap_or_default();
        let Ok(request) = Request::builder().uri(url).body(Full::default()) else { return false };
        tokio::time::timeout(CONNECT_TIMEOUT, self.client.request(request)).await.is_ok_and(|answer| answer.is_ok())
    }

    /// Where that is.
    pub(super) fn address(&self) -> &Url {
        &self.base
    }

    /// Sends a document that asks for something.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> miette::Result<Answer<T>> {
        let body = serde_json::to_vec(document).into_diagnostic()?;
        self.ask(Method::POST, path, &[], Some(body)).await
    }

    /// Asks for a change that has a document as its answer.
    pub(super) async fn put<T: DeserializeOwned>(&self, path: &str) -> miette::Result<Answer<T>> {
        self.ask(Method::PUT, path, &[], None).await
    }

    /// Asks for a change that `document` describes.
    pub(super) async fn put_document<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> miette::Result<Answer<T>> {
        let body = serde_json::to_vec(document).into_diagnostic()?;
        self.ask(Method::PUT, path, &[], Some(body)).await
    }

    /// Asks for a removal.
    pub(super) async fn delete(&self, path: &str) -> miette::Result<Answer<()>> {
        self.delete_for(path).await
    }

    /// Asks for a removal that has a document as its answer.
    pub(super) async fn delete_for<T: DeserializeOwned>(&self, path: &str) -> miette::Result<Answer<T>> {
        self.ask(Method::DELETE, path, &[], None).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> miette::Result<Answer<T>> {
        let mut url = self.base.join("/api/v1").into_diagnostic()?;
        if let Ok(mut segments) = url.path_segments_mut() {
            // Whatever stands in it: a segment is encoded and stays one.
            segments.extend(path.split('/'));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = Request::builder().method(method).uri(url.as_str());
        if body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::from(body.unwrap_or_default())).into_diagnostic()?;
        let (status, body) = match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(request)).await {
            Ok(answered) => answered?,
            Err(_) => return Err(miette!("{} did not answer within {} s", self.base, ANSWER_TIMEOUT.as_secs())),
        };
        if status.is_success() {
            // An answer without content stands for "nothing to say".
            let text: &[u8] = if body.is_empty() { b"null" } else { &body };
            let document = serde_json::from_slice(text).into_diagnostic();
            return document.map(Answer::Done).wrap_err_with(|| self.stranger());
        }
        let failure: Failure = serde_json::from_slice(&body).into_diagnostic().wrap_err_with(|| self.stranger())?;
        Ok(Answer::Refused(status, failure.error))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> miette::Result<(StatusCode, Bytes)> {
        let response = self.client.request(request).await.map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            miette!(
                help = "start it with `transship serve`; if its admin listener is elsewhere, name it with --admin URL \
                        or its configuration with --config FILE",
                "no proxy can be reached at {}: {cause}",
                self.base
            )
        })?;
        let (head, body) = response.into_parts();
        let broken = || format!("the answer of {} broke off", self.base);
        Ok((head.status, body.collect().await.into_diagnostic().wrap_err_with(broken)?.to_bytes()))
    }

    fn stranger(&self) -> String {
        format!("what answers at {} is no admin listener of this version", self.base)
    }
}

impl<T> Answer<T> {
    /// The answer; a refusal is a failure.
    pub(super) fn or_fail(self) -> miette::Result<T> {
        match self {
            Answer::Done(answer) => Ok(answer),
            Answer::Refused(_, reason) => Err(miette!("{reason}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        let url = |address: &str| url_of(address.parse().unwrap()).map(|url| url.to_string()).ok();
        assert_eq!(url("127.0.0.1:5001").as_deref(), Some("http://127.0.0.1:5001/"));
        assert_eq!(url("0.0.0.0:1").as_deref(), Some("http://127.0.0.1:1/"));
        assert_eq!(url("[::]:1").as_deref(), Some("http://[::1]:1/"));
        assert_eq!(url("10.0.0.1:1").as_deref(), Some("http://10.0.0.1:1/"));
        assert_eq!(url("127.0.0.1:0"), None);
    }
}
