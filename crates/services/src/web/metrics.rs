//! The state for Prometheus, in its text format 0.0.4, from the document that `warren status --json` prints
//! (docs/json.md). Pure.

use std::fmt::Write as _;

use serde_json::Value;

/// The text.
#[must_use]
pub fn render(status: &Value) -> String {
    let mut text = Text(String::new());
    let version = env!("CARGO_PKG_VERSION");
    text.family("warren_build_info", "gauge", "Which warren this is.", [(vec![("version", version.to_owned())], 1)]);
    network(&mut text, status);
    traffic(&mut text, status);
    forwards(&mut text, status);
    names(&mut text, &status["services"]["dns"]);
    leases(&mut text, &status["services"]);
    socks(&mut text, &status["services"]["socks"]);
    sites(&mut text, &status["services"]);
    watch(&mut text, status);
    text.0
}

/// A sample's labels and value.
type Sample = (Vec<(&'static str, String)>, u64);

struct Text(String);

impl Text {
    /// One metric with all its samples; without one it is left out.
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn counter(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, "counter", help, samples);
    }

    fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, "gauge", help, samples);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A sample without labels, where there is a number.
fn alone(value: Option<u64>) -> Option<Sample> {
    value.map(|value| (Vec::new(), value))
}

/// A sample for each of `keys` that the object has, with `label` saying which.
fn each(object: &Value, label: &'static str, keys: &[(&'static str, &'static str)]) -> Vec<Sample> {
    let sample = |(key, said): &(&str, &str)| Some((vec![(label, (*said).to_owned())], object[*key].as_u64()?));
    keys.iter().filter_map(sample).collect()
}

fn network(text: &mut Text, status: &Value) {
    let flag = |value: &Value| alone(value.as_bool().map(u64::from));
    let count = |value: &Value| alone(value.as_array().map(|list| list.len() as u64));
    text.gauge("warren_up", "Whether a network of warren's is up.", flag(&status["up"]));
    text.gauge("warren_ok", "Whether it is as its file says.", flag(&status["ok"]));
    text.gauge("warren_drift_steps", "Steps that would make it so.", count(&status["drift"]));
    text.gauge("warren_conflicts", "What of another's is in the way.", count(&status["conflicts"]));
    text.gauge("warren_unfinished", "Whether an earlier run was ended on its way.", flag(&status["unfinished"]));
    let up = |lan: &Value| Some((vec![("lan", word(&lan["bridge"]))], u64::from(lan["up"].as_bool()?)));
    text.gauge("warren_lan_up", "Whether a LAN's bridge is switched on.", list(&status["lans"]).iter().filter_map(up));
}

fn traffic(text: &mut Text, status: &Value) {
    for (kind, label, name) in [("lan", "lans", "bridge"), ("guest", "guests", "name")] {
        let all = list(&status[label]);
        for (unit, whole) in [("packets", "Packets"), ("bytes", "Bytes")] {
            let samples = all.iter().flat_map(|one| {
                ["sent", "received"].into_iter().filter_map(move |way| {
                    let labels = vec![(kind, word(&one[name])), ("direction", way.to_owned())];
                    Some((labels, one[way][unit].as_u64()?))
                })
            });
            text.counter(
                &format!("warren_{kind}_{unit}_total"),
                &format!("{whole} of a {kind}'s, as it sees them."),
                samples,
            );
        }
        let connections = all.iter().flat_map(|one| {
            ["begun", "taken"].into_iter().filter_map(move |way| {
                let labels = vec![(kind, word(&one[name])), ("direction", way.to_owned())];
                Some((labels, one["connections"][way].as_u64()?))
            })
        });
        text.counter(&format!("warren_{kind}_connections_total"), &format!("Connections of a {kind}'s."), connections);
    }
    let dropped = list(&status["lans"]).iter().flat_map(|lan| {
        ["from", "to"].into_iter().filter_map(move |way| {
            let labels = vec![("lan", word(&lan["bridge"])), ("direction", way.to_owned())];
            Some((labels, lan["dropped"][way]["packets"].as_u64()?))
        })
    });
    text.counter("warren_lan_dropped_packets_total", "Packets that were dropped at a LAN's border.", dropped);
    let guests = list(&status["guests"]).iter();
    let refused =
        guests.clone().filter_map(|guest| Some((vec![("guest", word(&guest["name"]))], guest["refused"].as_u64()?)));
    text.counter("warren_guest_refused_packets_total", "Packets of connections beyond a guest's cap.", refused);
    let tried = guests.flat_map(|guest| {
        list(&guest["tried"]).iter().filter_map(|tried| {
            let labels = vec![("guest", word(&guest["name"])), ("what", word(&tried["what"]))];
            Some((labels, tried["packets"].as_u64()?))
        })
    });
    text.counter("warren_guest_tried_packets_total", "Packets that a guest may not send, dropped at its port.", tried);
}

fn forwards(text: &mut Text, status: &Value) {
    let all: Vec<(Vec<(&'static str, String)>, &Value)> =
        list(&status["forwards"]).iter().map(|f| (labels(f), f)).collect();
    let of = |pick: fn(&Value) -> Option<u64>| -> Vec<Sample> {
        all.iter().filter_map(|(labels, forward)| Some((labels.clone(), pick(forward)?))).collect()
    };
    text.counter(
        "warren_forward_connections_total",
        "Connections that a forward took.",
        of(|f| f["connections"].as_u64()),
    );
    let packets = of(|f| f["carried"]["packets"].as_u64());
    text.counter("warren_forward_packets_total", "Packets that a forward's connections carried, both ways.", packets);
    let bytes = of(|f| f["carried"]["bytes"].as_u64());
    text.counter("warren_forward_bytes_total", "Bytes that a forward's connections carried, both ways.", bytes);
}

fn labels(forward: &Value) -> Vec<(&'static str, String)> {
    let (listen, to) = (&forward["listen"], &forward["to"]);
    let port = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let guest = to["guest"].as_str().map(str::to_owned);
    let target = guest.unwrap_or_else(|| list(&to["addresses"]).iter().map(word).collect::<Vec<_>>().join(","));
    vec![
        ("address", word(&listen["address"])),
        ("ports", port(&listen["ports"])),
        ("transport", word(&listen["transport"])),
        ("to", target),
    ]
}

fn names(text: &mut Text, dns: &Value) {
    text.counter("warren_dns_queries_total", "Questions for names.", alone(dns["queries"].as_u64()));
    let by = [("local", "zone"), ("cached", "cache"), ("forwarded", "upstream")];
    text.counter("warren_dns_answers_total", "Questions by who knew the answer.", each(dns, "source", &by));
    let failed = alone(dns["failed"].as_u64());
    text.counter("warren_dns_upstream_failures_total", "Questions that no resolver of the world's answered.", failed);
    let dropped = ["rebinding", "malformed", "limited", "refused"].map(|reason| (reason, reason));
    text.counter(
        "warren_dns_dropped_total",
        "Questions and answers that were dropped or refused.",
        each(dns, "reason", &dropped),
    );
}

fn leases(text: &mut Text, services: &Value) {
    let (dhcp, ra) = (&services["dhcp"], &services["ra"]);
    text.counter("warren_dhcp_requests_total", "Messages of DHCP clients.", alone(dhcp["requests"].as_u64()));
    let said = [("offers", "offer"), ("acks", "ack"), ("naks", "nak")];
    text.counter("warren_dhcp_replies_total", "Answers to DHCP clients.", each(dhcp, "type", &said));
    let refused =
        ["declines", "conflicts", "wrong_mac", "exhausted", "limited", "malformed"].map(|reason| (reason, reason));
    text.counter("warren_dhcp_refused_total", "What was not leased, and why.", each(dhcp, "reason", &refused));
    if let Some(leases) = services["leases"].as_array() {
        let mut lans: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
        leases.iter().for_each(|lease| *lans.entry(word(&lease["lan"])).or_default() += 1);
        let samples = lans.into_iter().map(|(lan, count)| (vec![("lan", lan)], count));
        text.gauge("warren_dhcp_leases", "Leases that hold.", samples);
    }
    let advertised = alone(ra["advertisements"].as_u64());
    text.counter("warren_ra_advertisements_total", "Router advertisements that were sent.", advertised);
    text.counter("warren_ra_solicitations_total", "Questions for a router.", alone(ra["solicitations"].as_u64()));
}

fn socks(text: &mut Text, socks: &Value) {
    text.counter(
        "warren_socks_clients_total",
        "Connections of clients to the SOCKS door.",
        alone(socks["clients"].as_u64()),
    );
    text.gauge("warren_socks_open", "Streams through the SOCKS door that stand.", alone(socks["open"].as_u64()));
    let outcomes = [
        ("connected", "connected"),
        ("refused", "refused"),
        ("unreachable", "unreachable"),
        ("limited", "limited"),
        ("malformed", "malformed"),
    ];
    text.counter("warren_socks_connections_total", "What became of clients.", each(socks, "outcome", &outcomes));
    let ways = [("sent", "sent"), ("received", "received")];
    text.counter("warren_socks_bytes_total", "Bytes of streams, as clients see them.", each(socks, "direction", &ways));
}

fn sites(text: &mut Text, services: &Value) {
    let http = &services["http"];
    text.counter("warren_http_requests_total", "Requests for sites.", alone(http["requests"].as_u64()));
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(list(&http["answers"]));
    let answers = classes.filter_map(|(class, count)| Some((vec![("class", class.to_owned())], count.as_u64()?)));
    text.counter("warren_http_answers_total", "Answers of sites.", answers);
    text.counter(
        "warren_http_connections_total",
        "Connections of sites' clients.",
        alone(http["connections"].as_u64()),
    );
    text.gauge("warren_http_connections", "Those that are open.", alone(http["open"].as_u64()));
    let refused = ["limited", "unknown", "no_guest"].map(|reason| (reason, reason));
    text.counter(
        "warren_http_refused_total",
        "Requests and connections that no guest got.",
        each(http, "reason", &refused),
    );
    let backends = list(&services["backends"]);
    let of = |pick: fn(&Value) -> Option<u64>| -> Vec<Sample> {
        let labels = |one: &Value| vec![("guest", word(&one["guest"])), ("port", one["port"].to_string())];
        backends.iter().filter_map(|one| Some((labels(one), pick(one)?))).collect()
    };
    let alive = of(|one| one["alive"].as_bool().map(u64::from));
    text.gauge("warren_backend_up", "Whether a guest takes its sites' requests.", alive);
    text.counter(
        "warren_backend_requests_total",
        "Requests that a guest was sent.",
        of(|one| one["requests"].as_u64()),
    );
    text.counter("warren_backend_failures_total", "Those that it did not answer.", of(|one| one["failures"].as_u64()));
}

fn watch(text: &mut Text, status: &Value) {
    let serve = &status["serve"];
    let cause = |one: &Value| Some((vec![("cause", word(&one["cause"]))], one["count"].as_u64()?));
    let causes: Vec<Sample> = list(&serve["by_cause"]).iter().filter_map(cause).collect();
    text.counter("warren_repairs_total", "Repairs of the network.", alone(serve["count"].as_u64()));
    text.counter("warren_repair_causes_total", "Repairs by what was heard before them; one may have several.", causes);
    let kept = alone(serve["tables_kept"].as_bool().map(u64::from));
    text.gauge("warren_tables_kept", "Whether others' flush ruleset passes our tables by.", kept);
    let restarts = alone(serve["worker_restarts"].as_u64());
    text.counter("warren_worker_restarts_total", "How often the services' process was started again.", restarts);
    let works = alone(serve.is_object().then(|| u64::from(status["services"].is_object())));
    text.gauge("warren_worker_up", "Whether the services' process answers.", works);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_line_and_labels_are_escaped() {
        let status = serde_json::json!({
            "up": true, "ok": false, "drift": ["a", "b"], "conflicts": [], "unfinished": false,
            "lans": [{ "bridge": "br1", "up": true, "sent": { "packets": 1, "bytes": 2 } }],
            "guests": [{ "name": "a", "sent": { "packets": 3, "bytes": 4 }, "tried": [{ "what": "a \"b\"\\\nc", "packets": 9 }] }],
            "forwards": [{ "listen": { "address": null, "ports": "22210", "transport": "tcp" },
                           "to": { "addresses": ["10.1.1.6"], "port": 22, "guest": "a" },
                           "connections": 5, "carried": { "packets": 6, "bytes": 7 } }],
            "services": { "dns": { "queries": 8, "local": 1, "rebinding": 2 }, "leases": [{ "lan": "br1" }, { "lan": "br1" }] },
            "serve": { "count": 2, "worker_restarts": 1, "by_cause": [{ "cause": "link", "count": 2 }] },
        });
        let text = render(&status);
        for line in [
            "warren_up 1",
            "warren_ok 0",
            "warren_drift_steps 2",
            "warren_guest_bytes_total{guest=\"a\",direction=\"sent\"} 4",
            "warren_guest_tried_packets_total{guest=\"a\",what=\"a \\\"b\\\"\\\\\\nc\"} 9",
            "warren_forward_bytes_total{address=\"\",ports=\"22210\",transport=\"tcp\",to=\"a\"} 7",
            "warren_dns_answers_total{source=\"zone\"} 1",
            "warren_dhcp_leases{lan=\"br1\"} 2",
            "warren_repair_causes_total{cause=\"link\"} 2",
            "warren_worker_up 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        // Nothing is up, nothing serves: what is not known is not said.
        let text = render(&serde_json::json!({ "up": false, "ok": true }));
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 3, "{text}");
    }
}
