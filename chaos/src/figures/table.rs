//! Figures and the table that they make.

use std::borrow::Cow;
use std::fmt;

/// How a value relates to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    AtMost,
    Below,
    AtLeast,
}

impl Comparison {
    fn holds(self, value: f64, target: f64) -> bool {
        match self {
            Comparison::AtMost => value <= target,
            Comparison::Below => value < target,
            Comparison::AtLeast => value >= target,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Comparison::AtMost => "<=",
            Comparison::Below => "<",
            Comparison::AtLeast => ">=",
        })
    }
}

/// One promise, and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub name: Cow<'static, str>,
    /// What it is, for people.
    pub what: Cow<'static, str>,
    pub unit: &'static str,
    pub comparison: Comparison,
    pub target: f64,
    /// Nothing: it could not be measured here.
    pub value: Option<f64>,
    /// The single values, or why there are none.
    pub note: String,
}

impl Figure {
    pub fn passes(&self) -> bool {
        self.value.is_some_and(|value| value.is_finite() && self.comparison.holds(value, self.target))
    }

    fn verdict(&self) -> &'static str {
        match self.value {
            None => "skipped",
            Some(_) if self.passes() => "pass",
            Some(_) => "fail",
        }
    }

    /// `figure NAME VALUE target OP TARGET pass|fail`
    pub fn line(&self) -> String {
        let value = self.value.map_or("-".into(), number);
        format!("figure {} {value} target {} {} {}", self.name, self.comparison, number(self.target), self.verdict())
    }
}

/// All figures of a run, and what stands beside them.
#[derive(Debug, Default)]
pub struct Table {
    pub figures: Vec<Figure>,
    /// What was measured without having a target: titled lists of lines.
    pub beside: Vec<(String, Vec<String>)>,
}

impl Table {
    pub fn push(&mut self, figure: Figure) {
        eprintln!("    {}", figure.line());
        self.figures.push(figure);
    }

    pub fn markdown(&self, machine: &str, commit: &str) -> String {
        let mut text = format!("Commit {commit}; {machine}.\n\n");
        text.push_str("| Figure | | Value | Target | | Single values |\n|---|---|---|---|---|---|\n");
        for figure in &self.figures {
            let value = figure.value.map_or("-".into(), |value| format!("{} {}", number(value), figure.unit));
            text.push_str(&format!(
                "| `{}` | {} | {} | {} {} {} | {} | {} |\n",
                figure.name,
                figure.what,
                value.trim_end(),
                figure.comparison,
                number(figure.target),
                figure.unit,
                figure.verdict(),
                figure.note
            ));
        }
        for (title, lines) in &self.beside {
            text.push_str(&format!("\n{title}:\n\n"));
            lines.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
        }
        text
    }
}

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// The document with another text between its markers.
pub fn replace(document: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", text.trim_end()))
}

/// As many digits as matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: Option<f64>) -> Figure {
        Figure {
            name: "failover_gap".into(),
            what: "longest gap".into(),
            unit: "s",
            comparison: Comparison::Below,
            target: 3.0,
            value,
            note: String::new(),
        }
    }

    #[test]
    fn a_line_says_value_target_and_verdict() {
        assert_eq!(figure(Some(1.52)).line(), "figure failover_gap 1.52 target < 3 pass");
        assert_eq!(figure(Some(3.0)).line(), "figure failover_gap 3 target < 3 fail");
        assert_eq!(figure(None).line(), "figure failover_gap - target < 3 skipped");
        assert!(!figure(Some(f64::NAN)).passes());
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let document = format!("head\n{BEGIN}\nold\n{END}\nfoot\n");
        let new = replace(&document, "new\n").unwrap();
        assert_eq!(new, format!("head\n{BEGIN}\nnew\n{END}\nfoot\n"));
        assert_eq!(replace(&new, "new").unwrap(), new);
        assert_eq!(replace("no markers", "new"), None);
    }
}
