//! Answers as guests write them, whole and a byte at a time: what is read is the same.
#![allow(clippy::unwrap_used)]

use super::*;

/// What is read of an answer that comes in pieces of `step` bytes: status, headers, body, trailers, and whether the
/// connection may be used again.
type Told = (u16, Vec<String>, Vec<u8>, Vec<String>, bool);

fn lines(headers: &HeaderMap) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

fn read(method: Method, bytes: &[u8], step: usize) -> Result<Told, Wrong> {
    let mut pieces = bytes.chunks(step);
    let mut buffer = BytesMut::new();
    let mut answer = loop {
        match read_head(&mut buffer, &method)? {
            Some(answer) => break answer,
            None => buffer.extend_from_slice(pieces.next().ok_or(Wrong("cut in its head"))?),
        }
    };
    let (mut body, mut behind) = (Vec::new(), Vec::new());
    loop {
        match answer.framing.take(&mut buffer)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(trailers) => behind = lines(&trailers),
            Piece::Over => break,
            Piece::More => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None if answer.framing == Framing::Rest => break,
                None => return Err(Wrong("cut in its body")),
            },
        }
    }
    let keeps = answer.keeps && buffer.is_empty() && pieces.next().is_none();
    Ok((answer.status.as_u16(), lines(&answer.headers), body, behind, keeps))
}

#[track_caller]
fn told(bytes: &str) -> Result<Told, Wrong> {
    let whole = read(Method::GET, bytes.as_bytes(), usize::MAX);
    for step in [1, 2, 3, 7] {
        let pieces = read(Method::GET, bytes.as_bytes(), step);
        assert_eq!(pieces.is_ok(), whole.is_ok(), "{bytes:?} by {step}");
        if let (Ok(pieces), Ok(whole)) = (pieces, &whole) {
            assert_eq!(pieces.2, whole.2, "{bytes:?} by {step}");
            assert_eq!((pieces.0, pieces.1, pieces.3), (whole.0, whole.1.clone(), whole.3.clone()), "{bytes:?}");
        }
    }
    whole
}

#[test]
fn bodies_are_as_long_as_they_are_said_to_be() {
    let (status, headers, body, trailers, keeps) =
        told("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nA: b\r\n\r\nabc").unwrap();
    assert_eq!((status, body, keeps), (200, b"abc".to_vec(), true));
    assert_eq!((headers, trailers), (vec!["content-length: 3".to_owned(), "a: b".to_owned()], vec![]));
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n3\r\nabc\r\n0A ;x=\"y\"\r\n0123456789\r\n0\r\nT: 1\r\n\r\n";
    let (_, headers, body, trailers, keeps) = told(chunks).unwrap();
    // Both said: the chunks count, and nothing more is read.
    assert_eq!((body, trailers, keeps), (b"abc0123456789".to_vec(), vec!["t: 1".to_owned()], false));
    assert_eq!(headers, ["transfer-encoding: chunked"]);
    assert!(told(&chunks.replace("Content-Length: 9\r\n", "")).unwrap().4);
    let rest = told("HTTP/1.1 200 OK\r\n\r\nuntil the end").unwrap();
    assert_eq!((rest.2, rest.4), (b"until the end".to_vec(), false));
    assert_eq!(told("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx").unwrap().2, b"x");
    assert!(told("HTTP/1.1 204 No Content\r\n\r\n").unwrap().4);
    assert_eq!(told("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").unwrap().2, b"");
    assert_eq!(told("HTTP/1.1 200 OK\nContent-Length: 1\n\nx").unwrap().2, b"x");
    assert_eq!(
        told("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\nContent-Length: 1\r\n\r\nx").unwrap().1,
        ["content-length: 1"]
    );
    let head = read(Method::HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 1).unwrap();
    assert_eq!((head.1, head.2, head.4), (vec!["content-length: 5".to_owned()], vec![], true));
}

#[test]
fn a_connection_is_used_again_where_both_ends_say_so_and_nothing_is_left_on_it() {
    for (bytes, keeps) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n", false),
    ] {
        assert_eq!(told(bytes).unwrap().4, keeps, "{bytes:?}");
    }
}

#[test]
fn what_is_no_answer_is_none() {
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = format!("{chunks}1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(2 * LONGEST_SIZE));
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
        &format!("{chunks}x\r\n"),
        &format!("{chunks}\r\n"),
        &format!("{chunks}-1\r\na\r\n0\r\n\r\n"),
        &format!("{chunks}0x1\r\na\r\n0\r\n\r\n"),
        &format!("{chunks}1\na\n0\n\n"),
        &format!("{chunks}1\r\nab\r\n0\r\n\r\n"),
        &format!("{chunks}11111111111111111\r\na\r\n0\r\n\r\n"),
        &format!("{chunks}1\r;\r\na\r\n0\r\n\r\n"),
        &format!("{chunks}0\r\nT : 1\r\n\r\n"),
        &format!("{chunks}0\r\n"),
    ] {
        assert!(told(bytes).is_err(), "{bytes:?}");
    }
    assert!(read(Method::GET, long.as_bytes(), 1000).is_err());
    let endless = vec![b'x'; 2 * LONGEST_HEAD];
    assert_eq!(read(Method::GET, &endless, 1000).unwrap_err(), Wrong("its head has no end"));
}

#[test]
fn a_request_is_written_as_it_is() {
    let mut request = http::Request::new(());
    *request.uri_mut() = "/a%2Fb?c".parse().unwrap();
    request.headers_mut().insert("host", HeaderValue::from_static("x"));
    request.headers_mut().append("a", HeaderValue::from_static("1"));
    request.headers_mut().append("a", HeaderValue::from_static("2"));
    let mut out = Vec::new();
    write_head(&mut out, &request);
    assert_eq!(String::from_utf8(out).unwrap(), "GET /a%2Fb?c HTTP/1.1\r\nhost: x\r\na: 1\r\na: 2\r\n\r\n");
}
