//! Small plots in SVG, drawn in the colours of the page.

use std::fmt::Write;

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 60.0;

pub(super) struct Line<'a> {
    /// The class in the style sheet.
    pub(super) class: &'a str,
    /// The values from left to right. `None` is a gap.
    pub(super) values: Vec<Option<f64>>,
}

/// Draws lines on one scale from zero, with room for `places` values. `label` is the text for screen readers.
pub(super) fn plot(label: &str, lines: &[Line<'_>], places: usize) -> String {
    let values = || lines.iter().flat_map(|line| &line.values).copied().flatten().filter(|value| value.is_finite());
    let top = values().fold(0.0, f64::max);
    let scale = if top > 0.0 { (HEIGHT - 4.0) / top } else { 0.0 };
    let step = WIDTH / places.max(2).saturating_sub(1) as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">"
    );
    for line in lines {
        // The newest value is at the right edge.
        let first = places.saturating_sub(line.values.len());
        let mut path = String::new();
        let mut is_drawing = false;
        for (place, value) in line.values.iter().enumerate() {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                is_drawing = false;
                continue;
            };
            let (x, y) = ((first + place) as f64 * step, HEIGHT - 2.0 - value * scale);
            // Writing to a string does not fail. `h.1` makes a value between two gaps visible as a dot.
            let _ = match is_drawing {
                true => write!(path, "L{x:.1} {y:.1}"),
                false => write!(path, "M{x:.1} {y:.1}h.1"),
            };
            is_drawing = true;
        }
        let _ = write!(svg, "<path class=\"{}\" d=\"{path}\"/>", line.class);
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_drawn_from_the_right_with_gaps() {
        let values = vec![Some(0.0), None, Some(1.0), Some(2.0)];
        let svg = plot("rate", &[Line { class: "a", values }], 301);
        assert!(svg.contains("d=\"M297.0 58.0h.1M299.0 30.0h.1L300.0 2.0\""), "{svg}");
    }

    #[test]
    fn no_values_make_an_empty_plot() {
        for values in [vec![], vec![None], vec![Some(f64::NAN)]] {
            let svg = plot("rate", &[Line { class: "a", values }], 10);
            assert!(svg.contains("d=\"\""), "{svg}");
        }
    }
}
