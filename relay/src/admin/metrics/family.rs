//! Metrics whose labels are closed enums: registered once, with a series for each value from the start, so that `rate()` sees the first
//! event, and resolved then, so that whoever counts only adds to an atomic.

use std::{cell::RefCell, fmt, marker::PhantomData};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, core::Collector,
};

use super::labels::Label;

/// What is known of a metric beside its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// With its prefix.
    pub name: String,
    /// As Prometheus has them.
    pub kind: MetricKind,
    /// Each label, and what it can say; nothing where that is not a closed set.
    pub labels: Vec<(&'static str, Vec<&'static str>)>,
    /// For people.
    pub help: &'static str,
    /// The file below `relay/src` where it moves, and the call there that moves it.
    pub moved: (&'static str, &'static str),
}

/// What kind of metric it is.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size: up to each of these.
    Histogram(Vec<f64>),
}

impl Eq for MetricKind {}

/// A name, what it means, and where it moves.
pub(super) type Entry = (&'static str, &'static str, (&'static str, &'static str));

/// Something that a value of a closed label leads to.
struct Each<L, M>(Vec<M>, PhantomData<L>);

impl<L: Label, M> Each<L, M> {
    fn new(of: impl Fn(L) -> M) -> Self {
        Self(L::ALL.iter().map(|one| of(*one)).collect(), PhantomData)
    }

    fn at(&self, label: L) -> &M {
        &self.0[label.index()]
    }
}

impl<L, M> fmt::Debug for Each<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} series", self.0.len())
    }
}

/// Counters of one label.
#[derive(Debug)]
pub struct Counters<L>(Each<L, IntCounter>);

impl<L: Label> Counters<L> {
    /// One more.
    pub fn inc(&self, label: L) {
        self.0.at(label).inc();
    }

    /// So many more.
    pub fn add(&self, label: L, amount: usize) {
        self.0.at(label).inc_by(amount as u64);
    }

    /// How many so far.
    pub fn get(&self, label: L) -> u64 {
        self.0.at(label).get()
    }
}

/// Counters of two.
#[derive(Debug)]
pub struct CounterPairs<A, B>(Each<A, Each<B, Option<IntCounter>>>);

impl<A: Label, B: Label> CounterPairs<A, B> {
    /// One more; nothing of a pair that cannot be.
    pub fn inc(&self, first: A, second: B) {
        if let Some(counter) = self.0.at(first).at(second) {
            counter.inc();
        }
    }
}

/// Gauges of one label.
#[derive(Debug)]
pub struct Gauges<L>(Each<L, IntGauge>);

impl<L: Label> Gauges<L> {
    /// Of that value.
    pub fn of(&self, label: L) -> &IntGauge {
        self.0.at(label)
    }
}

/// Histograms of one label.
#[derive(Debug)]
pub struct Histograms<L>(Each<L, Histogram>);

impl<L: Label> Histograms<L> {
    /// One more, of so many seconds.
    pub fn observe(&self, label: L, seconds: f64) {
        self.0.at(label).observe(seconds);
    }
}

/// Registers metrics, and keeps what is known of them.
pub(super) struct Register<'a> {
    registry: &'a Registry,
    described: RefCell<Vec<Described>>,
}

impl<'a> Register<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self {
            registry,
            described: RefCell::default(),
        }
    }

    /// What has been registered, in that order.
    pub(super) fn described(self) -> Vec<Described> {
        self.described.into_inner()
    }

    /// Something that is registered elsewhere, or by itself.
    pub(super) fn describe(&self, described: Described) {
        self.described.borrow_mut().push(described);
    }

    /// Something that names its metrics itself.
    #[cfg(target_os = "linux")]
    pub(super) fn collect(&self, collector: impl Collector + 'static) -> prometheus::Result<()> {
        self.registry.register(Box::new(collector))
    }

    fn add<C: Collector + Clone + 'static>(
        &self,
        metric: C,
        (name, help, moved): Entry,
        kind: MetricKind,
        labels: Vec<(&'static str, Vec<&'static str>)>,
    ) -> prometheus::Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        self.describe(Described {
            name: format!("{NAMESPACE}_{name}"),
            kind,
            labels,
            help,
            moved,
        });
        Ok(metric)
    }

    pub(super) fn counter(&self, entry: Entry) -> prometheus::Result<IntCounter> {
        let counter = IntCounter::with_opts(opts(entry))?;
        self.add(counter, entry, MetricKind::Counter, Vec::new())
    }

    pub(super) fn counters<L: Label>(
        &self,
        entry: Entry,
        label: &'static str,
    ) -> prometheus::Result<Counters<L>> {
        let all = IntCounterVec::new(opts(entry), &[label])?;
        let all = self.add(all, entry, MetricKind::Counter, vec![values::<L>(label)])?;
        Ok(Counters(Each::new(|value: L| {
            all.with_label_values(&[value.label()])
        })))
    }

    /// With a series for each pair that can be.
    pub(super) fn counter_pairs<A: Label, B: Label>(
        &self,
        entry: Entry,
        [first, second]: [&'static str; 2],
        can_be: impl Fn(A, B) -> bool,
    ) -> prometheus::Result<CounterPairs<A, B>> {
        let all = IntCounterVec::new(opts(entry), &[first, second])?;
        let labels = vec![values::<A>(first), values::<B>(second)];
        let all = self.add(all, entry, MetricKind::Counter, labels)?;
        Ok(CounterPairs(Each::new(|first: A| {
            Each::new(|second: B| {
                can_be(first, second)
                    .then(|| all.with_label_values(&[first.label(), second.label()]))
            })
        })))
    }

    pub(super) fn gauge(&self, entry: Entry) -> prometheus::Result<IntGauge> {
        let gauge = IntGauge::with_opts(opts(entry))?;
        self.add(gauge, entry, MetricKind::Gauge, Vec::new())
    }

    /// Of what is no whole number.
    pub(super) fn fraction(&self, entry: Entry) -> prometheus::Result<Gauge> {
        let gauge = Gauge::with_opts(opts(entry))?;
        self.add(gauge, entry, MetricKind::Gauge, Vec::new())
    }

    /// A gauge that is there only when something is known: it has a series when it is given one.
    pub(super) fn known(&self, entry: Entry) -> prometheus::Result<Known> {
        let all = IntGaugeVec::new(opts(entry), &[])?;
        let all = self.add(all, entry, MetricKind::Gauge, Vec::new())?;
        Ok(Known(all))
    }

    /// Of what is no whole number, with series only for those that there are.
    pub(super) fn fractions<L: Label>(
        &self,
        entry: Entry,
        label: &'static str,
    ) -> prometheus::Result<GaugeVec> {
        let all = GaugeVec::new(opts(entry), &[label])?;
        self.add(all, entry, MetricKind::Gauge, vec![values::<L>(label)])
    }

    pub(super) fn gauges<L: Label>(
        &self,
        entry: Entry,
        label: &'static str,
    ) -> prometheus::Result<Gauges<L>> {
        let all = IntGaugeVec::new(opts(entry), &[label])?;
        let all = self.add(all, entry, MetricKind::Gauge, vec![values::<L>(label)])?;
        Ok(Gauges(Each::new(|value: L| {
            all.with_label_values(&[value.label()])
        })))
    }

    /// 1, with labels that say what this program is.
    pub(super) fn info(
        &self,
        entry: Entry,
        labels: &[(&'static str, &str)],
    ) -> prometheus::Result<()> {
        let names: Vec<_> = labels.iter().map(|(name, _)| *name).collect();
        let is: Vec<_> = labels.iter().map(|(_, value)| *value).collect();
        let gauge = IntGaugeVec::new(opts(entry), &names)?;
        let open = names.iter().map(|name| (*name, Vec::new())).collect();
        let gauge = self.add(gauge, entry, MetricKind::Gauge, open)?;
        gauge.with_label_values(&is).set(1);
        Ok(())
    }

    pub(super) fn histogram(&self, entry: Entry, buckets: &[f64]) -> prometheus::Result<Histogram> {
        let histogram = Histogram::with_opts(sized(entry, buckets))?;
        let kind = MetricKind::Histogram(buckets.to_vec());
        self.add(histogram, entry, kind, Vec::new())
    }

    pub(super) fn histograms<L: Label>(
        &self,
        entry: Entry,
        buckets: &[f64],
        label: &'static str,
    ) -> prometheus::Result<Histograms<L>> {
        let all = HistogramVec::new(sized(entry, buckets), &[label])?;
        let kind = MetricKind::Histogram(buckets.to_vec());
        let all = self.add(all, entry, kind, vec![values::<L>(label)])?;
        Ok(Histograms(Each::new(|value: L| {
            all.with_label_values(&[value.label()])
        })))
    }
}

/// A gauge that may be absent.
#[derive(Debug)]
pub struct Known(IntGaugeVec);

impl Known {
    /// Its value, or that there is none.
    pub fn set(&self, value: Option<i64>) {
        match value {
            Some(value) => self.0.with_label_values::<&str>(&[]).set(value),
            None => self.0.reset(),
        }
    }
}

const NAMESPACE: &str = "remora_relay";

fn values<L: Label>(label: &'static str) -> (&'static str, Vec<&'static str>) {
    (label, L::ALL.iter().map(|one| one.label()).collect())
}

fn opts((name, help, _): Entry) -> Opts {
    Opts::new(name, help).namespace(NAMESPACE)
}

fn sized(entry: Entry, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts {
        common_opts: opts(entry),
        buckets: buckets.to_vec(),
    }
}
