//! Tables of measurements: printed for people, and kept as JSON with the figure of each round.

use std::fs;
use std::path::PathBuf;

use keyward_tests::target;
use serde_json::{Value, json};

/// Tables of one run of the program.
pub(crate) struct Results {
    about: Value,
    parts: Vec<Value>,
}

/// One table.
pub(crate) struct Table {
    part: &'static str,
    title: String,
    columns: Vec<(String, usize)>,
    rows: Vec<Value>,
}

/// Cell of a table.
pub(crate) enum Cell {
    Text(String),
    /// Number, and the digits after its decimal point.
    Number(f64, usize),
    /// There is nothing to measure.
    None,
}

impl Results {
    /// Results of a build on this machine. `about` has names and texts.
    pub(crate) fn new(about: &[(&str, String)]) -> Self {
        let about = about.iter().map(|(name, text)| ((*name).to_owned(), text.as_str().into())).collect();
        Self { about: Value::Object(about), parts: Vec::new() }
    }

    /// Keeps a table.
    pub(crate) fn keep(&mut self, table: Table) {
        let columns: Vec<_> = table.columns.iter().map(|(name, _)| name).collect();
        let Table { part, title, rows, .. } = &table;
        self.parts.push(json!({ "part": part, "title": title, "columns": columns, "rows": rows }));
    }

    /// Writes all tables to a file, and returns its path. Without a table, writes nothing.
    pub(crate) fn write(&self) -> Option<PathBuf> {
        if self.parts.is_empty() {
            return None;
        }
        let path = target().join("bench.json");
        let text = serde_json::to_string_pretty(&json!({ "about": self.about, "parts": self.parts }));
        fs::write(&path, text.expect("JSON")).expect("target/bench.json");
        Some(path)
    }
}

impl Table {
    /// Begins a table and prints its head. `columns` are names and widths; the first one is to the
    /// left.
    pub(crate) fn new(part: &'static str, title: String, columns: Vec<(String, usize)>) -> Self {
        println!("{title}\n");
        print_line(&columns, |(name, _)| name.clone());
        Self { part, title, columns, rows: Vec::new() }
    }

    /// Adds a row and prints it. `rounds` are the figures of each round, from which the row is
    /// made.
    pub(crate) fn add(&mut self, cells: &[Cell], rounds: &Value) {
        let mut cell = cells.iter();
        print_line(&self.columns, |_| cell.next().map(Cell::text).unwrap_or_default());
        let named = self.columns.iter().zip(cells).map(|((name, _), cell)| (name.clone(), cell.json()));
        self.rows.push(json!({ "cells": Value::Object(named.collect()), "rounds": rounds }));
    }
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number, digits) => format!("{number:.digits$}"),
            Self::None => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number, _) => (*number).into(),
            Self::None => Value::Null,
        }
    }
}

fn print_line(columns: &[(String, usize)], mut text: impl FnMut(&(String, usize)) -> String) {
    let mut line = String::new();
    for (number, column) in columns.iter().enumerate() {
        let (text, width) = (text(column), column.1);
        line += &if number == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") };
    }
    println!("{}", line.trim_end());
}
