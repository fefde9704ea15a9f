//! The README shows the figures of the report.

use std::error::Error;
use std::fs;

#[test]
fn readme_shows_the_figures_of_the_report() -> Result<(), Box<dyn Error>> {
    let benches = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let headline = fs::read_to_string(format!("{benches}/results/headline.md"))?;
    let readme = fs::read_to_string(format!("{benches}/../README.md"))?;
    assert!(readme.contains(&headline), "the README lacks results/headline.md: run benches/run, which writes both");
    Ok(())
}
