//! Addresses of the daemon that exist in only one network namespace: abstract ones (unix(7)), and
//! the port for metrics.

use std::path::{Path, PathBuf};

use super::remarks::Remarks;
use super::service_files;
use crate::config::Config;

/// Adds remarks about an abstract address and a port on which the daemon itself listens. If the
/// service of the daemon has a network namespace of its own, no program can reach them. Otherwise,
/// programs in other network namespaces cannot.
pub(super) fn remark(config: &Config, remarks: &mut Remarks) {
    remark_below(Path::new("/"), config, remarks);
}

fn remark_below(root: &Path, config: &Config, remarks: &mut Remarks) {
    if let Some(address) = config.metrics
        && let Some(file) = setting(root)
    {
        remarks.warn(format_args!(
            "{} has PrivateNetwork=yes, so nobody can reach {address}: remove listen from [metrics], and let systemd listen, with systemctl enable keyward-metrics.socket && systemctl restart keyward-metrics.socket keyward.service",
            file.display()
        ));
    }
    let mut addresses = config.socket.extra.iter().map(ToString::to_string);
    let Some(address) = addresses.find(|address| address.starts_with('@')) else { return };
    let Some(file) = setting(root) else {
        return remarks.note(format_args!(
            "{address} exists only in the network namespace of the daemon: servers in containers or with PrivateNetwork=yes \
             need a socket in a directory; if the service of the daemon has PrivateNetwork=yes, all servers do"
        ));
    };
    remarks.warn(format_args!(
        "{} has PrivateNetwork=yes, so no server can reach {address}: let systemd listen there, with ListenStream={address} \
         for keyward.socket, and remove the address from [socket] also",
        file.display()
    ));
}

/// The unit file or drop-in with the last setting of PrivateNetwork, if its value is yes
/// (systemd.unit(5)).
fn setting(root: &Path) -> Option<PathBuf> {
    let mut values = service_files::read(root).into_iter().filter_map(|(file, text)| {
        let mut settings = text.lines().filter_map(|line| line.split_once('='));
        let (_, value) = settings.rfind(|(name, _)| name.trim() == "PrivateNetwork")?;
        let value = value.trim().to_ascii_lowercase();
        Some((file, ["yes", "true", "on", "1", "y", "t"].contains(&&*value)))
    });
    values.next_back().filter(|(_, is_set)| *is_set).map(|(file, _)| file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The warnings and notes about a configuration.
    fn remarks_on(root: &Path, text: &str) -> [String; 2] {
        let config = Config::parse(text, "test".as_ref()).unwrap();
        let mut remarks = Remarks::default();
        remark_below(root, &config, &mut remarks);
        [remarks.warnings, remarks.notes].map(|texts| texts.concat())
    }

    #[test]
    fn a_port_that_nobody_can_reach_gets_a_warning() {
        let root = tempfile::tempdir().unwrap();
        let remarks = || remarks_on(root.path(), "[metrics]\nlisten = \"127.0.0.1:9463\"\n");
        assert_eq!(remarks(), ["", ""]);
        let directory = root.path().join("lib/systemd/system");
        fs::create_dir_all(&directory).unwrap();
        let shipped = include_str!("../../../conf/systemd/keyward.service");
        fs::write(directory.join("keyward.service"), shipped).unwrap();
        let [warning, note] = remarks();
        assert!(note.is_empty() && warning.contains("systemctl enable keyward-metrics.socket"), "{warning}");
    }

    #[test]
    fn an_abstract_address_gets_a_remark() {
        let root = tempfile::tempdir().unwrap();
        let remarks_on = |also: &str| remarks_on(root.path(), &format!("[socket]\nalso = [{also:?}]\n"));
        assert_eq!(remarks_on("/run/other/keyward.sock"), ["", ""]);
        let [warning, note] = remarks_on("@keyward");
        assert!(
            warning.is_empty() && note.starts_with("@keyward exists only in the network namespace"),
            "{note}"
        );
        let directory = root.path().join("etc/systemd/system");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("keyward.service"), "[Service]\nPrivateNetwork=yes\n").unwrap();
        assert_eq!(remarks_on("/run/other/keyward.sock"), ["", ""]);
        let [warning, note] = remarks_on("@keyward");
        assert!(note.is_empty() && warning.contains("ListenStream=@keyward for keyward.socket"), "{warning}");
    }

    #[test]
    fn the_last_setting_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            setting(root.path()).map(|file| file.strip_prefix(root.path()).unwrap().display().to_string())
        };
        assert_eq!(setting(root.path()), None);
        let shipped = include_str!("../../../conf/systemd/keyward.service");
        let service = "lib/systemd/system/keyward.service";
        assert_eq!(write(service, shipped).as_deref(), Some(service));
        let remote = include_str!("../../../conf/systemd/remote-units.conf");
        let drop_ins = "etc/systemd/system/keyward.service.d";
        assert_eq!(write(&format!("{drop_ins}/remote.conf"), remote), None);
        assert_eq!(write(&format!("{drop_ins}/a.conf"), "[Service]\nPrivateNetwork=yes\n"), None);
        let last = format!("{drop_ins}/z.conf");
        assert_eq!(write(&last, "[Service]\nPrivateNetwork = yes\nPrivateNetwork=no\n"), None);
        assert_eq!(write(&last, "[Service]\nPrivateNetwork = True\n").as_deref(), Some(&*last));
        assert_eq!(write("run/systemd/system/keyward.service.d/z.conf", "").as_deref(), Some(&*last));
    }
}
