//! What a command has to say, in every form it can be printed in.

use std::io::Write;

use serde_json::Value;

use crate::cli::args::Format;
use crate::cli::fault::Fault;
use crate::table::Table;

/// A result, and the fault to end with when there is one.
#[derive(Debug, Default)]
pub struct Answer {
    json: Value,
    text: Option<String>,
    table: Option<Table>,
    names: Option<Vec<String>>,
    prefer_table: bool,
    prefer_json: bool,
    note: Option<String>,
    table_note: Option<String>,
    fault: Option<Fault>,
}

impl Answer {
    /// Printed as JSON unless another form is asked for.
    pub fn json(json: Value) -> Self {
        Self { json, ..Self::default() }
    }

    /// Text alone, whatever form is asked for.
    pub fn text(text: String) -> Self {
        Self { json: Value::Null, text: Some(text), ..Self::default() }
    }

    /// The same, printed as this text unless another form is asked for.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// The same, with its columns.
    #[must_use]
    pub fn with_table(mut self, table: Table) -> Self {
        self.table = Some(table);
        self
    }

    /// The same, with its ids.
    #[must_use]
    pub fn with_names(mut self, names: Vec<String>) -> Self {
        self.names = Some(names);
        self
    }

    /// The same with a remark for people, on stderr.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// The same with a remark that only a reader of the table needs, on stderr.
    #[must_use]
    pub fn with_table_note(mut self, note: impl Into<String>) -> Self {
        self.table_note = Some(note.into());
        self
    }

    /// The same, ending with this fault.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// The same as a table when the command's own flag asks for one.
    #[must_use]
    pub fn prefer_table(mut self, wanted: bool) -> Self {
        self.prefer_table = wanted;
        self
    }

    /// The same as JSON when the command's own flag asks for it.
    #[must_use]
    pub fn prefer_json(mut self, wanted: bool) -> Self {
        self.prefer_json = wanted;
        self
    }

    /// Prints the result on `out` and the remark on `err`; gives back the fault that it ends with.
    pub fn print(self, format: Option<Format>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Fault> {
        let Self { json, text, table, names, prefer_table, prefer_json, note, table_note, fault } = self;
        let preferred = if prefer_table { Some(Format::Table) } else { prefer_json.then_some(Format::Json) };
        if let (Some(asked), Some(preferred)) = (format, preferred)
            && asked != preferred
        {
            return Err(Fault::Usage("--output and the command's own flag for the form contradict each other".into()));
        }
        let pretty = || format!("{json:#}\n");
        let body = match (format.or(preferred), json.is_null()) {
            (None | Some(_), true) | (None, false) => text.unwrap_or_else(pretty),
            (Some(Format::Json), false) => pretty(),
            (Some(Format::Table), false) => table.unwrap_or_else(|| Table::of_fields(&json)).render(),
            (Some(Format::Name), false) => match names {
                Some(names) => names.into_iter().flat_map(|name| [name, "\n".into()]).collect(),
                None => text.unwrap_or_else(pretty),
            },
        };
        out.write_all(body.as_bytes()).and_then(|()| out.flush()).map_err(Fault::Output)?;
        let table_note = table_note.filter(|_| format.or(preferred) == Some(Format::Table));
        for note in note.into_iter().chain(table_note) {
            writeln!(err, "{note}").map_err(Fault::Output)?;
        }
        fault.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(answer: Answer, format: Option<Format>) -> String {
        let mut out = Vec::new();
        answer.print(format, &mut out, &mut Vec::new()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_result_has_every_form() {
        let answer = || Answer::json(json!({"id": "x"})).with_text("made x\n").with_names(vec!["x".into()]);
        assert_eq!(printed(answer(), None), "made x\n");
        assert_eq!(printed(answer(), Some(Format::Json)), "{\n  \"id\": \"x\"\n}\n");
        assert_eq!(printed(answer(), Some(Format::Table)), "FIELD  VALUE\nid     x\n");
        assert_eq!(printed(answer(), Some(Format::Name)), "x\n");
        assert_eq!(printed(answer().prefer_table(true), None), "FIELD  VALUE\nid     x\n");
    }

    #[test]
    fn two_forms_at_once_are_refused() {
        let outcome =
            Answer::json(json!({})).prefer_table(true).print(Some(Format::Json), &mut Vec::new(), &mut Vec::new());
        assert!(matches!(outcome, Err(Fault::Usage(_))));
    }
}
