//! Configuration files. What is accepted says the same when it is written out in full; what is not is
//! refused in one line.

#![no_main]

use std::path::Path;

use keyward::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let origin = Path::new("keyward.toml");
    match Config::parse(text, origin) {
        Ok(config) => {
            let full = config.to_effective_toml();
            assert_eq!(Config::parse(&full, origin).expect(&full), config, "{full}");
            config.warnings();
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
});
