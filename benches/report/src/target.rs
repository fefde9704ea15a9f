//! The targets of forkio, and whether it reaches them.

use selector_benches::rounds::Quartiles;
use serde::Serialize;

use crate::text::{number, spread};

/// A target: one or more figures, each with its limit.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) text: String,
    checks: Vec<Check>,
}

/// A figure, and the limit of its median.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    case: String,
    limit: Limit,
    measured: Option<Quartiles>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn text(self) -> String {
        match self {
            Limit::AtMost(limit) => format!("≤ {}", number(limit)),
            Limit::AtLeast(limit) => format!("≥ {}", number(limit)),
        }
    }
}

impl Check {
    pub(crate) fn new(case: &str, limit: Limit, measured: Option<Quartiles>) -> Check {
        Check { case: case.to_owned(), limit, measured }
    }

    /// Returns the fraction of the limit by which the median misses it, 0 if it meets the limit, `None` without a figure.
    fn missed_by(&self) -> Option<f64> {
        let measured = self.measured?.median;
        let (limit, is_met) = match self.limit {
            Limit::AtMost(limit) => (limit, measured <= limit),
            Limit::AtLeast(limit) => (limit, measured >= limit),
        };
        Some(if is_met { 0.0 } else { (measured / limit - 1.0).abs() })
    }

    fn is_met(&self) -> bool {
        self.missed_by() == Some(0.0)
    }

    /// Returns text such as "by 12.3 %", or `None` if the limit is zero: then there is no percentage.
    fn percentage(missed_by: f64) -> Option<String> {
        missed_by.is_finite().then(|| format!("by {:.1} %", missed_by * 100.0))
    }
}

impl Target {
    pub(crate) fn new(text: impl Into<String>, limit: Limit, measured: Option<Quartiles>) -> Target {
        Target { text: text.into(), checks: vec![Check::new("", limit, measured)] }
    }

    /// Makes a target of several figures, each of which must meet its limit.
    pub(crate) fn each(text: impl Into<String>, checks: Vec<Check>) -> Target {
        Target { text: text.into(), checks }
    }

    pub(crate) fn is_met(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(Check::is_met)
    }

    /// Returns a row of the table of targets: text, limit, measured, verdict.
    pub(crate) fn markdown(&self) -> String {
        let (limit, measured, verdict) = match self.checks.as_slice() {
            [check] => (check.limit.text(), check.measured.map_or(String::new(), spread), Self::verdict_of(check)),
            checks => {
                let met = checks.iter().filter(|check| check.is_met()).count();
                let missed: Vec<String> = checks.iter().filter(|check| !check.is_met()).map(Self::miss).collect();
                let verdict = match checks {
                    [] => "not measured".to_owned(),
                    _ if missed.is_empty() => "met".to_owned(),
                    _ => format!("missed: {}", missed.join("; ")),
                };
                ("each".to_owned(), format!("{met} of {}", checks.len()), verdict)
            }
        };
        format!("| {} | {limit} | {measured} | {verdict} |\n", self.text)
    }

    fn verdict_of(check: &Check) -> String {
        match check.missed_by() {
            Some(0.0) => "met".to_owned(),
            Some(missed_by) => {
                Check::percentage(missed_by).map_or_else(|| "missed".to_owned(), |by| format!("missed {by}"))
            }
            None => "not measured".to_owned(),
        }
    }

    fn miss(check: &Check) -> String {
        match check.measured {
            Some(Quartiles { median, .. }) => {
                let by = check.missed_by().and_then(Check::percentage).map_or_else(String::new, |by| format!(", {by}"));
                format!("{}: {} (limit {}{by})", check.case, number(median), check.limit.text())
            }
            None => format!("{}: not measured", check.case),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64) -> Option<Quartiles> {
        Quartiles::of([value])
    }

    #[test]
    fn a_target_says_by_how_much_it_is_missed() {
        let row = |limit, measured| Target::new("it", limit, measured).markdown();
        assert_eq!(row(Limit::AtMost(20.0), figure(20.0)), "| it | ≤ 20 | 20 | met |\n");
        assert_eq!(row(Limit::AtMost(20.0), figure(25.0)), "| it | ≤ 20 | 25 | missed by 25.0 % |\n");
        assert_eq!(row(Limit::AtLeast(2.0), figure(1.0)), "| it | ≥ 2 | 1 | missed by 50.0 % |\n");
        assert_eq!(row(Limit::AtMost(0.0), figure(0.0)), "| it | ≤ 0 | 0 | met |\n");
        assert_eq!(row(Limit::AtMost(0.0), figure(0.5)), "| it | ≤ 0 | 0.5 | missed |\n");
        assert_eq!(row(Limit::AtLeast(1.1), None), "| it | ≥ 1.1 |  | not measured |\n");
    }

    #[test]
    fn a_target_of_several_figures_names_the_missed_ones() {
        let checks = vec![
            Check::new("wake", Limit::AtMost(1.0), figure(0.5)),
            Check::new("poll", Limit::AtMost(1.0), figure(1.25)),
            Check::new("accept", Limit::AtMost(1.0), None),
        ];
        let target = Target::each("time / mio's", checks);
        assert!(!target.is_met());
        let expected =
            "| time / mio's | each | 1 of 3 | missed: poll: 1.25 (limit ≤ 1, by 25.0 %); accept: not measured |\n";
        assert_eq!(target.markdown(), expected);
    }
}
