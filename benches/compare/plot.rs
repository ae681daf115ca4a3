//! The picture in the report: for each question, one bar per server.

use std::fmt::Write as _;

use crate::record::{Answer, Record};
use crate::report::number;

const LABELS: u32 = 150;
const BARS: u32 = 430;
const FIGURES: u32 = 100;
const LINE: u32 = 20;
const HEADING: u32 = 34;

/// Draws the first figure of every question. The longest bar of a question
/// has the whole width.
pub(crate) fn svg(record: &Record) -> String {
    let (mut body, mut y) = (String::new(), 10);
    for answer in &record.answers {
        y = group(&mut body, answer, y);
    }
    let (width, height) = (LABELS + BARS + FIGURES, y + 10);
    // Colours that can be told apart on light and dark ground alike.
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Figures of each server, one group of bars per question\">\n\
         <style>text {{ font: 13px sans-serif; fill: #24292f }} .head {{ font-weight: bold }} .ours {{ fill: #0969da }} \
         .theirs {{ fill: #8c959f }} @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} }}</style>\n{body}</svg>\n"
    )
}

fn group(body: &mut String, answer: &Answer, y: u32) -> u32 {
    let Some((key, title)) = answer.metrics.first() else { return y };
    let figures: Vec<(&str, f64)> =
        answer.rows.iter().filter_map(|row| Some((row.server.as_str(), row.figures.get(key)?.median?))).collect();
    let longest = figures.iter().map(|(_, figure)| *figure).fold(0.0, f64::max);
    if longest <= 0.0 {
        return y;
    }
    let mut y = y + HEADING;
    let _ = writeln!(body, "<text class=\"head\" x=\"10\" y=\"{}\">{} — {title}</text>", y - 12, answer.name);
    for (index, (server, figure)) in figures.iter().enumerate() {
        let class = if index == 0 { "ours" } else { "theirs" };
        let length = (figure / longest * f64::from(BARS)).max(1.0);
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{server}</text>\
             <rect class=\"{class}\" x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LABELS - 8,
            y + LINE - 7,
            LINE - 5,
            f64::from(LABELS) + length + 6.0,
            y + LINE - 7,
            number(Some(*figure))
        );
        y += LINE;
    }
    y
}
