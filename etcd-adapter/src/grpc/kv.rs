//! etcd's KV service.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use prost::Message;
use proto::etcd::kv_server::Kv;
use proto::etcd::response_op::Response as OpResponse;
use proto::etcd::*;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::{Made, Patience, Shared, answer_of, convert, status, status_of_invalid, unexpected};
use crate::answers::{Claim, Held, Sending};
use crate::command::{self, Command, Op, SortOrder, SortTarget, Txn};
use crate::meters::Kind;
use crate::mvcc::{Answer, OpAnswer, OpResult, Revision, TxnAnswer};
use crate::view::{Page, ReadError, TxnRead};

/// The first piece of a streamed range has so many keys; later ones grow towards a full message.
const STREAM_KEYS: i64 = 10;

#[derive(Clone)]
pub struct KvService(pub Arc<Shared>);

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Status {
        match error {
            ReadError::Refused(refusal) => super::status_of_refusal(refusal),
            ReadError::Late => status::TIMEOUT.into(),
            // Not an answer: what was asked may have been done, and this process is about to end.
            error @ (ReadError::Store(_) | ReadError::Lost(_)) => {
                tracing::error!("the store cannot be read: {error}");
                Status::unavailable("the store cannot be read: this adapter ends")
            }
        }
    }
}

/// What a cache of everything below `key` watches. An API server that lists consistently first gets the
/// name of the folder, where nothing ever is: with the slash at its end or, before 1.37, without it.
fn folder(key: &Bytes) -> Cow<'_, [u8]> {
    match key.ends_with(b"/") {
        true => Cow::Borrowed(key),
        false => Cow::Owned([key, b"/".as_slice()].concat()),
    }
}

impl Shared {
    /// Answers a range request, linearizable unless it says otherwise. A learner answers no other ones.
    pub async fn range(&self, request: RangeRequest) -> Result<Made<RangeResponse>, Status> {
        if !request.serializable && self.is_learner() {
            return Err(status::NOT_SUPPORTED_FOR_LEARNER.into());
        }
        let began = tokio::time::Instant::now();
        let answer = self.range_unmeasured(request).await;
        self.meters.ranges.add(1);
        let took = began.elapsed();
        self.meters.request(Kind::Range, answer.is_ok(), took);
        match &answer {
            Ok(_) => self.meters.ranges_done.observe(took),
            Err(_) => self.meters.ranges_failed.observe(took),
        }
        answer
    }

    async fn range_unmeasured(&self, request: RangeRequest) -> Result<Made<RangeResponse>, Status> {
        let serializable = request.serializable;
        let range = convert::range(request);
        command::validate_range(&range).map_err(status_of_invalid)?;
        if !serializable {
            self.confirm().await?;
        }
        let read = |claim: &mut Claim| Ok(self.view.range(&range, claim)?);
        let made = self.within(self.answers.claim(), Patience::Reads, read).await?;
        let page = &made.message;
        if !serializable && self.config.prompt_progress && range.range_end.is_empty() && page.kvs.is_empty() {
            self.hub.prompt(&folder(&range.key), page.revision);
        }
        Ok(made.map(|page| self.range_response(page)))
    }

    fn range_response(&self, page: Page) -> RangeResponse {
        RangeResponse { header: Some(self.header(page.revision)), kvs: page.kvs, more: page.more, count: page.count }
    }

    pub async fn put(&self, request: PutRequest) -> Result<Made<PutResponse>, Status> {
        let bytes = request.encoded_len();
        match answer_of(self.propose(Command::Put(convert::put(request)), bytes).await?)? {
            (revision, Answer::Put { prev }) => {
                let header = Some(self.header(revision));
                self.done(|claim| {
                    let prev_kv = self.view.replaced(prev.as_slice(), revision, claim)?.pop();
                    Ok(PutResponse { header, prev_kv })
                })
                .await
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<Made<DeleteRangeResponse>, Status> {
        let bytes = request.encoded_len();
        match answer_of(self.propose(Command::DeleteRange(convert::delete_range(request)), bytes).await?)? {
            (revision, Answer::DeleteRange { deleted, prev }) => {
                let header = Some(self.header(revision));
                self.done(|claim| {
                    let prev_kvs = self.view.replaced(&prev, revision, claim)?;
                    Ok(DeleteRangeResponse { header, deleted, prev_kvs })
                })
                .await
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    pub async fn txn(&self, request: TxnRequest) -> Result<Made<TxnResponse>, Status> {
        let bytes = request.encoded_len();
        let serializable = is_serializable(&request);
        let txn = convert::txn(request);
        if !is_read_only(&txn) {
            return match answer_of(self.propose(Command::Txn(txn), bytes).await?)? {
                (revision, Answer::Txn(answer)) => self.done(|claim| self.txn_response(revision, &answer, claim)).await,
                (_, other) => Err(unexpected(&other)),
            };
        }
        let command = Command::Txn(txn);
        command::validate(&command, self.config.limits.txn_ops).map_err(status_of_invalid)?;
        let Command::Txn(txn) = command else { unreachable!("it was made two lines above") };
        let began = tokio::time::Instant::now();
        let answer = self.read_txn(&txn, serializable).await;
        self.meters.request(Kind::ReadonlyTxn, answer.is_ok(), began.elapsed());
        answer
    }

    async fn read_txn(&self, txn: &Txn, serializable: bool) -> Result<Made<TxnResponse>, Status> {
        if !serializable {
            self.confirm().await?;
        }
        let read = |claim: &mut Claim| Ok(self.view.txn(txn, claim)?);
        let made = self.within(self.answers.claim(), Patience::Reads, read).await?;
        Ok(made.map(|TxnRead { revision, succeeded, pages }| TxnResponse {
            header: Some(self.header(revision)),
            succeeded,
            responses: pages.into_iter().map(|page| ranged(revision, page)).collect(),
        }))
    }

    /// Nothing below the revision is readable once this is answered; what takes its room goes later.
    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Status> {
        let CompactionRequest { revision, .. } = request;
        match answer_of(self.say(Command::Compact { revision }).await?)? {
            (revision, Answer::Compact) => Ok(CompactionResponse { header: Some(self.header(revision)) }),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// The answer to what is done already.
    async fn done<T>(&self, make: impl FnMut(&mut Claim) -> Result<T, Status>) -> Result<Made<T>, Status> {
        self.within(self.answers.claim(), Patience::Done, make).await
    }

    fn txn_response(&self, revision: Revision, answer: &TxnAnswer, claim: &mut Claim) -> Result<TxnResponse, Status> {
        Ok(TxnResponse { header: Some(self.header(revision)), ..self.txn_body(revision, answer, claim)? })
    }

    fn txn_body(&self, revision: Revision, answer: &TxnAnswer, claim: &mut Claim) -> Result<TxnResponse, Status> {
        let responses = answer.ops.iter().map(|op| self.op_response(revision, op, claim));
        let responses = responses.collect::<Result<_, _>>()?;
        Ok(TxnResponse { header: None, succeeded: answer.succeeded, responses })
    }

    /// Headers within a Txn say nothing but a revision, and that of a nested Txn not even that.
    fn op_response(&self, revision: Revision, answer: &OpAnswer, claim: &mut Claim) -> Result<ResponseOp, Status> {
        let header = Some(ResponseHeader { revision: answer.revision, ..Default::default() });
        let response = match &answer.result {
            OpResult::Range { request, bound } => {
                return Ok(ranged(answer.revision, self.view.range_in_txn(request.clone(), *bound, claim)?));
            }
            OpResult::Put { prev } => {
                let prev_kv = self.view.replaced(prev.as_slice(), revision, claim)?.pop();
                OpResponse::ResponsePut(PutResponse { header, prev_kv })
            }
            OpResult::DeleteRange { deleted, prev } => {
                let prev_kvs = self.view.replaced(prev, revision, claim)?;
                OpResponse::ResponseDeleteRange(DeleteRangeResponse { header, deleted: *deleted, prev_kvs })
            }
            OpResult::Txn(nested) => {
                let header = Some(ResponseHeader::default());
                OpResponse::ResponseTxn(TxnResponse { header, ..self.txn_body(revision, nested, claim)? })
            }
            OpResult::Empty => return Ok(ResponseOp { response: None }),
        };
        Ok(ResponseOp { response: Some(response) })
    }
}

/// A range as part of a Txn.
fn ranged(revision: Revision, Page { kvs, more, count, .. }: Page) -> ResponseOp {
    let header = Some(ResponseHeader { revision, ..Default::default() });
    ResponseOp { response: Some(OpResponse::ResponseRange(RangeResponse { header, kvs, more, count })) }
}

/// Whether a Txn is answered without the journal: it has reads only, and no Txn in it.
fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
}

fn is_serializable(request: &TxnRequest) -> bool {
    use proto::etcd::request_op::Request;
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        _ => false,
    })
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.0.range(request.into_inner()).await.map(Made::into_response)
    }

    type RangeStreamStream = Pieces;

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        let shared = self.0.clone();
        let request = request.into_inner();
        let serializable = request.serializable;
        let range = convert::range(request);
        command::validate_range(&range).map_err(status_of_invalid)?;
        let by_key = range.sort_target == SortTarget::Key && range.sort_order == SortOrder::Ascend;
        if range.sort_order != SortOrder::None && !by_key {
            return Err(status::STREAM_CUSTOM_SORT.into());
        }
        let filters =
            [range.mod_revision_min, range.mod_revision_max, range.create_revision_min, range.create_revision_max];
        if filters != [0; 4] {
            return Err(status::STREAM_REVISION_FILTERS.into());
        }
        if !serializable {
            shared.confirm().await?;
        }
        let (sender, pieces) = mpsc::channel(2);
        let sending = Arc::<Sending>::default();
        let mut response = Response::new(Pieces { pieces, held: None });
        response.extensions_mut().insert(Held::by_pieces(&sending));
        tokio::spawn(async move {
            let served = tokio::select! {
                biased;
                // Its client has gone, perhaps while it waited for memory.
                () = sender.closed() => Ok(()),
                served = stream_range(&shared, range, &sending, &sender) => served,
            };
            if let Err(status) = served {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(response)
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.0.put(request.into_inner()).await.map(Made::into_response)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.0.delete_range(request.into_inner()).await.map(Made::into_response)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.0.txn(request.into_inner()).await.map(Made::into_response)
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        self.0.compact(request.into_inner()).await.map(Response::new)
    }
}

/// A piece of a range, and what it holds until it is sent.
type Piece = (RangeStreamResponse, Option<Held>);

/// Pieces on their way out. The next one is asked for once the one before is sent, or nearly.
pub struct Pieces {
    pieces: mpsc::Receiver<Result<Piece, Status>>,
    held: Option<Held>,
}

impl Stream for Pieces {
    type Item = Result<RangeStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.held = None;
        let piece = ready!(self.pieces.poll_recv(context));
        Poll::Ready(piece.map(|piece| {
            piece.map(|(piece, held)| {
                self.held = held;
                piece
            })
        }))
    }
}

/// Sends a range piece by piece, all of one revision.
async fn stream_range(
    shared: &Shared,
    mut range: command::Range,
    sending: &Arc<Sending>,
    pieces: &mpsc::Sender<Result<Piece, Status>>,
) -> Result<(), Status> {
    if range.count_only {
        let response = shared.range_response(shared.view.range(&range, &mut Claim::unbounded())?);
        let _ = pieces.send(Ok((RangeStreamResponse { range_response: Some(response) }, None))).await;
        return Ok(());
    }
    let wanted = range.limit;
    let mut total = None;
    let mut sent = 0;
    // With a target and no order, etcd sorts each piece by itself, and goes on behind the last key *of
    // that order*: keys may be passed over, or come again. What a client of etcd sees is what it gets.
    let sorted = range.sort_target != SortTarget::Key;
    let mut keys = if sorted && wanted < 0 { i64::MAX } else { STREAM_KEYS };
    loop {
        let left = if wanted > 0 { wanted - sent } else { i64::MAX };
        range.limit = keys.min(left);
        let read = |claim: &mut Claim| Ok(shared.view.range(&range, claim)?);
        let made = shared.within(shared.answers.claim_of(sending), Patience::Reads, read).await?;
        let (page, held) = (made.message, made.claim.made(usize::MAX));
        if range.revision <= 0 {
            range.revision = page.revision;
        }
        let (revision, count) = *total.get_or_insert((page.revision, page.count));
        sent += page.kvs.len() as i64;
        let last = !page.more || (wanted > 0 && sent >= wanted);
        if let Some(key) = page.kvs.last().map(|kv| &kv.key) {
            range.key = [&key[..], &[0]].concat().into();
        }
        let mut response = RangeResponse { kvs: page.kvs, ..Default::default() };
        let bytes = response.encoded_len();
        if last {
            response.header = Some(shared.header(revision));
            response.count = match sorted && page.more {
                true => {
                    let rest = command::Range { count_only: true, limit: 0, ..range.clone() };
                    sent + shared.view.range(&rest, &mut Claim::unbounded())?.count
                }
                false if sorted => sent,
                false => count,
            };
            response.more = page.more;
        }
        let piece = RangeStreamResponse { range_response: Some(response) };
        if pieces.send(Ok((piece, held))).await.is_err() || last {
            return Ok(());
        }
        let room = shared.config.limits.request_bytes;
        if bytes < room / 2 {
            keys = keys.saturating_mul(2);
        } else if bytes > room {
            keys = (keys / 2).max(1);
        }
    }
}
