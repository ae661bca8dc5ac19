use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyward_proto::Outcome;

use super::facts::Facts;
use super::frame::{self, STYLE};
use crate::admin::api::UnitView;
use crate::admin::overview::{Cannot, CertificateRow, KeyRow, Overview, PlanRow};
use crate::admin::status_view::{BackendView, FindingView, MeasureView, Severity, StatusView};
use crate::admin::trail_view::AuditView;
use crate::keys::{Altered, PeerUsage};
use crate::peers::refusals::Refusal;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn status() -> StatusView {
    StatusView {
        version: "1.2.3".into(),
        pid: 4711,
        uptime_seconds: 3600,
        started: Some(NOW - 3600),
        can_sign: Some(true),
        findings: Some(Vec::new()),
        locked: false,
        dev: false,
        backends: Vec::new(),
        state_dir: "/var/lib/keyward".into(),
        keys: 0,
        keys_by_state: None,
        unusable_keys: None,
        certificates: None,
        store_created: None,
        grants: 0,
        config_file: None,
        config: None,
        waiting_for_restart: Vec::new(),
        altered: Altered::default(),
        purges: None,
        recovery: None,
        problems: Vec::new(),
        confinement: Vec::new(),
        connections: 0,
        audit: None,
        requests: 0,
        outcomes: BTreeMap::new(),
        decryption_outcomes: BTreeMap::new(),
        last_refusals: None,
        refusals: None,
        purposes: BTreeMap::new(),
        closed_for_malformed: 0,
        closed_for_limit: 0,
    }
}

fn facts(overview: Overview) -> Facts {
    Facts {
        host: "web1".into(),
        now: NOW,
        status: status(),
        overview: Arc::new(overview),
        units: Vec::new(),
        refusals: Vec::new(),
        last: BTreeMap::new(),
        users: BTreeMap::new(),
    }
}

fn key(label: &str) -> KeyRow {
    KeyRow {
        label: label.into(),
        key_type: "p256".into(),
        backend: "embedded".into(),
        cannot: None,
        last: None,
        since: NOW - DAY,
        created: NOW - DAY,
        is_for_peers: true,
    }
}

fn certificate(key: &str, not_before: u64, not_after: u64) -> CertificateRow {
    let names = vec![format!("{key}.example")];
    CertificateRow { key: key.into(), version: 1, names, not_before, not_after, issuer: None, plan: None }
}

/// Facts in which every text that can come from outside is `hostile`.
fn hostile(hostile: &str) -> Facts {
    let text = || hostile.to_owned();
    let mut overview = Overview { is_unverified: true, ..Overview::empty() };
    let plan = PlanRow {
        plan: text(),
        names: vec![text(); 2],
        state: "failing",
        due: NOW,
        problem: Some(text()),
        has_certificate: true,
    };
    overview.missing.push((0, 0), || (text(), plan.clone()));
    for not_after in [NOW - DAY, NOW + DAY] {
        let row = CertificateRow {
            names: vec![text(); 9],
            issuer: Some(text()),
            plan: Some(plan.clone()),
            ..certificate(hostile, NOW - 9 * DAY, not_after)
        };
        overview.valid.push((0, not_after), || row);
    }
    let last = PeerUsage {
        uid: 33,
        unit: Some(hostile.into()),
        command: Some(hostile.into()),
        last: NOW - 60,
        count: 1,
    };
    for cannot in
        [None, Some(Cannot::OtherMasterKey(text())), Some(Cannot::Record(text())), Some(Cannot::NoBackend)]
    {
        let row = KeyRow { label: text(), key_type: text(), backend: text(), cannot, ..key("shop") };
        overview.keys.push((0, 0), || row.clone());
        overview.unused.push((0, 0), || row);
    }
    overview.states.insert(text(), 1);
    overview.mute = 1;
    let refusals = [Outcome::NoGrant, Outcome::OtherPublicKey].map(|outcome| Refusal {
        uid: 33,
        service: Some(hostile.into()),
        command: Some(hostile.into()),
        key: text(),
        outcome,
        last: NOW,
        count: 7,
    });
    let unit = UnitView {
        backend: text(),
        address: text(),
        health: text(),
        breaker: Some(text()),
        latency_us: Some(1500),
        in_flight: Some(1),
        calls: Some(2),
        failures: None,
        wkid: Some(text()),
        other_master_key: true,
        next_master_key: false,
        mechanisms: vec![text()],
        problem: Some(text()),
    };
    let backend = BackendView {
        name: text(),
        unit: text(),
        wkid: Some(text()),
        ready: true,
        opening: Some(text()),
        next_start_fails: false,
    };
    let audit = AuditView {
        failure: Some(text()),
        signing_problem: Some(text()),
        summaries: Some(text()),
        ..AuditView::default()
    };
    let status = StatusView {
        version: text(),
        dev: true,
        backends: vec![backend],
        state_dir: hostile.into(),
        config_file: Some(hostile.into()),
        waiting_for_restart: vec![text()],
        findings: Some(vec![FindingView { severity: Severity::Warning, text: text() }; 30]),
        locked: true,
        problems: vec![text(); 30],
        confinement: vec![MeasureView { measure: text(), in_force: false, detail: text() }],
        audit: Some(audit),
        ..status()
    };
    Facts {
        host: text(),
        status,
        units: vec![unit],
        refusals: refusals.into(),
        last: [(text(), last)].into(),
        users: [(33, text())].into(),
        ..facts(overview)
    }
}

/// Names of the elements of a page, in their order: `td` and `/td`.
fn elements(page: &str) -> Vec<&str> {
    let (_, body) = page.split_once("</style>").unwrap();
    let names = body.split('<').skip(1).map(|tag| tag.split(['>', ' ']).next().unwrap());
    // A text has as many places to break as it has points.
    names.filter(|name| *name != "wbr").collect()
}

#[test]
fn no_text_from_outside_becomes_markup() {
    let harmless = frame::page(&hostile("x"));
    for text in [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "</style></title></td><!-- ]]>",
        "a\u{0}\u{1b}[2J\r\n\u{202e}\u{2028}\u{9b}b",
        "&lt;script&gt;&#60;",
        "javascript:alert(1)",
    ] {
        let page = frame::page(&hostile(text));
        // The same elements and attributes, whatever the text is.
        assert_eq!(elements(&page), elements(&harmless), "{text}");
        let quotes = |page: &str| page.matches(['"', '\'']).count();
        assert_eq!(quotes(&page), quotes(&harmless), "{text}");
        assert!(!page.chars().any(|c| c.is_control() && c != '\n'), "{text}");
        let escaped = page.matches("&lt;").count() + page.matches('\u{fffd}').count();
        assert!(escaped > 40 || !text.contains(['<', '\u{0}']), "{text}: {escaped}");
    }
    let refused = frame::refusal("<script>'\"", true);
    assert!(refused.contains("<p>&lt;script&gt;&#39;&quot;</p>"), "{refused}");
}

#[test]
fn elements_are_closed_in_order() {
    for page in
        [frame::page(&hostile("x")), frame::page(&facts(Overview::empty())), frame::refusal("no", true)]
    {
        let mut open = vec!["html", "body"];
        for name in elements(&page).into_iter().skip(2) {
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "{open:?} in {page}"),
                None if name == "br" || name == "rect" => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
        let ids: Vec<_> = page.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let different: BTreeSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), different.len(), "{ids:?}");
        for attribute in [" href=\"#", " aria-labelledby=\""] {
            for used in page.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap()) {
                assert!(different.contains(&used), "{used}");
            }
        }
        // The policy of the page refuses these.
        for refused in [" style=", "<script", " on", "http:", "https:", "url("] {
            let body = page.split_once("</style>").unwrap().1;
            let is_there = match refused {
                " on" => body.split('<').any(|tag| {
                    tag.split('>')
                        .next()
                        .unwrap()
                        .split(' ')
                        .any(|part| part.starts_with("on") && part.contains('='))
                }),
                other => body.contains(other),
            };
            assert!(!is_there, "{refused}");
        }
    }
}

#[test]
fn each_empty_state_says_the_next_step() {
    let page = frame::page(&facts(Overview::empty()));
    for words in [
        "keyward cert plan NAME",
        "keyward key generate LABEL",
        "keyward audit refusals",
        "keyward audit unused",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("<table>") && !page.contains("To do"), "{page}");
}

#[test]
fn a_locked_store_is_not_called_well() {
    let facts = facts(Overview::empty());
    let page = frame::page(&Facts { status: StatusView { locked: true, ..status() }, ..facts });
    assert!(page.contains("<strong class=\"warn\">! not verified</strong>"), "{page}");
    assert!(page.contains("these expiry times may be old"), "{page}");
    assert!(!page.contains("No key has a certificate"), "{page}");
}

#[test]
fn expired_certificates_come_first_with_their_bars() {
    let mut overview = Overview::empty();
    overview.valid.push((0, 2), || certificate("late", NOW - 10 * DAY, NOW + 90 * DAY));
    overview.valid.push((0, 1), || certificate("soon", NOW - 90 * DAY, NOW + 10 * DAY));
    overview.expired.push((0, 0), || certificate("over", NOW - 90 * DAY, NOW - DAY));
    overview.soon = 1;
    let page = frame::page(&facts(overview));
    let place = |words: &str| page.find(words).unwrap_or_else(|| panic!("{words}: {page}"));
    let rows = [
        "over<wbr>.example",
        "✗ expired",
        "soon<wbr>.example",
        "! renew now",
        "late<wbr>.example",
        "✓ valid</span></span>",
    ];
    assert!(rows.map(place).is_sorted(), "{page}");
    place("<rect class=\"left\" width=\"0\"");
    for width in [10, 90] {
        place(&format!("<rect class=\"left\" width=\"{width}\""));
        place(&format!("{width} % left"));
    }
    place("<strong class=\"bad\">✗ 1 expired</strong>");
}

#[test]
fn a_page_stays_short_however_many_keys_there_are() {
    let mut overview = Overview::empty();
    let label = "x".repeat(128);
    for number in 0..10_000 {
        let row = KeyRow { cannot: Some(Cannot::Record("y".repeat(1000))), ..key(&label) };
        overview.keys.push((0, number), || row.clone());
        overview.unused.push((0, number), || row);
        let row =
            CertificateRow { names: vec!["z".repeat(300); 50], ..certificate(&label, NOW - DAY, NOW + DAY) };
        overview.expired.push((0, number), || row.clone());
        overview.valid.push((0, number), || row);
    }
    let refusal = Refusal {
        uid: 1,
        service: Some("s".repeat(300).into()),
        command: Some("c".repeat(16).into()),
        key: label,
        outcome: Outcome::UseRefused,
        last: NOW,
        count: 1,
    };
    let facts = Facts { refusals: vec![refusal; 128], ..facts(overview) };
    let page = frame::page(&facts);
    assert!(page.len() < 512 * 1024, "{} bytes", page.len());
    for words in [
        "and 9,975 more: <code>keyward key list",
        "and 9,975 more: <code>keyward audit unused",
        "and 19,940 more: <code>keyward cert list",
        "and 78 more: <code>keyward audit refusals",
    ] {
        assert!(page.contains(words), "{words}");
    }
}

/// Contrast of two colours (WCAG 2.2, contrast ratio).
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |colour: &str| {
        let part = |place: usize| {
            let value = f64::from(u8::from_str_radix(&colour[place..place + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let [one, other] = [one, other].map(luminance);
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn every_text_has_enough_contrast_in_light_and_dark() {
    let used = |property: &str| -> BTreeSet<&str> {
        let declarations = STYLE.split(['{', ';', '}']).map(str::trim);
        let values = declarations.filter_map(|one| one.strip_prefix(property)?.strip_prefix(": var(--"));
        values.map(|value| value.strip_suffix(')').unwrap()).collect()
    };
    let (texts, grounds) = (used("color"), used("background"));
    assert!(texts.len() >= 6 && grounds.len() == 2, "{texts:?} {grounds:?}");
    let (light, rest) = STYLE.split_once("@media (prefers-color-scheme: dark)").unwrap();
    let (dark, _) = rest.split_once("}\n}").unwrap();
    for (scheme, text) in [("light", light), ("dark", dark)] {
        let colour = |name: &str| {
            let value = text.split_once(&format!("--{name}: ")).unwrap().1;
            &value[..7]
        };
        for ground in &grounds {
            for text in &texts {
                let ratio = contrast(colour(text), colour(ground));
                assert!(ratio >= 4.5, "{text} on {ground}, {scheme}: {ratio:.2}");
            }
        }
        // Bars are no text (WCAG 2.2, 1.4.11).
        for fill in ["good", "warn", "bad"] {
            let ratio = contrast(colour(fill), colour("track"));
            assert!(ratio >= 3.0, "a {fill} bar, {scheme}: {ratio:.2}");
        }
    }
    assert!((contrast("#ffffff", "#000000") - 21.0).abs() < 1e-9);
    assert!((contrast("#777777", "#ffffff") - 4.48).abs() < 0.01);
    // Colours stand only in the two lists.
    let rules = STYLE.split_once("}\n}\n").unwrap().1;
    assert!(!rules.contains('#') && !rules.contains("rgb") && !rules.contains("hsl"), "{rules}");
}
