//! Sites as nginx's configuration: for who would rather run that, and to be held against what we do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Sites;
use crate::network::{Balance, Entry, LogFormat, Network, ProxyProtocol, Public, Site, Tls, Upstream};

/// A file to be included in nginx's `http { }`. What nginx has not is said in comments.
#[must_use]
pub fn nginx(network: &Network) -> String {
    let sites = Sites::of(network);
    let writer = Writer { network, sites: &sites };
    let mut out = String::from("# Written by warren: to be included in nginx's http { }.\n");
    // Writing to a String cannot fail.
    let _ = writeln!(out, "map $http_upgrade $warren_connection {{ default upgrade; '' ''; }}");
    for (nth, site) in sites.sites.iter().enumerate().filter(|(_, site)| !site.to.is_empty()) {
        writer.upstream(&mut out, nth, site);
    }
    let mut known: Vec<(&str, &[Entry])> = Vec::new();
    for site in &sites.sites {
        for host in &site.hosts {
            let key = (host.as_str(), site.entries.as_slice());
            if !known.contains(&key) {
                known.push(key);
                writer.server(&mut out, host, &site.entries);
            }
        }
    }
    writer.others(&mut out);
    out
}

struct Writer<'a> {
    network: &'a Network,
    sites: &'a Sites,
}

impl Writer<'_> {
    fn upstream(&self, out: &mut String, nth: usize, site: &Site) {
        let _ = writeln!(out, "\nupstream warren_{nth} {{");
        match site.balance {
            Balance::RoundRobin => {}
            Balance::LeastConnections => drop(writeln!(out, "    least_conn;")),
            Balance::ClientHash => drop(writeln!(out, "    hash $remote_addr consistent;")),
        }
        let (fails, after) = (site.health.failures, site.health.interval.div_ceil(1000));
        for place in site.to.iter().filter_map(|to| self.sites.place(to)) {
            let _ = writeln!(out, "    server {place} max_fails={fails} fail_timeout={after}s;");
        }
        if site.health.path.is_some() {
            let _ = writeln!(out, "    # nginx without its Plus asks no path for health");
        }
        if site.proxy_protocol == ProxyProtocol::Off {
            let _ = writeln!(out, "    keepalive 64;");
            let _ = writeln!(out, "    keepalive_timeout 4s;");
        } else {
            let _ = writeln!(out, "    # nginx tells no web server of the client by the PROXY protocol");
        }
        let _ = writeln!(out, "}}");
    }

    /// All sites of a host that listen at the same places.
    fn server(&self, out: &mut String, host: &str, entries: &[Entry]) {
        let here = self.sites.sites.iter().enumerate();
        let here = here.filter(|(_, site)| site.entries == entries && site.hosts.iter().any(|other| other == host));
        let sites: Vec<(usize, &Site)> = here.collect();
        let Some((_, first)) = sites.first() else { return };
        let name = match host.strip_prefix("*.") {
            // nginx's own wildcards stand for any number of levels.
            Some(parent) => format!("~^[^.]+\\.{}$", parent.replace('.', "\\.")),
            None => host.to_owned(),
        };
        let secure = first.tls != Tls::Off;
        if first.tls == Tls::Passthrough {
            let _ = writeln!(out, "\n# {host} passes through by its SNI: that is for nginx's stream {{ }}");
            return;
        }
        if secure {
            let plain = entries.iter().filter(|entry| entry.port == 80);
            let _ = writeln!(out, "\nserver {{");
            plain.for_each(|entry| self.listen(out, *entry, ""));
            let _ = writeln!(out, "    server_name {name};\n    return 301 https://$host$request_uri;\n}}");
        }
        let _ = writeln!(out, "\nserver {{");
        for entry in entries.iter().filter(|entry| first.is_bound(**entry) && (!secure || entry.port != 80)) {
            self.listen(out, *entry, if secure { " ssl http2" } else { "" });
        }
        let _ = writeln!(out, "    server_name {name};");
        certificate(out, host, &first.tls);
        self.limits(out);
        let mut sorted = sites.clone();
        sorted.sort_by_key(|(_, site)| std::cmp::Reverse(site.path.len()));
        for (nth, site) in &sorted {
            self.location(out, *nth, site);
        }
        if !sorted.iter().any(|(_, site)| site.path == "/") {
            let _ = writeln!(out, "    location / {{ return 404; }}");
        }
        let _ = writeln!(out, "}}");
    }

    fn listen(&self, out: &mut String, entry: Entry, more: &str) {
        let sockets: Vec<SocketAddr> = match (entry.address, &self.network.public) {
            (Some(address), _) => vec![SocketAddr::new(address, entry.port)],
            (None, Public::Listed(listed)) => listed.iter().map(|at| SocketAddr::new(*at, entry.port)).collect(),
            (None, Public::Dynamic) => vec![
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), entry.port),
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), entry.port),
            ],
        };
        for socket in sockets {
            let _ = writeln!(out, "    listen {socket}{more};");
        }
    }

    fn limits(&self, out: &mut String) {
        let http = &self.sites.http;
        let seconds = http.timeout.div_ceil(1000);
        let _ = writeln!(out, "    client_max_body_size {};", http.max_body.unwrap_or(0));
        let _ = writeln!(out, "    large_client_header_buffers 4 {};", http.max_header);
        for which in ["client_header_timeout", "client_body_timeout", "send_timeout", "keepalive_timeout"] {
            let _ = writeln!(out, "    {which} {seconds}s;");
        }
        for net in &http.trusted_proxies {
            let _ = writeln!(out, "    set_real_ip_from {net};");
        }
        if !http.trusted_proxies.is_empty() {
            let _ = writeln!(out, "    real_ip_header X-Forwarded-For;\n    real_ip_recursive on;");
        }
        match http.access_log.as_ref().map(|log| (log.file.as_deref(), log.format)) {
            Some((Some(file), LogFormat::Combined)) => drop(writeln!(out, "    access_log {file} combined;")),
            Some((Some(file), LogFormat::Json)) => drop(writeln!(out, "    access_log {file}; # was JSON")),
            _ => drop(writeln!(out, "    access_log off;")),
        }
    }

    fn location(&self, out: &mut String, nth: usize, site: &Site) {
        // A prefix of nginx's ends anywhere within a segment.
        let places = match site.path.strip_suffix('/') {
            Some(_) => vec![site.path.clone()],
            None => vec![format!("= {}", site.path), format!("{}/", site.path)],
        };
        for place in places {
            let _ = writeln!(out, "    location {place} {{");
            self.answer(out, nth, site);
            let _ = writeln!(out, "    }}");
        }
    }

    fn answer(&self, out: &mut String, nth: usize, site: &Site) {
        if let Some(text) = &site.maintenance {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', " ");
            let _ = writeln!(out, "        return 503 \"{text}\";");
            return;
        }
        if let Some(url) = &site.redirect {
            let url = url.replace("{uri}", "$request_uri");
            let _ = writeln!(out, "        if ($request_method !~ ^(GET|HEAD|OPTIONS)$) {{ return 308 {url}; }}");
            let _ = writeln!(out, "        return 301 {url};");
            return;
        }
        if let Some(seconds) = site.hsts.filter(|_| site.tls != Tls::Off) {
            let _ = writeln!(out, "        add_header Strict-Transport-Security max-age={seconds} always;");
        }
        if site.upstream == Upstream::H2c {
            let _ = writeln!(out, "        grpc_pass grpc://warren_{nth};");
        } else {
            let _ = writeln!(out, "        proxy_pass http://warren_{nth};");
            let _ = writeln!(out, "        proxy_http_version 1.1;");
            let _ = writeln!(out, "        proxy_buffering off;\n        proxy_request_buffering off;");
        }
        let module = if site.upstream == Upstream::H2c { "grpc" } else { "proxy" };
        let chain =
            if self.sites.http.trusted_proxies.is_empty() { "$remote_addr" } else { "$proxy_add_x_forwarded_for" };
        let headers = [
            ("Host", "$http_host"),
            ("X-Forwarded-For", chain),
            ("X-Forwarded-Proto", "$scheme"),
            ("X-Forwarded-Host", "$http_host"),
            ("Forwarded", "\"for=$remote_addr;host=\\\"$http_host\\\";proto=$scheme\""),
            ("X-Real-IP", "\"\""),
            ("Upgrade", "$http_upgrade"),
            ("Connection", "$warren_connection"),
        ];
        for (name, value) in headers.iter().filter(|(name, _)| module == "proxy" || *name != "Upgrade") {
            let _ = writeln!(out, "        {module}_set_header {name} {value};");
        }
    }

    /// What is for nobody.
    fn others(&self, out: &mut String) {
        let bound = self.sites.sites.iter().flat_map(|site| site.entries.iter().filter(|entry| site.is_bound(**entry)));
        let plain: BTreeSet<&Entry> = bound.filter(|entry| entry.port != 443).collect();
        let _ = writeln!(out, "\nserver {{");
        plain.into_iter().for_each(|entry| self.listen(out, *entry, " default_server"));
        let _ = writeln!(out, "    server_name _;\n    access_log off;\n    return 404;\n}}");
    }
}

fn certificate(out: &mut String, host: &str, tls: &Tls) {
    let (cert, key, whose) = match tls {
        Tls::Off | Tls::Passthrough => return,
        Tls::Files { cert, key } => (cert.clone(), key.clone(), ""),
        Tls::Acme => {
            let folder = format!("/etc/letsencrypt/live/{host}");
            (format!("{folder}/fullchain.pem"), format!("{folder}/privkey.pem"), " # as certbot has it")
        }
        Tls::SelfSigned => (
            "/etc/ssl/certs/ssl-cert-snakeoil.pem".to_owned(),
            "/etc/ssl/private/ssl-cert-snakeoil.key".to_owned(),
            " # as Debian's ssl-cert has it",
        ),
    };
    let _ = writeln!(out, "    ssl_certificate {cert};{whose}\n    ssl_certificate_key {key};");
}
