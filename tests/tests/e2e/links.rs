//! Links of the pages, and paths that code and scripts name: each leads to a file that exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The files of the source with their text. Build directories and other hidden files are left out.
fn files() -> Vec<(PathBuf, String)> {
    let mut directories = vec![source()];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let is_source = name == ".ci" || !name.starts_with('.') && !IGNORED.contains(&name.as_str());
            match entry.file_type().unwrap().is_dir() {
                true if is_source => directories.push(entry.path()),
                false => files.extend(fs::read_to_string(entry.path()).ok().map(|text| (entry.path(), text))),
                true => {}
            }
        }
    }
    assert!(files.len() > 300, "{}", files.len());
    files
}

/// Folders of .gitignore.
const IGNORED: [&str; 4] = ["target", "artifacts", "corpus", "coverage"];

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut count = 0;
    for (page, text) in files().iter().filter(|(path, _)| has_extension(path, "md")) {
        for target in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: {target}", page.display());
            if !heading.is_empty() {
                let headings = headings(&fs::read_to_string(&path).unwrap());
                assert!(
                    headings.contains(&heading.to_owned()),
                    "{}: {target}, of {headings:?}",
                    page.display()
                );
            }
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
}

/// The anchors that GitHub gives the headings of a page.
fn headings(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|char| char.is_alphanumeric() || "-_".contains(*char)).collect()
    };
    lines.map(anchor).collect()
}

/// docs/security.md names only test files that exist.
#[test]
fn the_tests_of_the_threats_exist() {
    let page = fs::read_to_string(source().join("docs/security.md")).unwrap();
    let (_, section) = page.split_once("\n## The threats\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let all = files();
    let tests = [source().join("tests/tests"), source().join("daemon/tests")];
    let is_test = |path: &Path| tests.iter().any(|folder| path.starts_with(folder));
    let mut count = 0;
    for name in section.split('`').skip(1).step_by(2).filter(|name| has_extension(Path::new(name), "rs")) {
        assert!(all.iter().any(|(path, _)| is_test(path) && path.ends_with(name)), "no test file {name}");
        count += 1;
    }
    assert!(count > 15, "{count}");
}

#[test]
fn paths_that_are_named_exist() {
    let source = source();
    let mut count = 0;
    for (file, text) in &files() {
        for (path, line) in ["docs/", "conf/", ".ci/"].iter().flat_map(|folder| paths(text, folder)) {
            // Files of Apache and nginx.
            if !["conf/httpd.conf", "conf/nginx.conf"].contains(&path) {
                assert!(source.join(path).exists(), "{} names {path}: {line}", file.display());
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count}");
}

/// The paths below a folder of the source that a text names, each with its line.
fn paths<'a>(text: &'a str, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let in_path = |char: char| char.is_ascii_alphanumeric() || "/._-".contains(char);
    let paths = move |line: &'a str| {
        let starts = line.match_indices(folder).filter(move |(at, _)| !line[..*at].ends_with(in_path));
        starts.map(move |(at, _)| {
            let rest = &line[at..];
            let end = rest.find(|char| !in_path(char)).unwrap_or(rest.len());
            let path = &rest[..end];
            // A pattern names its folder.
            let path = if rest[end..].starts_with('*') { path.rsplit_once('/').unwrap().0 } else { path };
            (path.trim_end_matches('.'), line)
        })
    };
    text.lines().flat_map(paths)
}

/// docs/admin-api.md has exactly the methods and paths of the administrators' socket, with an
/// example of each path.
#[test]
fn the_page_about_the_admin_api_has_every_route() {
    let page = fs::read_to_string(source().join("docs/admin-api.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        let (method, path) = line.strip_prefix("| ")?.split_once(" | `/")?;
        Some((method.to_lowercase(), format!("/{}", path.split_once('`')?.0)))
    });
    let code = fs::read_to_string(source().join("daemon/src/admin/mod.rs")).unwrap();
    let routes = code.lines().filter_map(|line| {
        let line = line.trim();
        let starts = [".open(\"", ".route(\"", ".route_by_body(\""];
        starts.iter().find_map(|start| line.strip_prefix(start))?.split_once("\", ")
    });
    let routes = routes.flat_map(|(path, handlers)| {
        let words = handlers.split(['.', '(']);
        let methods = words.filter(|word| ["delete", "get", "patch", "post", "put"].contains(word));
        methods.map(|method| (method.to_owned(), path.to_owned()))
    });
    let rows: BTreeSet<_> = rows.collect();
    assert_eq!(rows, routes.collect());

    // Each path has an example.
    let examples = page.lines().filter_map(|line| {
        let (_, path) = line.strip_prefix("    ")?.split_once("admin ")?;
        let path = path.trim_start_matches('\'').split([' ', '\'', '?']).next()?.to_owned();
        let labels = ["/shop", "/old-shop", "/hsm-shop"];
        let path = labels.iter().fold(path, |path, label| path.replace(label, "/{label}"));
        Some(path.replace("/hsm", "/{name}"))
    });
    let paths = rows.into_iter().map(|(_, path)| path);
    assert_eq!(examples.collect::<BTreeSet<_>>(), paths.collect());
}
