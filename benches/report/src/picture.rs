//! Pictures of figures, as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use selector_benches::rounds::Quartiles;

use crate::text::number;

const WIDTH: u32 = 960;
const FONT: &str = "sans-serif";

#[derive(Debug)]
pub(crate) enum Picture {
    /// Horizontal bars, each with a line from the lower to the upper quartile.
    Bars {
        file: &'static str,
        title: &'static str,
        bars: Vec<(String, Quartiles)>,
        /// Where to draw a vertical line.
        mark: Option<f64>,
    },
    /// Lines over two logarithmic axes.
    Lines { file: &'static str, title: &'static str, axes: [&'static str; 2], lines: Vec<Line> },
}

/// The name of a line, and its points.
pub(crate) type Line = (String, Vec<(f64, f64)>);

impl Picture {
    /// Writes the picture to its file, if there is something to draw.
    pub(crate) fn draw(&self, directory: &Path) -> Result<(), Box<dyn Error>> {
        match self {
            Picture::Bars { bars, .. } if bars.is_empty() => Ok(()),
            Picture::Lines { lines, .. } if lines.is_empty() => Ok(()),
            Picture::Bars { file, title, bars, mark } => draw_bars(&directory.join(file), title, bars, *mark),
            Picture::Lines { file, title, axes, lines } => draw_lines(&directory.join(file), title, *axes, lines),
        }
    }
}

fn draw_bars(file: &Path, title: &str, bars: &[(String, Quartiles)], mark: Option<f64>) -> Result<(), Box<dyn Error>> {
    const BAR: u32 = 30;
    let height = 90 + BAR * bars.len() as u32;
    let area = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let longest = bars.iter().map(|(_, quartiles)| quartiles.upper).fold(mark.unwrap_or(0.0), f64::max);
    let rows = bars.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(400)
        .build_cartesian_2d(0.0..longest * 1.12, 0.0..rows)?;
    chart.configure_mesh().disable_y_mesh().y_labels(0).label_style((FONT, 13)).draw()?;
    let style = (FONT, 13).into_font().color(&BLACK);
    let right_of = style.pos(Pos::new(HPos::Left, VPos::Center));
    let left_of = style.pos(Pos::new(HPos::Right, VPos::Center));
    for (index, (name, Quartiles { lower, median, upper })) in bars.iter().enumerate() {
        let (lower, median, upper) = (*lower, *median, *upper);
        let middle = rows - index as f64 - 0.5;
        // With a mark, all bars are ratios of forkio to a peer.
        let color = if mark.is_some() || is_forkio(name) { RGBColor(84, 130, 176) } else { RGBColor(170, 170, 170) };
        chart.draw_series([Rectangle::new([(0.0, middle - 0.3), (median, middle + 0.3)], color.filled())])?;
        chart.draw_series([PathElement::new([(lower, middle), (upper, middle)], BLACK)])?;
        chart.draw_series([Text::new(number(median), (upper + longest * 0.01, middle), right_of.clone())])?;
        chart.draw_series([Text::new(name.clone(), (-longest * 0.01, middle), left_of.clone())])?;
    }
    if let Some(mark) = mark {
        chart.draw_series([PathElement::new([(mark, 0.0), (mark, rows)], RED)])?;
    }
    area.present()?;
    Ok(())
}

/// Whether a contender uses forkio, judging by its name.
fn is_forkio(name: &str) -> bool {
    name.contains("forkio") || name.contains("prefork-http")
}

fn draw_lines(file: &Path, title: &str, axes: [&str; 2], lines: &[Line]) -> Result<(), Box<dyn Error>> {
    const COLORS: [RGBColor; 10] = [
        RGBColor(200, 40, 40),
        RGBColor(235, 140, 60),
        RGBColor(150, 90, 160),
        RGBColor(90, 90, 90),
        RGBColor(60, 130, 180),
        RGBColor(70, 160, 90),
        RGBColor(150, 150, 50),
        RGBColor(40, 40, 130),
        RGBColor(0, 0, 0),
        RGBColor(0, 150, 150),
    ];
    let area = SVGBackend::new(file, (WIDTH, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|(_, points)| points);
    let right = points().fold(1.0, |most: f64, (x, _)| most.max(*x));
    let top = points().fold(1.0, |most: f64, (_, y)| most.max(*y));
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        // The x axis leaves room for the names of the lines.
        .build_cartesian_2d((8.0..right * 30.0).log_scale(), (1.0..top * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(axes[0])
        .y_desc(axes[1])
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style((FONT, 13))
        .draw()?;
    for (index, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let line = chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)).point_size(3))?;
        line.label(name.as_str()).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK)
        .label_font((FONT, 12))
        .draw()?;
    area.present()?;
    Ok(())
}
