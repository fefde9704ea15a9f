//! Plots of the figures.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use forkio_benches::rounds::Quartiles;

use crate::data::{Data, Measure};
use crate::fork::case;
use crate::server::HELLO;

const WIDTH: u32 = 960;
const FONT: &str = "sans-serif";

/// A bar: a name, and how long it is.
type Bar = (String, Quartiles);

/// Writes one file for each plot that there are figures for.
pub(crate) fn draw(data: &Data, directory: &Path) -> Result<(), Box<dyn Error>> {
    let to_mio = |measure| {
        let bars = data.cases(measure).into_iter().filter_map(move |operation| {
            Some((operation.replace('`', ""), data.ratio(measure, operation, "forkio", "mio")?))
        });
        bars.collect::<Vec<Bar>>()
    };
    bars(
        &directory.join("reactor-time.svg"),
        "Processor time of forkio relative to mio",
        &to_mio(Measure::ReactorTime),
    )?;
    bars(
        &directory.join("reactor-instructions.svg"),
        "Instructions of forkio relative to mio",
        &to_mio(Measure::Instructions),
    )?;
    commit(data, &directory.join("fork-commit.svg"))?;
    for (file, measure, case) in [
        ("keep-alive-cpu.svg", Measure::KeepAliveCpu, HELLO),
        ("short-cpu.svg", Measure::ShortCpu, HELLO),
        ("work-throughput.svg", Measure::WorkThroughput, HELLO),
        ("latency-p999.svg", Measure::Latency999, crate::server::HALF_LOAD),
        ("first-response.svg", Measure::Response, &crate::fork::response_case(0)),
        ("pss.svg", Measure::Pss, crate::server::FOUR_WORKERS),
    ] {
        let contenders = data.of(measure).filter(|series| series.case == case);
        let contenders: Vec<Bar> =
            contenders.map(|series| (series.contender.clone(), Quartiles::of(series.values.iter().copied()))).collect();
        bars(&directory.join(file), &format!("{} ({case})", measure.title()), &contenders)?;
    }
    Ok(())
}

/// Horizontal bars, with a line from the lower to the upper quartile.
fn bars(file: &Path, title: &str, bars: &[Bar]) -> Result<(), Box<dyn Error>> {
    if bars.is_empty() {
        return Ok(());
    }
    const BAR: u32 = 34;
    let height = 90 + BAR * bars.len() as u32;
    let area = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let longest = bars.iter().map(|(_, quartiles)| quartiles.upper).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(360)
        .build_cartesian_2d(0.0..longest * 1.12, 0.0..bars.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .y_label_formatter(&|_| String::new())
        .label_style((FONT, 13))
        .draw()?;
    for (index, (name, quartiles)) in bars.iter().enumerate() {
        let middle = (bars.len() - index) as f64 - 0.5;
        let Quartiles { lower, median, upper } = *quartiles;
        let bar = Rectangle::new([(0.0, middle - 0.3), (median, middle + 0.3)], RGBColor(84, 130, 176).filled());
        chart.draw_series([bar])?;
        chart.draw_series([PathElement::new([(lower, middle), (upper, middle)], BLACK)])?;
        let label = crate::render::number(median);
        let style = (FONT, 13).into_font().color(&BLACK);
        let left = style.pos(Pos::new(HPos::Left, VPos::Center));
        chart.draw_series([Text::new(label, (upper + longest * 0.01, middle), left)])?;
        let style = style.pos(Pos::new(HPos::Right, VPos::Center));
        chart.draw_series([Text::new(format!("{name}\u{a0}\u{a0}"), (0.0, middle), style)])?;
    }
    area.present()?;
    Ok(())
}

/// Commit against the number of registrations, both axes logarithmic.
fn commit(data: &Data, file: &Path) -> Result<(), Box<dyn Error>> {
    const COLORS: [RGBColor; 9] = [
        RGBColor(200, 40, 40),
        RGBColor(235, 140, 60),
        RGBColor(150, 90, 160),
        RGBColor(90, 90, 90),
        RGBColor(60, 130, 180),
        RGBColor(70, 160, 90),
        RGBColor(150, 150, 50),
        RGBColor(40, 40, 130),
        RGBColor(0, 0, 0),
    ];
    let counts = [10, 1_000, 10_000, 100_000];
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for mix in ["all inherited", "one listener inherited, the rest no-fork", "one listener inherited, the rest severed"]
    {
        for contender in data.contenders(Measure::Commit) {
            let points: Vec<(f64, f64)> = counts
                .iter()
                .filter_map(|count| {
                    Some((f64::from(*count), data.median(Measure::Commit, &case(*count as usize, mix), contender)?))
                })
                .collect();
            if points.len() > 1 {
                lines.push((format!("{contender}: {mix}"), points));
            }
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let area = SVGBackend::new(file, (WIDTH, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = lines.iter().flat_map(|(_, points)| points).fold(0.0, |most: f64, (_, time)| most.max(*time));
    let mut chart = ChartBuilder::on(&area)
        .caption(Measure::Commit.title(), (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((8.0..900_000.0).log_scale(), (1.0..most * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("registrations")
        .y_desc("µs")
        .x_label_formatter(&|count| format!("{count:.0}"))
        .y_label_formatter(&|time| format!("{time:.0}"))
        .label_style((FONT, 13))
        .draw()?;
    for (index, (name, points)) in lines.into_iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let line = chart.draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))?;
        line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK)
        .label_font((FONT, 12))
        .draw()?;
    area.present()?;
    Ok(())
}
