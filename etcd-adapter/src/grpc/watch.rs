//! etcd's Watch service: one task a stream, between the client's requests and the session's queue.
//!
//! Events of one watcher that wait together travel in one response; nothing is carried over a progress,
//! a creation or an end. Fragments of one response are sent back to back.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use proto::etcd::watch_create_request::FilterType;
use proto::etcd::watch_request::RequestUnion;
use proto::etcd::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Status, Streaming};

use super::status::{self, COMPACTED, NO_LEADER};
use super::{Shared, require_leader};
use crate::mvcc::Revision;
use crate::watch::{Created, Event, Frame, Item, Keys, Session, Style, Wish};

/// Responses that are made before the client has taken the ones before them.
const OUTBOUND_MAX: usize = 16;
/// Events in one response, about.
const EVENTS_MAX: usize = 1000;
/// Requests in a row, before events have their turn.
const REQUESTS_MAX: usize = 64;
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
/// Stands for no watcher, and for all of a stream.
const NO_ID: i64 = -1;

/// The service.
#[derive(Clone)]
pub struct WatchService(pub Arc<Shared>);

impl WatchService {
    pub async fn call(self, request: Request<Body>) -> Response<Body> {
        let codec = tonic_prost::ProstCodec::<Frame, WatchRequest>::default();
        let mut grpc = tonic::server::Grpc::new(codec)
            .max_decoding_message_size(self.0.message_bytes_max())
            .max_encoding_message_size(usize::MAX);
        grpc.streaming(Open(self.0), request).await
    }
}

struct Open(Arc<Shared>);

impl tonic::server::StreamingService<WatchRequest> for Open {
    type Response = Frame;
    type ResponseStream = ReceiverStream<Result<Frame, Status>>;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<WatchRequest>>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let leader_required = require_leader(&request);
            if leader_required && !shared.has_leader() {
                return Err(NO_LEADER.into());
            }
            let (outbound, responses) = mpsc::channel(OUTBOUND_MAX);
            let stream = Stream {
                session: Session::open(&shared.hub),
                shared,
                outbound,
                watchers: BTreeMap::new(),
                progress_asked: 0,
                leader_required,
                events_sent: 0,
            };
            tokio::spawn(stream.run(request.into_inner()));
            Ok(tonic::Response::new(ReceiverStream::new(responses)))
        })
    }
}

/// What the stream itself remembers of a watcher.
struct Local {
    progress: bool,
    /// An event was sent since the last tick.
    sent: bool,
}

struct Stream {
    shared: Arc<Shared>,
    session: Session,
    outbound: mpsc::Sender<Result<Frame, Status>>,
    watchers: BTreeMap<i64, Local>,
    /// Requests for progress that are not answered yet: one look at the watchers serves them all.
    progress_asked: usize,
    leader_required: bool,
    events_sent: usize,
}

/// Why a stream's task ends.
enum End {
    /// The client went, or was told everything.
    Gone,
    Failed(Status),
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<WatchRequest>) {
        let outbound = self.outbound.clone();
        let served = tokio::select! {
            biased;
            () = outbound.closed() => End::Gone,
            end = self.serve(&mut requests) => end,
        };
        if let End::Failed(status) = served {
            let _ = outbound.send(Err(status)).await;
        }
    }

    async fn serve(&mut self, requests: &mut Streaming<WatchRequest>) -> End {
        let every = self.shared.config.progress_interval;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = self.shared.clone();
        let mut leader_lost = pin!(shared.leader_lost());
        // A client that says nothing more may still listen.
        let mut open = true;
        let mut in_a_row = 0;
        loop {
            // What time brings comes first, since it is rare: requests and events may come without a pause.
            let served = tokio::select! {
                biased;
                () = self.shared.stopping.cancelled() => return End::Failed(status::STOPPED.into()),
                () = &mut leader_lost, if self.leader_required => return End::Failed(NO_LEADER.into()),
                _ = ticks.tick() => {
                    self.on_tick();
                    Ok(())
                }
                request = requests.message(), if open && in_a_row < REQUESTS_MAX => match request {
                    Ok(Some(request)) => {
                        in_a_row += 1;
                        self.on_request(request).await
                    }
                    Ok(None) => {
                        open = false;
                        Ok(())
                    }
                    Err(error) => {
                        self.shared.meters.watch_receive_failures.add(u64::from(error.code() != Code::Cancelled));
                        return End::Gone;
                    }
                },
                () = self.session.woken(), if in_a_row < REQUESTS_MAX => {
                    in_a_row = 0;
                    self.pump().await
                }
                () = ready(()), if in_a_row == REQUESTS_MAX => {
                    in_a_row = 0;
                    self.pump().await
                }
            };
            if let Err(end) = served {
                return end;
            }
        }
    }

    async fn on_request(&mut self, request: WatchRequest) -> Result<(), End> {
        if !matches!(request.request_union, Some(RequestUnion::ProgressRequest(_)) | None) {
            // What is asked for next must not change what was asked for before.
            self.look_at_progress();
        }
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.on_create(request).await,
            Some(RequestUnion::CancelRequest(request)) => {
                self.session.cancel(request.watch_id);
                Ok(())
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.progress_asked += 1;
                self.session.wake();
                Ok(())
            }
            // Newer than this program.
            None => Ok(()),
        }
    }

    fn look_at_progress(&mut self) {
        let asked = std::mem::take(&mut self.progress_asked);
        if asked > 0 {
            self.session.progress_of_all(asked);
        }
    }

    async fn on_create(&mut self, request: WatchCreateRequest) -> Result<(), End> {
        let filters = |kind: FilterType| request.filters.contains(&kind.into());
        let (no_put, no_delete) = (filters(FilterType::Noput), filters(FilterType::Nodelete));
        if request.start_revision < 0 {
            return self.refuse(COMPACTED.1).await;
        }
        let Some(keys) = Keys::of_request(request.key, request.range_end) else {
            return self.refuse(EMPTY_RANGE).await;
        };
        let wish = Wish {
            keys,
            from: request.start_revision,
            no_put,
            no_delete,
            prev_kv: request.prev_kv,
            progress: request.progress_notify,
            fragment: request.fragment,
        };
        match self.session.create(request.watch_id, wish) {
            Created::Duplicate => self.refuse(DUPLICATE_ID).await,
            Created::Watcher(id) => {
                self.watchers.insert(id, Local { progress: request.progress_notify, sent: false });
                Ok(())
            }
        }
    }

    /// Sends what is queued, then what those behind miss, until nothing is left.
    async fn pump(&mut self) -> Result<(), End> {
        let (began, sent) = (Instant::now(), self.events_sent);
        let pumped = self.pump_unmeasured().await;
        if self.events_sent > sent {
            self.shared.meters.watched(self.events_sent - sent, began.elapsed());
        }
        pumped
    }

    async fn pump_unmeasured(&mut self) -> Result<(), End> {
        self.look_at_progress();
        let (items, behind) = self.session.take();
        let mut joined: BTreeMap<i64, (Vec<Arc<Event>>, Style)> = BTreeMap::new();
        for item in items {
            match item {
                Item::Events { watcher, events, style } => {
                    let (all, _) = joined.entry(watcher).or_insert_with(|| (Vec::new(), style));
                    all.extend(events);
                }
                Item::Progress { watcher, revision } => {
                    if let Some((events, style)) = joined.remove(&watcher) {
                        self.send_events(watcher, events, style, None).await?;
                    }
                    if self.watchers.contains_key(&watcher) {
                        self.send_progress(watcher, revision).await?;
                    }
                }
                Item::Created { watcher, revision } => {
                    self.flush(&mut joined).await?;
                    let created = WatchResponse { watch_id: watcher, created: true, ..self.response(revision) };
                    self.send_control(created).await?;
                }
                Item::Canceled { watcher, revision } => {
                    self.flush(&mut joined).await?;
                    self.watchers.remove(&watcher);
                    let canceled = WatchResponse { watch_id: watcher, canceled: true, ..self.response(revision) };
                    self.send_control(canceled).await?;
                }
                Item::ProgressOfAll { revision, times } => {
                    self.flush(&mut joined).await?;
                    for _ in 0..times {
                        self.send_progress(NO_ID, revision).await?;
                    }
                }
            }
        }
        self.flush(&mut joined).await?;
        if !behind.is_empty() {
            self.catch_up(behind).await?;
            // There may be more, and requests have their turn in between.
            self.session.wake();
        }
        Ok(())
    }

    async fn flush(&mut self, joined: &mut BTreeMap<i64, (Vec<Arc<Event>>, Style)>) -> Result<(), End> {
        for (watcher, (events, style)) in std::mem::take(joined) {
            self.send_events(watcher, events, style, None).await?;
        }
        Ok(())
    }

    /// Sends one piece of what those behind miss: the log is read once for all of them.
    async fn catch_up(&mut self, behind: Vec<crate::watch::Behind>) -> Result<(), End> {
        let compacted = self.shared.view.compact_revision();
        let (late, behind): (Vec<_>, Vec<_>) = behind.into_iter().partition(|(_, from, _)| *from < compacted);
        for (id, _, _) in late {
            self.cancel_compacted(id, compacted).await?;
        }
        let behind = self.session.catch_up_recent(behind);
        let Some(from) = behind.iter().map(|(_, from, _)| *from).min() else { return Ok(()) };
        let current = self.shared.hub.revision();
        let history = self.shared.view.history(from, current).map_err(|error| End::Failed(error.into()))?;
        let passed = self.shared.view.compact_revision();
        let events: Vec<_> = history.rows.into_iter().map(Event::new).collect();
        let mut on_time = Vec::new();
        for (id, from, wish) in behind {
            // A compaction may have taken rows away while they were read.
            if from < passed {
                self.cancel_compacted(id, passed).await?;
                continue;
            }
            let wanted = events.iter().filter(|event| {
                event.row.at.main >= from && wish.keys.contains(&event.row.key) && wish.wants(&event.row)
            });
            let wanted: Vec<_> = wanted.cloned().collect();
            let style = Style::of(&wish);
            self.send_events(id, wanted, style, Some(current)).await?;
            on_time.push((id, from.max(history.next)));
        }
        self.session.caught_up(on_time);
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn cancel_compacted(&mut self, id: i64, compact_revision: Revision) -> Result<(), End> {
        self.session.forget(id);
        self.watchers.remove(&id);
        let response = WatchResponse { watch_id: id, canceled: true, compact_revision, ..self.response(0) };
        self.send(response).await
    }

    /// A request that makes no watcher is answered as if it had made one that ended at once.
    async fn refuse(&mut self, reason: &str) -> Result<(), End> {
        self.pump().await?;
        let response = self.response(self.shared.hub.revision());
        let cancel_reason = reason.to_owned();
        self.send(WatchResponse { watch_id: NO_ID, created: true, canceled: true, cancel_reason, ..response }).await
    }

    fn on_tick(&mut self) {
        let mut quiet = Vec::new();
        for (id, watcher) in &mut self.watchers {
            if watcher.progress && !watcher.sent {
                quiet.push(*id);
            }
            watcher.sent = false;
        }
        self.session.progress_of(quiet);
    }

    async fn send_events(
        &mut self,
        watcher: i64,
        events: Vec<Arc<Event>>,
        style: Style,
        current: Option<Revision>,
    ) -> Result<(), End> {
        if events.is_empty() {
            return Ok(());
        }
        self.events_sent += events.len();
        if let Some(local) = self.watchers.get_mut(&watcher) {
            local.sent = true;
        }
        let mut rest = &events[..];
        while !rest.is_empty() {
            let (part, later) = rest.split_at(whole_revisions(rest));
            rest = later;
            let last = part.last().expect("a part is never empty").row.at.main;
            let mut written = Vec::with_capacity(part.len());
            for event in part {
                let view = &self.shared.view;
                let bytes = match style.prev_kv {
                    true => event.with_prev(|row| view.previous(row)).map_err(|error| End::Failed(error.into()))?,
                    false => event.bare(),
                };
                written.push(bytes);
            }
            let head = WatchResponse { watch_id: watcher, ..self.response(current.unwrap_or(last)) };
            let limit = if style.fragment { self.shared.message_bytes_max() } else { usize::MAX };
            for frame in fragments(head, written, limit) {
                self.send_frame(frame).await?;
            }
        }
        Ok(())
    }

    /// What answers a request and carries no event.
    async fn send_control(&mut self, head: WatchResponse) -> Result<(), End> {
        let began = Instant::now();
        let sent = self.send(head).await;
        self.shared.meters.watch_control.observe(began.elapsed());
        sent
    }

    async fn send_progress(&mut self, watch_id: i64, revision: Revision) -> Result<(), End> {
        let began = Instant::now();
        let sent = self.send(WatchResponse { watch_id, ..self.response(revision) }).await;
        self.shared.meters.watch_progress.observe(began.elapsed());
        sent
    }

    async fn send(&mut self, head: WatchResponse) -> Result<(), End> {
        self.send_frame(Frame { head, events: Vec::new() }).await
    }

    async fn send_frame(&mut self, frame: Frame) -> Result<(), End> {
        self.outbound.send(Ok(frame)).await.map_err(|_| End::Gone)
    }

    fn response(&self, revision: Revision) -> WatchResponse {
        WatchResponse { header: Some(self.shared.header(revision)), ..Default::default() }
    }
}

/// How many of the events make up a response of about [`EVENTS_MAX`], without splitting a revision.
fn whole_revisions(events: &[Arc<Event>]) -> usize {
    let Some(at) = events.get(EVENTS_MAX) else { return events.len() };
    let main = at.row.at.main;
    let before = events[..EVENTS_MAX].partition_point(|event| event.row.at.main < main);
    match before {
        0 => events.partition_point(|event| event.row.at.main <= main),
        before => before,
    }
}

/// One response, or several that say that they belong together.
fn fragments(head: WatchResponse, events: Vec<Bytes>, limit: usize) -> Vec<Frame> {
    let mut frames = vec![Frame { head: head.clone(), events: Vec::new() }];
    let mut size = 0;
    for event in events {
        let last = frames.last_mut().expect("there is one from the start");
        if size + event.len() >= limit && !last.events.is_empty() {
            last.head.fragment = true;
            frames.push(Frame { head: head.clone(), events: Vec::new() });
            size = 0;
        }
        size += event.len();
        frames.last_mut().expect("there is one from the start").events.push(event);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::{At, Row};

    fn event(main: i64, sub: u32) -> Arc<Event> {
        let at = At { main, sub };
        Event::new(Row { at, key: b"k"[..].into(), value: Bytes::new(), create: main, version: 1, lease: 0 })
    }

    #[test]
    fn a_revision_is_never_split_over_two_responses() {
        let many: Vec<_> = (0..600).map(|sub| event(2, sub)).chain((0..600).map(|sub| event(3, sub))).collect();
        assert_eq!(whole_revisions(&many), 600);
        let one: Vec<_> = (0..5000).map(|sub| event(2, sub)).collect();
        assert_eq!(whole_revisions(&one), 5000);
        assert_eq!(whole_revisions(&many[..7]), 7);
    }

    #[test]
    fn all_fragments_but_the_last_say_that_more_follows() {
        let events = vec![Bytes::from(vec![0; 40]); 5];
        let frames = fragments(WatchResponse::default(), events.clone(), 100);
        let shape: Vec<_> = frames.iter().map(|frame| (frame.events.len(), frame.head.fragment)).collect();
        assert_eq!(shape, [(2, true), (2, true), (1, false)]);
        assert_eq!(fragments(WatchResponse::default(), events, usize::MAX).len(), 1);
    }
}
