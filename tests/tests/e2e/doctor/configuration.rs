//! Mistakes in an openssl.cnf.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use keyward_tests::is_root;
use keyward_tests::pki::openssl;
use keyward_tests::tool::{Process, succeed, wait_for};

use super::{OTHER, Scene, doctor};

#[test]
fn a_good_configuration_is_good() {
    let scene = Scene::new();
    let [verdict, detail, _] = scene.find(&scene.conf("", ""));
    assert_eq!(verdict, "ok");
    assert!(detail.contains("activates default, then keyward"), "{detail}");
    // The same setting in another notation.
    let module = format!("module = {}", scene.module().display());
    let quoted = format!("module = \"{}\" # here", scene.module().display());
    assert_eq!(scene.find(&scene.conf(&module, &quoted))[0], "ok");
    assert_eq!(scene.find(&scene.conf("keyward = k", "tls.keyward = k"))[0], "ok");
}

#[test]
fn the_default_provider_is_missing() {
    let scene = Scene::new();
    scene.trap(
        "default = default_provider\n",
        "",
        "does not activate the provider default: it does not list it",
        "list default = default_provider first",
    );
    let fix = "add [default_provider] with activate = 1";
    scene.trap("[default_provider]\nactivate = 1\n", "", "there is no section [default_provider]", fix);
}

#[test]
fn the_provider_is_missing() {
    let scene = Scene::new();
    scene.trap(
        "keyward = keyward_provider\n",
        "",
        "does not activate the provider keyward: it does not list it",
        "list it after default",
    );
}

#[test]
fn the_provider_stands_before_default() {
    let scene = Scene::new();
    scene.trap(
        "default = default_provider\nkeyward = keyward_provider\n",
        "keyward = keyward_provider\ndefault = default_provider\n",
        "lists keyward before default",
        "list default first",
    );
}

#[test]
fn the_provider_sorts_before_default() {
    let scene = Scene::new();
    let (detail, fix) = ("\"aaa\", which sorts before \"default\"", "call it keyward");
    scene.trap("keyward = keyward_provider", "aaa = keyward_provider", detail, fix);
    scene.trap("[keyward_provider]\n", "[keyward_provider]\nidentity = aaa\n", detail, fix);
    // A comment after the name has no effect.
    assert_eq!(scene.find(&scene.conf("keyward = keyward_provider", "tls = keyward_provider"))[0], "ok");
}

#[test]
fn the_module_is_missing() {
    let scene = Scene::new();
    let module = scene.module().display().to_string();
    let fix = "or name its path in module";
    scene.trap(&module, "/nowhere/keyward.so", "cannot read /nowhere/keyward.so: No such file", fix);
    // A name without a directory is searched among the modules of OpenSSL.
    scene.trap(&module, "keyward-elsewhere.so", "ossl-modules/keyward-elsewhere.so: No such file", fix);
    let whole = format!("write the whole name: module = {module}");
    scene.trap(&module, module.trim_end_matches(".so"), "No such file", &whole);
    scene.trap(
        &module,
        scene.daemon.directory().to_str().unwrap(),
        "is not a file",
        "name the file keyward.so",
    );
}

#[test]
fn the_module_cannot_be_read() {
    let scene = Scene::new();
    let good = scene.conf("", "");
    fs::set_permissions(scene.module(), Permissions::from_mode(0o600)).unwrap();
    if is_root() {
        // Root may read the file. The user of a server that does not start as root may not.
        assert_eq!(scene.find(&good)[0], "ok");
        let found = doctor(&scene.daemon, "openssl.cnf", &[&"--openssl-conf", &good, &"--user", &OTHER]);
        let [[verdict, detail, fix]] = &found[..] else { panic!("{found:#?}") };
        assert_eq!(verdict, "warn");
        assert!(detail.contains("daemon may not read") && detail.contains("keyward.so"), "{detail}");
        assert!(fix.contains("chmod a+r"), "{fix}");
    } else {
        fs::set_permissions(scene.module(), Permissions::from_mode(0o0)).unwrap();
        let [verdict, detail, fix] = scene.find(&good);
        assert!(verdict == "fail" && detail.contains("ermission denied"), "{detail}");
        assert!(fix.contains("chmod a+r"), "{fix}");
    }
}

#[test]
fn the_module_is_no_provider() {
    let scene = Scene::new();
    let module = scene.module().display().to_string();
    let other = scene.daemon.path("other.so");
    fs::write(&other, "not a library").unwrap();
    scene.trap(&module, other.to_str().unwrap(), "OpenSSL does not load", "built for this OpenSSL");
    scene.trap(
        &module,
        "legacy.so",
        "loads another provider as keyward: \"OpenSSL Legacy",
        "name the file keyward.so",
    );
}

#[test]
fn activate_is_missing_or_not_one() {
    let scene = Scene::new();
    let section = "[keyward_provider]\nactivate = 1\n";
    let fix = "put activate = 1 into [keyward_provider]";
    scene.trap(section, "[keyward_provider]\n", "[keyward_provider] has no activate = 1", fix);
    for value in ["0", "no", "perhaps"] {
        let spoilt = format!("[keyward_provider]\nactivate = {value}\n");
        let detail = format!("activate = {value}: OpenSSL 3.0 to 3.2 activates the provider keyward for any");
        scene.trap(section, &spoilt, &detail, fix);
    }
    let section = "[default_provider]\nactivate = 1\n";
    let fix = "put activate = 1 into [default_provider]";
    scene.trap(section, "[default_provider]\nactivate = 0\n", "activates the provider default for any", fix);
    let conf = scene.conf(section, "[default_provider]\nactivate = yes\n");
    assert_eq!(scene.find(&conf)[0], "ok");
}

#[test]
fn properties_choose_providers() {
    let scene = Scene::new();
    let init = "providers = providers\n";
    let with = |setting: &str| format!("{init}alg_section = evp_properties\n[evp_properties]\n{setting}\n");
    let fix = "remove default_properties from [evp_properties]";
    for (setting, detail) in [
        ("default_properties = ?provider=keyward", "so OpenSSL asks keyward first"),
        ("default_properties = fips=yes", "so its keys cannot sign"),
        ("default_properties = \"?fips=yes, provider=default\"", "so its keys cannot sign"),
    ] {
        scene.trap(init, &with(setting), detail, fix);
    }
    scene.trap(init, &with("fips_mode = yes"), "fips_mode = yes", "remove fips_mode");
    let [verdict, detail, fixes] = scene.find(&scene.conf(init, &with("default_properties = ?fips=yes")));
    assert!(verdict == "warn" && fixes.contains(fix), "{verdict}: {detail}");
    let query = "activate = 1\npropquery = ?provider=keyward\n";
    scene.trap(
        "activate = 1\n",
        query,
        "propquery = ?provider=keyward",
        "remove propquery from [default_provider]",
    );
}

#[test]
fn openssl_conf_is_missing_at_the_top() {
    let scene = Scene::new();
    let line = "openssl_conf = openssl_init\n";
    let fix = "put openssl_conf = openssl_init above the first section";
    scene.trap(line, "", "openssl_conf is missing in", fix);
    let below = "[openssl_init]\nopenssl_conf = openssl_init\n";
    let spoilt = format!("{line}[openssl_init]\n");
    scene.trap(&spoilt, below, "openssl_conf is in section [openssl_init]", fix);
    scene.trap(
        line,
        "openssl_conf = elsewhere\n",
        "names section [elsewhere], which has no providers",
        "[elsewhere]",
    );
    scene.trap("providers = providers\n", "providers = list\n", "there is no section [list]", "add [list]");
    let spoilt = "default = default\n";
    scene.trap(
        "default = default_provider\n",
        spoilt,
        "also the section of the settings at the top",
        "another name",
    );
}

#[test]
fn the_configuration_cannot_be_read() {
    let scene = Scene::new();
    let [verdict, detail, fix] = scene.find(Path::new("/nowhere/openssl.cnf"));
    assert!(verdict == "fail" && detail.contains("No such file"), "{detail}");
    assert!(
        fix.contains("the file that keyward ships: /etc/keyward/openssl.cnf, or conf/openssl.cnf in"),
        "{fix}"
    );
    let long = scene.daemon.path("long.cnf");
    fs::write(&long, "#".repeat(2 * 1024 * 1024)).unwrap();
    assert!(scene.find(&long)[1].contains("longer than 1048576 bytes"));
}

#[test]
fn includes_are_not_followed_and_openssl_is_asked() {
    let scene = Scene::new();
    let good = scene.conf("", "");
    let path = scene.daemon.path("including.cnf");
    fs::write(&path, format!(".include {}\n", good.display())).unwrap();
    let [verdict, detail, _] = scene.find(&path);
    assert!(verdict == "warn" && detail.contains(".include is not followed"), "{verdict}: {detail}");
    fs::write(&path, ".include /nowhere.cnf\n").unwrap();
    let [verdict, detail, _] = scene.find(&path);
    assert!(verdict == "fail" && detail.contains("does not activate the provider keyward"), "{detail}");
}

#[test]
fn the_shipped_file_includes_that_of_the_system() {
    let scene = Scene::new();
    let shipped = scene.daemon.openssl_conf();
    let [verdict, detail, _] = scene.find(&shipped);
    assert!(verdict == "ok" && detail.ends_with("activates default, then keyward"), "{verdict}: {detail}");
    let [system, path] = ["system.cnf", "other.cnf"].map(|name| scene.daemon.path(name));
    fs::write(&system, "openssl_conf = ours\n[ours]\n").unwrap();
    let text = fs::read_to_string(shipped).unwrap().replace("/etc/ssl/openssl.cnf", system.to_str().unwrap());
    fs::write(&path, &text).unwrap();
    let [verdict, detail, fix] = scene.find(&path);
    assert!(verdict == "fail" && detail.contains("may name another section in openssl_conf"), "{detail}");
    assert!(fix.contains("add that section to the file, with the same line providers ="), "{fix}");
    fs::write(&path, format!("{text}[ours]\nproviders = provider_sect\n")).unwrap();
    assert_eq!(scene.find(&path)[0], "ok");
    // Only one list is in force, as the page says.
    let other = "openssl_conf = openssl_init\n[openssl_init]\nproviders = list\n[list]\nlegacy = legacy_sect\n\
                 [legacy_sect]\nactivate = 1\n";
    fs::write(&system, other).unwrap();
    fs::write(&path, &text).unwrap();
    let providers = || succeed(openssl(&["list", "-providers"]).env("OPENSSL_CONF", &path));
    let [verdict, detail, fix] = scene.find(&path);
    assert!(verdict == "warn" && detail.contains("lists its providers in [list]"), "{verdict}: {detail}");
    assert!(fix.contains("replace provider_sect by list"), "{fix}");
    assert!(!providers().contains("Legacy"), "{}", providers());
    fs::write(&path, text.replace("provider_sect", "list")).unwrap();
    assert_eq!(scene.find(&path)[0], "ok");
    assert!(providers().contains("Legacy") && providers().contains("Keyward"), "{}", providers());
    // OpenSSL reports neither mistake.
    fs::write(&path, &text).unwrap();
    for (file, good, included) in [(&system, other, 0), (&path, &*text, other.lines().count())] {
        fs::write(file, format!("{}\n[unclosed\n", good.trim_end())).unwrap();
        let line = good.lines().count() + 1 + included;
        let [verdict, detail, _] = scene.find(&path);
        let told = format!("{} has a syntax error in line {line}", file.display());
        assert!(verdict == "fail" && detail.contains(&told), "{verdict}: {detail}");
        fs::write(file, good).unwrap();
    }
    fs::remove_file(&system).unwrap();
    let [verdict, detail, fix] = scene.find(&path);
    assert!(verdict == "warn" && detail.contains("system.cnf, which does not exist"), "{verdict}: {detail}");
    assert!(fix.contains("openssl version -d"), "{fix}");
}

#[test]
fn the_file_of_the_system_is_for_everything() {
    let scene = Scene::new();
    let system = Path::new("/etc/ssl/openssl.cnf");
    if !system.exists() {
        return;
    }
    let found = doctor(&scene.daemon, "openssl.cnf", &[&"--openssl-conf", &system]);
    let told = found.iter().find(|[_, detail, _]| detail.contains("is the file of the system"));
    assert!(
        told.is_some_and(|[verdict, _, fix]| verdict == "warn" && fix.contains("OPENSSL_CONF")),
        "{found:#?}"
    );
    // No other finding advises to give the file to a service.
    let find = |variable: Option<&Path>| {
        let mut server = Command::new("sleep");
        server.arg("60").env_remove("OPENSSL_CONF").env("STARTED", "yes");
        server.envs(variable.map(|path| ("OPENSSL_CONF", path)));
        let server = Process::start(&mut server, &scene.daemon.path("sleep.log"));
        let environment = format!("/proc/{}/environ", server.id());
        wait_for("the process", || {
            let text = fs::read_to_string(&environment).unwrap();
            text.contains("STARTED=").then_some(())
        });
        let pid = server.id().to_string();
        doctor(&scene.daemon, "process", &[&"--openssl-conf", &system, &"--pid", &pid]).remove(0)
    };
    let [verdict, detail, fix] = find(None);
    assert!(verdict == "fail" && detail.contains("has no OPENSSL_CONF"), "{detail}");
    assert!(fix.starts_with("set Environment=OPENSSL_CONF=/etc/keyward/openssl.cnf for"), "{fix}");
    let [verdict, detail, fix] = find(Some(&scene.daemon.openssl_conf()));
    assert!(verdict == "fail" && detail.ends_with("that is not /etc/ssl/openssl.cnf"), "{detail}");
    let told = format!("keyward doctor --openssl-conf {}", scene.daemon.openssl_conf().display());
    assert!(fix.ends_with(&told), "{fix}");
}
