//! HTTP/1.1 as it stands on a connection to a guest (RFC 9112): a request's head to bytes, and an answer's from them.
//! Pure, and strict: what is no answer by the letter is none.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, StatusCode, Version};

/// Header lines of an answer, and of its trailers.
const MOST_LINES: usize = 128;
/// Bytes of an answer's head, and of its trailers.
const LONGEST_HEAD: usize = 128 << 10;
/// Bytes of the line that says how long a chunk is.
const LONGEST_SIZE: usize = 4096;

/// A guest's answer cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no answer by HTTP/1.1: {0}")]
pub struct Wrong(pub &'static str);

/// Writes a request's head.
pub fn write_head<B>(out: &mut Vec<u8>, request: &Request<B>) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.uri().path_and_query().map_or("/", |asked| asked.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// An answer's head.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// What follows.
    pub framing: Framing,
    /// Whether the connection may be used again when all of it is there.
    pub keeps: bool,
}

/// How long a body is (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes more; none: it is over.
    Length(u64),
    /// In chunks.
    Chunks(Chunk),
    /// Until the connection is closed.
    Rest,
}

/// What comes next of a body in chunks (RFC 9112, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// How long the next one is.
    Size,
    /// So many bytes of it.
    Data(u64),
    /// Its line end.
    End,
    /// Lines behind the last.
    Trailers,
}

/// What was taken of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of it.
    Data(Bytes),
    /// Its trailers; then it is over.
    Trailers(HeaderMap),
    /// Nothing: more must come first.
    More,
    /// It is over.
    Over,
}

/// Takes the head of an answer to `method` from what was read, once all of it is there.
pub fn read_head(read: &mut BytesMut, method: &Method) -> Result<Option<Answer>, Wrong> {
    let end = end_of_head(read);
    if end.unwrap_or(read.len()) > LONGEST_HEAD {
        return Err(Wrong("its head has no end"));
    }
    let Some(length) = end else { return Ok(None) };
    let head = read.split_to(length).freeze();
    let mut lines = [const { MaybeUninit::uninit() }; MOST_LINES];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, &head, &mut lines) {
        Ok(httparse::Status::Complete(end)) if end == length => {}
        _ => return Err(Wrong("its head")),
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Wrong("its status"))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut headers = headers(&head, parsed.headers)?;
    // Who says both may have been read differently by somebody between (RFC 9112, 6.3).
    let both = headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH);
    let framing = framing(&mut headers, method, status, version)?;
    let keeps = framing != Framing::Rest && !both && keeps(&headers, version);
    Ok(Some(Answer { status, headers, framing, keeps }))
}

/// How long a head is, its empty line included, where that is there.
fn end_of_head(read: &[u8]) -> Option<usize> {
    let ends = read.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    for at in ends {
        match read.get(at + 1..) {
            Some([b'\n', ..]) => return Some(at + 2),
            Some([b'\r', b'\n', ..]) => return Some(at + 3),
            _ => {}
        }
    }
    None
}

fn headers(head: &Bytes, lines: &[httparse::Header<'_>]) -> Result<HeaderMap, Wrong> {
    // What is added on the way finds room.
    let mut headers = HeaderMap::with_capacity(lines.len() + 2);
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Wrong("the name of a header"))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value)).map_err(|_| Wrong("a header"))?;
        headers.try_append(name, value).map_err(|_| Wrong("too many headers"))?;
    }
    Ok(headers)
}

fn framing(headers: &mut HeaderMap, method: &Method, status: StatusCode, version: Version) -> Result<Framing, Wrong> {
    let chunks = headers.contains_key(TRANSFER_ENCODING);
    if chunks && version == Version::HTTP_10 {
        return Err(Wrong("chunks in HTTP/1.0"));
    }
    let length = length(headers)?;
    if method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Framing::Length(0));
    }
    if chunks {
        headers.remove(CONTENT_LENGTH);
        let last = headers.get_all(TRANSFER_ENCODING).iter().next_back();
        let last = last.and_then(|value| value.to_str().ok()).and_then(|value| value.rsplit(',').next());
        let ends = last.is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"));
        return Ok(if ends { Framing::Chunks(Chunk::Size) } else { Framing::Rest });
    }
    Ok(length.map_or(Framing::Rest, Framing::Length))
}

/// The one length that is said, however often.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Wrong> {
    let wrong = Wrong("its length");
    let mut said = None;
    let mut count = 0;
    for value in headers.get_all(CONTENT_LENGTH) {
        for one in value.to_str().map_err(|_| wrong)?.split(',').map(str::trim) {
            let digits = !one.is_empty() && one.bytes().all(|byte| byte.is_ascii_digit());
            let one: u64 = one.parse().ok().filter(|_| digits).ok_or(wrong)?;
            if said.is_some_and(|said| said != one) {
                return Err(wrong);
            }
            (said, count) = (Some(one), count + 1);
        }
    }
    if let Some(said) = said.filter(|_| count > 1) {
        headers.insert(CONTENT_LENGTH, said.into());
    }
    Ok(said)
}

fn keeps(headers: &HeaderMap, version: Version) -> bool {
    let says = |word: &str| {
        let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    if version == Version::HTTP_10 { says("keep-alive") } else { !says("close") }
}

impl Framing {
    /// Whether all of the body is there.
    #[must_use]
    pub fn is_over(self) -> bool {
        self == Self::Length(0)
    }

    /// Takes the next piece of a body from what was read.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Piece, Wrong> {
        loop {
            let chunk = match self {
                Self::Length(0) => return Ok(Piece::Over),
                Self::Length(left) => return Ok(data(left, read)),
                Self::Rest if read.is_empty() => return Ok(Piece::More),
                Self::Rest => return Ok(Piece::Data(read.split().freeze())),
                Self::Chunks(chunk) => chunk,
            };
            *chunk = match chunk {
                Chunk::Size => match size(read)? {
                    None => return Ok(Piece::More),
                    Some(0) => Chunk::Trailers,
                    Some(size) => Chunk::Data(size),
                },
                Chunk::Data(0) => Chunk::End,
                Chunk::Data(left) => return Ok(data(left, read)),
                Chunk::End => match read.get(..2) {
                    None => return Ok(Piece::More),
                    Some(b"\r\n") => {
                        read.advance(2);
                        Chunk::Size
                    }
                    Some(_) => return Err(Wrong("the end of a chunk")),
                },
                Chunk::Trailers => {
                    let Some(trailers) = trailers(read)? else { return Ok(Piece::More) };
                    *self = Self::Length(0);
                    return Ok(if trailers.is_empty() { Piece::Over } else { Piece::Trailers(trailers) });
                }
            };
        }
    }
}

fn data(left: &mut u64, read: &mut BytesMut) -> Piece {
    if read.is_empty() {
        return Piece::More;
    }
    let count = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= count as u64;
    Piece::Data(read.split_to(count).freeze())
}

/// How long the next chunk is. What may stand behind the number means nothing to anybody, and goes no further.
fn size(read: &mut BytesMut) -> Result<Option<u64>, Wrong> {
    let wrong = Wrong("the size of a chunk");
    let end = read.iter().position(|byte| *byte == b'\n');
    if end.unwrap_or(read.len()) > LONGEST_SIZE {
        return Err(wrong);
    }
    let Some(end) = end else { return Ok(None) };
    let line = read.split_to(end + 1);
    let line = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r')).ok_or(wrong)?;
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let behind = line.get(digits..).unwrap_or_default().trim_ascii_start();
    if !(1..=16).contains(&digits) || !(behind.is_empty() || behind.starts_with(b";")) {
        return Err(wrong);
    }
    let number = std::str::from_utf8(line.get(..digits).unwrap_or_default()).map_err(|_| wrong)?;
    u64::from_str_radix(number, 16).map(Some).map_err(|_| wrong)
}

fn trailers(read: &mut BytesMut) -> Result<Option<HeaderMap>, Wrong> {
    let wrong = Wrong("its trailers");
    let length = if read.starts_with(b"\r\n") { Some(2) } else { end_of_head(read) };
    if length.unwrap_or(read.len()) > LONGEST_HEAD {
        return Err(wrong);
    }
    let Some(length) = length else { return Ok(None) };
    let lines = read.split_to(length).freeze();
    let mut parsed = [httparse::EMPTY_HEADER; MOST_LINES];
    match httparse::parse_headers(&lines, &mut parsed) {
        Ok(httparse::Status::Complete((end, parsed))) if end == length => headers(&lines, parsed).map(Some),
        _ => Err(wrong),
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
