//! The steps of the tour. Each is timed and checked from what the clients
//! received and what upstream saw.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use oci_client::errors::OciDistributionError;
use tokio::task::JoinSet;

use super::client::{Client, Pulled};
use super::progress::Progress;
use super::registry::Seen;
use super::report::{Report, Step, bytes, seconds};
use super::sample::Image;
use super::stage::{NAME, Stage};
use crate::cli::terminal::outln;

/// Clients that pull at once.
const STORM: usize = 16;

/// Takes all steps.
pub(super) async fn take(stage: &Stage) -> miette::Result<Report> {
    let mut report = Report::default();
    direct(stage, &mut report).await?;
    cold(stage, &mut report).await?;
    warm(stage, &mut report).await?;
    storm(stage, &mut report).await?;
    let all = stage.upstream.seen();
    report.claim("no credential followed a redirect to the second origin", all.leaks == 0);
    let held: usize = report.steps.iter().map(|step| step.holders).sum();
    report.claim("no client ever held a credential; the proxy held the only one", held == 0);
    Ok(report)
}

async fn direct(stage: &Stage, report: &mut Report) -> miette::Result<()> {
    let client = client(stage.upstream.api(), "", &stage.image)?;
    outln!("1. A client without a credential asks the sample registry itself\n   {}", client.reference());
    let start = Instant::now();
    let pulled = client.pull(&Progress::begin([]), |n| n).await;
    let (time, seen) = (start.elapsed(), stage.upstream.seen());
    let refused = matches!(
        &pulled,
        Err(OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. })
    );
    match &pulled {
        Err(_) if refused => outln!("   refused with 401: the image is private\n"),
        Err(error) => outln!("   failed: {error}\n"),
        Ok(_) => outln!("   it was given the image\n"),
    }
    let is_private = refused && seen.refused > 0 && seen.tokens == 0 && seen.bytes == 0;
    report.claim("private: without a credential the registry answers 401 and sends nothing", is_private);
    let holders = usize::from(seen.tokens > 0);
    report.steps.push(Step { name: "direct", clients: 1, time, to_clients: 0, seen, holders });
    Ok(())
}

async fn cold(stage: &Stage, report: &mut Report) -> miette::Result<()> {
    let image = &stage.image;
    outln!("2. The same client asks the proxy, whose cache is empty");
    let (step, pulled) = single(stage, "cold").await?;
    report.claim(
        format!(
            "cold: the image came whole, {} in {} blobs, every digest verified",
            bytes(image.size()),
            image.blobs.len()
        ),
        is_whole(image, &pulled),
    );
    report.claim("cold: upstream saw one GET for each blob", once_each(image, &step.seen));
    report.steps.push(step);
    Ok(())
}

async fn warm(stage: &Stage, report: &mut Report) -> miette::Result<()> {
    outln!("3. The same pull again");
    let (step, pulled) = single(stage, "warm").await?;
    let is_local = is_whole(&stage.image, &pulled) && step.seen.blob_requests() + step.seen.checks == 0;
    report.claim("warm: the same bytes, and upstream was asked for no blob", is_local);
    report.steps.push(step);
    Ok(())
}

/// One client pulls the image through the proxy.
async fn single(stage: &Stage, name: &'static str) -> miette::Result<(Step, Pulled)> {
    let image = &stage.image;
    let client = through_proxy(stage, image)?;
    outln!("   {}", client.reference());
    let names = (0..).map(|n| if n == 0 { "config".to_owned() } else { format!("layer {n}") });
    let progress = Progress::begin(names.zip(image.blobs.iter().map(|blob| blob.content.len() as u64)));
    let (before, start) = (stage.upstream.seen(), Instant::now());
    let pulled =
        client.pull(&progress, |n| n).await.into_diagnostic().wrap_err_with(|| format!("the {name} pull failed"))?;
    let (time, seen) = (start.elapsed(), stage.upstream.seen() - &before);
    drop(progress);
    outln!("   {} in {}, every digest verified\n", bytes(pulled.bytes), seconds(time));
    let holders = usize::from(client.holds_credential().await.into_diagnostic()?);
    Ok((Step { name, clients: 1, time, to_clients: pulled.bytes, seen, holders }, pulled))
}

async fn storm(stage: &Stage, report: &mut Report) -> miette::Result<()> {
    let image = &stage.storm_image;
    outln!("4. {STORM} clients want a new image at the same moment");
    let clients: Vec<Arc<Client>> =
        (0..STORM).map(|_| through_proxy(stage, image).map(Arc::new)).collect::<Result<_, _>>()?;
    if let Some(client) = clients.first() {
        outln!("   {}", client.reference());
    }
    let lanes = (1..=STORM).map(|n| (format!("client {n}"), image.size()));
    let progress = Arc::new(Progress::begin(lanes));
    let (before, start) = (stage.upstream.seen(), Instant::now());
    let mut pulls = JoinSet::new();
    for (lane, client) in clients.iter().enumerate() {
        let (client, progress) = (Arc::clone(client), Arc::clone(&progress));
        pulls.spawn(async move { client.pull(&progress, |_| lane).await });
    }
    let (mut to_clients, mut whole) = (0, 0);
    for pulled in pulls.join_all().await {
        let pulled = pulled.into_diagnostic().wrap_err("a pull of the storm failed")?;
        to_clients += pulled.bytes;
        whole += usize::from(is_whole(image, &pulled));
    }
    let (time, seen) = (start.elapsed(), stage.upstream.seen() - &before);
    drop(progress);
    outln!("   {} in {}, {} of it from upstream\n", bytes(to_clients), seconds(time), bytes(seen.bytes));
    let mut holders = 0;
    for client in &clients {
        holders += usize::from(client.holds_credential().await.into_diagnostic()?);
    }
    report.claim(
        format!("storm: all {STORM} clients got the image, upstream saw one GET for each blob"),
        whole == STORM && once_each(image, &seen),
    );
    report.steps.push(Step { name: "storm", clients: STORM, time, to_clients, seen, holders });
    Ok(())
}

fn through_proxy(stage: &Stage, image: &Image) -> miette::Result<Client> {
    client(stage.proxy_address, &format!("{NAME}/"), image)
}

fn client(address: SocketAddr, prefix: &str, image: &Image) -> miette::Result<Client> {
    Client::new(address, prefix, image).map_err(|error| {
        miette!(
            help = "clients load the system's certificate authorities even for plain HTTP: install `ca-certificates`",
            "the tour's client cannot be made: {}",
            root_cause(&error)
        )
    })
}

/// Why it really was: what wraps it says only that something was.
fn root_cause(error: &dyn std::error::Error) -> &dyn std::error::Error {
    error.source().map_or(error, root_cause)
}

fn is_whole(image: &Image, pulled: &Pulled) -> bool {
    pulled.bytes == image.size() && pulled.manifest == image.manifest.digest.to_string()
}

/// Whether upstream was asked once for each of the image's blobs, for no other,
/// and sent no more than the image is.
fn once_each(image: &Image, seen: &Seen) -> bool {
    let manifests = seen.manifests * image.manifest.content.len() as u64;
    seen.blobs.len() == image.blobs.len()
        && image.blobs.iter().all(|blob| seen.blobs.get(&blob.digest) == Some(&1))
        && seen.bytes <= image.size() + manifests
}
