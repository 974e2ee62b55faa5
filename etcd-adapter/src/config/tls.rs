//! TLS towards clients: whose certificates, which versions, which ciphers.

use std::path::PathBuf;

use journal_client::tls::{Identity, Spoken};
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, SupportedCipherSuite, SupportedProtocolVersion};

use super::flags::Given;
use super::values;

/// What clients are shown, what they must show, and in which TLS.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerTls {
    pub identity: Identity,
    /// Authorities of clients' certificates.
    pub ca: Option<PathBuf>,
    pub client_cert_auth: bool,
    pub spoken: Spoken,
}

/// Ciphers that etcd knows by these names and nobody should use: without them it starts here, too.
const WEAK: [&str; 16] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

pub fn build(g: &mut Given, needed: bool) -> Option<ServerTls> {
    let [cert, key, ca] = ["cert-file", "key-file", "trusted-ca-file"].map(|name| g.text(name).map(PathBuf::from));
    let client_cert_auth = g.get("client-cert-auth", values::boolean).unwrap_or(false);
    if client_cert_auth && ca.is_none() {
        g.problems.push("trusted-ca-file: client-cert-auth needs to know whose certificates count".into());
    }
    let spoken = build_spoken(g);
    match (cert, key) {
        (Some(cert), Some(key)) => Some(ServerTls { identity: Identity { cert, key }, ca, client_cert_auth, spoken }),
        (None, None) => {
            if needed {
                g.problems.push("cert-file: an https or unixs address needs cert-file and key-file".into());
            }
            None
        }
        _ => {
            g.problems.push("cert-file: a certificate and its key go together".into());
            None
        }
    }
}

fn build_spoken(g: &mut Given) -> Spoken {
    let least = g.get("tls-min-version", version).flatten().unwrap_or(&TLS12);
    let most = g.get("tls-max-version", version).flatten().unwrap_or(&TLS13);
    let number = |version: &SupportedProtocolVersion| u16::from(version.version);
    let within =
        |version: &&&'static SupportedProtocolVersion| (number(least)..=number(most)).contains(&number(version));
    let versions: Vec<_> = ALL_VERSIONS.iter().filter(within).copied().collect();
    if versions.is_empty() {
        g.problems.push("tls-min-version: it is greater than tls-max-version".into());
    }
    let named = g.list("cipher-suites", suite);
    if g.text("cipher-suites").is_none() {
        return Spoken { versions, ..Spoken::default() };
    }
    if least == &TLS13 {
        g.problems.push("cipher-suites: those of TLS1.3 cannot be chosen: drop it, or lower tls-min-version".into());
    }
    let weak = named.iter().filter_map(|named| named.as_ref().err());
    g.ignored.extend(weak.map(|name| format!("cipher-suites: {name} (too weak to be had here)")));
    // As with etcd, the list is about TLS 1.2, and TLS 1.3 has all of its own.
    let chosen = named.into_iter().filter_map(Result::ok).filter(|suite| suite.tls13().is_none());
    let own = Spoken::default().suites.into_iter().filter(|suite| suite.tls13().is_some());
    let suites: Vec<_> = own.chain(chosen).collect();
    let is_heard = |version: &&SupportedProtocolVersion| suites.iter().any(|suite| suite.version() == *version);
    if g.problems.is_empty() && !versions.iter().any(is_heard) {
        g.problems.push("cipher-suites: none of them can be had here, and TLS1.3 is not spoken".into());
    }
    Spoken { versions, suites }
}

/// Nothing leaves it open.
fn version(text: &str) -> Result<Option<&'static SupportedProtocolVersion>, String> {
    match text {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(&TLS12)),
        "TLS1.3" => Ok(Some(&TLS13)),
        _ => Err("write TLS1.2 or TLS1.3".into()),
    }
}

/// The cipher of this name, or the name of one that is too weak.
fn suite(text: &str) -> Result<Result<SupportedCipherSuite, String>, String> {
    let all = Spoken::default().suites;
    // Names that Go had before they were settled.
    let settled = match text {
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        other => other,
    };
    match all.iter().find(|suite| name(suite) == settled) {
        Some(suite) => Ok(Ok(*suite)),
        None if WEAK.contains(&text) => Ok(Err(text.to_owned())),
        None => Err(format!("write some of {}", all.iter().map(name).collect::<Vec<_>>().join(", "))),
    }
}

/// As etcd names it.
fn name(suite: &SupportedCipherSuite) -> String {
    suite.suite().as_str().unwrap_or_default().replacen("TLS13_", "TLS_", 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::config::{Config, LoadError};

    fn load(flags: &[&str]) -> Result<Config, LoadError> {
        let args = ["etcd-adapter", "--ephemeral", "--cert-file=c", "--key-file=k"];
        Config::load(args.iter().chain(flags).copied(), BTreeMap::new())
    }

    fn problem(flags: &[&str]) -> String {
        load(flags).unwrap_err().to_string()
    }

    #[test]
    fn both_versions_are_spoken_unless_one_is_left_out() {
        let count = |flags: &[&str]| load(flags).unwrap().tls.unwrap().spoken.versions.len();
        assert_eq!(count(&[]), 2);
        assert_eq!(count(&["--tls-min-version=", "--tls-max-version="]), 2);
        assert_eq!(count(&["--tls-min-version=TLS1.3"]), 1);
        assert_eq!(count(&["--tls-max-version=TLS1.2"]), 1);
        assert!(problem(&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"]).contains("greater"));
        assert!(problem(&["--tls-min-version=TLS1.1"]).contains("write TLS1.2 or TLS1.3"));
    }

    #[test]
    fn ciphers_have_etcds_names_and_what_is_no_name_is_told_with_those_that_are() {
        let config = load(&["--cipher-suites=TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_RSA_WITH_RC4_128_SHA"]).unwrap();
        let suites = config.tls.unwrap().spoken.suites;
        assert_eq!(suites.iter().filter(|suite| suite.tls13().is_none()).count(), 1);
        assert_eq!(suites.iter().filter(|suite| suite.tls13().is_some()).count(), 3);
        assert!(config.ignored.iter().any(|said| said.contains("TLS_RSA_WITH_RC4_128_SHA")), "{:?}", config.ignored);
        let told = problem(&["--cipher-suites=TLS_NO_SUCH"]);
        for known in ["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"] {
            assert!(told.contains(known), "{told}");
        }
    }

    #[test]
    fn ciphers_are_chosen_for_the_older_version_only() {
        let suite = "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        assert!(problem(&[suite, "--tls-min-version=TLS1.3"]).contains("cannot be chosen"));
        let weak = "--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA";
        assert!(problem(&[weak, "--tls-max-version=TLS1.2"]).contains("none of them"));
        assert!(load(&[weak]).is_ok(), "TLS 1.3 is left");
    }
}
