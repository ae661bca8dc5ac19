//! The frame of the page: head, summary, problems and the order of the sections.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::facts::Facts;
use super::html::Html;
use super::{keys, rest};

/// The whole page.
pub(super) fn page(facts: &Facts) -> String {
    let mut html = Html::default();
    head(&mut html, &facts.host);
    let status = &facts.status;
    html.raw("<header><h1>Keyward on ").text(&facts.host).raw("</h1><p class=\"soft\">");
    html.raw("State of ").minute(facts.now).raw("; all times are in UTC. ");
    html.raw("This page changes nothing. Load it again for a new state.</p></header>");
    html.raw("<main id=\"main\">");
    if status.dev {
        html.raw("<div class=\"notice of-warning\"><p class=\"word warn\">! Development mode</p>");
        html.raw(
            "<p>The daemon runs with <code>--dev</code>: its master key lies in a file beside the keys, ",
        );
        html.raw("and the user who started it may do everything. Use it for no key that matters. ");
        html.raw("For a service, run <code>keyward setup</code>.</p></div>");
    }
    problems(&mut html, facts);
    summary(&mut html, facts);
    keys::certificates(&mut html, facts);
    keys::keys(&mut html, facts);
    rest::refusals(&mut html, facts);
    keys::unused(&mut html, facts);
    rest::units(&mut html, facts);
    rest::audit(&mut html, facts);
    rest::version(&mut html, facts);
    html.raw("</main><footer class=\"small\"><p>The same for scripts: <code>keyward status --json</code>, ");
    html.raw("<code>keyward doctor</code>, and metrics at <a href=\"/metrics\">/metrics</a>.</p></footer>");
    html.raw("</body></html>\n");
    html.finish()
}

/// The page in the place of the other one, with the reason.
pub(super) fn refusal(reason: &str, lacks_role: bool) -> String {
    let mut html = Html::default();
    head(&mut html, "no state");
    html.raw("<header><h1>Keyward</h1></header><main id=\"main\"><section><h2>");
    html.raw(match lacks_role {
        true => "The daemon does not show its state to you",
        false => "The daemon does not show its state",
    });
    html.raw("</h2><p>").long_text(reason).raw("</p>");
    if lacks_role {
        html.raw(
            "<p>The daemon knows you by the user who makes the connection: behind <code>ssh -L</code>, ",
        );
        html.raw("that is the user of ssh on this host. The role <code>viewer</code> is enough, ");
        html.raw("and lets its user change nothing.</p>");
    }
    html.raw("</section></main></body></html>\n");
    html.finish()
}

fn head(html: &mut Html, title: &str) {
    html.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Keyward: ").text(title);
    html.raw("</title><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.raw("<meta name=\"robots\" content=\"noindex\">");
    // Without it, the browser asks for /favicon.ico.
    html.raw("<link rel=\"icon\" href=\"data:,\"><style>").raw(STYLE).raw("</style></head><body>");
    html.raw("<a class=\"skip\" href=\"#main\">Skip to the content</a>");
}

/// Problems with the commands that solve them.
fn problems(html: &mut Html, facts: &Facts) {
    let status = &facts.status;
    let problems = status.findings.as_deref().unwrap_or_default();
    if problems.is_empty() {
        return;
    }
    let can_sign = status.can_sign.unwrap_or_default();
    html.raw(if can_sign { "<div class=\"notice of-warning\">" } else { "<div class=\"notice\">" });
    html.raw("<h2>To do</h2><ul>");
    for problem in problems.iter().take(MOST_PROBLEMS) {
        html.raw("<li>").long_text(&problem.text).raw("</li>");
    }
    if let Some(more @ 1..) = problems.len().checked_sub(MOST_PROBLEMS) {
        html.raw("<li>and ").number(more as u64).raw(" more: <code>keyward status</code></li>");
    }
    html.raw("</ul></div>");
}

/// One tile for each question that people come with.
fn summary(html: &mut Html, facts: &Facts) {
    let (status, overview) = (&facts.status, &facts.overview);
    html.raw("<ul class=\"tiles\">");
    let ready = status.backends.iter().filter(|backend| backend.ready).count();
    html.raw("<li><a href=\"#units\">Signing");
    match status.can_sign.unwrap_or_default() {
        true => html.raw("<strong class=\"good\">✓ possible</strong>"),
        false => html.raw("<strong class=\"bad\">✗ not possible</strong>"),
    };
    html.raw("<span class=\"soft small\">")
        .number(ready as u64)
        .raw(" of ")
        .number(status.backends.len() as u64);
    html.raw(" backends ready</span></a></li>");

    html.raw("<li><a href=\"#certificates\">Certificates");
    let (expired, soon) = (overview.expired.total() as u64, overview.soon as u64);
    let total = expired + overview.valid.total() as u64;
    let missing = overview.missing.total() as u64;
    match (expired, soon) {
        _ if status.locked => html.raw("<strong class=\"warn\">! not verified</strong>"),
        (0, 0) if missing > 0 => {
            html.raw("<strong class=\"warn\">! ").number(missing).raw(" missing</strong>")
        }
        (0, 0) if total == 0 => html.raw("<strong class=\"soft\">none</strong>"),
        (0, 0) => html.raw("<strong class=\"good\">✓ valid</strong>"),
        (0, soon) => html.raw("<strong class=\"warn\">! ").number(soon).raw(" to renew</strong>"),
        (expired, _) => html.raw("<strong class=\"bad\">✗ ").number(expired).raw(" expired</strong>"),
    };
    html.raw("<span class=\"soft small\">").number(total).raw(" in all</span></a></li>");

    html.raw("<li><a href=\"#keys\">Keys<strong>").number(overview.keys_in_all()).raw("</strong>");
    html.raw("<span class=\"soft small\">");
    match overview.mute {
        _ if status.locked => html.raw("<span class=\"warn\">not verified</span>"),
        0 => html.number(overview.states.get("enabled").copied().unwrap_or_default()).raw(" enabled"),
        mute => html.raw("<span class=\"bad\">").number(mute).raw(" cannot sign</span>"),
    };
    html.raw("</span></a></li>");

    let sum = |counts: &std::collections::BTreeMap<String, u64>, done: bool| -> u64 {
        counts.iter().filter(|(outcome, _)| (*outcome == "done") == done).map(|(_, count)| count).sum()
    };
    let both = |done| sum(&status.outcomes, done) + sum(&status.decryption_outcomes, done);
    html.raw("<li><a href=\"#refusals\">Refusals<strong>").number(both(false)).raw("</strong>");
    html.raw("<span class=\"soft small\">").number(both(true)).raw(" answered</span></a></li>");

    html.raw("<li><a href=\"#version\">Connections<strong>").number(status.connections as u64);
    html.raw("</strong><span class=\"soft small\">of servers, open now</span></a></li></ul>");
}

/// Content-Security-Policy: nothing but the style, and the empty icon.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// The style of the page.
pub(super) const STYLE: &str = include_str!("style.css");
/// Most problems on the page.
const MOST_PROBLEMS: usize = 20;
