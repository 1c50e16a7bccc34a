//! Tables: columns padded to their widest cell.

use std::io::{self, Write};

/// On which side a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of text under a heading.
#[derive(Clone, Debug)]
pub struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings, which `--plain` leaves out.
    pub fn new(columns: &[(&str, Side)]) -> Self {
        Self {
            sides: columns.iter().map(|(_, side)| *side).collect(),
            rows: vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.sides.len(), "a row has a cell for each column");
        self.rows.push(cells.into());
    }

    /// Writes it aligned, heading first; no line ends in blanks.
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let widths: Vec<usize> = (0..self.sides.len())
            .map(|column| self.rows.iter().map(|row| width(&row[column])).max().unwrap_or(0))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let blanks = " ".repeat(widths[column] - width(cell));
                match self.sides[column] {
                    Side::Left => line.extend([cell, blanks.as_str(), " "]),
                    Side::Right => line.extend([blanks.as_str(), cell, " "]),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// Writes it tab-separated, without the heading.
    /// # Errors
    /// Those of `out`.
    pub fn write_plain(&self, out: &mut dyn Write) -> io::Result<()> {
        self.rows.iter().skip(1).try_for_each(|row| writeln!(out, "{}", row.join("\t")))
    }
}

/// Characters that a cell shows: colour sequences (`ESC … m`) take no room.
fn width(cell: &str) -> usize {
    let mut shown = 0;
    let mut in_sequence = false;
    for character in cell.chars() {
        match (in_sequence, character) {
            (false, '\x1b') => in_sequence = true,
            (false, _) => shown += 1,
            (true, 'm') => in_sequence = false,
            (true, _) => {}
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table =
            Table::new(&[("NODE", Side::Left), ("KEYS", Side::Right), ("P99", Side::Left)]);
        table.row(["n1".into(), "81 k".into(), "\x1b[31m1.9ms\x1b[0m".into()]);
        table.row(["node-2".into(), "7".into(), "-".into()]);
        table
    }

    #[test]
    fn columns_line_up_around_colours() {
        let mut out = Vec::new();
        sample().write(&mut out).unwrap();
        let expected = "NODE   KEYS P99\nn1     81 k \x1b[31m1.9ms\x1b[0m\nnode-2    7 -\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn plain_has_tabs_and_no_heading() {
        let mut out = Vec::new();
        sample().write_plain(&mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("\nnode-2\t7\t-\n"));
    }
}
