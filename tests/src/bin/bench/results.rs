//! Tables of measurements: printed for people, and kept as JSON with the figures of each round.

use std::fs;
use std::path::PathBuf;

use keyward_tests::target;
use serde_json::{Value, json};

use super::plots;

/// Tables of one run of the program.
pub(crate) struct Results {
    about: Value,
    parts: Vec<Value>,
}

/// One table.
pub(crate) struct Table {
    part: &'static str,
    title: String,
    /// Names and widths.
    columns: Vec<(String, usize)>,
    /// Figure of the rounds that is drawn.
    drawn: Option<&'static str>,
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
        let Table { part, title, drawn, rows, .. } = &table;
        self.parts
            .push(json!({ "part": part, "title": title, "columns": columns, "drawn": drawn, "rows": rows }));
    }

    /// Writes all tables to `bench.json` and draws them beside it. Returns the paths.
    pub(crate) fn write(&self) -> Vec<PathBuf> {
        let path = target().join("bench.json");
        let results = json!({ "about": self.about, "parts": self.parts });
        fs::write(&path, serde_json::to_string_pretty(&results).expect("JSON")).expect("target/bench.json");
        // A figure may be no number. Other parts are still to be measured.
        let pictures = plots::draw(&results, &target()).unwrap_or_else(|error| {
            eprintln!("bench: cannot draw the tables: {error}");
            Vec::new()
        });
        [path].into_iter().chain(pictures).collect()
    }
}

impl Table {
    /// Begins a table and prints its head. `columns` are names and widths; the first one is to the
    /// left. The title may have several parts, each after a semicolon.
    pub(crate) fn new(part: &'static str, title: String, columns: &[(&str, usize)]) -> Self {
        println!("{}\n", title.replace("; ", ";\n"));
        let columns: Vec<_> = columns.iter().map(|(name, width)| ((*name).to_owned(), *width)).collect();
        print_line(&columns, |(name, _)| name.clone());
        Self { part, title, columns, drawn: None, rows: Vec::new() }
    }

    /// Has a picture drawn of the table: this figure of each round.
    pub(crate) fn drawn(self, figure: &'static str) -> Self {
        Self { drawn: Some(figure), ..self }
    }

    /// Adds a row and prints it. `rounds` are the figures of each round, from which the row is
    /// made.
    pub(crate) fn add(&mut self, cells: &[Cell], rounds: Vec<Value>) {
        let mut cell = cells.iter();
        print_line(&self.columns, |_| cell.next().map(Cell::text).unwrap_or_default());
        let cells: Vec<_> = cells.iter().map(Cell::json).collect();
        self.rows.push(json!({ "cells": cells, "rounds": rounds }));
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
