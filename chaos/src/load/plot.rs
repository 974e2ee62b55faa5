//! Plots, as one SVG file: answers in each second, and latency over the share of answers that were no
//! slower. By hand: two lines and some text need no library.

use std::fmt::Write as _;

use super::report::Outcome;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 56.0;
const COLOURS: [&str; 2] = ["#1b6ca8", "#c8553d"];

/// One picture of one or two sides.
pub fn svg(title: &str, sides: &[(&str, &Outcome)]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{MARGIN}\" y=\"20\" font-size=\"15\">{}</text>\n",
        WIDTH + 2.0 * MARGIN,
        2.0 * (HEIGHT + 2.0 * MARGIN),
        escaped(title),
    );
    for (number, (name, _)) in sides.iter().enumerate() {
        let x = MARGIN + 160.0 * number as f64;
        let colour = COLOURS[number % 2];
        let _ = writeln!(out, "<text x=\"{x}\" y=\"40\" fill=\"{colour}\">■ {}</text>", escaped(name));
    }
    let seconds = |outcome: &Outcome| -> Vec<(f64, f64)> {
        outcome.each_second.iter().enumerate().map(|(second, count)| (second as f64, *count as f64)).collect()
    };
    // Shares near one are what matters: 0, 0.9, 0.99 and so on lie equally far apart.
    let nines = |outcome: &Outcome| -> Vec<(f64, f64)> {
        outcome.curve.iter().map(|(share, us)| (-(1.0 - share).log10(), *us as f64 / 1000.0)).collect()
    };
    panel(&mut out, MARGIN, "answers in each second, over seconds", sides.iter().map(|side| seconds(side.1)), false);
    let labels = ["0", "0.9", "0.99", "0.999", "0.9999"];
    let lower = HEIGHT + 3.0 * MARGIN;
    panel(
        &mut out,
        lower,
        "latency in ms, over the share that was no slower",
        sides.iter().map(|side| nines(side.1)),
        true,
    );
    for (nine, label) in labels.iter().enumerate() {
        let x = MARGIN + WIDTH * nine as f64 / 4.0;
        let _ = writeln!(
            out,
            "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
            lower + HEIGHT + 16.0
        );
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, top: f64, what: &str, lines: impl Iterator<Item = Vec<(f64, f64)>>, nines: bool) {
    let lines: Vec<Vec<(f64, f64)>> = lines.collect();
    let points = || lines.iter().flatten();
    let right = if nines { 4.0 } else { points().map(|point| point.0).fold(1.0, f64::max) };
    let high = points().map(|point| point.1).fold(0.0, f64::max).max(1e-9);
    let _ = writeln!(
        out,
        "<rect x=\"{MARGIN}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#999\"/>\n\
         <text x=\"{MARGIN}\" y=\"{:.0}\">{}</text>\n<text x=\"4\" y=\"{:.0}\">{}</text>\n<text x=\"4\" y=\"{:.0}\">0</text>",
        top - 6.0,
        escaped(what),
        top + 12.0,
        short(high),
        top + HEIGHT,
    );
    for (number, line) in lines.iter().enumerate() {
        let at =
            |(x, y): &(f64, f64)| format!("{:.1},{:.1}", MARGIN + WIDTH * x / right, top + HEIGHT - HEIGHT * y / high);
        let path: Vec<String> = line.iter().map(at).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join(" "),
            COLOURS[number % 2]
        );
    }
}

fn short(value: f64) -> String {
    match value {
        1000.0.. => format!("{:.0}k", value / 1000.0),
        10.0.. => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
