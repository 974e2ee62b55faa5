//! Rules that a well-behaved client never tests, one frame at a time.

use super::*;
use crate::http2::hpack;
use crate::http2::session::{OUT_BYTES_MAX, REPLY_BYTES_MAX};

const END_BOTH: u8 = flag::END_HEADERS | flag::END_STREAM;

#[tokio::test]
async fn headers_in_pieces_padding_and_trailers_are_understood() {
    let mut client = Client::new().await;
    let block = fuzz::request("/Echo");
    let first = [&[2, 0, 0, 0, 0, 9], &block[..5], &[0, 0]].concat();
    client.write(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &first);
    client.write(kind::CONTINUATION, 0, 1, &block[5..9]);
    client.write(kind::CONTINUATION, flag::END_HEADERS, 1, &block[9..]);
    let message = enveloped(b"in pieces");
    client.write(kind::DATA, flag::PADDED, 1, &[&[3], &message[..7], &[0; 3]].concat());
    client.write(kind::DATA, 0, 1, b"");
    client.write(kind::DATA, 0, 1, &message[7..]);
    let mut trailers = Vec::new();
    hpack::write_header(b"x", b"y", &mut trailers);
    client.write(kind::HEADERS, END_BOTH, 1, &trailers);
    client.say().await;
    client.assert_answered(1, b"in pieces").await;
}

#[tokio::test]
async fn headers_that_come_again_mean_the_same_and_changed_tables_do_not() {
    let mut client = Client::new().await;
    let remembered = |path: &str| {
        let mut block = vec![0x83, 0x86, 0x44];
        hpack::write_text(path.as_bytes(), &mut block);
        block
    };
    let by_number = [0x83, 0x86, 0x80 | 62];
    client.write(kind::HEADERS, flag::END_HEADERS, 1, &remembered("/Echo"));
    client.write(kind::DATA, flag::END_STREAM, 1, &enveloped(b"1"));
    for stream in [3, 5] {
        client.write(kind::HEADERS, flag::END_HEADERS, stream, &by_number);
        client.write(kind::DATA, flag::END_STREAM, stream, &enveloped(b"x"));
    }
    client.write(kind::HEADERS, flag::END_HEADERS, 7, &remembered("/Fail"));
    client.write(kind::DATA, flag::END_STREAM, 7, &enveloped(b"1"));
    client.write(kind::HEADERS, flag::END_HEADERS, 9, &by_number);
    client.write(kind::DATA, flag::END_STREAM, 9, &enveloped(b"x"));
    client.say().await;
    client.assert_answered(1, b"1").await;
    client.assert_answered(3, b"x").await;
    client.assert_answered(5, b"x").await;
    for stream in [7, 9] {
        let (header, payload) = client.hear().await;
        assert_eq!((header.stream, header.flags), (stream, END_BOTH));
        let payload = String::from_utf8_lossy(&payload);
        assert!(payload.contains("100%25%20%22lost%22") && payload.contains("grpc-status\x015"), "{payload:?}");
    }
}

#[tokio::test]
async fn windows_are_kept_as_they_change() {
    let mut client = Client::with(&[(4, 0)], 100).await;
    client.write_call(1, "/Large", &100u32.to_be_bytes());
    client.say().await;
    let data = |header: Header| (header.kind, header.length, header.flags);
    assert_eq!(client.hear().await.0.kind, kind::HEADERS);
    client.assert_silence().await;
    // What is not for this stream does not wait for it.
    client.write(kind::PING, 0, 0, b"12345678");
    client.say().await;
    assert_eq!(client.hear().await.0.kind, kind::PING);
    frame::write_settings(&[(4, 10)], &mut client.out);
    client.say().await;
    let mut heard = [client.hear().await.0, client.hear().await.0];
    heard.sort_by_key(|header| header.kind);
    assert_eq!(data(heard[0]), (kind::DATA, 10, 0));
    // Ten are used up; the window is five below nothing, then five above.
    frame::write_settings(&[(4, 5)], &mut client.out);
    frame::write_window_update(1, 5, &mut client.out);
    client.say().await;
    assert_eq!(client.hear().await.0.kind, kind::SETTINGS);
    client.assert_silence().await;
    frame::write_window_update(1, 5, &mut client.out);
    client.say().await;
    assert_eq!(data(client.hear().await.0), (kind::DATA, 5, 0));
    frame::write_window_update(1, 1000, &mut client.out);
    client.say().await;
    assert_eq!(data(client.hear().await.0), (kind::DATA, 90, 0));
    assert_eq!(client.hear().await.0.flags, END_BOTH);
}

#[tokio::test]
async fn too_many_streams_are_refused_and_others_go_on() {
    let mut client = Client::with(&[], 2).await;
    for stream in [1, 3, 5] {
        client.write_call(stream, "/Hold", b"x");
    }
    client.say().await;
    client.assert_reset(5, Reason::RefusedStream).await;
    assert_eq!(client.echo.under_way(), 2);
    frame::write_reset(1, Reason::NoError, &mut client.out);
    client.write_call(7, "/Echo", b"y");
    client.say().await;
    client.assert_answered(7, b"y").await;
    assert_eq!(client.echo.under_way(), 1, "the other one was cancelled");
    client.echo.release();
    client.assert_answered(3, b"x").await;
}

/// What breaks a rule of the connection ends it, with the right word.
#[tokio::test]
async fn errors_of_the_connection_end_it() {
    type Write = fn(&mut Client);
    let wrong: [(Reason, Write); 22] = [
        (Reason::FrameSize, |client| client.write(kind::DATA, 0, 1, &[0; (16 << 10) + 1])),
        (Reason::FrameSize, |client| client.write(kind::PING, 0, 0, &[0; 7])),
        (Reason::FrameSize, |client| client.write(kind::SETTINGS, 0, 0, &[0; 5])),
        (Reason::FrameSize, |client| client.write(kind::SETTINGS, flag::ACK, 0, &[0; 6])),
        (Reason::FrameSize, |client| client.write(kind::WINDOW_UPDATE, 0, 0, &[0; 3])),
        (Reason::FrameSize, |client| client.write(kind::RST_STREAM, 0, 1, &[0; 3])),
        (Reason::Protocol, |client| client.write(kind::RST_STREAM, 0, 1, &[0; 4])),
        (Reason::Protocol, |client| client.write(kind::DATA, 0, 0, b"x")),
        (Reason::Protocol, |client| client.write(kind::DATA, 0, 1, b"x")),
        (Reason::Protocol, |client| client.write(kind::HEADERS, END_BOTH, 0, &fuzz::request("/Echo"))),
        (Reason::Protocol, |client| client.write(kind::HEADERS, END_BOTH, 2, &fuzz::request("/Echo"))),
        (Reason::Protocol, |client| client.write(kind::HEADERS, END_BOTH | flag::PADDED, 1, &[9, 0])),
        (Reason::Protocol, |client| client.write(kind::SETTINGS, 0, 1, b"")),
        (Reason::Protocol, |client| client.write(kind::PUSH_PROMISE, 0, 1, b"")),
        (Reason::Protocol, |client| client.write(kind::CONTINUATION, 0, 1, b"")),
        (Reason::Protocol, |client| client.write(kind::WINDOW_UPDATE, 0, 0, &[0; 4])),
        (Reason::Protocol, |client| frame::write_settings(&[(2, 2)], &mut client.out)),
        (Reason::Protocol, |client| frame::write_settings(&[(5, 1)], &mut client.out)),
        (Reason::FlowControl, |client| frame::write_settings(&[(4, 1 << 31)], &mut client.out)),
        (Reason::FlowControl, |client| frame::write_window_update(0, (1 << 31) - 1, &mut client.out)),
        (Reason::Compression, |client| client.write(kind::HEADERS, END_BOTH, 1, &[0x80])),
        (Reason::Protocol, |client| {
            client.write(kind::HEADERS, 0, 1, &[0x83]);
            client.write(kind::PING, 0, 0, &[0; 8]);
        }),
    ];
    for (number, (reason, write)) in wrong.into_iter().enumerate() {
        let mut client = Client::new().await;
        write(&mut client);
        client.say().await;
        println!("case {number}");
        client.assert_gone(reason).await;
        client.served.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn settings_come_first() {
    let (mut pipe, served) = serve(Echo::default(), transport(100), CancellationToken::new());
    let mut out = Vec::new();
    frame::write_ping(0, [0; 8], &mut out);
    pipe.write_all(&out).await.unwrap();
    let mut heard = Vec::new();
    pipe.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.last(), Some(&(Reason::Protocol as u8)));
    served.await.unwrap().unwrap();
}

/// What breaks a rule of a stream ends that one only.
#[tokio::test]
async fn errors_of_a_stream_reset_it() {
    let mut client = Client::new().await;
    let malformed = |field: (&[u8], &[u8])| {
        let mut block = fuzz::request("/Stream");
        hpack::write_header(field.0, field.1, &mut block);
        block
    };
    for (stream, field) in [(1, (&b"Upper"[..], &b"x"[..])), (3, (b":path", b"/")), (5, (b"connection", b"close"))] {
        client.write(kind::HEADERS, flag::END_HEADERS, stream, &malformed(field));
        client.say().await;
        client.assert_reset(stream, Reason::Protocol).await;
    }
    client.write(kind::HEADERS, flag::END_HEADERS, 7, &malformed((b"x", b"a\nb")));
    client.say().await;
    client.assert_reset(7, Reason::Protocol).await;
    for (stream, flags) in [(9, flag::END_STREAM), (11, 0)] {
        client.write_call(stream, "/Hold", b"x");
        client.write(kind::DATA, flags, stream, b"more");
        client.say().await;
        client.assert_reset(stream, Reason::StreamClosed).await;
    }
    client.write_call(13, "/Hold", b"x");
    client.write(kind::WINDOW_UPDATE, 0, 13, &[0; 4]);
    client.write_call(15, "/Hold", b"x");
    frame::write_window_update(15, (1 << 31) - 1, &mut client.out);
    client.say().await;
    client.assert_reset(13, Reason::Protocol).await;
    client.assert_reset(15, Reason::FlowControl).await;
    client.write(kind::PRIORITY, 0, 17, &[0; 4]);
    client.say().await;
    client.assert_reset(17, Reason::FrameSize).await;
    // Late frames of streams that are no more, and kinds that nobody knows, mean nothing.
    client.write(kind::DATA, 0, 9, b"late");
    client.write(kind::WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1]);
    frame::write_reset(9, Reason::NoError, &mut client.out);
    client.write(0xfa, 0xff, 99, b"unknown");
    client.write_call(19, "/Echo", b"well");
    client.say().await;
    client.assert_answered(19, b"well").await;
    assert_eq!(client.echo.under_way(), 0);
}

#[tokio::test]
async fn a_block_of_headers_has_its_bounds() {
    let mut client = Client::new().await;
    client.write(kind::HEADERS, 0, 1, &fuzz::request("/Echo"));
    for _ in 0..100 {
        client.write(kind::CONTINUATION, 0, 1, b"");
    }
    client.say().await;
    client.assert_gone(Reason::EnhanceYourCalm).await;

    // Few bytes, which stand for many: every one of them names an entry of four thousand.
    let mut client = Client::new().await;
    let mut block = fuzz::request("/Echo");
    block.push(0x40);
    hpack::write_text(b"x", &mut block);
    hpack::write_text(&[b'y'; 4000], &mut block);
    block.resize(block.len() + 5000, 0x80 | 62);
    client.write(kind::HEADERS, END_BOTH, 1, &block);
    client.write_call(3, "/Echo", b"x");
    client.say().await;
    let (header, payload) = client.hear().await;
    assert_eq!((header.stream, header.flags), (1, END_BOTH));
    assert!(String::from_utf8_lossy(&payload).contains("431"));
    client.assert_answered(3, b"x").await;
}

#[tokio::test]
async fn calls_begun_and_cancelled_without_end_are_an_attack() {
    let mut client = Client::new().await;
    for stream in (1..4000).step_by(2) {
        client.write_call(stream, "/Hold", b"x");
        frame::write_reset(stream, Reason::NoError, &mut client.out);
    }
    // It ends before all of this is read.
    let _ = client.pipe.write_all(&client.out).await;
    client.assert_gone(Reason::EnhanceYourCalm).await;
    assert_eq!(client.echo.under_way(), 0);
    assert!(client.echo.begun() < 1500, "{}", client.echo.begun());
}

/// A client that asks and never reads is not answered more than fits, and all is well once it reads.
#[tokio::test]
async fn who_does_not_read_is_not_answered_for_ever() {
    const CALLS: u32 = 20_000;
    let mut client = Client::with(&[(4, (1 << 31) - 1)], CALLS).await;
    frame::write_window_update(0, 1 << 30, &mut client.out);
    for number in 0..CALLS {
        client.write_call(2 * number + 1, "/Large", &10_000u32.to_be_bytes());
    }
    let all = std::mem::take(&mut client.out);
    let (mut reads, mut writes) = tokio::io::split(client.pipe);
    let writing = tokio::spawn(async move { writes.write_all(&all).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answered = client.echo.begun();
    assert!(answered * 10_000 < OUT_BYTES_MAX + PIPE_BYTES + 100_000, "{answered} calls were answered");
    let mut left = CALLS as usize;
    let mut bytes = [0; HEADER_BYTES];
    let mut payload = [0; 16 << 10];
    while left > 0 {
        reads.read_exact(&mut bytes).await.unwrap();
        let header = Header::read(&bytes).unwrap();
        reads.read_exact(&mut payload[..header.length]).await.unwrap();
        left -= usize::from(header.kind == kind::HEADERS && header.flags & flag::END_STREAM != 0);
    }
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_pings_without_reading_is_not_heard_for_ever() {
    let mut client = Client::new().await;
    frame::write_ping(0, *b"12345678", &mut client.out);
    let pings = client.out.repeat(1000);
    let mut said = 0;
    while tokio::time::timeout(Duration::from_millis(100), client.pipe.write_all(&pings)).await.is_ok() {
        said += pings.len();
        assert!(said < 2 * (REPLY_BYTES_MAX + 2 * PIPE_BYTES), "it takes pings without end");
    }
}

/// More than its window is an error of the client, on a stream that nobody reads too.
#[tokio::test]
async fn who_sends_more_than_there_is_room_for_breaks_a_rule() {
    let mut client = Client::new().await;
    client.write(kind::HEADERS, flag::END_HEADERS, 1, &fuzz::request("/Stream"));
    client.say().await;
    // The echo is not read, so that after some time nothing is taken. The pipe holds little of it.
    let piece = [0; 16 << 10];
    let mut said = 0;
    let heard = loop {
        client.write(kind::DATA, 0, 1, &piece);
        let out = std::mem::take(&mut client.out);
        match tokio::time::timeout(Duration::from_millis(500), client.pipe.write_all(&out)).await {
            Ok(written) => written.unwrap(),
            Err(_) => break false,
        }
        said += piece.len();
        if said > 4 << 20 {
            break true;
        }
    };
    assert!(heard, "it stopped reading after {said}");
    loop {
        let (header, payload) = client.hear().await;
        if header.kind == kind::RST_STREAM {
            assert_eq!(frame::number(&payload), Some(Reason::FlowControl as u32));
            break;
        }
    }
}
