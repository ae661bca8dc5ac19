//! People at one table: `keyward unit ceremony` on a terminal.

use std::fs;
use std::path::PathBuf;

use keyward_proto::Outcome;
use rustix::process::Signal;

use crate::ceremony::{Ceremony, write_passphrase};
use crate::fixture::has_root;
use crate::terminal::Terminal;

/// People at the terminal, and their paper.
struct Table {
    terminal: Terminal,
    unit_key: String,
}

impl Table {
    fn at(ceremony: &Ceremony, more: &[&str]) -> Self {
        let home = home(ceremony);
        fs::create_dir_all(&home).unwrap();
        let runtime = ceremony.path("run");
        let words = [&["unit", "ceremony", "--runtime-dir", &runtime], more].concat();
        let unit_key = ceremony.status()["unit_key"].as_str().unwrap().to_owned();
        Self { terminal: Terminal::run(&home, &words), unit_key }
    }

    fn answer(&mut self, question: &str, answer: &str) -> String {
        self.terminal.answer(question, answer)
    }

    /// Types the first digits of the last pattern on the screen, which a person has written down.
    fn compare(&mut self, what: &str) -> String {
        let shown = self.terminal.await_words(&format!("digits of {what}, from the paper: "));
        let is_pattern = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digits = shown.split_whitespace().rfind(is_pattern).unwrap().to_owned();
        self.terminal.type_keys(&format!("{}\n", &digits[..8]));
        digits
    }

    fn compare_unit_key(&mut self) {
        let digits = self.unit_key[..8].to_owned();
        self.answer("digits of the unit key, from the paper: ", &digits);
    }

    /// A person makes a file with a passphrase. Returns the fingerprint.
    fn make(&mut self, name: &str, fingerprint: &str) -> String {
        self.answer(&format!("Directory or file of {name}"), "");
        self.passphrase("Passphrase of", name);
        self.passphrase("Once more, the passphrase of", name);
        self.compare(&format!("your {fingerprint}"))
    }

    /// A person takes a part that is there.
    fn take(&mut self, name: &str, place: &str) {
        self.answer(&format!("Directory or file of {name}"), place);
        self.answer("Use it? (yes or no):", "yes");
        self.compare("your pattern");
    }

    fn passphrase(&mut self, question: &str, name: &str) {
        self.terminal.await_words(question);
        self.answer(": ", &passphrase_of(name));
    }

    fn sign(&mut self, question: &str, names: &[&str]) {
        self.answer(question, &names.join(" "));
        for name in names {
            self.terminal.await_words(&format!("{name}, please come to the terminal, and sign."));
            self.passphrase("Passphrase of", name);
        }
    }

    /// Alice, bob and carol claim the unit. Two of them sign.
    fn claim(&mut self) {
        self.compare_unit_key();
        self.answer("Names of the administrators", "alice bob carol");
        self.answer("How many must sign, 1 to 3 [2]:", "");
        self.answer("the removal of one, 1 to 3 [2]:", "2");
        for name in ["alice", "bob", "carol"] {
            self.make(name, "identity");
        }
        self.sign("Who signs, 2 of 3 [alice bob]:", &["alice", "carol"]);
        self.terminal.await_words("carried out the command 1: claim");
    }

    fn bring(&mut self, name: &str) {
        self.answer("Which owner comes now", name);
        self.compare_unit_key();
        self.passphrase("Passphrase of", name);
        self.terminal.await_words(&format!("has taken the part of {name}"));
    }

    fn agree(&mut self) -> String {
        let pattern = self.compare("the pattern");
        self.sign("Who signs, 2 of 3", &["bob", "carol"]);
        self.sign("Who signs, 1 of 3", &["bob"]);
        pattern
    }

    /// Waits for the end of a program that was sent Ctrl-C. The terminal shows again what is typed.
    fn interrupted(self) -> String {
        let (status, shown) = self.terminal.end();
        assert!(status.code() == Some(130) && shown.contains("echo is on"), "{status}: {shown}");
        shown
    }

    /// Waits for the good end. Nothing of a passphrase was on the screen.
    fn end(self) {
        let screen = self.terminal.screen().to_owned();
        // A bar of progress is drawn over the one before, which is erased.
        let mut lines = screen.lines().flat_map(|line| line.split("\u{1b}[2K"));
        let wide = lines.find(|line| line.chars().count() > 80);
        assert_eq!(wide, None);
        let (status, shown) = self.terminal.end();
        assert!(status.success() && shown.contains("The record is in"), "{status}: {screen}{shown}");
        assert!(shown.contains("echo is on"), "{shown}");
        assert!(!(screen + &shown).contains("six random words"), "echo");
    }
}

fn passphrase_of(name: &str) -> String {
    format!("six random words of {name}")
}

fn home(ceremony: &Ceremony) -> PathBuf {
    ceremony.path("people").into()
}

/// The text of the only record.
fn record(ceremony: &Ceremony) -> String {
    let files = fs::read_dir(home(ceremony)).unwrap().map(|entry| entry.unwrap().path());
    let (records, others): (Vec<_>, Vec<_>) = files
        .filter(|path| path.is_file())
        .partition(|path| path.extension().is_some_and(|end| end == "txt"));
    assert!(records.len() == 1 && others.is_empty(), "{records:?} {others:?}");
    fs::read_to_string(&records[0]).unwrap()
}

#[test]
fn people_at_one_table_make_a_master_key_and_change_it() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::unowned();
    let mut table = Table::at(&ceremony, &[]);
    table.claim();
    table.answer("Parts or shares [parts]:", "");
    table.answer("Names of the owners of the parts", "dave erin frank");
    let mut parts: Vec<_> = ["dave", "erin"].map(|name| table.make(name, "pattern")).into();
    // Two passphrases that differ, and digits that are not on the paper.
    table.answer("Directory or file of frank", "");
    table.passphrase("Passphrase of", "frank");
    table.passphrase("Once more, the passphrase of", "grace");
    table.terminal.await_words("passphrases differ");
    table.answer("Press Enter to try again", "");
    table.passphrase("Passphrase of", "frank");
    table.passphrase("Once more, the passphrase of", "frank");
    table.answer("digits of your pattern, from the paper: ", "00000000");
    table.terminal.await_words("These are not the first 8 digits of your pattern");
    parts.push(table.compare("your pattern"));
    table.sign("Who signs, 1 of 3", &["bob"]);
    let shown = table.answer("Which owner comes now [dave]:", "mallory");
    assert!(shown.contains("waits for parts") && shown.contains("dave, erin, frank"), "{shown}");
    table.terminal.await_words("./mallory has no part or share of mallory");
    table.answer("Directory or file of mallory", "./erin/erin.part");
    table.compare_unit_key();
    table.passphrase("Passphrase of", "mallory");
    table.terminal.await_words("This did not work");
    table.bring("erin");
    table.bring("dave");
    table.bring("frank");
    let shown = table.terminal.await_words("== Agree to the master key");
    assert!(shown.contains("uncommitted") && shown.contains("2 administrators, to agree"), "{shown}");
    let pattern = table.agree();
    table.end();
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert_eq!(ceremony.outcome(), Outcome::Done);

    let text = record(&ceremony);
    let status = ceremony.status();
    assert_eq!(status["current"]["pattern"], pattern);
    for fact in ["unit", "unit_key"].map(|name| status[name].as_str().unwrap()) {
        assert!(text.contains(fact), "{fact}: {text}");
    }
    for person in status["administrators"].as_array().unwrap() {
        let row = format!("  {:12} {}\n", person["name"].as_str().unwrap(), person["ski"].as_str().unwrap());
        assert!(text.contains(&row), "{row}: {text}");
    }
    for (name, part) in ["dave", "erin", "frank"].into_iter().zip(&parts) {
        assert!(text.contains(&format!("  {name:12} {part}\n")), "{name}: {text}");
        assert!(text.contains(&format!("\n{name} ")), "a line to sign: {text}");
    }
    for (counter, command, signers) in [
        (1, "claim", "alice, carol"),
        (2, "load-parts", "bob"),
        (3, "commit", "bob, carol"),
        (4, "activate", "bob"),
    ] {
        let line = text.lines().find(|line| line.starts_with(&format!("  {counter} "))).expect(&text);
        assert!(line.contains(command) && line.ends_with(&format!("signed by {signers}")), "{line}");
    }
    let version = ceremony.daemon.succeed(&["--version"]);
    assert!(text.contains(&format!("Software    {}", version.trim())), "{version}: {text}");
    assert!(text.contains(&format!("pattern      {pattern}")) && text.contains("last record "), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(!text.contains("random words") && !text.contains("secret"), "{text}");

    // A record is not overwritten, and the people change the master key.
    fs::write(home(&ceremony).join("other.txt"), "").unwrap();
    let (status, shown) = Table::at(&ceremony, &["--record", "other.txt"]).terminal.end();
    assert!(status.code() == Some(73) && shown.contains("name another one with --record"), "{shown}");
    let mut table = Table::at(&ceremony, &[]);
    table.compare_unit_key();
    table.answer("has a master key in force. Change it?", "yes");
    table.answer("Parts or shares [parts]:", "parts");
    table.answer("Names of the owners of the parts", "dave grace");
    // Dave has the part of the old master key, which would not do.
    let new = table.make("dave", "pattern");
    assert!(home(&ceremony).join("dave/dave-2.part").exists() && new != parts[0]);
    table.make("grace", "pattern");
    table.sign("Who signs, 1 of 3", &["carol"]);
    table.bring("grace");
    table.bring("dave");
    let shown = table.terminal.await_words("== Agree to the master key");
    assert!(shown.contains("valid") && shown.contains(&pattern[..8]), "{shown}");
    let pattern = table.compare("the pattern");
    table.sign("Who signs, 2 of 3", &["alice", "carol"]);
    table.terminal.await_words("1 keys are wrapped by the new master key");
    table.sign("Who signs, 1 of 3", &["alice"]);
    table.end();
    assert_eq!(ceremony.status()["current"]["pattern"], pattern);
    assert_eq!(ceremony.outcome(), Outcome::Done);
    let files = fs::read_dir(home(&ceremony)).unwrap().map(|entry| entry.unwrap().path());
    let second = files.filter(|path| path.to_string_lossy().ends_with("-2.txt")).last().unwrap();
    let text = fs::read_to_string(second).unwrap();
    assert!(text.contains(&pattern) && text.contains("  5    ") && !text.contains("  4    "), "{text}");
    let wkid = ceremony.status()["current"]["wkid"].as_str().unwrap().to_owned();
    assert!(text.contains("before 5: the audit trail has them") && text.contains(&wkid), "{text}");
    lost_unit(ceremony, &wkid);
}

/// The machine is lost, and the key store is back without the directory of the unit: the owners
/// bring the same parts.
fn lost_unit(mut ceremony: Ceremony, wkid: &str) {
    // The backup names the parts that belong to it.
    let copied = ceremony.daemon.succeed(&["backup", &ceremony.path("copy")]);
    let parts = ceremony.status()["current"]["parts"].clone();
    let mut parts = parts.as_array().unwrap().iter().map(|part| part.as_str().unwrap());
    assert!(copied.contains(wkid) && parts.all(|part| copied.contains(part)), "{copied}");
    ceremony.daemon.end(Signal::TERM);
    fs::remove_dir_all(ceremony.daemon.path("state/unit")).unwrap();
    ceremony.start();
    let mut table = Table::at(&ceremony, &[]);
    table.compare_unit_key();
    table.answer("Names of the administrators", "alice bob carol");
    table.answer("How many must sign, 1 to 3 [2]:", "");
    table.answer("the removal of one, 1 to 3 [2]:", "2");
    for name in ["alice", "bob", "carol"] {
        table.answer(&format!("Directory or file of {name}"), "");
        table.answer("Use it? (yes or no):", "yes");
        table.passphrase("Passphrase of", name);
        table.compare("your identity");
    }
    table.sign("Who signs, 2 of 3 [alice bob]:", &["alice", "carol"]);
    // Nobody makes a new part. The parts of the first master key are not those of the second.
    let shown = table.terminal.await_words("Names of the owners of the parts");
    assert!(shown.contains(&format!("The key store has keys of the master key {wkid}")), "{shown}");
    table.terminal.type_keys("dave grace\n");
    table.answer("Directory or file of dave", "./nobody");
    table.terminal.await_words("./nobody is not a part of dave");
    table.take("dave", "./dave/dave.part");
    table.take("grace", "");
    table.sign("Who signs, 1 of 3", &["bob"]);
    table.bring("grace");
    table.bring("dave");
    table.answer("Clear the new register, and bring the former parts?", "yes");
    table.sign("Who signs, 1 of 3", &["bob"]);
    table.answer("Names of the owners of the parts", "dave grace");
    table.take("dave", "./dave/dave-2.part");
    table.take("grace", "");
    table.sign("Who signs, 1 of 3", &["bob"]);
    table.bring("grace");
    table.bring("dave");
    table.agree();
    table.end();
    assert_eq!(ceremony.outcome(), Outcome::Done);
}

#[test]
fn an_interrupted_ceremony_goes_on_where_it_was() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::unowned();
    let mut table = Table::at(&ceremony, &[]);
    table.claim();
    table.answer("Parts or shares [parts]:", "");
    table.answer("Names of the owners of the parts", "dave erin");
    table.make("dave", "pattern");
    table.make("erin", "pattern");
    table.sign("Who signs, 1 of 3", &["bob"]);
    table.bring("dave");
    // Ctrl-C while erin types the passphrase.
    table.answer("Which owner comes now [erin]:", "");
    table.compare_unit_key();
    table.terminal.await_words("Passphrase of");
    table.terminal.await_words(": ");
    assert!(!table.terminal.has_echo());
    table.terminal.type_keys("half a passphrase\u{3}");
    let shown = table.interrupted();
    assert!(!shown.contains("half"), "{shown}");

    // The unit waits for erin only. A restart loses the part of dave, so the parts come once more.
    let mut table = Table::at(&ceremony, &[]);
    table.compare_unit_key();
    table.terminal.await_words("Which owner comes now [erin]:");
    table.terminal.type_keys("\u{3}");
    table.interrupted();
    ceremony.restart();
    let mut table = Table::at(&ceremony, &[]);
    table.compare_unit_key();
    table.answer("Parts or shares [parts]:", "");
    table.answer("Names of the owners of the parts", "dave erin");
    ["dave", "erin"].iter().for_each(|name| table.take(name, ""));
    table.sign("Who signs, 1 of 3", &["carol"]);
    table.bring("erin");
    table.bring("dave");
    // Ctrl-C at a question.
    table.terminal.await_words("digits of the pattern, from the paper: ");
    table.terminal.type_keys("\u{3}");
    table.interrupted();
    let mut table = Table::at(&ceremony, &[]);
    table.compare_unit_key();
    let pattern = table.compare("the pattern");
    table.sign("Who signs, 2 of 3", &["bob", "carol"]);
    table.answer("Who signs, 1 of 3", "alice");
    table.terminal.await_words("Passphrase of");
    let screen = table.terminal.screen().to_owned();
    assert!(
        screen.contains("committed") && screen.contains("1 administrator, to put it in force"),
        "{screen}"
    );
    // The terminal is lost, and the notes as well: the directories have other names.
    drop(table);
    let unit = ceremony.status()["unit"].as_str().unwrap().to_owned();
    fs::remove_file(home(&ceremony).join(format!("ceremony-{unit}.notes"))).unwrap();
    fs::rename(home(&ceremony).join("alice"), home(&ceremony).join("stick")).unwrap();
    let mut table = Table::at(&ceremony, &[]);
    table.compare_unit_key();
    table.answer("Who signs, 1 of 3", "alice");
    table.terminal.await_words("./alice does not have the key of alice");
    table.answer("Directory or file of alice", "stick");
    table.passphrase("Passphrase of", "alice");
    table.end();
    assert_eq!(ceremony.status()["current"]["pattern"], pattern);
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let text = record(&ceremony);
    assert!(text.contains("  5    ") && text.contains("activate") && !text.contains("  4    "), "{text}");
}

#[test]
fn owners_of_shares_take_them_home() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::unowned();
    // The paper is of another unit.
    let mut table = Table::at(&ceremony, &[]);
    for _ in 0..3 {
        table.answer("digits of the unit key, from the paper: ", "");
    }
    let (status, shown) = table.terminal.end();
    assert!(
        status.code() == Some(65)
            && shown.contains("the paper and the screen differ")
            && shown.contains("goes on with"),
        "{shown}"
    );

    let mut table = Table::at(&ceremony, &["--record", "record.txt"]);
    table.claim();
    table.answer("Parts or shares [parts]:", "both");
    table.answer("Parts or shares [parts]:", "shares");
    table.answer("Names of the owners of the shares", "dave dave");
    table.terminal.await_words("dave is there twice");
    // An owner who is an administrator has two files.
    table.answer("Names of the owners of the shares", "dave erin alice");
    table.answer("How many owners are enough, 2 to 3 [2]:", "2");
    for name in ["dave", "erin", "alice"] {
        table.make(name, "identity");
    }
    table.sign("Who signs, 2 of 3", &["alice", "bob"]);
    let shares = ["dave", "erin", "alice"].map(|_| table.compare("the pattern"));
    // After an interruption, the record has the signers of before, and nobody takes a share twice.
    table.terminal.await_words("digits of the pattern, from the paper: ");
    table.terminal.type_keys("\u{3}");
    table.interrupted();
    let mut table = Table::at(&ceremony, &["--record", "record.txt"]);
    table.compare_unit_key();
    let pattern = table.agree();
    table.end();
    assert_eq!(ceremony.status()["current"]["pattern"], pattern);
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let text = record(&ceremony);
    assert!(text.contains("Owners: 2 of 3 make the master key"), "{text}");
    for line in ["claim            signed by alice, carol\n", "generate-shares  signed by alice, bob\n"] {
        assert!(text.contains(line), "{text}");
    }
    for (name, share) in ["dave", "erin", "alice"].into_iter().zip(&shares) {
        assert!(text.contains(&format!("  {name:12} {share}\n")), "{name}: {text}");
    }

    // After a start, the owners come to the same terminal.
    ceremony.restart();
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed);
    let mut table = Table::at(&ceremony, &[]);
    table.compare_unit_key();
    table.answer("Which owner comes now? Name:", "alice");
    table.compare_unit_key();
    table.passphrase("Passphrase of", "alice");
    table.answer("Which owner comes now? Name:", "erin");
    table.compare_unit_key();
    table.passphrase("Passphrase of", "erin");
    table.answer("Change it?", "no");
    let (status, shown) = table.terminal.end();
    assert!(status.success() && shown.contains("The master key stays as it is"), "{shown}");
    assert_eq!(ceremony.outcome(), Outcome::Done);
    assert_eq!(record(&ceremony), text, "no notes are left");
}

#[test]
fn a_ceremony_ends_if_the_unit_is_replaced() {
    if !has_root() {
        return;
    }
    let ceremony = Ceremony::unowned();
    let mut table = Table::at(&ceremony, &[]);
    table.claim();
    table.answer("Parts or shares [parts]:", "");
    table.answer("Names of the owners of the parts", "dave erin");
    table.make("dave", "pattern");
    // Meanwhile somebody erases the unit, which has another key then.
    let (key, passphrase) = (home(&ceremony).join("alice/alice.key"), ceremony.path("passphrase"));
    write_passphrase(passphrase.as_ref(), &passphrase_of("alice"));
    let words =
        ["unit", "zeroize", "--yes", "--key", key.to_str().unwrap(), "--passphrase-file", &passphrase];
    ceremony.daemon.succeed(&words);
    table.make("erin", "pattern");
    let (status, shown) = table.terminal.end();
    assert!(status.code() == Some(77) && shown.contains("was erased or replaced"), "{status}: {shown}");
}

#[test]
fn a_ceremony_needs_a_terminal() {
    let ceremony = Ceremony::unowned();
    let (status, line) = ceremony.daemon.fail(&["unit", "ceremony"]);
    assert!(
        status == 64 && line.contains("needs a terminal") && line.contains("keyward unit --help"),
        "{line}"
    );
    ceremony.daemon.succeed(&["unit", "--help"]);
}
