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
pub fn issue(dir: &Path, names: &[&str]) -> anyhow::Result<()> {
    if papers(dir, CLIENT).cert.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let authority = Authority::new("cluster authority")?;
    authority.publish(&dir.join("ca.pem"))?;
    for name in names {
        authority.sign(name, &papers(dir, name))?;
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

/// Another authority takes over, file by file, as an operator would do it. Who runs is told nothing.
pub struct Renewal {
    dir: PathBuf,
    names: Vec<String>,
    old: String,
    new: Authority,
}

impl Renewal {
    /// Makes the new authority, and keeps a copy of the client's papers as they are: [`Renewal::outdated`].
    pub fn begin(dir: &Path, nodes: &[&str]) -> anyhow::Result<Renewal> {
        let old = std::fs::read_to_string(dir.join("ca.pem"))?;
        let new = Authority::new("the next authority")?;
        let (now, kept) = (papers(dir, CLIENT), outdated(dir));
        std::fs::copy(&now.cert, &kept.cert)?;
        std::fs::copy(&now.key, &kept.key)?;
        put(&kept.ca, &format!("{old}{}", new.pem))?;
        let names = nodes.iter().copied().chain([CLIENT]).map(str::to_owned).collect();
        Ok(Renewal { dir: dir.to_owned(), names, old, new })
    }

    /// From now on everybody trusts both.
    pub fn trust_both(&self) -> anyhow::Result<()> {
        put(&self.dir.join("ca.pem"), &format!("{}{}", self.old, self.new.pem))
    }

    /// New papers for all nodes and for the client.
    pub fn sign_all(&self) -> anyhow::Result<()> {
        self.names.iter().try_for_each(|name| self.new.sign(name, &papers(&self.dir, name)))
    }

    /// From now on nobody trusts the old authority.
    pub fn trust_new_only(&self) -> anyhow::Result<()> {
        put(&self.dir.join("ca.pem"), &self.new.pem)
    }

    /// The client's papers from before. Their owner trusts everybody.
    pub fn outdated(&self) -> Papers {
        outdated(&self.dir)
    }
}

fn outdated(dir: &Path) -> Papers {
    Papers { ca: dir.join("both.pem"), ..papers(dir, &format!("outdated-{CLIENT}")) }
}

/// In one step: whoever reads meanwhile finds the old file or the new one.
fn put(at: &Path, text: &str) -> anyhow::Result<()> {
    let fresh = at.with_extension("fresh");
    std::fs::write(&fresh, text).with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::rename(&fresh, at).with_context(|| format!("cannot replace {}", at.display()))
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
        put(at, &self.pem)
    }

    fn sign(&self, name: &str, at: &Papers) -> anyhow::Result<()> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        put(&at.cert, &certificate.pem())?;
        put(&at.key, &key.serialize_pem())
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
