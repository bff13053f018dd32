//! Names and numbers.

use super::*;

#[test]
fn every_drop_reason_has_its_own_counter() {
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    for (n, reason) in DropReason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, n);
        metrics.dropped(reason, 1);
        assert_eq!(metrics.dropped_count(reason), 1);
    }
}

#[test]
fn names_have_the_prefix_and_are_taken_once() {
    let registry = Registry::new();
    let _metrics = Metrics::new(&registry).expect("new names");
    let families = registry.gather();
    assert!(families.iter().all(|family| {
        let name = family.name();
        name.starts_with("remora_relay_") || name.starts_with("process_")
    }));
    assert!(Metrics::new(&registry).is_err());
}

#[test]
fn the_ratio_is_of_the_last_sessions() {
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    assert!(metrics.direct_ratio.get().is_nan());
    metrics.path(PathOutcome::Direct, 0.2);
    assert_eq!(metrics.direct_ratio.get(), 1.0);
    metrics.path(PathOutcome::NoAnswer, 0.0);
    assert_eq!(metrics.direct_ratio.get(), 0.5);
    for _ in 0..RECENT_OUTCOMES {
        metrics.path(PathOutcome::RelayOnly, 0.0);
    }
    assert_eq!(metrics.direct_ratio.get(), 0.0);
    assert_eq!(metrics.paths.get(PathOutcome::Direct), 1);
}
