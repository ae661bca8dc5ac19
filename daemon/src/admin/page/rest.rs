//! The sections about refusals, units, the audit trail and the daemon, and the parts of a section.

use super::facts::Facts;
use super::html::Html;
use super::keys::program;
use crate::admin::api::UnitView;
use crate::admin::status_view::BackendView;
use crate::ground::opening::described;

/// Begins a section. The id is also that of its title.
pub(super) fn begin(html: &mut Html, id: &'static str, title: &'static str) {
    html.raw("<section aria-labelledby=\"").raw(id).raw("\"><h2 id=\"").raw(id).raw("\" tabindex=\"-1\">");
    html.raw(title).raw("</h2>");
}

/// Ends a section.
pub(super) fn end(html: &mut Html) {
    html.raw("</section>");
}

/// Begins a table in a region that the keyboard can scroll.
pub(super) fn table(html: &mut Html, id: &'static str, titles: &[&'static str]) {
    html.raw("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-labelledby=\"").raw(id);
    html.raw("\"><table><thead><tr>");
    for title in titles {
        html.raw("<th scope=\"col\">").raw(title).raw("</th>");
    }
    html.raw("</tr></thead><tbody>");
}

/// Says how many rows the table leaves out, and the command that shows them.
pub(super) fn more(html: &mut Html, rows: usize, command: &'static str) {
    if rows > 0 {
        html.raw("<p class=\"soft\">and ")
            .number(rows as u64)
            .raw(" more: <code>")
            .raw(command)
            .raw("</code></p>");
    }
}

pub(super) fn refusals(html: &mut Html, facts: &Facts) {
    begin(html, "refusals", "Refusals");
    let list = &facts.refusals;
    if list.is_empty() {
        html.raw("<p>The daemon has refused no request since it started. ");
        html.raw("<code>keyward audit refusals</code> has those of before.</p>");
        return end(html);
    }
    html.raw(
        "<p class=\"soft\">The newest since the start, of each user; the same request again is one row. ",
    );
    html.raw("<code>keyward audit refusals</code> has all of them.</p>");
    table(html, "refusals", &["When", "Why", "Key", "User", "Times"]);
    for one in list.iter().take(MOST_REFUSALS) {
        html.raw("<tr><td>").time(one.last, facts.now).raw("</td><th scope=\"row\" class=\"why\">");
        html.text(one.outcome.name()).raw("<br><span class=\"soft small\">");
        html.long_text(&one.outcome.reason_for(&one.key))
            .raw("</span></th><td class=\"key\">")
            .name(&one.key)
            .raw("</td><td>");
        html.text(facts.user(one.uid));
        program(html, one.command.as_deref(), one.service.as_deref());
        html.raw("</td><td class=\"number\">").number(one.count).raw("</td></tr>");
    }
    html.raw("</tbody></table></div>");
    more(html, list.len().saturating_sub(MOST_REFUSALS), "keyward audit refusals");
    end(html);
}

pub(super) fn units(html: &mut Html, facts: &Facts) {
    begin(html, "units", "Units");
    if facts.units.is_empty() {
        html.raw("<p>No backend has a unit: see <code>keyward serve --check-config</code>.</p>");
        return end(html);
    }
    for backend in &facts.status.backends {
        backend_line(html, backend);
    }
    table(html, "units", &["Unit", "State", "Master key", "Latency", "Calls", "Failures"]);
    for unit in facts.units.iter().take(MOST_UNITS) {
        unit_row(html, unit);
    }
    html.raw("</tbody></table></div>");
    more(html, facts.units.len().saturating_sub(MOST_UNITS), "keyward unit list");
    end(html);
}

fn backend_line(html: &mut Html, backend: &BackendView) {
    html.raw("<p>Backend <strong>").text(&backend.name).raw("</strong>, ").text(&backend.unit).raw(": ");
    match backend.ready {
        true => html.raw("<span class=\"word good\">✓ ready</span>"),
        false => html.raw("<span class=\"word bad\">✗ cannot sign</span>"),
    };
    match &backend.wkid {
        Some(wkid) => html.raw("; its keys need the master key <code>").text(wkid).raw("</code>"),
        None => html.raw("; it has no key yet"),
    };
    if backend.next_start_fails {
        html.raw("; <span class=\"word bad\">✗ the next start cannot open it</span>");
    } else if let (true, Some(opening)) = (backend.ready, &backend.opening) {
        html.raw("; opened ").text(described(opening));
    }
    html.raw(".</p>");
}

fn unit_row(html: &mut Html, unit: &UnitView) {
    html.raw("<tr><th scope=\"row\">").text(&unit.address).raw("<br><span class=\"soft small\">backend ");
    html.text(&unit.backend).raw("</span></th>");
    html.raw(if unit.problem.is_some() { "<td class=\"why\">" } else { "<td>" });
    html.raw(match unit.health.as_str() {
        "up" => "<span class=\"word good\">✓ ",
        "down" => "<span class=\"word bad\">✗ ",
        _ => "<span class=\"word warn\">! ",
    });
    html.text(&unit.health).raw("</span>");
    if let Some(breaker) = &unit.breaker {
        html.raw(" <span class=\"soft tight\">breaker ").text(breaker).raw("</span>");
    }
    if let Some(problem) = &unit.problem {
        html.raw("<br><span class=\"small\">").long_text(problem).raw("</span>");
    }
    html.raw("</td><td>");
    match (&unit.wkid, unit.other_master_key, unit.next_master_key) {
        (None, true, _) => html.raw("<span class=\"word bad\">✗ none</span>"),
        (_, true, _) => html.raw("<span class=\"word bad\">✗ not that of the keys</span>"),
        (None, ..) => html.raw("<span class=\"soft\">not known</span>"),
        (_, _, true) => html.raw("<span class=\"word warn\">! the next one</span>"),
        (Some(_), ..) => html.raw("<span class=\"word good\">✓ that of the keys</span>"),
    };
    if let Some(wkid) = &unit.wkid {
        html.raw("<br><code class=\"soft\">").text(wkid).raw("</code>");
    }
    html.raw("</td><td class=\"tight\">");
    match unit.latency_us {
        // One digit behind the point, for a call that takes a few milliseconds.
        Some(micros) => html.number(micros / 1000).raw(".").number(micros % 1000 / 100).raw(" ms"),
        None => html.raw("<span class=\"soft\">in this process</span>"),
    };
    for count in [unit.calls, unit.failures] {
        html.raw("</td><td>");
        match count {
            Some(count) => html.number(count),
            None => html.raw("<span class=\"soft\">not counted</span>"),
        };
    }
    html.raw("</td></tr>");
}

pub(super) fn audit(html: &mut Html, facts: &Facts) {
    begin(html, "audit", "Audit trail");
    let Some(audit) = &facts.status.audit else {
        html.raw("<p>The daemon has no audit trail yet.</p>");
        return end(html);
    };
    html.raw("<dl><dt>State</dt><dd>");
    match (&audit.failure, audit.problems(facts.now).is_empty()) {
        (Some(reason), _) => html.raw("<span class=\"word bad\">✗ not written</span> ").long_text(reason),
        (None, false) => html.raw("<span class=\"word warn\">! see “To do” above</span>"),
        (None, true) => html.raw("<span class=\"word good\">✓ written</span>"),
    };
    html.raw("</dd><dt>Last record</dt><dd>").number(audit.last);
    if audit.unwritten > 0 {
        html.raw(", and ").number(audit.unwritten).raw(" uses without a record since the start");
    }
    html.raw("</dd><dt>Signed head</dt><dd>");
    match &audit.checkpoint {
        Some(checkpoint) => {
            // RFC 3339, to the minute.
            let time = checkpoint.time.get(..16).unwrap_or(&checkpoint.time).replace('T', " ");
            html.raw("record ").number(checkpoint.through).raw(" at ").text(time)
        }
        None => html.raw("none yet: the unit signs the trail once it has a key"),
    };
    html.raw("</dd><dt>Last verification</dt><dd>The daemon does not verify its own trail. Run ");
    html.raw(
        "<code>keyward audit verify</code>, best on another machine: <code>keyward audit export FILE</code>.",
    );
    if let (Some(files), Some(bytes), Some(free)) = (audit.files, audit.bytes, audit.free) {
        html.raw("</dd><dt>Space</dt><dd>").number(files);
        html.raw(if files == 1 { " file, " } else { " files, " }).number(bytes >> 20);
        html.raw(" MiB; ").number(free.into()).raw(" % of the file system are free");
    }
    html.raw("</dd></dl>");
    end(html);
}

pub(super) fn version(html: &mut Html, facts: &Facts) {
    let status = &facts.status;
    begin(html, "version", "Daemon");
    html.raw("<dl><dt>Version</dt><dd>").text(&status.version);
    html.raw(if status.dev { ", <span class=\"word warn\">! development mode</span>" } else { "" });
    html.raw("</dd><dt>Running since</dt><dd>").time(status.started.unwrap_or(facts.now), facts.now);
    html.raw(", process ").text(status.pid).raw("</dd><dt>Configuration</dt><dd>");
    match &status.config_file {
        Some(file) => html.text(file.display()),
        None => html.raw("defaults, without a file"),
    };
    html.raw("; ").number(status.grants as u64).raw(" grants");
    html.raw("</dd><dt>Key store</dt><dd>").text(status.state_dir.display());
    html.raw("</dd><dt>Requests</dt><dd>").number(status.requests).raw(" since the start, ");
    html.number(status.closed_for_malformed).raw(" connections closed for a malformed frame, ");
    html.number(status.closed_for_limit).raw(" for a limit</dd><dt>Confinement</dt><dd>");
    let open: Vec<_> = status.confinement.iter().filter(|measure| !measure.in_force).collect();
    match (open.as_slice(), status.confinement.is_empty()) {
        (_, true) => html.raw("not known"),
        ([], _) => html.raw("<span class=\"word good\">✓ in force</span>"),
        _ => html.raw("<span class=\"word warn\">! not complete</span>"),
    };
    for measure in open {
        html.raw("<br>").text(&measure.measure).raw(": ").long_text(&measure.detail);
    }
    html.raw("</dd></dl>");
    end(html);
}

/// Most refusals on the page.
const MOST_REFUSALS: usize = 50;
/// Most units on the page.
const MOST_UNITS: usize = 64;
