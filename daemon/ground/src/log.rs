//! Log lines on standard error, for people or for programs.

use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt as lines, reload};

use crate::text::{PrintableLines, printable_json};

/// Log of this process.
pub struct Log {
    level: reload::Handle<Targets, Registry>,
    is_json: Arc<AtomicBool>,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// One object of JSON in each line (RFC 8259).
    Json,
    /// Words and `name=value`.
    Text,
}

impl Log {
    /// Starts the log at level info, in text. A second log in the same process writes nothing.
    pub fn start() -> Self {
        let (level, handle) = reload::Layer::new(targets(LevelFilter::INFO));
        let is_json = Arc::new(AtomicBool::new(false));
        let format = Lines { text: Format::default().with_target(false), is_json: Arc::clone(&is_json) };
        let layer =
            lines::layer().event_format(format).with_writer(|| PrintableLines(io::stderr())).with_ansi(false);
        let _ = tracing_subscriber::registry().with(level).with(layer).try_init();
        Self { level: handle, is_json }
    }

    /// Changes the level of the log and the form of the lines.
    pub fn set(&self, level: LevelFilter, format: LogFormat) {
        // Fails only if there is no log.
        let _ = self.level.reload(targets(level));
        self.is_json.store(format == LogFormat::Json, Ordering::Relaxed);
    }
}

/// Filter: lines of Keyward from `level`, lines of libraries from warnings at most.
fn targets(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("keyward", level)
}

/// Lines in the form of the moment.
struct Lines {
    text: Format,
    is_json: Arc<AtomicBool>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !self.is_json.load(Ordering::Relaxed) {
            return self.text.format_event(context, writer, event);
        }
        let mut object = Object::new(SystemTime::now(), *event.metadata().level());
        event.record(&mut object);
        writeln!(writer, "{}", object.end())
    }
}

/// Text of an object of JSON that gets longer with each field.
struct Object(String);

impl Object {
    /// The object of an event, with its time in UTC (RFC 3339) and its level.
    fn new(time: SystemTime, level: Level) -> Self {
        let mut object = Self("{".to_owned());
        object.add("time", humantime::format_rfc3339_micros(time).to_string().into());
        object.add("level", level.as_str().to_ascii_lowercase().into());
        object
    }

    fn add(&mut self, name: &str, value: Value) {
        let comma = if self.0.len() > 1 { "," } else { "" };
        // A name that is a word of Rust, such as r#type. Writing to a string does not fail.
        let name = Value::from(name.strip_prefix("r#").unwrap_or(name));
        let _ = write!(self.0, "{comma}{name}:{value}");
    }

    fn end(self) -> String {
        printable_json(&(self.0 + "}"))
    }
}

impl Visit for Object {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field.name(), list(value, &text).unwrap_or_else(|| text.into()));
    }
}

/// The list that a field has, as JSON, given its text in Rust's notation. `None` for another value.
fn list(value: &dyn fmt::Debug, text: &str) -> Option<Value> {
    // The notation with line breaks tells a list from words that look like one, such as a message.
    let is_list = text.starts_with('[') && (text == "[]" || format!("{value:#?}") != text);
    // The notations of a list of plain strings or of numbers are the same.
    is_list.then(|| serde_json::from_str(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// The line of an event in JSON, as [`Log`] writes it.
    fn line(event: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&written);
        let format = Lines { text: Format::default(), is_json: Arc::new(AtomicBool::new(true)) };
        let layer = lines::layer()
            .event_format(format)
            .with_writer(move || PrintableLines(Shared(Arc::clone(&writer))));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, event);
        String::from_utf8(written.lock().unwrap().clone()).unwrap()
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn fields_keep_their_names_and_types() {
        let absent: Option<&str> = None;
        let text = line(|| {
            tracing::warn!(
                key = "shop",
                uid = 33,
                times = 7_u64,
                dual = true,
                absent,
                r#type = %"p256",
                roles = ?["viewer", "a\"b"],
                none = ?[0_u8; 0],
                words = %"[1]",
                "refused {}: {}",
                "a peer",
                2
            );
        });
        let (time, rest) = text.split_once("\",\"level\"").unwrap();
        assert!(time.starts_with("{\"time\":\"2") && time.ends_with('Z'), "{time}");
        assert_eq!(
            rest,
            ":\"warn\",\"message\":\"refused a peer: 2\",\"key\":\"shop\",\"uid\":33,\"times\":7,\"dual\":true,\
             \"type\":\"p256\",\"roles\":[\"viewer\",\"a\\\"b\"],\"none\":[],\"words\":\"[1]\"}\n"
        );
        let object = Object::new(UNIX_EPOCH + Duration::from_millis(1_500), Level::INFO).end();
        assert_eq!(object, "{\"time\":\"1970-01-01T00:00:01.500000Z\",\"level\":\"info\"}");
    }

    #[test]
    fn hostile_text_stays_one_line_and_comes_back_whole() {
        let hostile = "a\n{\"level\":\"error\"}\r\t\u{1b}[2J\u{202e}\u{2028}\u{9b}\"\\ \u{e9}";
        let text = line(|| tracing::info!(key = hostile, "cannot {hostile}"));
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(
            text.trim_end().chars().all(|c| c == '\u{e9}' || c.is_ascii_graphic() || c == ' '),
            "{text:?}"
        );
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["key"], &value["level"]), (&hostile.into(), &"info".into()));
        assert_eq!(value["message"], format!("cannot {hostile}"));
    }
}
