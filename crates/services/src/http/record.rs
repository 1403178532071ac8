//! Requests written down: a line each, in the combined format or as JSON.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::header::{HOST, REFERER, USER_AGENT};
use http::{HeaderName, StatusCode, Version, request};
use model::network::LogFormat;

use crate::log;

/// Where requests are written down.
#[derive(Debug, Default)]
pub struct Log {
    file: RefCell<Option<File>>,
    bounded: log::Bounded,
}

impl Log {
    /// From now on to that file.
    pub fn write_to(&self, file: File) {
        *self.file.borrow_mut() = Some(file);
    }

    fn line(&self, line: &str, to_file: bool) {
        if !to_file {
            log::info(line.trim_end());
        } else if let Some(file) = self.file.borrow_mut().as_mut()
            && let Err(e) = file.write_all(line.as_bytes())
        {
            self.bounded.warn("access-log", || format!("cannot write to the access log: {e}"));
        }
    }
}

/// A request, as far as it is written down.
#[derive(Debug)]
pub struct Record {
    log: Rc<Log>,
    format: LogFormat,
    to_file: bool,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// The answer's status.
    pub status: StatusCode,
    /// The guest that answered.
    pub guest: Option<String>,
    entry: Entry,
    begun: Instant,
}

/// What is known of a request when it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who asks.
    pub client: IpAddr,
    /// When, since 1970.
    pub at: Duration,
    /// The request's method.
    pub method: String,
    /// What it asks for, as it came.
    pub target: String,
    /// Its version of HTTP.
    pub version: Version,
    /// Whom it names.
    pub host: String,
    /// Whether it came by TLS.
    pub secure: bool,
    /// Its `Referer`.
    pub referer: String,
    /// Its `User-Agent`.
    pub agent: String,
}

impl Entry {
    /// Of a request that comes now.
    #[must_use]
    pub fn of(head: &request::Parts, client: IpAddr, secure: bool) -> Self {
        let text = |name: HeaderName| {
            let value = head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            value.unwrap_or_default()
        };
        let authority = head.uri.authority().map(|authority| authority.as_str().to_owned());
        Self {
            client,
            at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            method: head.method.as_str().to_owned(),
            target: head.uri.path_and_query().map_or("*", |target| target.as_str()).to_owned(),
            version: head.version,
            host: authority.unwrap_or_else(|| text(HOST)),
            secure,
            referer: text(REFERER),
            agent: text(USER_AGENT),
        }
    }
}

impl Record {
    /// Of a request that comes now; it is written down when it is dropped. Where the client goes before it is answered,
    /// its status is 499, as nginx has it.
    #[must_use]
    pub fn new(log: Rc<Log>, format: LogFormat, to_file: bool, entry: Entry) -> Self {
        let begun = Instant::now();
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        Self { log, format, to_file, bytes: 0, status, guest: None, entry, begun }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let line = match self.format {
            LogFormat::Combined => combined(&self.entry, self.status, self.bytes),
            LogFormat::Json => json(&self.entry, self.status, self.bytes, self.guest.as_deref(), self.begun.elapsed()),
        };
        self.log.line(&line, self.to_file);
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// Apache's `combined` (mod_log_config), with what could end a field written as nginx does.
#[must_use]
pub fn combined(entry: &Entry, status: StatusCode, bytes: u64) -> String {
    let mut line = format!("{} - - [{}] \"", entry.client, day_and_time(entry.at));
    escape(&mut line, &entry.method);
    line.push(' ');
    escape(&mut line, &entry.target);
    // Writing to a String cannot fail.
    let _ = write!(line, " {}\" {} {bytes} \"", version(entry.version), status.as_u16());
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    escape(&mut line, &or_none(&entry.referer));
    line.push_str("\" \"");
    escape(&mut line, &or_none(&entry.agent));
    line.push_str("\"\n");
    line
}

fn escape(line: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'"' && byte != b'\\' => line.push(byte as char),
            _ => drop(write!(line, "\\x{byte:02X}")),
        }
    }
}

/// An object of docs/json.md and a line end.
#[must_use]
pub fn json(entry: &Entry, status: StatusCode, bytes: u64, guest: Option<&str>, took: Duration) -> String {
    let value = serde_json::json!({
        "at": entry.at.as_secs_f64(),
        "client": entry.client,
        "method": entry.method,
        "host": entry.host,
        "target": entry.target,
        "version": version(entry.version),
        "tls": entry.secure,
        "status": status.as_u16(),
        "bytes": bytes,
        "seconds": took.as_secs_f64(),
        "guest": guest,
        "referer": entry.referer,
        "user_agent": entry.agent,
    });
    format!("{value}\n")
}

/// `10/Oct/2000:13:55:36 +0000`.
fn day_and_time(since: Duration) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let month = MONTHS.get(month).copied().unwrap_or("Jan");
    format!("{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000")
}

/// Year, month from 0, and day of a number of days since 1970 (the proleptic Gregorian calendar).
pub fn civil(days: u64) -> (u64, usize, u64) {
    // Years begin in March, so that a leap day is a year's last.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let of_years = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_years + of_years / 4 - of_years / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 2 } else { march - 10 };
    let year = era * 400 + of_years + u64::from(month < 2);
    (year, usize::try_from(month).unwrap_or(0), day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            client: IpAddr::from([192, 0, 2, 7]),
            at: Duration::from_secs(971_186_136),
            method: "GET".to_owned(),
            target: "/a\"b?c=%22\u{1}".to_owned(),
            version: Version::HTTP_11,
            host: "www.example.org".to_owned(),
            secure: false,
            referer: String::new(),
            agent: "curl \\ \n".to_owned(),
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_is_asked() {
        let line = combined(&entry(), StatusCode::OK, 12);
        let expected = "192.0.2.7 - - [10/Oct/2000:13:55:36 +0000] \"GET /a\\x22b?c=%22\\x01 HTTP/1.1\" 200 12 \"-\" \"curl \\x5C \\x0A\"\n";
        assert_eq!(line, expected);
        let line = json(&entry(), StatusCode::NOT_FOUND, 0, Some("a"), Duration::from_millis(1500));
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        assert_eq!(value["target"], "/a\"b?c=%22\u{1}");
        assert_eq!(value["status"], 404);
        assert_eq!(value["seconds"], 1.5);
    }

    #[test]
    fn days_of_the_calendar() {
        assert_eq!(civil(0), (1970, 0, 1));
        assert_eq!(civil(11_016), (2000, 1, 29));
        assert_eq!(civil(11_017), (2000, 2, 1));
        assert_eq!(civil(19_722), (2023, 11, 31));
    }
}
