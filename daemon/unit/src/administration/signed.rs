//! Commands with their signatures, as they travel: the text of the command, and a line for each
//! signature below it.
//!
//! ```text
//! keyward unit command 1
//! …
//! claim: 5d31…                       in a claim, HMAC-SHA-256 of the text under the claim secret
//! signature: 90ab… MIGIAkIB…         identity of the administrator, and ECDSA in base64
//! ```
//!
//! Several commands can stand in one file, one after another.

use core::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::command::{Command, FIRST_LINE, InvalidCommand, MAX_ADMINISTRATORS};
use super::person::{Person, PersonKey, Ski};

/// A command with signatures, which are not verified yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedCommand {
    command: Command,
    claim: Option<ClaimProof>,
    signatures: Vec<(Ski, Vec<u8>)>,
}

impl SignedCommand {
    /// A command without signatures.
    pub fn new(command: Command) -> Self {
        Self { command, claim: None, signatures: Vec::new() }
    }

    /// The command.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Identities of the administrators who have signed, if their signatures are genuine: each
    /// once.
    pub fn signers(&self) -> impl Iterator<Item = Ski> {
        let is_first =
            |place: usize, ski: Ski| self.signatures[..place].iter().all(|(other, _)| *other != ski);
        let all = self.signatures.iter().enumerate();
        all.filter(move |(place, (ski, _))| is_first(*place, *ski)).map(|(_, (ski, _))| *ski)
    }

    /// Adds a signature: ECDSA with SHA-512 of [`Command::to_text`], in DER.
    ///
    /// # Errors
    /// [`SignatureFault`] if the signature is not one of the key, or the key has signed.
    pub fn add(&mut self, key: &PersonKey, signature: Vec<u8>) -> Result<(), SignatureFault> {
        let ski = key.ski();
        if self.signers().any(|signer| signer == ski) {
            return Err(SignatureFault::Twice(ski));
        }
        if !key.has_signed(self.command.to_text().as_bytes(), &signature) {
            return Err(SignatureFault::Wrong(ski));
        }
        self.signatures.push((ski, signature));
        Ok(())
    }

    /// Adds the proof of a claim.
    #[must_use]
    pub fn with_claim_of(self, secret: &ClaimSecret) -> Self {
        let claim = Some(secret.proof_of(&self.command.to_text()));
        Self { claim, ..self }
    }

    /// Adds the signatures of another copy of the same command. False if it is another command.
    /// Different signatures of one administrator stay: the one that came first may be a wrong one.
    pub fn merge(&mut self, other: Self) -> bool {
        if self.command != other.command {
            return false;
        }
        self.claim = self.claim.or(other.claim);
        for signature in other.signatures {
            if !self.signatures.contains(&signature) {
                self.signatures.push(signature);
            }
        }
        true
    }

    /// True if the command has the proof of a claim with this secret.
    pub(crate) fn claims_with(&self, secret: &ClaimSecret) -> bool {
        self.claim.is_some_and(|proof| secret.verify(&self.command.to_text(), proof))
    }

    /// The number of administrators who have signed. One genuine signature of an administrator is
    /// enough: another may have come with another copy of the command.
    ///
    /// # Errors
    /// [`SignatureFault`] if a signature is of nobody in `administrators`, or an administrator has
    /// no genuine one.
    pub(crate) fn count(&self, administrators: &[Person]) -> Result<usize, SignatureFault> {
        let text = self.command.to_text();
        let mut count = 0;
        for ski in self.signers() {
            let signer = administrators.iter().find(|person| person.key.ski() == ski);
            let signer = signer.ok_or(SignatureFault::Unknown(ski))?;
            let mut of_signer = self.signatures.iter().filter(|(of, _)| *of == ski);
            if !of_signer.any(|(_, signature)| signer.key.has_signed(text.as_bytes(), signature)) {
                return Err(SignatureFault::Wrong(ski));
            }
            count += 1;
        }
        Ok(count)
    }

    /// The text of the command with its signatures.
    pub fn to_text(&self) -> String {
        let mut text = self.command.to_text();
        if let Some(ClaimProof(proof)) = &self.claim {
            text += &format!("{CLAIM}{}\n", base16ct::lower::encode_string(proof));
        }
        for (ski, signature) in &self.signatures {
            text += &format!("{SIGNATURE}{ski} {}\n", STANDARD.encode(signature));
        }
        text
    }

    /// Reads the commands in a text, one after another.
    ///
    /// # Errors
    /// [`InvalidSigned`] says which command is wrong, and where.
    pub fn read_all(text: &str) -> Result<Vec<Self>, InvalidSigned> {
        if text.len() > MAX_BUNDLE {
            return Err(InvalidSigned::Long);
        }
        // A text without the first line of a command has no command.
        let mut starts: Vec<_> = text
            .match_indices(FIRST_LINE)
            .map(|(at, _)| at)
            .filter(|at| *at == 0 || text.as_bytes().get(at - 1) == Some(&b'\n'))
            .collect();
        if starts.first() != Some(&0) {
            return Err(InvalidSigned::Command(1, InvalidCommand::NoCommand));
        }
        if starts.len() > MAX_COMMANDS {
            return Err(InvalidSigned::Long);
        }
        starts.push(text.len());
        let texts = starts.windows(2).filter_map(|bounds| text.get(bounds[0]..bounds[1]));
        texts.zip(1..).map(|(text, number)| Self::read(text, number)).collect()
    }

    fn read(text: &str, number: usize) -> Result<Self, InvalidSigned> {
        let is_signature = |line: &&str| line.starts_with(CLAIM) || line.starts_with(SIGNATURE);
        let end = text.split_inclusive('\n').take_while(|line| !is_signature(line)).map(str::len).sum();
        let (text, rest) = text.split_at(end);
        let command = Command::from_text(text).map_err(|error| InvalidSigned::Command(number, error))?;
        let mut signed = Self::new(command);
        let wrong = InvalidSigned::Signature(number);
        for line in rest.split_inclusive('\n') {
            let line = line.strip_suffix('\n').ok_or(wrong)?;
            match (line.strip_prefix(CLAIM), line.strip_prefix(SIGNATURE)) {
                (Some(proof), _) if signed.claim.is_none() && signed.signatures.is_empty() => {
                    signed.claim = Some(ClaimProof::read(proof).ok_or(wrong)?);
                }
                (_, Some(signature)) if signed.signatures.len() < MAX_SIGNATURES => {
                    signed.signatures.push(read_signature(signature).ok_or(wrong)?);
                }
                _ => return Err(wrong),
            }
        }
        Ok(signed)
    }
}

fn read_signature(text: &str) -> Option<(Ski, Vec<u8>)> {
    let (ski, signature) = text.split_once(' ')?;
    let signature = STANDARD.decode(signature).ok().filter(|bytes| bytes.len() <= MAX_SIGNATURE)?;
    Some((ski.parse().ok()?, signature))
}

/// The secret that a unit makes at its first start. Who knows the secret can claim the unit.
#[derive(Clone, Eq, PartialEq)]
pub struct ClaimSecret(String);

impl ClaimSecret {
    /// Reads a secret as it was printed. White space around it is allowed.
    pub fn from_text(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// A secret of random bytes, as hexadecimal digits in groups.
    pub(crate) fn of(bytes: [u8; 16]) -> Self {
        let digits = base16ct::lower::encode_string(&bytes);
        let groups: Vec<_> = digits.as_bytes().chunks(4).map(String::from_utf8_lossy).collect();
        Self(groups.join("-"))
    }

    /// The secret, to be shown to root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes())
    }

    fn proof_of(&self, text: &str) -> ClaimProof {
        let mut proof = [0; 32];
        proof.copy_from_slice(hmac::sign(&self.key(), text.as_bytes()).as_ref());
        ClaimProof(proof)
    }

    fn verify(&self, text: &str, ClaimProof(proof): ClaimProof) -> bool {
        hmac::verify(&self.key(), text.as_bytes(), &proof).is_ok()
    }
}

impl fmt::Debug for ClaimSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimSecret")
    }
}

/// HMAC-SHA-256 of the text of a claim under the claim secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct ClaimProof([u8; 32]);

impl ClaimProof {
    fn read(text: &str) -> Option<Self> {
        let mut proof = [0; 32];
        let read = base16ct::lower::decode(text, &mut proof).ok()?.len();
        (read == proof.len()).then_some(Self(proof))
    }
}

/// A signature that does not count.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum SignatureFault {
    /// One person has signed twice.
    #[error("the administrator {0} has signed this command already")]
    Twice(Ski),
    /// The signer is not an administrator.
    #[error("the signature is of {0}, who is not an administrator of the unit")]
    Unknown(Ski),
    /// The signature is not one of this text.
    #[error("the signature of {0} is not one of this command: the command or the signature was changed")]
    Wrong(Ski),
}

/// A text that is not a sequence of commands. The errors quote nothing of the text.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum InvalidSigned {
    /// The command of this number, from 1, is wrong.
    #[error("command {0}: {1}")]
    Command(usize, InvalidCommand),
    /// The text or the number of commands is too long.
    #[error("the commands are longer than {MAX_BUNDLE} bytes, or more than {MAX_COMMANDS}")]
    Long,
    /// A line below the command of this number is not a signature.
    #[error("command {0}: a line below the command is not a signature, or there are too many")]
    Signature(usize),
}

const CLAIM: &str = "claim: ";
const SIGNATURE: &str = "signature: ";
/// Most signatures of a command: copies of a command may have different ones of one administrator.
const MAX_SIGNATURES: usize = 4 * MAX_ADMINISTRATORS;
/// Longest signature, in bytes: two numbers of 66 bytes in DER.
const MAX_SIGNATURE: usize = 141;
/// Longest text of several commands, in bytes.
pub const MAX_BUNDLE: usize = 256 << 10;
/// Most commands in a text: a whole ceremony has some 20.
const MAX_COMMANDS: usize = 64;

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::EcdsaKeyPair;

    use super::super::command::tests::person;
    use super::super::command::{Instruction, UnitId};
    use super::*;

    fn command(counter: u64) -> Command {
        Command { unit: UnitId([1; 16]), counter, expires: 1_800_000_000, instruction: Instruction::Zeroize }
    }

    fn sign(command: &Command, pair: &EcdsaKeyPair) -> Vec<u8> {
        pair.sign(&SystemRandom::new(), command.to_text().as_bytes()).unwrap().as_ref().to_vec()
    }

    #[test]
    fn commands_and_signatures_are_read_as_they_were_written() {
        let ((alice, a), (bob, b)) = (person("alice"), person("bob"));
        let mut first = SignedCommand::new(command(1));
        first.add(&alice.key, sign(first.command(), &a)).unwrap();
        let mut copy = SignedCommand::new(command(1));
        copy.add(&bob.key, sign(copy.command(), &b)).unwrap();
        assert!(first.merge(copy.clone()) && first.merge(copy));
        let mut second = SignedCommand::new(command(2)).with_claim_of(&ClaimSecret::of([7; 16]));
        assert!(!second.merge(first.clone()));
        second.add(&bob.key, sign(second.command(), &b)).unwrap();
        let text = first.to_text() + &second.to_text();
        let read = SignedCommand::read_all(&text).unwrap();
        assert_eq!(read, [first, second]);
        assert_eq!(read[0].count(&[bob.clone(), alice]), Ok(2));
        assert_eq!(
            read[0].count(core::slice::from_ref(&bob)),
            Err(SignatureFault::Unknown(read[0].signatures[0].0))
        );
        assert_eq!(read[1].count(&[bob]), Ok(1));
    }

    #[test]
    fn a_signature_is_of_one_text_and_one_person() {
        let ((alice, a), (bob, b)) = (person("alice"), person("bob"));
        let mut signed = SignedCommand::new(command(1));
        let ski = alice.key.ski();
        assert_eq!(signed.add(&alice.key, sign(&command(2), &a)), Err(SignatureFault::Wrong(ski)));
        assert_eq!(signed.add(&alice.key, sign(&command(1), &b)), Err(SignatureFault::Wrong(ski)));
        signed.add(&alice.key, sign(&command(1), &a)).unwrap();
        assert_eq!(signed.add(&alice.key, sign(&command(1), &a)), Err(SignatureFault::Twice(ski)));
        // Two signatures of one person count once, and a wrong one beside a genuine one is nothing.
        let people = [alice.clone(), bob.clone()];
        signed.signatures.push((ski, sign(&command(1), &a)));
        signed.signatures.insert(0, (ski, sign(&command(3), &a)));
        assert_eq!(signed.count(&people), Ok(1));
        assert_eq!(signed.signers().collect::<Vec<_>>(), [ski]);
        signed.signatures.push((bob.key.ski(), sign(&command(1), &a)));
        assert_eq!(signed.count(&people), Err(SignatureFault::Wrong(bob.key.ski())));
        let mut copy = SignedCommand::new(command(1));
        copy.add(&bob.key, sign(copy.command(), &b)).unwrap();
        assert!(signed.merge(copy));
        assert_eq!(signed.count(&people), Ok(2));
        assert_eq!(SignedCommand::read_all(&signed.to_text()).unwrap(), [signed.clone()]);
        let moved = SignedCommand { command: command(2), ..signed };
        assert_eq!(moved.count(&[alice, bob]), Err(SignatureFault::Wrong(ski)));
    }

    #[test]
    fn a_claim_needs_the_secret() {
        let secret = ClaimSecret::of([0x5a; 16]);
        assert_eq!(secret.as_str(), "5a5a-5a5a-5a5a-5a5a-5a5a-5a5a-5a5a-5a5a");
        assert_eq!(format!("{secret:?}"), "ClaimSecret");
        let again = ClaimSecret::from_text(" 5a5a-5a5a-5a5a-5a5a-5a5a-5a5a-5a5a-5a5a\n");
        let signed = SignedCommand::new(command(1)).with_claim_of(&again);
        assert!(signed.claims_with(&secret) && !signed.claims_with(&ClaimSecret::of([0; 16])));
        assert!(!SignedCommand::new(command(1)).claims_with(&secret));
        let moved = SignedCommand { command: command(2), ..signed };
        assert!(!moved.claims_with(&secret));
    }

    #[test]
    fn other_texts_are_refused() {
        let (alice, a) = person("alice");
        let mut signed = SignedCommand::new(command(1));
        signed.add(&alice.key, sign(signed.command(), &a)).unwrap();
        let text = signed.to_text();
        for bad in [
            String::new(),
            format!("\n{text}"),
            text.trim_end().to_owned(),
            format!("{text}signature: x\n"),
            format!("{text}claim: {}\n", "0".repeat(64)),
            text.replace("signature: ", "signature:"),
            text.clone() + &"signature: x\n".repeat(9),
            text.repeat(65),
            format!("{text}{}", "x".repeat(MAX_BUNDLE)),
        ] {
            assert!(SignedCommand::read_all(&bad).is_err(), "{bad}");
        }
        assert_eq!(SignedCommand::read_all(&text.repeat(3)).unwrap().len(), 3);
        let second = format!("{text}{FIRST_LINE}\nunit: 0\n");
        let error = SignedCommand::read_all(&second).unwrap_err();
        assert_eq!(error, InvalidSigned::Command(2, InvalidCommand::Field("unit")));
    }
}
