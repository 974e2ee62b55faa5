//! Numbers and tables for people.

use std::fmt::Write;

/// Columns as wide as their widest cell. Numbers, and what follows them, go to the right.
pub struct Table {
    header: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A header that begins with `>` marks a column that is aligned to the right.
    pub fn new(header: &[&'static str]) -> Table {
        Table {
            right: header.iter().map(|name| name.starts_with('>')).collect(),
            header: header.iter().map(|name| name.trim_start_matches('>')).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.header.len(), "a row has a cell for every column");
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn lines(&self) -> Vec<String> {
        let width_of = |column: usize| {
            let cells = self.rows.iter().map(|row| width(&row[column]));
            cells.chain([width(self.header[column])]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width_of).collect();
        let header: Vec<String> = self.header.iter().map(|name| (*name).to_owned()).collect();
        [&header].into_iter().chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let blank = " ".repeat(widths[column] - width(cell));
            let gap = if column == 0 { "" } else { "  " };
            let _ = match self.right[column] {
                true => write!(line, "{gap}{blank}{cell}"),
                false => write!(line, "{gap}{cell}{blank}"),
            };
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Every character that is printed here takes one column.
pub fn width(text: &str) -> usize {
    text.chars().count()
}

/// `1.4 GiB`
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 10.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Bytes as people write them: `10GiB`, `512 MB`, `0`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 12] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("k", 1 << 10),
        ("m", 1 << 20),
        ("g", 1 << 30),
        ("b", 1),
    ];
    let text = text.trim().to_ascii_lowercase();
    let found = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let (number, unit) = found.unwrap_or((&text, 1));
    let number: Option<u64> = number.trim().parse().ok();
    number.and_then(|number| number.checked_mul(unit)).ok_or_else(|| "write bytes, such as 512MiB or 10GiB".to_owned())
}

/// Microseconds as `0.14 ms`.
pub fn millis(micros: u64) -> String {
    let millis = micros as f64 / 1000.0;
    match millis {
        millis if millis < 10.0 => format!("{millis:.2}"),
        millis if millis < 100.0 => format!("{millis:.1}"),
        millis => format!("{millis:.0}"),
    }
}

/// `3d 4h`, `12m 5s`
pub fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        _ if days > 0 => format!("{days}d {}h", hours % 24),
        _ if hours > 0 => format!("{hours}h {}m", minutes % 60),
        _ if minutes > 0 => format!("{minutes}m {}s", seconds % 60),
        _ => format!("{seconds}s"),
    }
}

/// A number with its thousands apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 node`, `3 nodes`
pub fn plural(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">TAIL"]);
        table.row(vec!["a".into(), "7".into()]);
        table.row(vec!["longer".into(), "12345".into()]);
        assert_eq!(table.lines(), ["NAME     TAIL", "a           7", "longer  12345"]);
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_bytes("10GiB"), Ok(10 << 30));
        assert_eq!(parse_bytes("512 mb"), Ok(512_000_000));
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_bytes("4k"), Ok(4096));
        for bad in ["", "GiB", "-1", "1.5g", "1e9", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(1_500), "1.5 KiB");
        assert_eq!(bytes(71 << 30), "71 GiB");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(age(90_061_000), "1d 1h");
        assert_eq!(millis(140), "0.14");
        assert_eq!(plural(1, "node"), "1 node");
    }
}
