//! Parsers of single values. Each answers a value, or what to write instead.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// A place to listen at, or at which others listen, as etcd writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// As it was written.
    pub text: String,
    pub tls: bool,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

impl Url {
    /// The addresses of this machine that it stands for.
    pub fn sockets(&self) -> std::io::Result<Vec<SocketAddr>> {
        match &self.place {
            Place::Tcp(address) => {
                let mut found: Vec<_> = address.to_socket_addrs()?.collect();
                found.sort();
                found.dedup();
                Ok(found)
            }
            Place::Unix(_) => Ok(Vec::new()),
        }
    }
}

/// `http://host:port`, `https://host:port`, `unix://path` or `unixs://path`.
pub fn url(text: &str) -> Result<Url, String> {
    let advice = || "write http://host:port, https://host:port, unix:///path or unixs:///path".to_owned();
    let (scheme, rest) = text.split_once("://").ok_or_else(advice)?;
    let tls = matches!(scheme, "https" | "unixs");
    let place = match scheme {
        "http" | "https" => {
            let address = rest.strip_suffix('/').unwrap_or(rest);
            let (host, port) = address.rsplit_once(':').ok_or_else(advice)?;
            let bracketed = host.starts_with('[') && host.ends_with(']');
            if host.is_empty() || port.parse::<u16>().is_err() || (host.contains([':', '/', '@']) && !bracketed) {
                return Err(advice());
            }
            Place::Tcp(address.to_owned())
        }
        "unix" | "unixs" if !rest.is_empty() => Place::Unix(PathBuf::from(rest)),
        _ => return Err(advice()),
    };
    Ok(Url { text: text.to_owned(), tls, place })
}

/// Go's way to write a time: `5s`, `1m30s`, `100ms`, `1.5h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let advice = || "write a time, such as 100ms, 5s, 10m or 1h30m".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(advice)?;
        let (value, behind) = rest.split_at(number);
        let unit = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (name, behind) = behind.split_at(unit);
        let factor = UNITS.iter().find(|(unit, _)| *unit == name).ok_or_else(advice)?.1;
        seconds += value.parse::<f64>().map_err(|_| advice())? * factor;
        rest = behind;
    }
    match text.is_empty() {
        true => Err(advice()),
        false => Duration::try_from_secs_f64(seconds).map_err(|_| advice()),
    }
}

pub fn millis(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_millis).map_err(|_| "write a number of milliseconds".into())
}

pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".into()),
    }
}

pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "write a number".into())
}

pub fn address(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    journal_client::transport::check_address(bare).map(|()| bare.to_owned()).map_err(|_| "write host:port".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (text, millis) in [("5s", 5_000), ("1m30s", 90_000), ("100ms", 100), ("1.5h", 5_400_000), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "s", "5 s", "1x", "-5s", "1h-"] {
            assert!(duration(bad).is_err(), "{bad} was taken for a time");
        }
    }

    #[test]
    fn urls_say_whether_and_where() {
        assert_eq!(url("http://localhost:2379").unwrap().place, Place::Tcp("localhost:2379".into()));
        assert!(url("https://[::1]:2379").unwrap().tls);
        assert_eq!(url("unix:///run/a.sock").unwrap().place, Place::Unix("/run/a.sock".into()));
        assert!(url("unixs:///run/a.sock").unwrap().tls);
        for bad in ["localhost:2379", "http://localhost", "ftp://h:1", "unix://", "http://:80", "http://a@b:80"] {
            assert!(url(bad).is_err(), "{bad} was taken for a URL");
        }
    }
}
