//! Answers of our own.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Response, StatusCode};

use super::bodies::Down;

/// How soon a client may come again, in seconds, where a guest or a site is away.
const SOON: u64 = 5;

/// A few words about what is wrong.
#[must_use]
pub fn plain(status: StatusCode, text: &'static str) -> Response<Down> {
    let mut response = with(status, CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    *response.body_mut() = Down::of(Bytes::from_static(text.as_bytes()));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, SOON.into());
    }
    response
}

/// The proof that an ACME server asks for (RFC 8555, 8.3).
#[must_use]
pub fn proof(text: String) -> Response<Down> {
    let mut response = with(StatusCode::OK, CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    *response.body_mut() = Down::of(Bytes::from(text));
    response
}

/// Elsewhere. Who asks with a body asks there again with it (RFC 9110, 15.4.9).
#[must_use]
pub fn elsewhere(to: &str, safe: bool) -> Response<Down> {
    let status = if safe { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    match HeaderValue::from_str(to) {
        Ok(to) => with(status, LOCATION, to),
        Err(_) => plain(StatusCode::BAD_REQUEST, "400 the address cannot be redirected\n"),
    }
}

/// The page of a site that is closed.
#[must_use]
pub fn closed(text: &str) -> Response<Down> {
    let mut page = String::from("<!doctype html>\n<meta charset=\"utf-8\">\n<title>Closed</title>\n<p>");
    for c in text.chars() {
        match c {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            c => page.push(c),
        }
    }
    page.push_str("</p>\n");
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let mut response = with(StatusCode::SERVICE_UNAVAILABLE, CONTENT_TYPE, html);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("300"));
    *response.body_mut() = Down::of(Bytes::from(page));
    response
}

fn with(status: StatusCode, name: HeaderName, value: HeaderValue) -> Response<Down> {
    let mut response = Response::new(Down::nothing());
    *response.status_mut() = status;
    response.headers_mut().insert(name, value);
    response
}
