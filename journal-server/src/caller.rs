//! Who is calling: the names in the certificate that a connection showed.
//!
//! A [`Caller`] is put into the extensions of every request; rules decide by it. Nothing in a request
//! itself can change it.

use std::fmt;
use std::net::IpAddr;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// No TLS. Rules call it `anonymous`.
    Anonymous,
    /// The common name first, then the alternative names, of a certificate that our authority signed.
    Certified { names: Vec<String> },
}

/// What rules call a caller without a certificate.
pub const ANONYMOUS: &str = "anonymous";

impl Caller {
    /// Reads the names of a certificate whose signature was already verified.
    pub fn of_certificate(der: &[u8]) -> Result<Caller, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let mut names: Vec<String> = Vec::new();
        for common_name in certificate.subject().iter_common_name() {
            names.extend(common_name.as_str().ok().map(str::to_owned));
        }
        let alternatives = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            names.extend(match name {
                GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
                    Some((*name).to_owned())
                }
                GeneralName::IPAddress(bytes) => ip(bytes).map(|address| address.to_string()),
                _ => None,
            });
        }
        let mut seen = Vec::with_capacity(names.len());
        for name in names {
            if !name.is_empty() && !seen.contains(&name) {
                seen.push(name);
            }
        }
        match seen.is_empty() {
            true => Err("the certificate has neither a common name nor an alternative name".into()),
            false => Ok(Caller::Certified { names: seen }),
        }
    }

    /// Every name that a rule may match.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (anonymous, names) = match self {
            Caller::Anonymous => (Some(ANONYMOUS), &[][..]),
            Caller::Certified { names } => (None, &names[..]),
        };
        anonymous.into_iter().chain(names.iter().map(String::as_str))
    }
}

/// The first name: how logs and refusals call it.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().next().unwrap_or("nameless"))
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_the_common_name_first_and_each_name_once() {
        let mut params = rcgen::CertificateParams::new(vec![
            "a.example".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
            "b.example".to_owned(),
        ])
        .unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "b.example");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let caller = Caller::of_certificate(certificate.der()).unwrap();
        assert_eq!(caller.to_string(), "b.example");
        assert_eq!(caller.names().collect::<Vec<_>>(), ["b.example", "a.example", "127.0.0.1", "::1"]);
    }

    #[test]
    fn bytes_that_are_no_certificate_are_nobody() {
        assert!(Caller::of_certificate(b"").is_err());
        assert!(Caller::of_certificate(&[0x30; 64]).is_err());
    }

    #[test]
    fn without_a_certificate_the_name_is_anonymous() {
        assert_eq!(Caller::Anonymous.to_string(), ANONYMOUS);
        assert_eq!(Caller::Anonymous.names().collect::<Vec<_>>(), [ANONYMOUS]);
    }
}
