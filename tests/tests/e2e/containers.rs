//! The container image: built, unpacked, and run beside an nginx in other namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::tool::{run, stderr, succeed};
use keyward_tests::{Pki, built, has_root, leave_out, scratch, scratch_in_memory};
use serde_json::Value;

/// docs/containers.md says what this test shows: one directory for both, a grant for a number, and
/// a peer whose process the daemon does not know.
#[test]
fn the_image_serves_an_nginx_in_other_namespaces() {
    if !has_root() {
        return;
    }
    let here = scratch();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let archive = here.path().join("keyward.tar");
    let mut image = Command::new(source.join(".ci/image"));
    let memory = scratch_in_memory();
    let output = run(image.arg("release").arg(&archive).env("TMPDIR", memory.path()).current_dir(&source));
    if output.status.code() == Some(UNAVAILABLE) {
        leave_out("needs buildah, which does not work here");
        return;
    }
    assert!(output.status.success(), "{}", stderr(&output));

    let root = here.path().join("root");
    let config = unpack(&archive, &root);
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/bin/keyward", "serve"]));
    assert_eq!(config["Volumes"], serde_json::json!({"/run/keyward": {}, "/var/lib/keyward": {}}));
    for absent in ["bin", "usr/bin/sh", "usr/bin/apt", "usr/bin/dpkg", "etc/shadow"] {
        assert!(!root.join(absent).exists(), "{absent} is in the image");
    }

    prepare(here.path());
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", NAMESPACES, "sh"]);
    let output = run(shell.arg(source.join("tests/containers/scenario")).arg(here.path()).arg(&root));
    if output.status.code() == Some(NO_NAMESPACES) || stderr(&output).contains("unshare failed") {
        leave_out("needs namespaces of its own, which cannot be made here");
        return;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}{}", output.status, stderr(&output));
    for words in [
        "New, TLSv1.2",
        "New, TLSv1.3",
        "no grant for this user and key",
        // Who uses the key: a number, and nothing else.
        "\"uid\": 33,\n    \"unit\": null",
        "\"command\": null",
        "== done",
    ] {
        assert!(text.contains(words), "{text} lacks {words:?}");
    }
    assert_eq!(text.matches("Verification: OK").count(), 2, "{text}");
    let status = &text[text.find('{').unwrap()..];
    let status = serde_json::Deserializer::from_str(status).into_iter::<Value>().next().unwrap().unwrap();
    let in_force = |measure: &str| {
        let measures = status["confinement"].as_array().unwrap();
        measures.iter().any(|one| one["measure"] == measure && one["in_force"] == true)
    };
    for measure in ["dumps", "privileges", "calls", "network"] {
        assert!(in_force(measure), "{measure}: {}", status["confinement"]);
    }
}

/// Unpacks the layers of an OCI archive (image-spec, image-layout.md) into a directory, and returns
/// the configuration of the container.
fn unpack(archive: &Path, root: &Path) -> Value {
    let layout = root.with_extension("oci");
    fs::create_dir(&layout).unwrap();
    fs::create_dir(root).unwrap();
    succeed(Command::new("tar").arg("-C").arg(&layout).arg("-xf").arg(archive));
    let blob = |descriptor: &Value| -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap();
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let manifest = read(blob(&read(layout.join("index.json"))["manifests"][0]));
    for layer in manifest["layers"].as_array().unwrap() {
        succeed(Command::new("tar").arg("-C").arg(root).arg("-xzf").arg(blob(layer)));
    }
    read(blob(&manifest["config"]))["config"].clone()
}

/// The files of nginx, which are the ones of a host: an authority, the provider, its configuration.
fn prepare(here: &Path) {
    Pki::new(here);
    fs::copy(built("libkeyward_openssl.so"), here.join("keyward.so")).unwrap();
    let place = here.display();
    let conf = include_str!("../../../conf/openssl.cnf")
        .replace("\nmodule = keyward.so", &format!("\nmodule = {place}/keyward.so"))
        .replace("# socket = /run/keyward/keyward.sock", &format!("socket = {place}/shared/keyward.sock"));
    fs::write(here.join("openssl.cnf"), conf).unwrap();
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temp = temp.map(|name| format!("{name}_temp_path {place}/nginx/{name};")).concat();
    let nginx = format!(
        "user www-data; daemon off; worker_processes 1; pid {place}/nginx.pid; error_log {place}/error.log;\n\
         env OPENSSL_CONF; events {{}}\n\
         http {{ access_log off; {temp} ssl_protocols TLSv1.2 TLSv1.3;\n\
         server {{ listen 127.0.0.1:8443 ssl; ssl_certificate {place}/shop.crt;\n\
         ssl_certificate_key {place}/shop.pem; }} }}\n"
    );
    fs::write(here.join("nginx.conf"), nginx).unwrap();
}

/// Exit status of `.ci/image` if buildah does not work.
const UNAVAILABLE: i32 = 69;
/// Exit status if the test may not mount.
const NO_NAMESPACES: i32 = 93;
/// Namespaces around both containers, so that nothing is left of them. A minute is plenty.
const NAMESPACES: &str = r#"
mount -t proc proc /proc || exit 93
exec timeout 60 "$@"
"#;
