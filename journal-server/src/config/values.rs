//! Parsers of single values. Each answers a value, or what to write instead.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// An amount of free space: bytes, or a share of the file system.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    Bytes(u64),
    Percent(f64),
}

impl Default for Mark {
    fn default() -> Self {
        Mark::Bytes(0)
    }
}

impl Mark {
    pub fn bytes_of(self, total: u64) -> u64 {
        match self {
            Mark::Bytes(bytes) => bytes,
            Mark::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        }
    }

    /// Whether this is not above the other, whatever the size of the disk.
    pub fn surely_at_most(self, other: Mark) -> bool {
        match (self, other) {
            (Mark::Bytes(a), Mark::Bytes(b)) => a <= b,
            (Mark::Percent(a), Mark::Percent(b)) => a <= b,
            _ => false,
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Bytes(bytes) => f.write_str(&size_text(*bytes)),
            Mark::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Bytes in the largest binary unit that divides them.
pub fn size_text(bytes: u64) -> String {
    let unit = UNITS[..4].iter().rev().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    match unit {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

pub fn size(text: &str) -> Result<u64, String> {
    let found = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let (number, unit) = found.unwrap_or((text, 1));
    let number: Option<u64> = number.trim().parse().ok();
    number.and_then(|number| number.checked_mul(unit)).ok_or_else(|| "write bytes, such as 512KiB, 4MiB or 1GiB".into())
}

pub fn mark(text: &str) -> Result<Mark, String> {
    let advice = || "write bytes, such as 512MiB, or a share of the disk, such as 5%".to_owned();
    match text.strip_suffix('%') {
        None => size(text).map(Mark::Bytes).map_err(|_| advice()),
        Some(number) => match number.trim().parse::<f64>() {
            Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Mark::Percent(percent)),
            Ok(_) | Err(_) => Err(advice()),
        },
    }
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let found = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let millis = found.and_then(|(number, unit)| number.trim().parse::<u64>().ok()?.checked_mul(unit));
    millis.map(Duration::from_millis).ok_or_else(|| "write 100ms, 2s, 5m or 1h".into())
}

pub fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "write true or false".into())
}

pub fn text(text: &str) -> Result<String, String> {
    Ok(text.into())
}

pub fn node_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match (1..=64).contains(&text.len()) && text.chars().all(allowed) {
        true => Ok(text.into()),
        false => Err("use 1 to 64 of a-z A-Z 0-9 - _ .".into()),
    }
}

pub fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write ip:port, such as 127.0.0.1:7400 or [::1]:7400".into())
}

/// `host:port`, where host is a name or an address. An IPv6 address needs its brackets.
pub fn address(text: &str) -> Result<String, String> {
    let advice = || "write host:port".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(advice)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.contains([':', '[', ']', '/', ' ', '=']);
    match port.parse::<u16>() {
        Ok(_) if !host.is_empty() && (bracketed || plain) => Ok(text.into()),
        Ok(_) | Err(_) => Err(advice()),
    }
}

/// An address, and the one at which it is called instead.
pub fn detour(text: &str) -> Result<(String, String), String> {
    let advice = || "write host:port=host:port".to_owned();
    let (meant, called) = text.split_once('=').ok_or_else(advice)?;
    Ok((address(meant.trim()).map_err(|_| advice())?, address(called.trim()).map_err(|_| advice())?))
}

pub fn member(text: &str) -> Result<(String, String), String> {
    let advice = || "write name=host:port".to_owned();
    let (name, at) = text.split_once('=').ok_or_else(advice)?;
    Ok((node_name(name.trim()).map_err(|_| advice())?, address(at.trim()).map_err(|_| advice())?))
}

/// A name in which `*` stands for any text.
pub fn pattern(text: &str) -> Result<String, String> {
    match text.trim_matches('*').is_empty() {
        true => Err("name something: `*` alone would let any certificate in".into()),
        false => Ok(text.into()),
    }
}

pub fn log_level(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("write error, warn, info, debug or trace ({error})")),
    }
}

pub fn log_format(text: &str) -> Result<bool, String> {
    match text {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err("write text or json".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_they_are_printed() {
        for bytes in [0, 1, 1023, 1024, 1 << 20, 3 << 20, (1 << 30) + 1, 5 << 40] {
            assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }
        assert_eq!(size("2 MB"), Ok(2_000_000));
        for bad in ["", "MiB", "-1", "1.5GiB", "99999999999TiB", "1 XiB"] {
            assert!(size(bad).is_err(), "{bad} was taken for a size");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["h:1", "10.0.0.1:7400", "[::1]:7400", "journal-0.journal.svc:65535"] {
            assert_eq!(address(good), Ok(good.into()));
        }
        for bad in ["", ":1", "h", "h:", "h:65536", "::1:7400", "a=b:1", "http://h:1"] {
            assert!(address(bad).is_err(), "{bad} was taken for an address");
        }
    }

    #[test]
    fn a_share_of_the_disk_is_taken_of_its_total() {
        assert_eq!(mark("5%").unwrap().bytes_of(1000), 50);
        assert_eq!(mark("5MiB").unwrap().bytes_of(1000), 5 << 20);
    }
}
