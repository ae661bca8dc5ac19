//! Searches a message for bytes.

/// True if a text contains a part.
pub(super) fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// True if a message contains two bytes side by side. Few messages outside the format do.
pub(super) fn holds_pair(message: &[u8], [first, second]: [u8; 2]) -> bool {
    // The loop has no exit, so the compiler compares many bytes at once.
    let pairs = message.iter().zip(message.get(1..).unwrap_or_default());
    pairs.fold(false, |has, (one, next)| has | ((*one == first) & (*next == second)))
}

/// True if a message contains a word, in letters of any case.
pub(super) fn holds_word(message: &[u8], word: &[u8]) -> bool {
    let [first, second, ..] = word else { return false };
    // Most messages do not contain the first two bytes of the word. The loop has no exit, so the
    // compiler compares many bytes at once.
    let is = |byte: u8, letter: u8| (byte | 0x20) == (letter | 0x20);
    let pairs = message.iter().zip(message.get(1..).unwrap_or_default());
    let may = pairs.fold(false, |may, (one, next)| may | (is(*one, *first) & is(*next, *second)));
    may && message.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}
