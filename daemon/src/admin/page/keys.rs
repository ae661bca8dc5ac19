//! The sections about certificates and keys.

use super::facts::Facts;
use super::html::Html;
use super::rest::{begin, end, more, table};
use crate::admin::overview::{Cannot, CertificateRow, KeyRow, PlanRow, UNUSED};

pub(super) fn certificates(html: &mut Html, facts: &Facts) {
    let overview = &facts.overview;
    let now = facts.now;
    begin(html, "certificates", "Certificates");
    if facts.status.locked {
        html.raw(
            "<p><span class=\"word warn\">! not verified</span> The key store is locked while the unit is ",
        );
        html.raw(
            "sealed, so these expiry times may be old or another program's, and no plan can be known.</p>",
        );
    }
    let shown = overview.missing.total() + overview.expired.total() + overview.valid.total();
    if shown == 0 {
        if !facts.status.locked {
            html.raw("<p>No key has a certificate. <code>keyward cert plan NAME</code> plans one that ");
            html.raw("renews itself; <code>keyward cert attach LABEL --in CHAIN</code> attaches one that ");
            html.raw("you have.</p>");
        }
        return end(html);
    }
    html.raw(
        "<p class=\"soft\">Of keys that are enabled. The bar is the part of the lifetime that is left.</p>",
    );
    table(html, "certificates", &["Names", "Lifetime left", "Expires", "Plan", "Next renewal"]);
    for (key, plan) in overview.missing.rows() {
        html.raw("<tr><th scope=\"row\">");
        names(html, &plan.names);
        html.raw("<br><span class=\"soft small\">key ").name(key).raw("</span></th><td>");
        html.raw("<span class=\"word bad\">✗ no certificate yet</span></td><td class=\"soft\">–</td>");
        renewal(html, plan, now);
    }
    for row in overview.expired.rows().chain(overview.valid.rows()) {
        certificate(html, row, now);
    }
    html.raw("</tbody></table></div>");
    let rows = overview.missing.rows().len() + overview.expired.rows().len() + overview.valid.rows().len();
    more(html, shown - rows, "keyward cert list");
    end(html);
}

fn certificate(html: &mut Html, row: &CertificateRow, now: u64) {
    html.raw("<tr><th scope=\"row\">");
    names(html, &row.names);
    html.raw("<br><span class=\"soft small\">key ")
        .name(&row.key)
        .raw(", version ")
        .number(row.version.into());
    html.raw("</span></th><td>");
    let lifetime = row.not_after.saturating_sub(row.not_before).max(1);
    let left = row.not_after.saturating_sub(now.max(row.not_before));
    let percent = (left.saturating_mul(100) / lifetime).min(100);
    let (class, word) = match (left, row.is_soon(now)) {
        (0, _) => ("bad", "✗ expired"),
        _ if now < row.not_before => ("warn", "! not valid yet"),
        (_, true) => ("warn", "! renew now"),
        (_, false) => ("good", "✓ valid"),
    };
    html.raw("<span class=\"").text(class).raw("\"><svg class=\"bar\" viewBox=\"0 0 100 1\" ");
    html.raw("preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"track\" width=\"100\" height=\"1\"/>");
    html.raw("<rect class=\"left\" width=\"").number(percent).raw("\" height=\"1\"/></svg>");
    html.raw("<span class=\"word\">").text(word).raw("</span></span> ");
    if left > 0 {
        html.raw("<span class=\"soft tight\">").number(percent).raw(" % left</span>");
    }
    html.raw("</td><td>");
    html.time(row.not_after, now);
    if let Some(issuer) = &row.issuer {
        html.raw("<br><span class=\"small\">first of the chain: ").text(issuer).raw("</span>");
    }
    html.raw("</td>");
    match &row.plan {
        None => {
            html.raw("<td class=\"soft\">none</td><td class=\"soft\">by hand</td></tr>");
        }
        Some(plan) => renewal(html, plan, now),
    }
}

/// Adds the first names of a certificate.
fn names(html: &mut Html, names: &[String]) {
    for (place, name) in names.iter().take(MOST_NAMES).enumerate() {
        html.raw(if place > 0 { ", " } else { "" }).name(name);
    }
    if let Some(rest @ 1..) = names.len().checked_sub(MOST_NAMES) {
        html.raw(" and ").number(rest as u64).raw(" more");
    }
}

/// Ends the row of a certificate with its plan and the time of the next renewal.
fn renewal(html: &mut Html, plan: &PlanRow, now: u64) {
    html.raw("<td class=\"plan\">").text(&plan.plan);
    if plan.state == "failing" {
        html.raw("<br><span class=\"word bad\">✗ failing</span>");
    }
    if let Some(problem) = &plan.problem {
        html.raw("<br><span class=\"small\">").text(problem).raw("</span>");
    }
    html.raw("</td><td>");
    match plan.due <= now {
        true => html.raw("due now"),
        false => html.time(plan.due, now),
    };
    html.raw("</td></tr>");
}

pub(super) fn keys(html: &mut Html, facts: &Facts) {
    let overview = &facts.overview;
    begin(html, "keys", "Keys");
    if overview.keys.total() == 0 {
        html.raw(
            "<p>There is no key yet. <code>keyward protect nginx</code> takes the keys of a running nginx; ",
        );
        html.raw("<code>keyward key generate LABEL</code> makes a new one, ");
        html.raw("<code>keyward key import LABEL --in FILE</code> takes one from a file.</p>");
        return end(html);
    }
    html.raw("<p class=\"soft\">");
    for (place, (state, count)) in overview.states.iter().enumerate() {
        html.raw(if place > 0 { ", " } else { "" }).number(*count).raw(" ").text(state);
    }
    html.raw(". Keys that should sign and cannot come first, then those that were used last.</p>");
    if overview.is_unverified {
        html.raw(
            "<p><span class=\"word warn\">! not verified</span> The key store is locked while the unit is ",
        );
        html.raw("sealed, so another program may have written these keys.</p>");
    }
    table(html, "keys", &["Key", "Signs now", "Last used", "By", "Type", "Backend"]);
    for row in overview.keys.rows() {
        key(html, row, facts);
    }
    html.raw("</tbody></table></div>");
    more(html, overview.keys.total() - overview.keys.rows().len(), "keyward key list");
    end(html);
}

fn key(html: &mut Html, row: &KeyRow, facts: &Facts) {
    html.raw("<tr><th scope=\"row\">").name(&row.label).raw("</th><td>");
    match &row.cannot {
        None => html.raw("<span class=\"word good\">✓ yes</span>"),
        Some(Cannot::State(state)) => html.raw("<span class=\"word soft\">– ").text(state).raw("</span>"),
        Some(Cannot::NoBackend) => {
            html.raw("<span class=\"word bad\">✗ no</span> its backend is not in the configuration")
        }
        Some(Cannot::NotReady) => html.raw(
            "<span class=\"word bad\">✗ no</span> its backend is not ready, see <a href=\"#units\">Units</a>",
        ),
        Some(Cannot::OtherMasterKey(wkid)) => html
            .raw("<span class=\"word bad\">✗ no</span> no unit has its master key <code>")
            .text(wkid)
            .raw("</code>"),
        Some(Cannot::Record(reason)) => html.raw("<span class=\"word bad\">✗ no</span> ").text(reason),
    };
    html.raw("</td><td>");
    match facts.last.get(&row.label) {
        Some(peer) => {
            html.time(peer.last, facts.now).raw("</td><td>").text(facts.user(peer.uid));
            program(html, peer.command.as_deref(), peer.unit.as_deref());
        }
        None => {
            html.raw("<span class=\"soft\">no use is known</span></td><td class=\"soft\">–");
        }
    }
    html.raw("</td><td class=\"tight\">")
        .text(&row.key_type)
        .raw("</td><td>")
        .text(&row.backend)
        .raw("</td></tr>");
}

/// Adds program and service of a peer, as far as they are known.
pub(super) fn program(html: &mut Html, command: Option<&str>, service: Option<&str>) {
    let known = [command, service];
    for (place, text) in known.into_iter().flatten().enumerate() {
        html.raw(if place > 0 { ", " } else { "<br><span class=\"soft small\">" }).text(text);
    }
    html.raw(if known == [None; 2] { "" } else { "</span>" });
}

pub(super) fn unused(html: &mut Html, facts: &Facts) {
    let list = &facts.overview.unused;
    begin(html, "unused", "Unused keys");
    let days = UNUSED / 86_400;
    if list.total() == 0 {
        html.raw("<p>No enabled key is known to be without a use for ").number(days);
        html.raw(" days. <code>keyward audit unused</code> asks the audit trail for other times.</p>");
        return end(html);
    }
    html.raw("<p class=\"soft\">Enabled, and without a use for ").number(days);
    html.raw(" days. A key that nobody needs is best deleted: <code>keyward key delete LABEL</code>. ");
    html.raw("It can be restored for 30 days.</p>");
    table(html, "unused", &["Key", "Last used", "Made", "Type"]);
    for row in list.rows() {
        html.raw("<tr><th scope=\"row\">").name(&row.label).raw("</th><td>");
        match facts.last.get(&row.label) {
            Some(peer) => html.time(peer.last, facts.now).raw(" by ").text(facts.user(peer.uid)),
            None => html.raw("not since ").time(row.since.max(row.created), facts.now),
        };
        html.raw("</td><td>")
            .time(row.created, facts.now)
            .raw("</td><td class=\"tight\">")
            .text(&row.key_type);
        html.raw("</td></tr>");
    }
    html.raw("</tbody></table></div>");
    more(html, list.total() - list.rows().len(), "keyward audit unused");
    end(html);
}

/// Names of a certificate that are shown.
const MOST_NAMES: usize = 4;
