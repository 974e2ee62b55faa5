//! A journal that one adapter hears wrongly, or not at all: what happens to the others, and to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_adapter::command::{Command, decode, encode};
use futures::StreamExt;
use journal_client::{
    AppendError, Appender, Description, Entry, Error, Journal, MemoryJournal, Run, Tail, TailStream, Ticket,
};
use proto::Position;
use tokio::sync::watch;

/// One adapter's way to the journal. Clones are handles to the same way.
#[derive(Clone)]
pub struct Way {
    journal: MemoryJournal,
    /// The next put is heard with another value than was written.
    mishears: Arc<AtomicBool>,
    /// How often the tail streams that were open have fallen silent.
    silenced: watch::Sender<u64>,
    /// Nothing goes through, in neither direction; what was sent meanwhile arrives later.
    held: watch::Sender<bool>,
    /// What is sent goes through, and no entry is heard.
    deaf: watch::Sender<bool>,
}

impl Way {
    pub fn to(journal: &MemoryJournal) -> Way {
        Way {
            journal: journal.clone(),
            mishears: Arc::default(),
            silenced: watch::Sender::new(0),
            held: watch::Sender::new(false),
            deaf: watch::Sender::new(false),
        }
    }

    pub fn mishear_a_put(&self) {
        self.mishears.store(true, Ordering::SeqCst);
    }

    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    pub fn deafen(&self, deaf: bool) {
        self.deaf.send_replace(deaf);
    }

    /// The tail streams that are open bring nothing more, and do not end.
    pub fn silence_tails(&self) {
        self.silenced.send_modify(|times| *times += 1);
    }

    async fn open(&self) {
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }

    fn hear(&self, mut run: Run) -> Run {
        for entry in &mut run.entries {
            let Ok(mut body) = decode(entry.payload.clone()) else { continue };
            let put = body.commands.iter_mut().find_map(|command| match command {
                Command::Put(put) => Some(put),
                _ => None,
            });
            if let Some(put) = put
                && self.mishears.swap(false, Ordering::SeqCst)
            {
                put.value = Bytes::from_static(b"misheard");
                entry.payload = encode(&body);
            }
        }
        run
    }
}

#[async_trait]
impl Journal for Way {
    async fn append(&self, entry: Entry) -> Result<Position, AppendError> {
        self.open().await;
        self.journal.append(entry).await
    }

    async fn appender(&self) -> Result<Box<dyn Appender>, Error> {
        self.open().await;
        let inner = self.journal.appender().await?;
        Ok(Box::new(Stream { way: self.clone(), inner }))
    }

    async fn tail(&self, from: Position) -> Result<TailStream, Error> {
        self.open().await;
        let way = self.clone();
        let silenced = *self.silenced.borrow();
        let heard = self.journal.tail(from).await?.then(move |run| {
            let way = way.clone();
            async move {
                way.open().await;
                let _ = way.deaf.subscribe().wait_for(|deaf| !deaf).await;
                if *way.silenced.borrow() > silenced {
                    std::future::pending::<()>().await;
                }
                run.map(|run| way.hear(run))
            }
        });
        Ok(heard.boxed())
    }

    async fn check_tail(&self) -> Result<Tail, Error> {
        self.open().await;
        self.journal.check_tail().await
    }

    async fn trim(&self, before: Position) -> Result<Position, Error> {
        self.journal.trim(before).await
    }

    async fn describe(&self) -> Result<Description, Error> {
        self.journal.describe().await
    }
}

struct Stream {
    way: Way,
    inner: Box<dyn Appender>,
}

#[async_trait]
impl Appender for Stream {
    async fn append(&self, entries: Vec<Entry>) -> Vec<Ticket> {
        self.way.open().await;
        self.inner.append(entries).await
    }

    fn term(&self) -> u64 {
        self.inner.term()
    }
}
