//! Certificates: which files, what is made of them, and how new ones come into use without a
//! restart.
//!
//! The files are looked at whenever a connection is made (a few `stat` calls); if one of them has
//! changed, they are read again. Files that cannot be read or do not fit together never replace
//! ones that did: the old ones stay in use and the log says why. Connections that stand keep the
//! certificates they were made with.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    WantsVerifier,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// Where a node's or a client's certificates lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates (PEM) of the authorities that the other side's certificate must come from.
    pub ca: PathBuf,
    /// This side's own certificate and those of its issuers (PEM), and its key (PEM). A client may
    /// do without; a server may not.
    pub identity: Option<Identity>,
    /// The name or IP address that the server's certificate must bear, where that is not the host
    /// of its address.
    pub server_name: Option<String>,
}

/// One's own certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {why}")]
    Unreadable { path: PathBuf, why: String },
    #[error("{path} contains no {what}")]
    Empty { path: PathBuf, what: &'static str },
    #[error("{cert} and {key} do not make an identity: {why}")]
    Mismatch { cert: PathBuf, key: PathBuf, why: String },
    #[error("{ca} cannot be trusted: {why}")]
    Authority { ca: PathBuf, why: String },
    #[error("`{0}` is no server name")]
    ServerName(String),
    #[error("a server needs a certificate and a key")]
    NoIdentity,
    #[error("there is no TLS to speak: {0}")]
    Speechless(String),
}

impl Tls {
    /// The name that the certificate of the server at `host` must bear.
    pub fn server_name_of(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
    }

    /// What this side says and demands as a client.
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions")
            .with_root_certificates(self.roots()?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                builder.with_client_auth_cert(chain, key).map_err(|why| identity.mismatch(why))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// What this side says and demands as a server: every client must show a certificate of `ca`.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
        self.server_config_speaking(&Spoken::default(), alpn)
    }

    fn server_config_speaking(&self, spoken: &Spoken, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
        let identity = self.identity.as_ref().ok_or(TlsError::NoIdentity)?;
        let (chain, key) = identity.read()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?.into(), provider())
            .build()
            .map_err(|why| TlsError::Authority { ca: self.ca.clone(), why: why.to_string() })?;
        let mut config = spoken
            .server()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|why| identity.mismatch(why))?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        // A session that is taken up again is not asked for its certificate again, which may have ended
        // since. Connections here last for days: there is nothing to be saved.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(&self.ca)? {
            roots.add(certificate).map_err(|why| TlsError::Authority { ca: self.ca.clone(), why: why.to_string() })?;
        }
        Ok(roots)
    }
}

impl Papers for Tls {
    fn files(&self) -> Vec<&Path> {
        let mut files = vec![self.ca.as_path()];
        if let Some(identity) = &self.identity {
            files.push(&identity.cert);
            files.push(&identity.key);
        }
        files
    }
}

/// Where the certificates of a server lie that may let clients in without any.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontTls {
    pub identity: Identity,
    /// Certificates (PEM) of the authorities that every client's certificate must come from. Nothing:
    /// clients are asked for none.
    pub clients: Option<PathBuf>,
    pub spoken: Spoken,
}

impl FrontTls {
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
        if let Some(ca) = &self.clients {
            let tls = Tls { ca: ca.clone(), identity: Some(self.identity.clone()), server_name: None };
            return tls.server_config_speaking(&self.spoken, alpn);
        }
        let (chain, key) = self.identity.read()?;
        let mut config = self
            .spoken
            .server()?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|why| self.identity.mismatch(why))?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

/// Which TLS a server speaks: by default all that is known, and nothing of it is old.
#[derive(Debug, Clone, PartialEq)]
pub struct Spoken {
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Of these the client chooses by its own order.
    pub suites: Vec<SupportedCipherSuite>,
}

impl Default for Spoken {
    fn default() -> Self {
        Spoken { versions: rustls::ALL_VERSIONS.to_vec(), suites: rustls::crypto::ring::ALL_CIPHER_SUITES.to_vec() }
    }
}

impl Spoken {
    fn server(&self) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, TlsError> {
        let provider =
            CryptoProvider { cipher_suites: self.suites.clone(), ..rustls::crypto::ring::default_provider() };
        ServerConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&self.versions)
            .map_err(|why| TlsError::Speechless(why.to_string()))
    }
}

impl Papers for FrontTls {
    fn files(&self) -> Vec<&Path> {
        let own = [self.identity.cert.as_path(), self.identity.key.as_path()];
        own.into_iter().chain(self.clients.as_deref()).collect()
    }
}

/// Certificate files that belong together.
pub trait Papers: Send + Sync {
    fn files(&self) -> Vec<&Path>;
}

type Make<T, P> = Box<dyn Fn(&P) -> Result<T, TlsError> + Send + Sync>;

/// Something made of certificate files, made anew when they change.
pub struct Reloading<T, P = Tls> {
    tls: P,
    make: Make<T, P>,
    current: Mutex<(Vec<Stamp>, Arc<T>)>,
}

impl<T, P: Papers> Reloading<T, P> {
    /// Reads the files once, so that what is wrong with them is known at the start.
    pub fn new(tls: P, make: impl Fn(&P) -> Result<T, TlsError> + Send + Sync + 'static) -> Result<Self, TlsError> {
        // The stamps are older than what is read: a change in between is found the next time.
        let stamps = stamps(&tls);
        let made = make(&tls)?;
        Ok(Reloading { tls, make: Box::new(make), current: Mutex::new((stamps, Arc::new(made))) })
    }

    /// What the files say now or, if they make no sense now, what they last said. Reads files.
    pub fn current(&self) -> Arc<T> {
        let stamps = stamps(&self.tls);
        let mut current = self.current.lock();
        if current.0 != stamps {
            match (self.make)(&self.tls) {
                Ok(made) => {
                    let first = self.tls.files().first().map(|file| file.display().to_string()).unwrap_or_default();
                    tracing::info!(first, "certificates read anew");
                    current.1 = Arc::new(made);
                }
                Err(error) => {
                    metrics::counter!("journal_reload_failures_total").increment(1);
                    tracing::error!(%error, "changed certificates cannot be used, the old ones stay");
                }
            }
            // Remembered either way: the same bad files are complained of once.
            current.0 = stamps;
        }
        current.1.clone()
    }

    pub fn tls(&self) -> &P {
        &self.tls
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = read_certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|why| TlsError::Unreadable { path: self.key.clone(), why: why.to_string() })?;
        Ok((chain, key))
    }

    fn mismatch(&self, why: rustls::Error) -> TlsError {
        TlsError::Mismatch { cert: self.cert.clone(), key: self.key.clone(), why: why.to_string() }
    }
}

/// What tells one version of a file from the next. A file that is absent has none.
type Stamp = Option<(Option<SystemTime>, u64, u64)>;

fn stamps(tls: &impl Papers) -> Vec<Stamp> {
    let stamp = |file: Metadata| (file.modified().ok(), file.len(), inode(&file));
    tls.files().into_iter().map(|path| std::fs::metadata(path).ok().map(stamp)).collect()
}

#[cfg(unix)]
fn inode(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(file)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |why: &dyn std::fmt::Display| TlsError::Unreadable { path: path.to_owned(), why: why.to_string() };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|why| unreadable(&why))?
        .collect::<Result<_, _>>()
        .map_err(|why| unreadable(&why))?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), what: "certificate" });
    }
    Ok(certificates)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
