//! Configuration files. An accepted configuration means the same when it is printed in full. A
//! refused configuration gives one line.

use std::path::Path;

use keyward::config::Config;

/// Feeds an input to the decoder.
pub fn run(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let origin = Path::new("keyward.toml");
    match Config::parse(text, origin) {
        Ok(config) => {
            let full = config.to_effective_toml();
            assert_eq!(Config::parse(&full, origin).expect(&full), config, "{full}");
            config.warnings();
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
}
