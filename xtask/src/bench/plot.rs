//! The results as an SVG: a panel of bars for each scenario.

use std::fmt::Write as _;

use super::peer::Peer;
use super::scenario::Scenario;
use super::stats::{Column, Results};

/// Panels beside each other.
const ACROSS: usize = 3;
/// All in pixels.
const PANEL: usize = 370;
const LABEL: usize = 92;
const BAR: usize = 170;
const ROW: usize = 17;
const HEAD: usize = 46;

/// What less of is better, of all scenarios that have it; a bar is a median, the line on it reaches from least to most.
pub(super) fn svg(results: &Results, scenarios: &[Scenario]) -> String {
    let columns: Vec<_> = scenarios
        .iter()
        .filter_map(|scenario| {
            let column = results.column(*scenario, scenario.plotted()?);
            (!column.spreads.is_empty()).then_some((*scenario, column))
        })
        .collect();
    let rows = columns.iter().map(|(_, column)| column.spreads.len());
    let height = HEAD + ROW * (rows.max().unwrap_or(0) + 1);
    let lines = columns.len().div_ceil(ACROSS);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        PANEL * ACROSS,
        height * lines,
    );
    for (index, (scenario, column)) in columns.iter().enumerate() {
        let (x, y) = (index % ACROSS * PANEL, index / ACROSS * height);
        let _ = writeln!(text, "<g transform=\"translate({x},{y})\">");
        panel(&mut text, *scenario, column);
        text += "</g>\n";
    }
    text + "</svg>\n"
}

fn panel(text: &mut String, scenario: Scenario, column: &Column) {
    let (title, details) = scenario
        .title()
        .split_once(": ")
        .unwrap_or((scenario.title(), ""));
    let figure = column.figure.title;
    let _ = writeln!(
        text,
        "<text x=\"8\" y=\"18\" font-weight=\"bold\">{title}: {figure}</text>\n\
         <text x=\"8\" y=\"33\" fill=\"#666\">{details}</text>"
    );
    let most = column.spreads.values().map(|spread| spread.max);
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    let pixels = |value: f64| value / most * BAR as f64;
    for (row, (peer, spread)) in column.spreads.iter().enumerate() {
        let y = HEAD + row * ROW;
        let middle = y + ROW / 2 - 1;
        let color = match peer {
            Peer::Nodetls => "#1a7f37",
            peer if peer.is_floor() => "#d0d7de",
            _ => "#6e9fd4",
        };
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{peer}</text>\n\
             <rect x=\"{LABEL}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{color}\"/>\n\
             <path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#000\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LABEL - 4,
            y + ROW - 6,
            pixels(spread.median),
            ROW - 3,
            LABEL as f64 + pixels(spread.min),
            LABEL as f64 + pixels(spread.max),
            LABEL as f64 + pixels(spread.max) + 5.0,
            y + ROW - 6,
            column.figure.text(spread.median),
        );
    }
}
