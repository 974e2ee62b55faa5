//! The adapters of a world, those who use them, and those who look on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use journal_client::{Journal, RemoteJournal, TailFrom};
use proto::Position;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Client, Way, all, key};
use super::judge::{judge, twice};
use super::keeper;
use super::ledger::{Ledger, Told};
use super::machine::{Machine, Parts};
use super::profile::Profile;
use super::reference::Reference;
use super::watcher::Watcher;
use crate::sim::reader::Reader;
use crate::sim::stage::RECOVERY;
use crate::sim::wire::{Host, HostNet};
use crate::sim::witness::Witness;
use crate::sim::world::{World, fork};

/// The adapters' machines.
const MACHINES: u8 = 31;
/// Where their clients are.
const USERS: Host = Host(111);
/// Who asks once whether it works again.
const PROBE: u32 = 800;
const KEEPERS: u32 = 700;
/// Leases that nobody renews end within this, and their TTL.
const EXPIRY: Duration = Duration::from_secs(60);
/// How often somebody looks where each adapter is.
const LOOK: Duration = Duration::from_millis(50);

pub struct Troupe {
    pub world: Arc<World>,
    pub profile: Profile,
    pub machines: Vec<Arc<Machine>>,
    pub ledger: Ledger,
    pub ways: Vec<Way>,
    pub rng: StdRng,
    /// The journal that the adapters are a function of, as one who only reads has it.
    pub journal: Arc<RemoteJournal>,
    net: HostNet,
    readers: Witness,
    reading: JoinSet<Position>,
    stop_reading: CancellationToken,
    clients: JoinSet<()>,
    keepers: JoinSet<()>,
    watchers: JoinSet<i64>,
    stop_clients: CancellationToken,
    stop_keepers: CancellationToken,
    goal: watch::Sender<Option<i64>>,
    probes: u32,
}

impl Troupe {
    /// All adapters up and answering. Nobody uses them yet.
    pub async fn begin(world: Arc<World>, mut rng: StdRng) -> anyhow::Result<Troupe> {
        let profile = world.profile.adapters.clone().context("this world has no adapters")?;
        let ledger = Ledger::new(world.witness.clone());
        let net = world.wire.boot(USERS);
        let mut machines = Vec::new();
        for number in 0..profile.adapters {
            let (name, host) = (format!("a{}", number + 1), Host(MACHINES + number as u8));
            machines.push(machine(&world, &profile, &ledger, name, host, &mut rng));
        }
        let ways: Vec<Way> = machines.iter().map(|machine| Way::new(&net, machine)).collect();
        machines.iter().for_each(|machine| machine.want(true));
        let cluster = world.client(Host(112));
        let name = "kubernetes".parse().expect("a good name");
        let deadline = Instant::now() + RECOVERY;
        let journal = loop {
            match cluster.journal(&name).await {
                Ok(journal) => break Arc::new(journal),
                Err(error) => ensure!(Instant::now() < deadline, "no adapter creates its journal: {error}"),
            }
            sleep(Duration::from_millis(50)).await;
        };
        let readers = Witness::new(world.trace.clone());
        let stop_reading = CancellationToken::new();
        let mut reading = JoinSet::new();
        for (name, from) in [("e-leader", TailFrom::Leader), ("e-n2", TailFrom::Node(world.nodes[1].host.address()))] {
            let reader = Reader {
                name: name.to_owned(),
                journal: journal.clone(),
                from,
                witness: readers.clone(),
                trace: world.trace.clone(),
            };
            reading.spawn(reader.follow(stop_reading.clone()));
        }
        let mut troupe = Troupe {
            world,
            profile,
            machines,
            ledger,
            ways,
            rng,
            journal,
            net,
            readers,
            reading,
            stop_reading,
            clients: JoinSet::new(),
            keepers: JoinSet::new(),
            watchers: JoinSet::new(),
            stop_clients: CancellationToken::new(),
            stop_keepers: CancellationToken::new(),
            goal: watch::channel(None).0,
            probes: 0,
        };
        troupe.all_answer().await?;
        tokio::spawn(look(troupe.machines.clone(), troupe.ledger.clone()));
        Ok(troupe)
    }

    /// One more machine, on which nothing runs yet. Clients do not know it.
    pub fn add(&mut self, name: &str) -> Arc<Machine> {
        let host = Host(MACHINES + self.machines.len() as u8);
        let machine = machine(&self.world, &self.profile, &self.ledger, name.to_owned(), host, &mut self.rng);
        self.machines.push(machine.clone());
        tokio::spawn(look(vec![machine.clone()], self.ledger.clone()));
        machine
    }

    /// The way of these clients to a machine.
    pub fn way(&self, machine: &Arc<Machine>) -> Way {
        Way::new(&self.net, machine)
    }

    /// A client of one's own.
    pub fn client(&mut self, number: u32) -> Client {
        Client::new(number, self.ways.clone(), fork(&mut self.rng), self.ledger.clone())
    }

    /// Lets clients, keepers and watchers work, as the profile says.
    pub fn load(&mut self) {
        for number in 0..self.profile.clients {
            let client = self.client(1 + number);
            self.clients.spawn(client.work(self.profile.clone(), self.stop_clients.clone()));
        }
        for number in 0..self.profile.keepers {
            let client = self.client(KEEPERS + number);
            self.keepers.spawn(keeper::keep(client, u64::from(number), self.stop_keepers.clone()));
        }
        for number in 0..self.profile.watchers {
            let (key, range_end) = match self.rng.random_range(0..3) {
                0 => (key(0), bytes::Bytes::new()),
                _ => all(),
            };
            let watcher = Watcher {
                name: format!("w{number}"),
                ways: self.ways.clone(),
                rng: fork(&mut self.rng),
                ledger: self.ledger.clone(),
                key,
                range_end,
                from: self.rng.random_range(0..3),
            };
            self.watchers.spawn(watcher.follow(self.goal.subscribe()));
        }
    }

    /// One more who keeps a lease.
    pub fn keep(&mut self, keeper: impl Future<Output = ()> + Send + 'static) {
        self.keepers.spawn(keeper);
    }

    /// When keepers may stop.
    pub fn keepers_stop(&self) -> CancellationToken {
        self.stop_keepers.clone()
    }

    /// Every adapter takes a write, and shows it.
    pub async fn all_answer(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + RECOVERY;
        for at in 0..self.ways.len() {
            self.probes += 1;
            let mut client = self.client(PROBE + self.probes);
            loop {
                client.take(at);
                if let Told::Done { .. } = client.put(key(800 + at as u64), 0).await {
                    break;
                }
                let name = &self.ways[at].machine.name;
                ensure!(Instant::now() < deadline, "{name} does not take a write");
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Everything is mended: lets everybody finish, and judges. What it came to, for people.
    pub async fn end(&mut self) -> anyhow::Result<String> {
        let finished = self.finish().await;
        self.stop_reading.cancel();
        while self.reading.join_next().await.is_some() {}
        for why in self.readers.all_broken() {
            self.ledger.broken(why);
        }
        let description = self.journal.describe().await?;
        let cluster = etcd_adapter::boot::cluster_id(&description);
        let reference = Reference::of(cluster, &self.readers.entries())?;
        match finished {
            Ok(()) => Ok(judge(&reference, &self.ledger)),
            Err(error) => {
                // Not everything is known; what happened twice is.
                twice(&reference, &self.ledger);
                Err(error)
            }
        }
    }

    /// Lets everybody finish what they do, and come to know everything.
    async fn finish(&mut self) -> anyhow::Result<()> {
        self.all_answer().await?;
        self.stop_clients.cancel();
        timeout(RECOVERY, async { while self.clients.join_next().await.is_some() {} })
            .await
            .context("clients stay without an answer")?;
        self.expired().await?;
        self.stop_keepers.cancel();
        timeout(RECOVERY, async { while self.keepers.join_next().await.is_some() {} })
            .await
            .context("keepers stay without an answer")?;
        self.caught_up().await
    }

    /// Leases that nobody renews end.
    async fn expired(&mut self) -> anyhow::Result<()> {
        let kept = self.ledger.kept();
        let deadline = Instant::now() + EXPIRY;
        let mut channel = proto::etcd::lease_client::LeaseClient::new(self.ways[0].channel.clone());
        loop {
            let asked = channel.lease_leases(proto::etcd::LeaseLeasesRequest {});
            if let Ok(Ok(leases)) = timeout(Duration::from_secs(5), asked).await {
                let left: Vec<i64> = leases.into_inner().leases.iter().map(|lease| lease.id).collect();
                if left.iter().all(|lease| kept.contains(lease)) {
                    return Ok(());
                }
                ensure!(Instant::now() < deadline, "leases that nobody renews do not end: {left:?}");
            }
            ensure!(Instant::now() < deadline, "nobody says which leases there are");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Watchers are told of everything, adapters apply everything, readers are shown everything.
    async fn caught_up(&mut self) -> anyhow::Result<()> {
        let mut client = self.client(PROBE);
        let deadline = Instant::now() + RECOVERY;
        let mut goal = 0;
        // One change at least that each watcher wants.
        while goal == 0 {
            if let Told::Done { revision } = client.put(key(0), 0).await {
                goal = revision;
            }
            ensure!(Instant::now() < deadline, "the last write does not get in");
        }
        self.goal.send_replace(Some(goal));
        timeout(RECOVERY, async { while self.watchers.join_next().await.is_some() {} })
            .await
            .with_context(|| format!("watchers are not told of everything up to {goal}"))?;
        let tail = timeout(RECOVERY, self.journal.check_tail()).await??.tail;
        for machine in &self.machines {
            while machine.standing().is_none_or(|standing| standing.lock().applied < tail) {
                ensure!(Instant::now() < deadline + RECOVERY, "{} does not reach the tail {tail}", machine.name);
                if !machine.is_wanted() {
                    break;
                }
                sleep(LOOK).await;
            }
        }
        while self.readers.reached() < tail {
            ensure!(Instant::now() < deadline + RECOVERY, "readers do not reach the tail {tail}");
            sleep(LOOK).await;
        }
        Ok(())
    }
}

fn machine(
    world: &World,
    profile: &Profile,
    ledger: &Ledger,
    name: String,
    host: Host,
    rng: &mut StdRng,
) -> Arc<Machine> {
    let parts = Parts {
        name,
        host,
        endpoints: world.nodes.iter().map(|node| node.host.address()).collect(),
        nearest: profile.nearest,
        plant: world.plant,
        seed: rng.random(),
    };
    Machine::new(parts, &world.wire, &world.trace, ledger)
}

/// Writes down, again and again, where each adapter is and what its state is.
async fn look(machines: Vec<Arc<Machine>>, ledger: Ledger) {
    loop {
        for machine in &machines {
            if let Some(standing) = machine.standing() {
                let standing = *standing.lock();
                ledger.state_is(&machine.name, standing.applied, standing.hash);
            }
        }
        sleep(LOOK).await;
    }
}
