//! The files of people: keys of administrators, parts, and keys of owners of shares.

use std::fs;
use std::path::{Path, PathBuf};

use keyward_unit::administration::{
    AdministratorKey, OwnerKey, Pattern, Person, PersonName, pattern_of_part_file,
};

use super::super::{administrators, issue, parts, signers};
use super::Session;
use super::dialogue::{again, agreed, ask_or, compared, say};
use crate::cli::failure::Failure;
use crate::cli::passphrase::Source;
use crate::ground::exit;

/// A kind of file.
pub(super) struct Kind<T> {
    /// The file, in a question.
    pub(super) what: &'static str,
    /// The fingerprint that people write down.
    fingerprint: &'static str,
    extension: &'static str,
    /// The contents of a file, if they are of this kind and of this person.
    read: fn(&Path, &PersonName) -> Option<T>,
    make: fn(&Path, PersonName, &Source) -> Result<T, Failure>,
    /// Has the person open a file that is there: nobody can use a key whose passphrase is lost.
    open: fn(&Path, &Source) -> Result<(), Failure>,
    digits: fn(&T) -> String,
}

pub(super) const ADMINISTRATOR: Kind<Person> = Kind {
    what: "key of an administrator",
    fingerprint: "identity",
    extension: "key",
    read: |path, name| {
        let of_key = AdministratorKey::person_of_file(&issue::read(path).ok()?).ok();
        of_key.or_else(|| issue::person(path).ok()).filter(|person| person.name == *name)
    },
    make: administrators::make,
    // A public file is of a key elsewhere.
    open: |path, passphrase| match AdministratorKey::person_of_file(&issue::read(path)?) {
        Ok(_) => signers::open_key(path, passphrase),
        Err(_) => Ok(()),
    },
    digits: |person| person.key.ski().to_string(),
};

pub(super) const OWNER: Kind<Person> = Kind {
    what: "key of an owner of shares",
    fingerprint: "identity",
    extension: "key",
    read: |path, name| {
        let person = OwnerKey::person_of_file(&issue::read(path).ok()?).ok();
        person.filter(|person| person.name == *name)
    },
    make: parts::make_owner,
    open: parts::open_owner,
    digits: |person| person.key.ski().to_string(),
};

pub(super) const PART: Kind<Pattern> = Kind {
    what: "part",
    fingerprint: "pattern",
    extension: "part",
    read: |path, name| {
        let (owner, pattern) = pattern_of_part_file(&issue::read(path).ok()?).ok()?;
        (owner == *name).then_some(pattern)
    },
    make: |path, name, passphrase| parts::make_part(path, &name, passphrase),
    // The owner opens the part to bring it.
    open: |_, _| Ok(()),
    digits: |pattern| pattern.to_string(),
};

impl Session {
    /// Has a person make a file if `may_make`, or takes one that is there unless `is_unfit` says
    /// that it cannot be used. The person writes the fingerprint down.
    pub(super) fn obtain<T>(
        &mut self,
        kind: &Kind<T>,
        name: &PersonName,
        may_make: bool,
        is_unfit: impl Fn(&T) -> bool,
    ) -> Result<T, Failure> {
        say(format_args!("\n{name}, please come to the terminal."))?;
        let (path, found) = loop {
            let place = self.ask_place(name.as_str())?;
            if let Some((path, found)) = taken(kind, name, &place, &is_unfit)? {
                again(|| (kind.open)(&path, &self.passphrase))?;
                break (path, found);
            }
            if place.is_file() || !may_make {
                say(format_args!(
                    "{} is not a {} of {name}, or is in use already.",
                    place.display(),
                    kind.what
                ))?;
                continue;
            }
            let is_default = place == Path::new(".").join(name.as_str());
            // A typing error, or a stick that is not mounted.
            if !place.exists() && !is_default && !make_it(&place)? {
                continue;
            }
            let path = free(&place, name.as_str(), kind.extension);
            let made = again(|| {
                make_directory(&place)?;
                (kind.make)(&path, name.clone(), &self.passphrase)
            });
            break (path, made?);
        };
        let digits = (kind.digits)(&found);
        let fingerprint = kind.fingerprint;
        say(format_args!(
            "{name}, this is the {fingerprint} of {}.\nWrite it on your paper. It is no secret.\n{digits}",
            path.display()
        ))?;
        compared(name.as_str(), &format!("your {fingerprint}"), &digits)?;
        Ok(found)
    }

    /// Finds a file of a person whose text `is_it` takes. Asks for another place if there is none.
    pub(super) fn find<T>(
        &mut self,
        name: &str,
        what: &str,
        extension: &str,
        is_it: impl Fn(&str) -> Option<T>,
    ) -> Result<(PathBuf, T), Failure> {
        let mut place = self.known_place(name);
        loop {
            if let Some(found) = search(&place, name, extension, &is_it) {
                return Ok(found);
            }
            say(format_args!("{} does not have the {what} of {name}.", place.display()))?;
            place = self.ask_place(name)?;
        }
    }

    /// The directory of a person, without a question if it is known.
    pub(super) fn place(&mut self, name: &str) -> Result<PathBuf, Failure> {
        match self.notes.places.get(name) {
            Some(place) => Ok(place.clone()),
            None => self.ask_place(name),
        }
    }

    /// The directory of a person: the one of before, or the one that the question proposes.
    pub(super) fn known_place(&self, name: &str) -> PathBuf {
        self.notes.places.get(name).cloned().unwrap_or_else(|| Path::new(".").join(name))
    }

    pub(super) fn ask_place(&mut self, name: &str) -> Result<PathBuf, Failure> {
        let default = self.known_place(name);
        let question = format!("Directory or file of {name}");
        let place = PathBuf::from(ask_or(&question, &default.display().to_string())?);
        self.notes.places.insert(name.to_owned(), place.clone());
        self.notes.save()?;
        Ok(place)
    }
}

/// A file that is there, if the person wants to use it.
fn taken<T>(
    kind: &Kind<T>,
    name: &PersonName,
    place: &Path,
    is_unfit: impl Fn(&T) -> bool,
) -> Result<Option<(PathBuf, T)>, Failure> {
    for path in existing(place, name.as_str(), kind.extension) {
        let Some(found) = (kind.read)(&path, name).filter(|found| !is_unfit(found)) else { continue };
        let question =
            format!("{} is there.\n{} {}\nUse it?", path.display(), kind.fingerprint, (kind.digits)(&found));
        if agreed(&question)? {
            return Ok(Some((path, found)));
        }
    }
    Ok(None)
}

/// Finds a file of a person whose text `is_it` takes.
pub(super) fn search<T>(
    place: &Path,
    name: &str,
    extension: &str,
    is_it: impl Fn(&str) -> Option<T>,
) -> Option<(PathBuf, T)> {
    existing(place, name, extension).into_iter().find_map(|path| {
        let found = is_it(&issue::read(&path).ok()?)?;
        Some((path, found))
    })
}

/// Asks whether to make a directory.
fn make_it(place: &Path) -> Result<bool, Failure> {
    agreed(&format!("There is no directory {}. Is its medium mounted? Make it here?", place.display()))
}

/// Makes a directory for a person.
pub(super) fn make_directory(place: &Path) -> Result<(), Failure> {
    fs::create_dir_all(place).map_err(|error| {
        Failure::new(exit::CANNOT_CREATE, format_args!("cannot make {}: {error}", place.display()))
    })
}

/// The files NAME.EXTENSION, NAME-2.EXTENSION and so on in a directory; or the file, if the place
/// is one.
fn existing(place: &Path, name: &str, extension: &str) -> Vec<PathBuf> {
    match place.is_file() {
        true => vec![place.to_owned()],
        false => numbered(place, name, extension).filter(|path| path.exists()).collect(),
    }
}

/// The first of the files that is not there.
pub(super) fn free(place: &Path, name: &str, extension: &str) -> PathBuf {
    let mut paths = numbered(place, name, extension);
    paths.find(|path| !path.exists()).unwrap_or_else(|| place.join(name))
}

fn numbered(place: &Path, name: &str, extension: &str) -> impl Iterator<Item = PathBuf> {
    let first = place.join(format!("{name}.{extension}"));
    let others = (2..=MANY).map(move |number| place.join(format!("{name}-{number}.{extension}")));
    core::iter::once(first).chain(others)
}

/// Number of files of one kind that a person can have in a directory.
const MANY: u32 = 99;
