//! The `h2` crate as client.

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use h2::client::{Builder, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tonic::Status;
use tonic::body::Body;

use super::*;
use crate::http2::{Fields, RequestBody};

async fn connect<A: Answers>(answers: A, builder: &Builder) -> SendRequest<Bytes> {
    let (mut pipe, _) = serve(answers, transport(10_000), CancellationToken::new());
    // The crate says the preface, which somebody else reads here.
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    tokio::spawn(async move {
        let (mut ours, mut preface) = (ours, [0; 24]);
        ours.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, frame::PREFACE);
        let _ = tokio::io::copy_bidirectional(&mut ours, &mut pipe).await;
    });
    let (client, connection) = builder.handshake::<_, Bytes>(theirs).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

fn post(path: &str) -> Request<()> {
    let uri = format!("http://echo{path}");
    Request::builder().method(Method::POST).uri(uri).header("content-type", "application/grpc").body(()).unwrap()
}

/// Sends all of it, as there is room.
async fn send(mut stream: SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let Some(room) = room else { return Ok(()) };
        let piece = data.split_to(room?.min(data.len()));
        stream.send_data(piece, false)?;
    }
    stream.send_data(Bytes::new(), true)
}

async fn receive(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        all.extend_from_slice(&piece);
    }
    Ok((all, body.trailers().await?))
}

async fn call(client: SendRequest<Bytes>, path: &str, data: Bytes) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let (response, stream) = client.ready().await?.send_request(post(path), false)?;
    let received = async { receive(response.await?.into_body()).await };
    tokio::try_join!(send(stream, data), received).map(|((), received)| received)
}

fn message(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + number) as u8).collect()
}

#[tokio::test]
async fn many_calls_at_once_are_answered_each_with_its_own() {
    let client = connect(Echo::default(), &Builder::new()).await;
    let calls = (0..1000).map(|number| {
        let (client, message) = (client.clone(), message(number, number * number % 50_000));
        async move {
            let path = if number % 3 == 0 { "/Stream" } else { "/Echo" };
            let (answer, trailers) = call(client, path, enveloped(&message)).await.unwrap();
            assert_eq!(answer, enveloped(&message), "{number}");
            assert_eq!(trailers.is_some(), path == "/Echo");
        }
    });
    join_all(calls).await;
}

#[tokio::test]
async fn large_messages_go_through_small_windows() {
    for window in [100, 16_384, 1 << 20] {
        let builder =
            Builder::new().initial_window_size(window).initial_connection_window_size(65_535 + window).clone();
        let client = connect(Echo::default(), &builder).await;
        let length = if window < 1000 { 100_000 } else { 5 << 20 };
        let large = message(7, length);
        let both = ["/Echo", "/Stream"].map(|path| {
            let (client, large) = (client.clone(), enveloped(&large));
            async move { call(client, path, large).await.unwrap().0 }
        });
        for answer in join_all(both).await {
            assert!(answer == enveloped(&large), "{window}");
        }
        // Many small ones do not wait for a large one that nobody reads.
        let (response, mut unread) = client.clone().ready().await.unwrap().send_request(post("/Large"), false).unwrap();
        unread.send_data(enveloped(&60_000u32.to_be_bytes()), true).unwrap();
        let unread = response.await.unwrap();
        for number in 0..10 {
            assert!(call(client.clone(), "/Echo", enveloped(&message(number, 100))).await.is_ok());
        }
        assert_eq!(receive(unread.into_body()).await.unwrap().0.len(), 60_005);
    }
}

/// More than one window of each kind, over and over: whatever is taken is told of.
#[tokio::test]
async fn room_is_told_again_and_again() {
    let client = connect(Echo::default(), &Builder::new()).await;
    let large = enveloped(&message(1, 3 << 20));
    for path in ["/Echo", "/Stream"] {
        for _ in 0..8 {
            assert!(call(client.clone(), path, large.clone()).await.unwrap().0 == large);
        }
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_cancelled() {
    let echo = Echo::default();
    let client = connect(echo.clone(), &Builder::new()).await;
    let (response, mut stream) = client.clone().ready().await.unwrap().send_request(post("/Hold"), false).unwrap();
    stream.send_data(enveloped(b"x"), true).unwrap();
    while echo.under_way() == 0 {
        tokio::task::yield_now().await;
    }
    drop((response, stream));
    while echo.under_way() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(call(client, "/Echo", enveloped(b"x")).await.is_ok());
}

/// Says what a handler may see, and one that panics.
#[derive(Clone)]
struct Odd;

impl Answers for Odd {
    type Call = ();

    fn unary(&self, headers: &Fields) -> Option<()> {
        headers.iter().any(|(_, value)| value == b"/Panic").then_some(())
    }

    fn message_bytes_max(&self) -> usize {
        1000
    }

    fn answer(&self, (): (), _: Bytes) -> BoxFuture<'static, Result<crate::http2::Answer, Status>> {
        Box::pin(async { panic!("it was asked to") })
    }

    fn serve(&self, request: Request<RequestBody>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            let told = format!("{} {}", request.method(), request.uri());
            Response::builder()
                .status(StatusCode::IM_A_TEAPOT)
                .body(Body::new(http_body_util::Full::from(told)))
                .unwrap()
        })
    }
}

#[tokio::test]
async fn a_call_that_panics_harms_no_other() {
    let client = connect(Odd, &Builder::new()).await;
    let error = call(client.clone(), "/Panic", enveloped(b"x")).await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
    assert!(call(client, "/else", Bytes::new()).await.is_ok());
}

#[tokio::test]
async fn pages_are_answered_with_their_length() {
    let client = connect(Odd, &Builder::new()).await;
    for (method, body) in [(Method::GET, "GET /page?x=1"), (Method::HEAD, "")] {
        let request = Request::builder().method(method).uri("http://odd/page?x=1").body(()).unwrap();
        let (response, _) = client.clone().ready().await.unwrap().send_request(request, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert!(response.headers().contains_key("content-length"));
        assert_eq!(receive(response.into_body()).await.unwrap().0, body.as_bytes());
    }
    // What is too long for a call of one message goes the long way, to be refused there.
    let (answer, _) = call(client, "/Panic", enveloped(&[0; 1001])).await.unwrap();
    assert_eq!(answer, b"POST /Panic");
}
