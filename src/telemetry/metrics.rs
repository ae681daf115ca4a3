//! What is counted. One record, registered once, handed to whoever counts.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// The metrics of this process.
pub struct Metrics {
    registry: Registry,
    /// Answered requests of the data listener.
    pub requests: Family<RequestLabels, Counter>,
    /// Bytes of bodies handed to the connections of clients.
    pub sent: Counter,
}

/// What tells requests apart: nothing that a client chooses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `GET` or `HEAD`, else `other`.
    pub method: &'static str,
    /// The status answered.
    pub status: u16,
}

impl Metrics {
    /// Metrics, and with them what `readings` tells when asked.
    pub fn new(readings: Box<dyn Collector>) -> Metrics {
        let mut registry = Registry::with_prefix("transship");
        let (requests, sent) = (Family::default(), Counter::default());
        registry.register("requests", "Answered requests of the data listener", requests.clone());
        registry.register("sent_bytes", "Bytes of bodies sent to clients of the data listener", sent.clone());
        registry.register_collector(readings);
        Metrics { registry, requests, sent }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
