//! Figures beside their budgets.

use std::io::{self, Write};

use serde::Serialize;

/// One measured value.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// At most this, or with `at_least` at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<f64>,
    at_least: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beside: Option<String>,
}

impl Figure {
    /// A value without a budget.
    pub fn plain(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, budget: None, at_least: false, met: None, beside: None }
    }

    /// With a budget it should not exceed.
    pub fn at_most(self, budget: f64) -> Self {
        Self { budget: Some(budget), met: Some(self.value <= budget), ..self }
    }

    /// With a budget it should reach.
    pub fn at_least(self, budget: f64) -> Self {
        Self { budget: Some(budget), at_least: true, met: Some(self.value >= budget), ..self }
    }

    /// With something to compare it with.
    pub fn beside(self, text: impl Into<String>) -> Self {
        Self { beside: Some(text.into()), ..self }
    }
}

/// All of them, in the order they were measured.
#[derive(Debug)]
pub struct Figures {
    list: Vec<Figure>,
    json: bool,
}

impl Figures {
    /// None yet.
    pub fn new(json: bool) -> Self {
        Self { list: Vec::new(), json }
    }

    /// One more; also shown at once on standard error, since the whole takes minutes.
    pub fn add(&mut self, figure: Figure) {
        eprintln!("fleet-load: {}: {} {}", figure.what, short(figure.value), figure.unit);
        self.list.push(figure);
    }

    /// The table, or one JSON object a line.
    pub fn print(&self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            for figure in &self.list {
                serde_json::to_writer(&mut out, figure)?;
                writeln!(out)?;
            }
            return Ok(());
        }
        let width = self.list.iter().map(|figure| figure.what.chars().count()).max().unwrap_or(0);
        writeln!(out, "{:width$}  {:>14}  {:>14}  {:6}  beside", "what", "measured", "budget", "")?;
        for figure in &self.list {
            let value = format!("{} {}", short(figure.value), figure.unit);
            let sign = if figure.at_least { "≥" } else { "≤" };
            let budget = figure
                .budget
                .map(|budget| format!("{sign} {} {}", short(budget), figure.unit))
                .unwrap_or_default();
            let verdict = match figure.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let beside = figure.beside.as_deref().unwrap_or_default();
            let line = format!("{:width$}  {value:>14}  {budget:>14}  {verdict:6}  {beside}", figure.what);
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn short(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
