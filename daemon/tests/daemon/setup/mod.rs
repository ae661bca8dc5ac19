//! `keyward setup`: each choice from the setup to a signature after a restart.

mod choices;
mod credential;
mod existing;
mod machine;
mod start;
