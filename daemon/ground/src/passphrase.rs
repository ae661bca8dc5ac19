//! Passphrases that guesses may find.

/// True for a passphrase that guesses may find. White space around it does not count.
pub fn is_short(passphrase: &[u8]) -> bool {
    passphrase.trim_ascii().len() < SHORT
}

/// Advice for a passphrase that [`is_short`].
pub const ADVICE: &str = "take one of at least 16 characters, such as six random words";

/// Length of a passphrase, in bytes, below which guesses may find it.
const SHORT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_followed_with_sixteen_characters() {
        assert!(ADVICE.contains(&format!(" {SHORT} ")));
        assert!(is_short(b" fifteen chars..\n") && !is_short(b"sixteen chars...\n"));
    }
}
