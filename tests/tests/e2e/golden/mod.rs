//! Interfaces as the files in `tests/golden` have them.

mod json;
mod protocol;
