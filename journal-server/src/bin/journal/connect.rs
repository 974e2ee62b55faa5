//! Which cluster, and how to reach it: the flags that all commands share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use journal_client::tls::Identity;
use journal_client::{Admin, Cluster, RemoteJournal, Settings, TailFrom, TcpConnector, Tls};
use proto::JournalName;

use crate::exit::Usage;

/// One node on this machine, as started without further words.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:7400";

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Some of the cluster's nodes; the others are learnt from them
    #[arg(
        long,
        global = true,
        env = "JOURNAL_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = DEFAULT_ENDPOINT
    )]
    endpoints: Vec<String>,
    /// Certificates of the authorities that sign the nodes (PEM); turns TLS on
    #[arg(long, global = true, env = "JOURNAL_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Your own certificate chain (PEM)
    #[arg(long, global = true, env = "JOURNAL_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, global = true, env = "JOURNAL_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// The name in the nodes' certificates, where it is not the host that is called
    #[arg(long, global = true, env = "JOURNAL_TLS_SERVER_NAME", value_name = "NAME")]
    tls_server_name: Option<String>,
    /// Connect without TLS to other machines too
    #[arg(long, global = true)]
    allow_plaintext: bool,
    /// Seconds to wait for nodes that do not answer, or for a leader
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5.0)]
    timeout: f64,
}

impl Connection {
    pub fn cluster(&self) -> anyhow::Result<Cluster> {
        self.cluster_read_from(TailFrom::default())
    }

    /// A client whose tails come from `tail_from`.
    pub fn cluster_read_from(&self, tail_from: TailFrom) -> anyhow::Result<Cluster> {
        let patience = Duration::try_from_secs_f64(self.timeout)
            .map_err(|_| Usage(format!("--timeout {} is no time", self.timeout)))?;
        let settings = Settings { patience, tail_from, ..Settings::default() };
        let connector = TcpConnector::new(self.tls()?, self.allow_plaintext).context("TLS cannot be set up")?;
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.trim());
        let cluster = Cluster::new(endpoints, Arc::new(connector), settings);
        Ok(cluster.map_err(|error| Usage(format!("--endpoints: {error}")))?)
    }

    pub fn admin(&self) -> anyhow::Result<Admin> {
        Ok(self.cluster()?.admin())
    }

    /// The journal of that name.
    pub async fn journal(&self, name: &JournalName) -> anyhow::Result<RemoteJournal> {
        let journal = self.cluster()?.journal(name).await;
        journal.with_context(|| format!("cannot open the journal {name}"))
    }

    /// What may be the reason if nobody answers. Nodes that want a certificate close the connection, and
    /// say why in a way that not every client hears.
    pub fn hint(&self) -> Option<&'static str> {
        match (&self.tls_ca, &self.tls_cert) {
            (Some(_), None) => Some(
                "nodes with TLS answer only whoever shows a certificate that they trust, and none was shown: \
                 --tls-cert and --tls-key",
            ),
            (None, None) => Some("if the nodes use TLS, say --tls-ca, --tls-cert and --tls-key"),
            _ => None,
        }
    }

    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some(Identity { cert: cert.clone(), key: key.clone() }),
            (None, None) => None,
            _ => return Err(Usage("--tls-cert and --tls-key go together".into()).into()),
        };
        match &self.tls_ca {
            Some(ca) => Ok(Some(Tls { ca: ca.clone(), identity, server_name: self.tls_server_name.clone() })),
            None if identity.is_some() || self.tls_server_name.is_some() => {
                Err(Usage("TLS needs --tls-ca: the authorities that sign the nodes".into()).into())
            }
            None => Ok(None),
        }
    }
}
