//! Sessions as traces, for a relay that was built with the feature `otlp`: a span `session` for each, from its allocation to its end here,
//! with its id and, as events, what the log says of it; by OTLP over HTTP, in protobuf, from a thread of its own.
//!
//! A collector that does not answer costs no session anything: what it does not take is dropped.

use std::fmt;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::Subscriber;
use tracing_subscriber::{Layer, registry::LookupSpan};

/// Sends them, until it is dropped; then what is left.
pub struct Traces(SdkTracerProvider);

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").finish_non_exhaustive()
    }
}

impl Traces {
    /// To that collector, as from the relay of that name.
    ///
    /// # Errors
    /// When `endpoint` is no URL.
    pub fn new(endpoint: &str, relay: &str) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder().with_http();
        let exporter = exporter.with_protocol(Protocol::HttpBinary);
        let exporter = exporter.with_endpoint(endpoint).build()?;
        let who = Resource::builder().with_service_name("remora-relay");
        let name = opentelemetry::KeyValue::new("service.instance.id", relay.to_owned());
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
        let provider = provider.with_resource(who.with_attribute(name).build());
        Ok(Self(provider.build()))
    }

    /// What makes them of our spans.
    pub fn layer<S>(&self) -> impl Layer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer().with_tracer(self.0.tracer("remora-relay"))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}
