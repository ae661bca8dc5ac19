//! Each cell of the table in docs/roles.md: the daemon does what the page says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::fixture::{Daemon, has_root};
use crate::users::as_user;

/// A row of the table.
struct Row {
    act: String,
    method: String,
    path: String,
    body: String,
    /// Roles that allow the act.
    roles: Vec<&'static str>,
}

/// The roles in the order of the columns.
const ROLES: [&str; 6] = ["viewer", "operator", "manager", "auditor", "purger", "agent"];

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/roles.md")).unwrap();
    let header = format!("| Act | Request | {} |", ROLES.join(" | "));
    let (_, table) = page.split_once(&header).unwrap();
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let rows = lines.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [act, request, allowed @ ..] = &cells[..] else { panic!("{line}") };
        let quoted: Vec<_> = request.split('`').collect();
        assert_eq!(allowed.len(), ROLES.len(), "{line}");
        let roles = ROLES.into_iter().zip(allowed).filter_map(|(role, cell)| match *cell {
            "yes" => Some(role),
            "" => None,
            other => panic!("{other:?} in {line}"),
        });
        Row {
            act: act.trim_matches('`').to_owned(),
            method: quoted[0].trim().to_owned(),
            path: quoted[1].to_owned(),
            body: quoted.get(3).copied().unwrap_or_default().to_owned(),
            roles: roles.collect(),
        }
    });
    rows.collect()
}

/// The routes in the source that need a right, as method and path.
fn routes() -> BTreeSet<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/mod.rs");
    let code = fs::read_to_string(source).unwrap();
    let lines = code.lines().filter_map(|line| {
        let (_, route) = line.trim().strip_prefix(".route")?.split_once("(\"")?;
        let (path, handler) = route.split_once("\", ")?;
        Some((handler.split_once('(')?.0.to_uppercase(), path.to_owned()))
    });
    lines.collect()
}

#[test]
fn the_table_has_every_route_that_needs_a_role() {
    let rows: BTreeSet<_> = rows().into_iter().map(|row| (row.method, row.path)).collect();
    assert_eq!(rows, routes());
    assert!(rows.len() > 15, "{rows:?}");
}

#[test]
fn each_role_allows_what_the_table_says() {
    if !has_root() {
        return;
    }
    let uid = |role: &str| 7100 + ROLES.iter().position(|one| *one == role).unwrap() as u32;
    let sections = ROLES.map(|role| format!("[[role]]\nrole = {role:?}\nuid = {}\n", uid(role)));
    let mut daemon = Daemon::prepare("");
    daemon.new_master_key();
    daemon.configure(&(daemon.production_configuration(&[]) + &sections.concat()));
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    daemon.start(&[]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);

    for Row { act, method, path, body, roles } in rows() {
        // No key has this label, so that what is allowed changes nothing.
        let path = path.replace("{label}", "no-such-key").replace("{name}", "no-such-backend");
        let ask = |uid: u32| as_user(uid, || daemon.http(&method, &path, &body).unwrap());
        for role in ROLES {
            let (status, answer) = ask(uid(role));
            let what = format!("{act} ({method} {path}) by {role}: {status} {answer}");
            if roles.contains(&role) {
                // The unit asks for root besides the role.
                assert_eq!(status == 403, act == "claim" && answer.contains("only root may claim"), "{what}");
                continue;
            }
            assert_eq!(status, 403, "{what}");
            let needed = answer.split_once(", and ").unwrap().0;
            let start = format!(r#"{{"error":"\"{act}\" needs the role "#);
            let named: BTreeSet<_> =
                needed.strip_prefix(&start).expect(&what).split(", ").flat_map(|n| n.split(" or ")).collect();
            assert_eq!(named, roles.iter().copied().collect(), "{what}");
            assert!(answer.contains(&format!("user id {} has only {role}; ", uid(role))), "{what}");
        }
        // A user without a role; and root, who is manager.
        let (status, answer) = ask(7199);
        assert!(status == 403 && answer.contains(" needs the role "), "{act}: {status} {answer}");
        assert!(answer.contains("user id 7199 has no role; "), "{answer}");
        let (status, answer) = daemon.http(&method, &path, &body).unwrap();
        assert_eq!(status == 403, !roles.contains(&"manager"), "{act} by root: {status} {answer}");
    }
    for path in ["/live", "/ready", "/metrics"] {
        for uid in [7199, uid("agent"), uid("viewer")] {
            assert_eq!(as_user(uid, || daemon.http("GET", path, "").unwrap().0), 200, "{path} by {uid}");
        }
    }
    assert!(daemon.succeed(&["key", "list"]).contains("enabled"));
}
