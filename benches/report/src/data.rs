//! The figures that were measured.

use selector_benches::rounds::Quartiles;
use serde::Serialize;

/// The meaning of a figure.
#[derive(Debug, PartialEq)]
pub(crate) struct Measure {
    /// The name in the raw data.
    pub(crate) id: &'static str,
    /// The heading of its column.
    pub(crate) title: &'static str,
}

/// The figures of one contender in one case, one for each round.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) measure: &'static str,
    pub(crate) case: String,
    pub(crate) contender: String,
    pub(crate) values: Vec<f64>,
}

/// All figures. Within a case, the figures at one index of all series were measured in one round.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) series: Vec<Series>,
    /// Notes for the reader, such as what was not measured and why.
    pub(crate) notes: Vec<String>,
}

impl Data {
    pub(crate) fn add(&mut self, measure: &Measure, case: &str, contender: &str, value: f64) {
        let known = self
            .series
            .iter_mut()
            .find(|series| series.measure == measure.id && series.case == case && series.contender == contender);
        match known {
            Some(series) => series.values.push(value),
            None => self.series.push(Series {
                measure: measure.id,
                case: case.to_owned(),
                contender: contender.to_owned(),
                values: vec![value],
            }),
        }
    }

    pub(crate) fn note(&mut self, note: String) {
        eprintln!("{note}");
        self.notes.push(note);
    }

    pub(crate) fn of(&self, measure: &Measure) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(move |series| series.measure == measure.id)
    }

    fn values(&self, measure: &Measure, case: &str, contender: &str) -> Option<&[f64]> {
        let mut of_measure = self.of(measure);
        let series = of_measure.find(|series| series.case == case && series.contender == contender)?;
        Some(&series.values)
    }

    pub(crate) fn quartiles(&self, measure: &Measure, case: &str, contender: &str) -> Option<Quartiles> {
        Quartiles::of(self.values(measure, case, contender)?.iter().copied())
    }

    pub(crate) fn median(&self, measure: &Measure, case: &str, contender: &str) -> Option<f64> {
        self.quartiles(measure, case, contender).map(|quartiles| quartiles.median)
    }

    /// Computes the ratio of a contender's figure to its peer's in each round. Returns the quartiles of these ratios.
    pub(crate) fn ratio(&self, measure: &Measure, case: &str, contender: &str, peer: &str) -> Option<Quartiles> {
        let own = self.values(measure, case, contender)?;
        let peers = self.values(measure, case, peer)?;
        Quartiles::of(own.iter().zip(peers).map(|(own, peer)| own / peer))
    }

    /// Returns the cases that have figures, in the order of their measurement.
    pub(crate) fn cases(&self, measure: &Measure) -> Vec<&str> {
        let mut cases = Vec::new();
        for series in self.of(measure) {
            if !cases.contains(&series.case.as_str()) {
                cases.push(&series.case);
            }
        }
        cases
    }
}
