//! Figures as text.

use selector_benches::rounds::Quartiles;

/// Formats a figure with about four digits.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        1_000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if digits == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

/// Formats the median, and the quartiles if they differ.
pub(crate) fn spread(Quartiles { lower, median, upper }: Quartiles) -> String {
    if lower == upper {
        return number(median);
    }
    format!("{} ({} to {})", number(median), number(lower), number(upper))
}

/// Formats an integer with its digits in groups: "10 000".
pub(crate) fn grouped(number: usize) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{} {:03}", grouped(number / 1_000), number % 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_about_four_digits() {
        let numbers = [0.0, 0.0123, 1.5, 12.345, 123.45, 1_020.0, 98_765.4].map(number);
        assert_eq!(numbers, ["0", "0.012", "1.5", "12.35", "123.5", "1020", "98765"]);
    }

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!([10, 1_000, 1_234_567].map(grouped), ["10", "1 000", "1 234 567"]);
    }
}
