//! Restricts files and the network by Landlock (landlock(7)).
//!
//! Landlock does not restrict descriptors that are open already, stat(2), or the connection to a
//! Unix socket.

use std::path::{Component, Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

use super::Needs;

/// Restrictions that the kernel enforces.
#[derive(Debug)]
pub(super) enum Enforced {
    /// Landlock, with the restrictions of this version of its interface.
    Landlock(u32),
    /// Nothing, for this reason.
    Nothing(String),
}

impl Enforced {
    pub(super) fn is_in_force(&self) -> bool {
        matches!(self, Self::Landlock(_))
    }

    /// True if the kernel restricts the TCP ports too.
    pub(super) fn restricts_ports(&self) -> bool {
        matches!(self, Self::Landlock(version) if *version >= ABI::V4 as u32)
    }
}

/// Restricts this thread and its later threads.
pub(super) fn restrict(needs: &Needs) -> Enforced {
    match enforce(needs, LEAST) {
        Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. }) => {
            Enforced::Landlock(effective_abi.min(NEWEST) as u32)
        }
        Ok(_) => Enforced::Nothing(NO_LANDLOCK.into()),
        Err(error) => Enforced::Nothing(match error {
            RulesetError::HandleAccesses(_) | RulesetError::CreateRuleset(_) => NO_LANDLOCK.into(),
            error => format!("the kernel refuses it: {error}"),
        }),
    }
}

fn enforce(needs: &Needs, least: ABI) -> Result<RestrictionStatus, RulesetError> {
    let all = AccessFs::from_all(NEWEST);
    let mut rules = Ruleset::default()
        // Without this part there is nothing: before it, Landlock refuses to move any file from one
        // directory to another, which the daemon does with its sockets.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(least))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::Signal)?;
    if !needs.sends_to_abstract {
        rules = rules.scope(Scope::AbstractUnixSocket)?;
    }
    let mut rules = rules.create()?;
    for (path, access) in granted(needs) {
        // A directory that is not there has no file either.
        let Ok(place) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        rules = rules.add_rule(PathBeneath::new(place, access))?;
    }
    for port in &needs.ports {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    rules.restrict_self()
}

/// Paths, and the accesses that are granted below them.
fn granted(needs: &Needs) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let change = AccessFs::from_all(NEWEST) & !never();
    let bind = AccessFs::MakeSock
        | AccessFs::MakeDir
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::ReadDir
        | AccessFs::Refer;
    let of =
        |paths: &[PathBuf], access| paths.iter().map(move |path| (path.clone(), access)).collect::<Vec<_>>();
    let system: Vec<_> = SYSTEM.iter().map(PathBuf::from).collect();
    [of(&needs.change, change), of(&needs.bind, bind), of(&readable(needs), read), of(&system, read)].concat()
}

/// Programs, calls of drivers, and kinds of files that the daemon never makes.
fn never() -> BitFlags<AccessFs> {
    AccessFs::Execute
        | AccessFs::MakeBlock
        | AccessFs::MakeChar
        | AccessFs::MakeFifo
        | AccessFs::MakeSym
        | AccessFs::IoctlDev
}

/// Directories and files that can be read as the configuration needs it.
fn readable(needs: &Needs) -> Vec<PathBuf> {
    let files = needs.read.iter().flat_map(|file| places_of(file));
    files.chain(needs.read_below.iter().cloned()).collect()
}

/// True if the process may read a file.
pub(super) fn reaches(needs: &Needs, file: &Path) -> bool {
    let Ok(file) = file.canonicalize().or_else(|_| std::path::absolute(file)) else { return false };
    let places = readable(needs).into_iter().chain(needs.change.iter().cloned());
    places.filter_map(|place| place.canonicalize().ok()).any(|place| file.starts_with(place))
}

/// The places that must be readable so that a file can be read again after a change: the directory
/// of its name, and the directory of the file to which the name leads. For a file in a directory
/// that many programs share, such as /etc, the file alone.
fn places_of(file: &Path) -> Vec<PathBuf> {
    let mut places = Vec::new();
    for file in [std::path::absolute(file).ok(), file.canonicalize().ok()].into_iter().flatten() {
        let directory = file.parent().unwrap_or(Path::new("/"));
        places.push(if is_shared(directory) { file } else { directory.to_owned() });
    }
    places.dedup();
    places
}

/// True for a directory whose files belong to many programs or to a person.
fn is_shared(directory: &Path) -> bool {
    let real = directory.canonicalize();
    let directory = real.as_deref().unwrap_or(directory);
    let names: Vec<_> = directory.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    names.len() < 2
        || (names.len() == 2 && SHARED.iter().any(|above| Some(Path::new(above)) == directory.parent()))
}

/// Directories whose subdirectories are shared, too.
const SHARED: [&str; 4] = ["/home", "/run/user", "/usr", "/var"];

/// Files of the system that any process may need: facts about peers, the number of processors that
/// a control group allows, and random numbers.
const SYSTEM: [&str; 4] = ["/proc", "/sys/fs/cgroup", "/sys/devices/system/cpu", "/dev/urandom"];

/// The first version of Landlock that can be used: with it, files can move between directories.
const LEAST: ABI = ABI::V2;
/// The newest version whose restrictions are known not to disturb the daemon. Version 9 restricts
/// the connection to Unix sockets.
const NEWEST: ABI = ABI::V7;
const NO_LANDLOCK: &str =
    "the kernel has no Landlock, or one before Linux 5.19, or Landlock is off (lsm= on its command line)";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_of_many_programs_is_never_readable_as_a_whole() {
        for shared in ["/", "/etc", "/tmp", "/root", "/home/alice", "/var/lib", "/usr/local"] {
            assert!(is_shared(Path::new(shared)), "{shared}");
            let file = Path::new(shared).join("no-such.toml");
            assert_eq!(places_of(&file), [file]);
        }
        for own in ["/etc/keyward", "/var/lib/keyward", "/home/alice/keyward", "/run/credentials"] {
            assert!(!is_shared(Path::new(own)), "{own}");
        }
    }

    #[test]
    fn the_directory_of_a_link_and_of_its_file_can_be_read() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (live, archive) = (root.join("live"), root.join("archive"));
        for directory in [&live, &archive] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(archive.join("cert1.pem"), "").unwrap();
        symlink("../archive/cert1.pem", live.join("cert.pem")).unwrap();
        let cert = live.join("cert.pem");
        assert_eq!(places_of(&cert), [live, archive.clone()]);
        let needs = Needs { read: vec![cert.clone()], ..Needs::default() };
        assert!(reaches(&needs, &cert) && reaches(&needs, &archive.join("cert2.pem")));
        assert!(!reaches(&needs, &root.join("other.pem")) && !reaches(&needs, Path::new("/etc/passwd")));
    }
}
