//! Who may ask, and what. Pure.

use std::net::IpAddr;

/// The name of the cookie.
const COOKIE: &str = "warren";

/// A request, as far as it matters.
#[derive(Clone, Debug, Default)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path.
    pub path: &'a str,
    /// What stands behind the path.
    pub query: Option<&'a str>,
    /// All that names a host: the headers of that name, and the target where it does.
    pub hosts: Vec<&'a str>,
    /// `Authorization` headers.
    pub authorization: Vec<&'a str>,
    /// `Cookie` headers.
    pub cookies: Vec<&'a str>,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The page.
    Page,
    /// How it looks.
    Style,
    /// What moves in it.
    Script,
    /// The state, as JSON.
    Status,
    /// The state, for Prometheus.
    Metrics,
    /// The proxy auto-configuration.
    ProxyPac,
    /// A cookie, and the way to the same without the token in it.
    Enter {
        /// Where to.
        location: String,
        /// The `Set-Cookie` header.
        cookie: String,
    },
    /// Nothing: the status code, and why.
    Refuse(u16, &'static str),
}

/// What becomes of a request, where `token` lets in; without one nobody is let in.
#[must_use]
pub fn decide(asked: &Asked<'_>, token: Option<&str>) -> Decision {
    if !matches!(asked.method, "GET" | "HEAD") {
        return Decision::Refuse(405, "only GET and HEAD: nothing is changed here");
    }
    // It says no more than where the LANs are, to programs that send no token.
    if asked.path == "/proxy.pac" {
        return Decision::ProxyPac;
    }
    let [host] = asked.hosts.as_slice() else {
        return Decision::Refuse(400, "one Host, please");
    };
    if !is_ours(host) {
        return Decision::Refuse(
            403,
            "no host of that name is here: ask localhost, or the address that is listened on",
        );
    }
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Decision::Refuse(503, "there is no token yet");
    };
    if let Some(location) = entered(asked, token) {
        let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
        return Decision::Enter { location, cookie };
    }
    let by_header = asked.authorization.iter().filter_map(|value| bearer(value));
    let by_cookie = asked.cookies.iter().flat_map(|value| value.split(';')).filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    });
    // All of them are looked at, however early one is right.
    let right = by_header.chain(by_cookie).fold(false, |right, given| is_same(given, token) | right);
    if !right {
        return Decision::Refuse(401, "this wants the token: as a bearer's, or once as ?token=");
    }
    match asked.path {
        "/" => Decision::Page,
        "/page.css" => Decision::Style,
        "/page.js" => Decision::Script,
        "/api/status" => Decision::Status,
        "/metrics" => Decision::Metrics,
        _ => Decision::Refuse(404, "there is /, /api/status, /metrics and /proxy.pac"),
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Where one who has brought the right token in the address goes on: the same without it.
fn entered(asked: &Asked<'_>, token: &str) -> Option<String> {
    let pairs: Vec<&str> = asked.query?.split('&').collect();
    let given = |pair: &&str| pair.strip_prefix("token=").map(str::to_owned);
    let right = pairs.iter().filter_map(given).fold(false, |right, given| is_same(&given, token) | right);
    if !right {
        return None;
    }
    let rest: Vec<&str> = pairs.into_iter().filter(|pair| given(pair).is_none()).collect();
    // `//elsewhere` would be another host's.
    let path = format!("/{}", asked.path.trim_start_matches(['/', '\\']));
    Some(if rest.is_empty() { path } else { format!("{path}?{}", rest.join("&")) })
}

/// Takes as long whatever is given, but for its length.
fn is_same(given: &str, token: &str) -> bool {
    let differ = given.bytes().zip(token.bytes()).fold(0, |differ, (a, b)| std::hint::black_box(differ | (a ^ b)));
    given.len() == token.len() && differ == 0
}

/// Whether a Host is this host's own on loopback, by whatever port it came (a tunnel of ssh's has another). A name of the
/// world's that points here is a page's that would read ours (DNS rebinding).
fn is_ours(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port),
        None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
    };
    let port = port.strip_prefix(':').unwrap_or(port);
    let numbered = port.bytes().all(|byte| byte.is_ascii_digit());
    numbered && (name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|a| a.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn get(path: &str) -> Asked<'_> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Asked { method: "GET", path, query, hosts: vec!["127.0.0.1:7117"], ..Asked::default() }
    }

    fn refused(asked: &Asked<'_>) -> u16 {
        match decide(asked, Some(TOKEN)) {
            Decision::Refuse(code, _) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_token_by_each_of_its_ways() {
        let by_bearer = Asked { authorization: vec!["bEARER 0123456789abcdef"], ..get("/metrics") };
        assert_eq!(decide(&by_bearer, Some(TOKEN)), Decision::Metrics);
        let by_cookie = Asked { cookies: vec!["a=b; warren=0123456789abcdef"], ..get("/api/status") };
        assert_eq!(decide(&by_cookie, Some(TOKEN)), Decision::Status);
        let entered = decide(&get("/metrics?a=b&token=0123456789abcdef"), Some(TOKEN));
        let cookie = "warren=0123456789abcdef; HttpOnly; SameSite=Strict; Path=/".to_owned();
        assert_eq!(entered, Decision::Enter { location: "/metrics?a=b".to_owned(), cookie: cookie.clone() });
        let elsewhere = decide(&get("//evil.example/?token=0123456789abcdef"), Some(TOKEN));
        assert_eq!(elsewhere, Decision::Enter { location: "/evil.example/".to_owned(), cookie });
        for wrong in ["", "0", "0123456789abcdee", "0123456789abcdef0", "0123456789ABCDEF"] {
            let (header, cookie) = (format!("Bearer {wrong}"), format!("warren={wrong}"));
            assert_eq!(refused(&Asked { authorization: vec![&header], ..get("/") }), 401, "{wrong}");
            assert_eq!(refused(&Asked { cookies: vec![&cookie], ..get("/") }), 401, "{wrong}");
            assert_eq!(refused(&get(&format!("/?token={wrong}"))), 401, "{wrong}");
        }
        assert_eq!(refused(&Asked { authorization: vec!["Basic 0123456789abcdef"], ..get("/") }), 401);
        assert!(matches!(decide(&by_bearer, None), Decision::Refuse(503, _)));
        assert!(matches!(
            decide(&Asked { authorization: vec!["Bearer "], ..get("/") }, Some("")),
            Decision::Refuse(503, _)
        ));
    }

    #[test]
    fn a_host_that_is_not_ours_is_refused_whatever_the_token() {
        let from =
            |hosts: Vec<&'static str>| Asked { hosts, authorization: vec!["Bearer 0123456789abcdef"], ..get("/") };
        for ours in ["localhost", "LocalHost:80", "127.0.0.1", "127.9.9.9:7117", "[::1]:7117", "[::1]"] {
            assert_eq!(decide(&from(vec![ours]), Some(TOKEN)), Decision::Page, "{ours}");
        }
        for other in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.1.1.1",
            "",
            "[::1",
            "localhost:x",
            "[::1]x",
        ] {
            assert_eq!(refused(&from(vec![other])), 403, "{other}");
        }
        assert_eq!(refused(&from(vec![])), 400);
        assert_eq!(refused(&from(vec!["localhost", "evil.example"])), 400);
    }

    #[test]
    fn nothing_is_changed_and_the_way_in_is_for_everybody() {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
            assert_eq!(refused(&Asked { method, ..get("/proxy.pac") }), 405);
        }
        assert_eq!(decide(&Asked { hosts: Vec::new(), ..get("/proxy.pac") }, None), Decision::ProxyPac);
        let known = Asked { authorization: vec!["Bearer 0123456789abcdef"], ..get("/etc/passwd") };
        assert_eq!(refused(&known), 404);
        assert_eq!(refused(&get("/etc/passwd")), 401, "what there is is told to nobody");
    }
}
