//! Tables of the report.

use crate::data::{Data, Measure};
use crate::text::{number, spread};

/// A table: a row for each case, or for each contender of each case.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: &'static str,
    /// How its figures were measured, and how to read them.
    pub(crate) text: &'static str,
    /// The cases, in this order; those without figures have no row.
    pub(crate) cases: Vec<String>,
    /// Whether each contender of a case has a row.
    pub(crate) has_contenders: bool,
    pub(crate) columns: Vec<Column>,
}

/// A column: a figure or a ratio of figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    measure: &'static Measure,
    contender: Option<&'static str>,
    peer: Option<&'static str>,
    has_quartiles: bool,
}

impl Column {
    /// Makes a column of the figures of the rows' contenders, with quartiles.
    pub(crate) fn figure(measure: &'static Measure) -> Column {
        Column { measure, contender: None, peer: None, has_quartiles: true }
    }

    /// Makes a column of medians only.
    pub(crate) fn median(measure: &'static Measure) -> Column {
        Column { has_quartiles: false, ..Column::figure(measure) }
    }

    /// Shows the figures of this contender, in a table that has no rows for contenders.
    pub(crate) fn of(self, contender: &'static str) -> Column {
        Column { contender: Some(contender), ..self }
    }

    /// Shows ratios to the figures of another contender in the same rounds.
    pub(crate) fn relative_to(self, peer: &'static str) -> Column {
        Column { peer: Some(peer), ..self }
    }

    /// Returns the heading. `last` is the column before this one: if it shows the same figure, the heading of a ratio does not
    /// name the figure again.
    fn heading(&self, last: Option<&Column>) -> String {
        match (self.contender, self.peer) {
            (None, Some(peer)) if last.is_some_and(|last| last.measure == self.measure) => format!("/ {peer}"),
            (Some(contender), Some(peer)) => format!("{contender} / {peer}"),
            (Some(contender), None) => contender.to_owned(),
            (None, Some(peer)) => format!("{} / {peer}", self.measure.title),
            (None, None) => self.measure.title.to_owned(),
        }
    }

    fn cell(&self, data: &Data, case: &str, contender: &str) -> String {
        let contender = self.contender.unwrap_or(contender);
        let figure = match self.peer {
            Some(peer) if peer == contender => None,
            Some(peer) => data.ratio(self.measure, case, contender, peer),
            None => data.quartiles(self.measure, case, contender),
        };
        match figure {
            Some(figure) if self.has_quartiles => spread(figure),
            Some(figure) => number(figure.median),
            None => String::new(),
        }
    }
}

impl Table {
    /// Returns the table in Markdown, with its heading, or `None` if the table has no row.
    pub(crate) fn markdown(&self, data: &Data) -> Option<String> {
        let rows = self.rows(data);
        if rows.is_empty() {
            return None;
        }
        let names = if self.has_contenders { 2 } else { 1 };
        let mut headings = vec![String::new(); names];
        let mut last = None;
        for column in &self.columns {
            headings.push(column.heading(last));
            last = Some(column);
        }
        let mut text = format!("### {}\n\n{}\n\n{}", self.title, self.text, line(&headings));
        text += &format!("|{}{}\n", "---|".repeat(names), "---:|".repeat(self.columns.len()));
        let mut last_case = "";
        for (case, contender) in rows {
            let mut cells = vec![case, contender].into_iter().take(names).map(str::to_owned).collect::<Vec<_>>();
            if case == last_case {
                cells[0].clear();
            }
            last_case = case;
            cells.extend(self.columns.iter().map(|column| column.cell(data, case, contender)));
            text += &line(&cells);
        }
        Some(text)
    }

    /// Returns the case and the contender of each row.
    fn rows<'a>(&'a self, data: &'a Data) -> Vec<(&'a str, &'a str)> {
        let mut rows = Vec::new();
        for case in &self.cases {
            for series in data.series.iter().filter(|series| series.case == *case) {
                let is_shown = self.columns.iter().any(|column| column.measure.id == series.measure);
                let row = (case.as_str(), if self.has_contenders { series.contender.as_str() } else { "" });
                if is_shown && !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
        rows
    }
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | ")).replace("  |", " |")
}

#[cfg(test)]
mod tests {
    use super::*;

    static TIME: Measure = Measure { id: "time", title: "time, µs" };

    fn data() -> Data {
        let mut data = Data::default();
        for (forkio, libev) in [(6.0, 10.0), (60.0, 100.0), (7.0, 10.0)] {
            data.add(&TIME, "a fork", "forkio", forkio);
            data.add(&TIME, "a fork", "libev", libev);
        }
        data
    }

    fn table(has_contenders: bool, columns: Vec<Column>) -> Table {
        Table { title: "Times", text: "How.", cases: vec!["a fork".to_owned()], has_contenders, columns }
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let columns = vec![Column::median(&TIME), Column::figure(&TIME).relative_to("libev")];
        let text = table(true, columns).markdown(&data()).unwrap();
        let expected = "\
### Times

How.

| | | time, µs | / libev |
|---|---|---:|---:|
| a fork | forkio | 7 | 0.6 (0.6 to 0.7) |
| | libev | 10 | |
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_case_has_a_row_if_contenders_have_columns() {
        let columns = vec![Column::median(&TIME).of("forkio"), Column::median(&TIME).of("libev")];
        let text = table(false, columns).markdown(&data()).unwrap();
        assert!(text.ends_with("| | forkio | libev |\n|---|---:|---:|\n| a fork | 7 | 10 |\n"), "{text}");
    }

    #[test]
    fn without_figures_there_is_no_table() {
        assert_eq!(table(true, vec![Column::median(&TIME)]).markdown(&Data::default()), None);
    }
}
