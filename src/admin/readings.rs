//! Metrics that the layers below keep for themselves, read when somebody asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::pull::Puller;

/// The readings of one process. Labels hold nothing that a client chooses: the
/// name of a registry is the operator's.
pub struct Readings(Arc<Puller>);

impl Readings {
    /// Reads what `puller` and what is below it have counted.
    pub fn new(puller: Arc<Puller>) -> Readings {
        Readings(puller)
    }
}

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readings")
    }
}

impl Collector for Readings {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let puller = &self.0;
        page.counter(
            "audit_lost_lines",
            "Lines that the file of the audit trail could not take",
            crate::telemetry::lost_audit_lines(),
        )?;
        page.counters("blob_requests", "Blobs sent to clients, by where their bytes came from", |add| {
            puller.blob_counts().all().iter().try_for_each(|(source, count)| add(&[("source", source)], *count))
        })?;
        page.counters("tag_requests", "Tags answered, by what was asked of upstream for it", |add| {
            puller.tag_counts().tags().iter().try_for_each(|(source, count)| add(&[("source", source)], *count))
        })?;
        page.counters("stale_answers", "Answers that upstream did not confirm, by the reason", |add| {
            puller.tag_counts().stale_answers().try_for_each(|(reason, count)| add(&[("reason", reason)], count))
        })?;
        page.counter(
            "remembered_refusals",
            "Refusals of upstream answered from memory",
            puller.tag_counts().refusals(),
        )?;
        page.counters("upstream_requests", "Requests to registries and their redirects, by class of answer", |add| {
            puller.traffic().iter().try_for_each(|(registry, traffic)| {
                let registry = registry.name.slug();
                traffic
                    .answers()
                    .filter(|(_, count)| *count > 0)
                    .try_for_each(|(class, count)| add(&[("registry", registry), ("status", class)], count))
            })
        })?;
        page.counters("upstream_bytes", "Bytes of manifests, lists and blobs received from upstream", |add| {
            puller.traffic().iter().try_for_each(|(of, traffic)| add(&[("registry", of.name.slug())], traffic.bytes()))
        })?;
        page.counters("upstream_token_requests", "Requests to token services", |add| {
            puller.traffic().iter().try_for_each(|(of, traffic)| add(&[("registry", of.name.slug())], traffic.tokens()))
        })?;
        let gauge = MetricType::Gauge;
        page.family("upstream_pull_limit", "Pulls per window that upstream allows", gauge, |add| {
            puller.traffic().iter().try_for_each(|(of, traffic)| match traffic.pull_limit() {
                Some(read) => add(&[("registry", of.name.slug())], read.limit),
                None => Ok(()),
            })
        })?;
        page.family("upstream_pulls_remaining", "Pulls that are left in the window", gauge, |add| {
            puller.traffic().iter().try_for_each(|(of, traffic)| match traffic.pull_limit() {
                Some(read) => add(&[("registry", of.name.slug())], read.remaining),
                None => Ok(()),
            })
        })?;
        page.counters("upstream_limited", "Refusals because of a rate limit of upstream", |add| {
            puller.traffic().iter().try_for_each(|(of, traffic)| {
                let (registry, (pulls, other)) = (of.name.slug(), traffic.limited());
                add(&[("registry", registry), ("limit", "pulls")], pulls)?;
                add(&[("registry", registry), ("limit", "other")], other)
            })
        })?;
        page.family(
            "upstream_circuit_open",
            "Endpoints left alone because they failed again and again",
            gauge,
            |add| {
                puller.traffic().iter().try_for_each(|(of, traffic)| {
                    let registry = of.name.slug();
                    traffic.endpoints().try_for_each(|(endpoint, open)| {
                        add(&[("registry", registry), ("endpoint", &endpoint.to_string())], u64::from(open))
                    })
                })
            },
        )?;
        let (cache, stock) = (puller.cache(), puller.cache().stock());
        let (evicted, bytes, quarantined) = cache.counts().all();
        page.counter("evicted_blobs", "Blobs removed to make room", evicted)?;
        page.counter("evicted_bytes", "Bytes of blobs removed to make room", bytes)?;
        page.counter("quarantined_blobs", "Damaged blobs taken out of service", quarantined)?;
        page.gauge("fills", "Blobs being filled now", cache.fills() as u64)?;
        page.gauge("cache_blobs", "Complete blobs in the cache", stock.blobs as u64)?;
        page.gauge("cache_bytes", "Bytes of complete blobs in the cache", stock.bytes)?;
        page.gauge("cache_writable", "Whether this process adds to the cache directory", cache.is_writer().into())?;
        page.gauge("cache_max_bytes", "Bytes of blobs that may be kept", cache.max_size())?;
        page.gauge("cache_pinned_bytes", "Bytes of blobs in the cache that are pinned", stock.pinned_bytes)?;
        page.gauge("offline", "Whether no upstream is asked", puller.all_offline().into())?;
        page.gauge("tags", "Remembered tags", puller.tags_known())?;
        page.gauge("links", "Remembered permissions of upstream", puller.links())
    }
}

/// What a counter of a family is added by: its labels and its value.
type Add<'a> = dyn FnMut(&[(&str, &str)], u64) -> fmt::Result + 'a;

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counters(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut Add<'_>) -> fmt::Result) -> fmt::Result {
        self.family(name, help, MetricType::Counter, fill)
    }

    /// Counters or gauges, told apart by their labels.
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        fill: impl FnOnce(&mut Add<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, &sentence(help), None, kind)?;
        fill(&mut |labels, value| match kind {
            MetricType::Gauge => ConstGauge::new(value).encode(family.encode_family(&labels)?),
            _ => ConstCounter::new(value).encode(family.encode_family(&labels)?),
        })
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, &sentence(help), None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, &sentence(help), None, MetricType::Gauge)?)
    }
}

/// As the metrics that are registered end.
fn sentence(help: &str) -> String {
    format!("{help}.")
}
