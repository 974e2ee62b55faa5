//! Certificates for a cluster on this machine: an authority, one for every node, one for a client,
//! and those of somebody whom nobody trusts.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

/// Certificate, key, and the authority to trust: files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Papers {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The name in a client's certificate.
pub const CLIENT: &str = "operator";

/// Papers for those names, below `dir`, unless they are there already.
pub fn issue(dir: &Path, nodes: &[&str]) -> anyhow::Result<()> {
    if papers(dir, CLIENT).cert.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let authority = Authority::new("cluster authority")?;
    authority.publish(&dir.join("ca.pem"))?;
    for node in nodes {
        authority.sign(node, &papers(dir, node))?;
    }
    authority.sign(CLIENT, &papers(dir, CLIENT))?;
    Ok(())
}

/// Papers of somebody who calls himself like a node or a client, signed by himself: trusting `dir`'s
/// authority, trusted by nobody.
pub fn forge(dir: &Path, name: &str) -> anyhow::Result<Papers> {
    let mut forged = papers(dir, &format!("forged-{name}"));
    forged.ca = dir.join("ca.pem");
    Authority::new("another authority")?.sign(name, &forged)?;
    Ok(forged)
}

/// Where the papers of that name lie.
pub fn papers(dir: &Path, name: &str) -> Papers {
    Papers { ca: dir.join("ca.pem"), cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> anyhow::Result<Authority> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), pem })
    }

    fn publish(&self, at: &Path) -> anyhow::Result<()> {
        std::fs::write(at, &self.pem).with_context(|| format!("cannot write {}", at.display()))
    }

    fn sign(&self, name: &str, at: &Papers) -> anyhow::Result<()> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        std::fs::write(&at.cert, certificate.pem())?;
        std::fs::write(&at.key, key.serialize_pem())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn papers_are_issued_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        issue(dir.path(), &["n1"]).unwrap();
        let before = std::fs::read(papers(dir.path(), "n1").cert).unwrap();
        issue(dir.path(), &["n1"]).unwrap();
        assert_eq!(std::fs::read(papers(dir.path(), "n1").cert).unwrap(), before);
        let forged = forge(dir.path(), "n1").unwrap();
        assert_ne!(std::fs::read(forged.cert).unwrap(), before);
    }
}
