//! `warren status`: what is up, and what is not as it should be.

use std::path::PathBuf;

use kernel::apply::Survey;
use kernel::rtnl::{Carried, Rtnl};
use model::network::{GuestKind, Network, Public, Tls};
use model::state::State;
use services::http::record::civil;
use services::protocol::{CertificateShown, Status};

use super::forward;
use super::serve::control::{self, Served};
use super::serve::watchman::Repairs;
use crate::context::{Context, Exit, Failure, Outcome};
use crate::counters::{self, Counters};
use crate::output;

/// What there is to see of the network that was applied last, held against the kernel.
struct Sight {
    config: PathBuf,
    network: Network,
    survey: Survey,
    unfinished: bool,
    /// Seconds that are left to confirm it.
    pending: Option<u64>,
    counters: Counters,
    served: Option<Served>,
    drift: Vec<String>,
}

impl Sight {
    /// Nothing where no network is up.
    fn of(context: &Context) -> Result<Option<Self>, Failure> {
        context.require_privilege("look at the firewall of this network")?;
        let engine = context.engine()?;
        let Some((config, network)) = engine.record()?.and_then(|r| Some((r.config, r.network?))) else {
            return Ok(None);
        };
        let survey = engine.survey(&network)?;
        Ok(Some(Self {
            config,
            network,
            unfinished: engine.is_unfinished()?,
            pending: engine.pending()?.map(|pending| pending.left().map_or(0, |left| left.as_secs() + 1)),
            counters: Counters::read(&survey.observed)?,
            served: control::status(&context.run_dir),
            drift: survey.plan.steps.iter().map(ToString::to_string).collect(),
            survey,
        }))
    }
}

/// For programs (docs/json.md).
pub fn document(context: &Context) -> Result<serde_json::Value, Failure> {
    let Some(sight) = Sight::of(context)? else {
        return Ok(serde_json::json!({ "version": output::JSON_VERSION, "ok": true, "up": false }));
    };
    let Sight { config, network, survey, unfinished, pending, counters, served, drift } = sight;
    let host = guests::Host::from_environment();
    Ok(serde_json::json!({
        "version": output::JSON_VERSION,
        "ok": drift.is_empty() && survey.conflicts.is_empty() && !unfinished,
        "up": true,
        "config": config,
        "uplink": uplink(&network),
        "public": match &network.public {
            Public::Listed(addresses) => Some(addresses),
            Public::Dynamic => None,
        },
        "lans": network.lans.iter().map(|lan| counters::with(counters.lan(&network, lan), serde_json::json!({
            "bridge": lan.bridge, "mode": lan.mode, "addresses": lan.addresses, "mtu": lan.mtu, "domain": lan.domain,
            "up": survey.observed.links.get(&lan.bridge).is_some_and(|l| l.up),
            "drift": drift_of(&survey, &[lan.bridge.as_str()]),
        }))).collect::<Vec<_>>(),
        "guests": network.guests.iter().map(|guest| counters::with(counters.guest(guest), serde_json::json!({
            "name": guest.name, "kind": kind(&guest.kind), "lan": guest.lan, "mac": guest.mac, "port": guest.port,
            "addresses": guest.addresses, "aliases": guest.aliases, "plugged": plugged(&survey.observed, guest),
            "container": matches!(guest.kind, GuestKind::Lxc(_)).then(|| super::guest::state_word(&host, &guest.name)),
            "drift": drift_of(&survey, &[guest.name.as_str(), guest.port.as_str()]),
        }))).collect::<Vec<_>>(),
        "forwards": forward::documents(&network).into_iter().zip(&network.forwards)
            .map(|(document, forward)| counters::with(document, counters.forward(forward))).collect::<Vec<_>>(),
        "sites": network.sites.iter().map(|site| serde_json::json!({
            "hosts": site.hosts, "path": site.path, "to": site.to, "redirect": site.redirect, "tls": site.tls,
            "entries": site.entries, "closed": site.maintenance.is_some(),
        })).collect::<Vec<_>>(),
        "socks": network.socks.as_ref().map(|socks| serde_json::json!({ "listen": socks.listen, "lans": socks.lans })),
        "services": served.as_ref().and_then(|served| served.services.as_ref()),
        "serve": served.as_ref().map(|served| &served.repairs),
        "drift": drift,
        "conflicts": survey.conflicts.iter().map(|c| format!("{}: {}", c.object, c.detail)).collect::<Vec<_>>(),
        "unfinished": unfinished,
        "confirm_within": pending,
    }))
}

/// The uplink, and what it has carried since it was made.
fn uplink(network: &Network) -> serde_json::Value {
    let name = &network.uplink.name;
    // One that is missing has carried nothing.
    let carried = Rtnl::open().and_then(|mut rtnl| rtnl.carried(name)).ok();
    let count = |pick: fn(&Carried) -> (u64, u64)| {
        let (packets, bytes) = carried.as_ref().map(pick).unwrap_or_default();
        serde_json::json!({ "packets": packets, "bytes": bytes })
    };
    serde_json::json!({
        "name": name, "present": network.uplink.present, "there": carried.is_some(),
        "sent": count(|c| (c.tx_packets, c.tx_bytes)), "received": count(|c| (c.rx_packets, c.rx_bytes)),
    })
}

/// What `up` would mend of these links and namespaces.
fn drift_of(survey: &Survey, names: &[&str]) -> Vec<String> {
    let steps = survey.plan.steps.iter().filter(|step| step.about().is_some_and(|about| names.contains(&about)));
    steps.map(ToString::to_string).collect()
}

/// Shows the network that was applied last, held against the kernel.
pub fn run(context: &Context) -> Outcome {
    if context.json {
        output::json(&document(context)?);
        return Ok(Exit::Done);
    }
    let Some(sight) = Sight::of(context)? else {
        output::line("No network of warren's is up here.");
        return Ok(Exit::Done);
    };
    let Sight { config, network, survey, unfinished, pending, counters, served, drift } = sight;
    people(&network, &survey.observed);
    if let Some(table) = counters.table(&network) {
        output::line(&format!("\n{}", table.trim_end()));
    }
    match &served {
        Some(served) => {
            match &served.services {
                Some(status) => services(status),
                None => output::line(&format!(
                    "\n{}The services' process does not answer.{}",
                    output::YELLOW,
                    output::RESET
                )),
            }
            repairs(&served.repairs);
        }
        None => {
            let without = "`warren serve` does not run: nobody answers for names and leases, nothing is repaired.";
            output::line(&format!("\n{}{without}{}", output::DIM, output::RESET));
        }
    }
    for guest in &network.guests {
        for (tried, packets) in counters.tried(guest).into_iter().filter(|(_, packets)| *packets > 0) {
            output::line(&format!(
                "{}{} tried: {packets} {}{}",
                output::YELLOW,
                guest.name,
                tried.words(),
                output::RESET
            ));
        }
    }
    for guest in network.guests.iter().filter(|guest| counters.refused(guest) > 0) {
        output::line(&format!(
            "{}{} is, or was, at its cap of {} connections: {} packets of further ones were dropped{}",
            output::YELLOW,
            guest.name,
            guest.max_connections,
            counters.refused(guest),
            output::RESET
        ));
    }
    if unfinished {
        output::line("\nAn earlier run was ended on its way: `warren up` or `warren down` puts it right.");
    }
    if let Some(left) = pending {
        output::line(&format!(
            "\n{}The last `up` awaits `warren confirm`: what was before it comes back in {left} s.{}",
            output::YELLOW,
            output::RESET
        ));
    }
    for conflict in &survey.conflicts {
        output::line(&format!("\n{} is in the way: {}", conflict.object, conflict.detail));
    }
    if drift.is_empty() {
        output::line(&format!("\n{}As the file {} says.{}", output::GREEN, config.display(), output::RESET));
    } else {
        output::line(&format!("\n{}Not as it should be; `warren up` would mend it:{}", output::YELLOW, output::RESET));
        drift.iter().for_each(|line| output::line(line));
    }
    Ok(Exit::Done)
}

fn people(network: &Network, observed: &State) {
    let host = guests::Host::from_environment();
    let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
    let join = |list: Vec<String>| list.join(", ");
    let present = if network.uplink.present { "up" } else { "missing" };
    output::line(&format!("uplink {} ({present}), public {}\n", network.uplink.name, join(public(network))));

    let mut rows = vec![row(&["LAN", "MODE", "ADDRESS", "DOMAIN", "STATE"])];
    for lan in &network.lans {
        let state = match observed.links.get(&lan.bridge) {
            Some(link) if link.up => "up",
            Some(_) => "down",
            None => "gone",
        };
        let addresses = join(lan.addresses.iter().map(ToString::to_string).collect());
        rows.push(row(&[lan.bridge.as_str(), lan.mode.word(), &addresses, &lan.domain, state]));
    }
    output::line(&output::table(&rows));

    let mut rows = vec![row(&["GUEST", "KIND", "LAN", "ADDRESS", "MAC", "STATE"])];
    for guest in &network.guests {
        let addresses = join(guest.addresses.iter().map(ToString::to_string).collect());
        let state = match plugged(observed, guest) {
            Some(true) => "plugged in",
            Some(false) => "unplugged",
            None => "",
        };
        let container = matches!(guest.kind, GuestKind::Lxc(_)).then(|| super::guest::state_word(&host, &guest.name));
        let state = container.as_deref().unwrap_or(state);
        rows.push(row(&[
            &guest.name,
            kind(&guest.kind),
            guest.lan.as_str(),
            &addresses,
            &guest.mac.to_string(),
            state,
        ]));
    }
    output::line(&output::table(&rows));

    if !network.forwards.is_empty() {
        output::line(forward::table(network).trim_end());
    }
    if !network.sites.is_empty() {
        output::line(&format!("\n{}", sites(network).trim_end()));
    }
    for guest in network.guests.iter().filter(|g| matches!(g.kind, GuestKind::Vm { .. })) {
        output::line(&format!(
            "\n{}: -netdev tap,id=n0,ifname={},script=no,downscript=no -device virtio-net-pci,netdev=n0,mac={}",
            guest.name, guest.port, guest.mac
        ));
        output::line(&format!(
            "{}: <interface type='ethernet'><target dev='{}' managed='no'/><mac address='{}'/></interface>",
            guest.name, guest.port, guest.mac
        ));
    }
}

fn sites(network: &Network) -> String {
    let mut rows = vec![["SITE", "TO", "TLS"].map(str::to_owned).to_vec()];
    for site in &network.sites {
        let path = if site.path == "/" { "" } else { site.path.as_str() };
        let to: Vec<String> = site.to.iter().map(ToString::to_string).chain(site.redirect.clone()).collect();
        let closed = if site.maintenance.is_some() { " (closed)" } else { "" };
        let tls = match site.tls {
            Tls::Acme => "acme",
            Tls::Files { .. } => "files",
            Tls::SelfSigned => "self-signed",
            Tls::Passthrough => "passthrough",
            Tls::Off => "off",
        };
        rows.push(vec![format!("{}{path}", site.hosts.join(", ")), format!("{}{closed}", to.join(", ")), tls.into()]);
    }
    output::table(&rows)
}

/// What a running `serve` has repaired.
fn repairs(repairs: &Repairs) {
    if repairs.worker_restarts > 0 {
        let times = repairs.worker_restarts;
        output::line(&format!("{}the services' process died {times} times{}", output::YELLOW, output::RESET));
    }
    let Some(last) = repairs.last.back() else { return };
    let causes = if last.causes.is_empty() { String::new() } else { format!(", after {}", last.causes.join(", ")) };
    output::line(&format!(
        "{}repaired {} times; the last within {} ms{causes}: {}{}",
        output::YELLOW,
        repairs.count,
        last.took_ms,
        last.steps.join("; "),
        output::RESET
    ));
}

/// What the services of a running `serve` have done.
fn services(status: &Status) {
    let (dns, dhcp, ra) = (&status.dns, &status.dhcp, &status.ra);
    output::line(&format!(
        "\nnames: {} questions, {} from the zones, {} remembered, {} asked upstream ({} failed)",
        dns.queries, dns.local, dns.cached, dns.forwarded, dns.failed
    ));
    let dropped = [
        (dns.rebinding, "answers that point inside"),
        (dns.limited, "questions beyond a client's share"),
        (dns.malformed, "packets that are no questions"),
        (dns.refused, "questions refused"),
    ];
    tell_dropped(&dropped);
    output::line(&format!(
        "leases: {} given, {} denied, {} advertisements of routers",
        dhcp.acks, dhcp.naks, ra.advertisements
    ));
    tell_dropped(&[
        (dhcp.wrong_mac, "clients that name another's hardware address"),
        (dhcp.exhausted, "clients for whom no address was left"),
        (dhcp.limited, "clients beyond what may ask at once"),
        (dhcp.conflicts + dhcp.declines, "addresses that were taken"),
        (dhcp.malformed + ra.malformed, "packets that cannot be read"),
    ]);
    let socks = &status.socks;
    if socks.clients > 0 {
        output::line(&format!(
            "socks: {} streams open, {} so far; {} bytes sent, {} received; {} could not be reached",
            socks.open, socks.connected, socks.sent, socks.received, socks.unreachable
        ));
        tell_dropped(&[
            (socks.refused, "clients that wanted where nobody may go from here"),
            (socks.limited, "clients beyond what may be here at once"),
            (socks.malformed, "clients that do not speak SOCKS5"),
        ]);
    }
    if !status.backends.is_empty() || status.http.connections > 0 {
        let http = &status.http;
        output::line(&format!(
            "sites: {} requests, {} of them for no site, {} without a living guest; {} connections, {} open",
            http.requests, http.unknown, http.no_guest, http.connections, http.open
        ));
        tell_dropped(&[(http.limited, "connections beyond what may be open at once")]);
    }
    if !status.certificates.is_empty() {
        output::line(certificates(&status.certificates).trim_end());
    }
    for dead in status.backends.iter().filter(|backend| !backend.alive) {
        let (guest, port) = (&dead.guest, dead.port);
        output::line(&format!("{}  {guest}:{port} does not answer{}", output::YELLOW, output::RESET));
    }
    if !status.leases.is_empty() {
        let mut rows = vec![["LEASE", "LAN", "MAC", "NAME"].map(str::to_owned).to_vec()];
        rows.extend(status.leases.iter().map(|lease| {
            let name = lease.name.clone().unwrap_or_default();
            vec![lease.address.to_string(), lease.lan.to_string(), lease.mac.to_string(), name]
        }));
        output::line(output::table(&rows).trim_end());
    }
}

fn certificates(all: &[CertificateShown]) -> String {
    let mut rows = vec![["CERTIFICATE", "BY", "ISSUER", "UNTIL"].map(str::to_owned).to_vec()];
    for one in all {
        let issuer = one.issuer.clone().unwrap_or_default();
        let until = one.until.map(date).unwrap_or_default();
        rows.push(vec![one.names.join(", "), one.by.clone(), issuer, until]);
    }
    let mut text = output::table(&rows);
    for one in all.iter().filter(|one| one.problem.is_some()) {
        let (names, problem) = (one.names.join(", "), one.problem.as_deref().unwrap_or_default());
        text.push_str(&format!("{}  {names}: {problem}{}\n", output::YELLOW, output::RESET));
    }
    text
}

/// A day of seconds since 1970, as ISO 8601 writes it, in UTC.
fn date(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{:02}-{day:02}", month + 1)
}

fn tell_dropped(sorts: &[(u64, &str)]) {
    for (count, what) in sorts.iter().filter(|(count, _)| *count > 0) {
        output::line(&format!("{}  {count} {what}{}", output::YELLOW, output::RESET));
    }
}

fn public(network: &Network) -> Vec<String> {
    match &network.public {
        Public::Listed(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Public::Dynamic => vec!["as the uplink has them".to_owned()],
    }
}

fn kind(kind: &GuestKind) -> &'static str {
    match kind {
        GuestKind::Lxc(_) => "lxc",
        GuestKind::Vm { .. } => "vm",
        GuestKind::Netns => "netns",
        GuestKind::Reserved => "reserved",
    }
}

/// Whether a guest's cable is in its LAN's bridge; nothing for those that plug themselves in.
fn plugged(observed: &State, guest: &model::network::Guest) -> Option<bool> {
    match guest.kind {
        GuestKind::Reserved | GuestKind::Lxc(_) => None,
        GuestKind::Vm { .. } | GuestKind::Netns => {
            Some(observed.links.get(&guest.port).is_some_and(|link| link.master.as_ref() == Some(&guest.lan)))
        }
    }
}
