//! The list of metrics in docs/metrics.md is the list of the code. Dashboards and alert rules use
//! these names and labels, so a change of one is a change for people.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use keyward_proto::{Outcome, Scheme};

use crate::observe::audit_metrics::AuditLook;
use crate::observe::expiries::Expiry;
use crate::observe::metrics::{Access, Metrics, SignatureTimes, UnitLoad};
use crate::observe::renewals::{PlanLook, WatchLook};

/// Names of labels, by the name of a metric.
type Families = BTreeMap<String, BTreeSet<String>>;

/// Metrics with a value in each family.
fn full() -> Metrics {
    let metrics = Metrics::new(vec!["csr"], ["hsm".into()].into_iter());
    metrics.request();
    metrics.signature(Outcome::Done, Some(0));
    metrics.decryption(Outcome::Done);
    let phases = [Duration::from_millis(1); 4];
    let times = SignatureTimes { phases, remote: true };
    metrics.times("hsm", Scheme::EcdsaSecp256r1Sha256, Outcome::Done, &times);
    metrics.idle();
    metrics.set_ready("hsm", true);
    let token_valid_for = Some(Duration::from_secs(60));
    metrics.set_access("hsm", &Access { waiting: 0, files_unusable: false, token_valid_for });
    let load = UnitLoad { in_flight: 1, latency: Duration::from_millis(1), calls: 1, failures: 1 };
    metrics.set_unit("hsm", "hsm1.example.com:9876".into(), true, Some(&load));
    let look = AuditLook { has_failed: false, unwritten: 0, has_summaries: false, last: 1, signed: 1 };
    metrics.audit.set(&look);
    let expiry = Expiry { version: 1, not_before: 1, not_after: u64::from(u32::MAX) };
    metrics.expiries.replace(HashMap::from([("shop".parse().unwrap(), expiry)]));
    metrics.renewals.failure("letsencrypt", "dns");
    let plan = PlanLook {
        plan: "shop".into(),
        key: "shop".into(),
        issuer: "letsencrypt".into(),
        version: Some(1),
        due: 1,
        is_served: Some(true),
        looked_at: Some(1),
        listeners: vec![("127.0.0.1:443".into(), 1)],
        failures: 0,
        renewed_at: Some(1),
    };
    let watch = WatchLook { watch: "mail".into(), validity: Some((1, 2)) };
    metrics.renewals.set(vec![plan], vec![watch], Some(1));
    metrics
}

/// The families of a page.
fn families(page: &str) -> Families {
    let mut families = Families::new();
    let mut family = String::new();
    for line in page.lines() {
        if let Some(about) = line.strip_prefix("# TYPE ") {
            about.split(' ').next().unwrap().clone_into(&mut family);
            families.insert(family.clone(), BTreeSet::new());
        } else if let Some((_, labels)) = line.split_once('{') {
            let (labels, _) = labels.rsplit_once('}').unwrap();
            let names = labels.split("\",").map(|label| label.split_once('=').unwrap().0.to_owned());
            families.get_mut(&family).unwrap().extend(names.filter(|name| name != "le"));
        }
    }
    families
}

/// The families of the table in the manual.
fn documented() -> Families {
    let manual = include_str!("../../../docs/metrics.md");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `keyward_"));
    let in_quotes = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    rows.map(|row| {
        let (name, rest) = row.split_once('`').unwrap();
        let labels = rest.strip_prefix(" |").unwrap().split('|').next().unwrap();
        (format!("keyward_{name}"), in_quotes(labels))
    })
    .collect()
}

#[test]
fn the_manual_has_every_metric_with_its_labels() {
    let (page, manual) = (families(&full().text()), documented());
    assert!(manual.len() > 40, "{manual:?}");
    for name in page.keys().chain(manual.keys()) {
        assert_eq!(page.get(name), manual.get(name), "{name}: the page, and docs/metrics.md");
    }
}
