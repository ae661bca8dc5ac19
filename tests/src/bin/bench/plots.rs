//! Pictures (SVG) of measured tables: a dot for each round, a line at the median, and a line at the
//! goal.

use std::error::Error;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use serde_json::Value;

use super::percentile;

/// Draws the tables of a `bench.json` that have a figure to draw, each into a file of the
/// directory with the name of its part. Returns the paths.
///
/// # Errors
/// A table has no rows or no such figure, or a file cannot be written.
pub(crate) fn draw(results: &Value, directory: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let parts = results["parts"].as_array().into_iter().flatten();
    let drawn = parts.filter_map(|part| Some((part, part["drawn"].as_str()?)));
    drawn
        .map(|(part, figure)| {
            let name = part["part"].as_str().ok_or("a part without a name")?;
            let path = directory.join(format!("{name}.svg"));
            Picture::new(part, figure)?.draw(&path)?;
            Ok(path)
        })
        .collect()
}

struct Picture<'a> {
    title: &'a str,
    figure: &'a str,
    rows: Vec<Row>,
}

struct Row {
    /// Text of the cells before the first number.
    name: String,
    rounds: Vec<f64>,
    goal: Option<f64>,
}

impl<'a> Picture<'a> {
    fn new(part: &'a Value, figure: &'a str) -> Result<Self, Box<dyn Error>> {
        let columns = part["columns"].as_array().ok_or("no columns")?;
        let goal = columns.iter().position(|column| column == "goal");
        let rows = part["rows"].as_array().ok_or("no rows")?.iter().map(|row| {
            let cells = row["cells"].as_array().ok_or("no cells")?;
            let words: Vec<_> = cells.iter().map_while(Value::as_str).collect();
            let rounds = row["rounds"].as_array().ok_or("no rounds")?.iter();
            let rounds: Option<Vec<f64>> = rounds.map(|round| round[figure].as_f64()).collect();
            let rounds = rounds.filter(|rounds| !rounds.is_empty()).ok_or("a round without the figure")?;
            Ok::<_, Box<dyn Error>>(Row {
                name: words.join(", "),
                rounds,
                goal: goal.and_then(|goal| cells.get(goal)?.as_f64()),
            })
        });
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        if rows.is_empty() {
            return Err("a table without a row".into());
        }
        let title = part["title"].as_str().and_then(|title| title.split(';').next()).unwrap_or_default();
        Ok(Self { title, figure, rows })
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let all = || self.rows.iter().flat_map(|row| row.rounds.iter().copied().chain(row.goal));
        let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
        let space = ((most - least) / 20.0).max(f64::EPSILON);
        let count = self.rows.len();
        let height = HEIGHT_OF_ROW * u32::try_from(count)? + HEIGHT_AROUND;
        let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 19))
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(110)
            .build_cartesian_2d(least - space..most + space, (0..count - 1).into_segmented())?;
        // The first row of the table is at the top.
        let row = |position: usize| self.rows.iter().rev().nth(position);
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_max_light_lines(1)
            .label_style(("sans-serif", 16))
            .axis_desc_style(("sans-serif", 16))
            .x_desc(format!("{}: a dot for each round, black: median, red: goal", self.figure))
            .y_labels(count)
            .y_label_formatter(&|segment| match segment {
                SegmentValue::CenterOf(position) => {
                    row(*position).map_or_else(String::new, |row| row.name.clone())
                }
                _ => String::new(),
            })
            .draw()?;
        for (position, row) in self.rows.iter().rev().enumerate() {
            let middle = SegmentValue::CenterOf(position);
            let dot = |figure: &f64| Circle::new((*figure, middle.clone()), 4, BLUE.mix(0.25).filled());
            chart.draw_series(row.rounds.iter().map(dot))?;
            let line = |figure, color: RGBColor| {
                let above =
                    if position + 1 < count { SegmentValue::Exact(position + 1) } else { SegmentValue::Last };
                let ends = [SegmentValue::Exact(position), above];
                PathElement::new(ends.map(|end| (figure, end)), color.stroke_width(2))
            };
            let median = line(percentile(50, &row.rounds, |figure| *figure), BLACK);
            chart.draw_series(row.goal.map(|goal| line(goal, RED)).into_iter().chain([median]))?;
        }
        area.present()?;
        Ok(())
    }
}

/// Sizes in pixels.
const WIDTH: u32 = 800;
const HEIGHT_OF_ROW: u32 = 32;
const HEIGHT_AROUND: u32 = 110;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The pictures of the documentation are of the figures that are kept beside them.
    #[test]
    fn the_pictures_show_the_kept_figures() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/figures");
        let figures = fs::read_to_string(kept.join("bench.json")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let pictures = draw(&serde_json::from_str(&figures).unwrap(), directory.path()).unwrap();
        assert!(!pictures.is_empty());
        for picture in pictures {
            let known = kept.join(picture.file_name().unwrap());
            assert_eq!(
                fs::read_to_string(&picture).unwrap(),
                fs::read_to_string(&known).unwrap(),
                "{known:?}"
            );
        }
    }
}
