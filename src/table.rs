//! Columns for people.

use serde_json::Value;

/// A heading and rows of cells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the heading are dropped.
    pub fn row(&mut self, mut cells: Vec<String>) {
        cells.truncate(self.heading.len());
        self.rows.push(cells.iter().map(|cell| plain_line(cell)).collect());
    }

    /// One row a record: each column is the field with this name, in the order given.
    pub fn of_records(columns: &[(&'static str, &str)], records: &[Value]) -> Self {
        let headings: Vec<_> = columns.iter().map(|(heading, _)| *heading).collect();
        let mut table = Self::new(&headings);
        for record in records {
            table.row(columns.iter().map(|(_, field)| cell(record.get(field).unwrap_or(&Value::Null))).collect());
        }
        table
    }

    /// A record as one row a field.
    pub fn of_fields(record: &Value) -> Self {
        let mut table = Self::new(&["FIELD", "VALUE"]);
        for (key, value) in record.as_object().into_iter().flatten() {
            table.row(vec![key.clone(), cell(value)]);
        }
        table
    }

    /// The text: columns two spaces apart, nothing behind the last cell of a line.
    pub fn render(&self) -> String {
        let heading: Vec<String> = self.heading.iter().map(ToString::to_string).collect();
        let lines = || std::iter::once(&heading).chain(&self.rows);
        let width = |column: usize| lines().filter_map(|cells| cells.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..heading.len()).map(|column| width(column).unwrap_or_default()).collect();
        let mut text = String::new();
        for cells in lines() {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            text.push_str(padded.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// A value in a cell: text as it is, a list of things as their number.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().any(Value::is_object) => items.len().to_string(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// The text in one line that no terminal takes for a command.
pub fn plain_line(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_with_their_text() {
        let records = [json!({"id": "a", "items": [{}, {}]}), json!({"id": "äöü", "items": [{}], "x": 1})];
        let table = Table::of_records(&[("ID", "id"), ("ITEMS", "items"), ("NONE", "y")], &records);
        assert_eq!(table.render(), "ID   ITEMS  NONE\na    2      -\näöü  1      -\n");
    }

    #[test]
    fn an_empty_list_still_has_its_heading() {
        assert_eq!(Table::of_records(&[("ID", "id"), ("STATUS", "status")], &[]).render(), "ID  STATUS\n");
    }

    #[test]
    fn a_cell_cannot_command_the_terminal() {
        let table = Table::of_fields(&json!({"memo": "a\u{1b}[2Jb\nc", "n": 3, "list": ["x"]}));
        assert_eq!(table.render(), "FIELD  VALUE\nlist   [\"x\"]\nmemo   a [2Jb c\nn      3\n");
    }
}
