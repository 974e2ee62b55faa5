//! Silence, and the end.

use super::*;

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_a_ping_is_gone() {
    let mut client = Client::new().await;
    let began = tokio::time::Instant::now();
    let (header, payload) = client.hear().await;
    assert_eq!((header.kind, header.flags), (kind::PING, 0));
    assert_eq!(began.elapsed().as_secs(), 10);
    client.write(kind::PING, flag::ACK, 0, &payload);
    client.say().await;
    let (header, _) = client.hear().await;
    assert_eq!(header.kind, kind::PING);
    assert!((20..=25).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let ended = client.served.await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::TimedOut);
    assert!(began.elapsed().as_secs() <= 31, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_planned_end_finishes_what_was_begun() {
    let mut client = Client::new().await;
    client.write_call(1, "/Hold", b"x");
    client.say().await;
    client.assert_silence().await;
    client.stop.cancel();
    let (header, payload) = client.hear().await;
    assert_eq!((header.kind, frame::number(&payload)), (kind::GOAWAY, Some((1 << 31) - 1)));
    let (header, ping) = client.hear().await;
    assert_eq!(header.kind, kind::PING);
    // What is sent before the client has heard of the end is answered.
    client.write_call(3, "/Echo", b"y");
    client.write(kind::PING, flag::ACK, 0, &ping);
    client.say().await;
    client.assert_answered(3, b"y").await;
    let (header, payload) = client.hear().await;
    assert_eq!((header.kind, frame::number(&payload)), (kind::GOAWAY, Some(3)));
    // What comes later is not looked at.
    client.write_call(5, "/Echo", b"z");
    client.say().await;
    client.assert_silence().await;
    client.echo.release();
    client.assert_answered(1, b"x").await;
    assert_eq!(client.pipe.read(&mut [0]).await.unwrap(), 0);
    client.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn calls_end_with_their_connection() {
    let mut client = Client::new().await;
    client.write_call(1, "/Hold", b"x");
    client.say().await;
    client.assert_silence().await;
    assert_eq!(client.echo.under_way(), 1);
    drop(client.pipe);
    client.served.await.unwrap().unwrap_err();
    assert_eq!(client.echo.under_way(), 0);
}
