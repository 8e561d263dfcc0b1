//! Tables for a terminal.

/// How wide each column is, so that every row's cell fits.
pub(crate) fn widths<const N: usize>(rows: &[[String; N]]) -> [usize; N] {
    let width = |column: usize| rows.iter().map(move |row| row[column].chars().count());
    std::array::from_fn(|column| width(column).max().unwrap_or_default())
}

/// A row whose cells are as wide as their columns, two spaces between them; what is last ends where it ends.
pub(crate) fn aligned<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let cells = row.iter().zip(widths);
    let cells: Vec<_> = cells
        .map(|(cell, width)| format!("{cell:width$}"))
        .collect();
    cells.join("  ").trim_end().to_owned()
}

/// Adds a line. Names are what their authors chose: no control character of them gets to a terminal or a CI log.
pub(crate) fn line(text: &mut String, line: &str) {
    let shown = line
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    text.extend(shown);
    text.push('\n');
}
