//! The guests: which LAN, which keys, and what they become.

use std::collections::HashMap;

use super::links::Names;
use super::{Scope, containers, lans};
use crate::address::Mac;
use crate::config::{self, GuestKind as Kind, Spanned, elements};
use crate::network::{Guest, GuestKind, Limit, Mode, Outward};
use crate::problem::Problem;

pub(super) fn check(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    for (i, guest) in scope.config.guests.iter().enumerate() {
        check_lan(scope, guest, problems);
        check_kind(guest, problems);
        containers::check(guest, problems);
        if let Some(lan) = scope.lan_of_guest(i) {
            check_has_address(guest, lan, problems);
            check_snat(guest, lan, problems);
        }
        check_limit(guest, problems);
    }
    check_names(scope, problems);
}

fn check_lan(scope: &Scope<'_>, guest: &config::Guest, problems: &mut Vec<Problem>) {
    match &guest.lan {
        Some(name) if !scope.lans.contains_key(name.value.as_str()) => {
            problems.push(scope.no_lan(name));
        }
        None if scope.config.lans.len() != 1 && !guest.broken => {
            let name = &guest.name.value;
            let (message, help) = if scope.config.lans.is_empty() {
                (format!("\"{name}\" has no LAN to be on"), "add one: [lan.br1]".to_owned())
            } else {
                let all: Vec<String> =
                    scope.config.lans.iter().take(5).map(|lan| format!("\"{}\"", lan.name.value)).collect();
                (format!("\"{name}\" does not say which LAN it is on"), format!("add lan = one of {}", all.join(", ")))
            };
            problems.push(Problem::config(guest.name.span.clone(), message).help(help));
        }
        _ => {}
    }
}

/// Keys of another kind of guest.
fn check_kind(guest: &config::Guest, problems: &mut Vec<Problem>) {
    let kind = guest.kind();
    let lxc = [
        ("template", guest.template.as_ref().map(|value| &value.span)),
        ("args", guest.args.as_ref().map(|value| &value.span)),
        ("rootfs", guest.rootfs.as_ref().map(|value| &value.span)),
        ("privileged", guest.privileged.as_ref().map(|value| &value.span)),
        ("ssh-keys", guest.ssh_keys.as_ref().map(|value| &value.span)),
        ("config", guest.config.as_ref().map(|value| &value.span)),
    ];
    let vm = [
        ("tap", guest.tap.as_ref().map(|value| &value.span)),
        ("owner", guest.owner.as_ref().map(|value| &value.span)),
    ];
    // A kind that could not be read was told of already, and may be any.
    if guest.broken && guest.kind.is_none() {
        return;
    }
    let of = |kind: Kind, keys: &[(&'static str, Option<&std::ops::Range<usize>>)]| -> Vec<_> {
        keys.iter().filter_map(|(key, span)| span.map(|span| (*key, kind, span.clone()))).collect()
    };
    for (key, wanted, span) in of(Kind::Lxc, &lxc).into_iter().chain(of(Kind::Vm, &vm)) {
        if wanted == kind {
            continue;
        }
        let message = format!("`{key}` is for guests of kind \"{}\", and this is \"{}\"", wanted.word(), kind.word());
        let problem = Problem::config(span, message).help(format!("leave it out, or set kind = \"{}\"", wanted.word()));
        problems.push(match &guest.kind {
            Some(written) => problem.also(written.span.clone(), "its kind"),
            None => problem,
        });
    }
    if let (Some(template), Some(rootfs)) = (&guest.template, &guest.rootfs) {
        let problem = Problem::config(rootfs.span.clone(), "a guest starts from `template` or from `rootfs`, not both");
        problems.push(problem.help("take one of them out").also(template.span.clone(), "its template"));
    }
    if let (Some(args), None, false) = (&guest.args, &guest.template, guest.broken) {
        let problem = Problem::config(args.span.clone(), "`args` are a template's, and there is no `template`");
        problems.push(problem.help("add template = \"debian\", or leave them out"));
    }
}

fn check_has_address(guest: &config::Guest, lan: &config::Lan, problems: &mut Vec<Problem>) {
    let has = !elements(guest.address.as_ref()).is_empty();
    // On a bridged LAN the outer network's DHCP gives it one.
    if has || guest.broken || lan.broken || lan.dhcp.is_some() || lan.mode() == Mode::Bridged {
        return;
    }
    let message = format!("\"{}\" has no `address`, and its LAN \"{}\" no `dhcp`", guest.name.value, lan.name.value);
    let problem = Problem::config(guest.name.span.clone(), message);
    let help = match elements(lan.address.as_ref()).first() {
        Some(net) => format!("add an address of {}: address = [\"…\"]", net.value.trunc()),
        None => "add address = [\"…\"]".to_owned(),
    };
    problems.push(problem.help(help).also(lan.name.span.clone(), "its LAN"));
}

fn check_snat(guest: &config::Guest, lan: &config::Lan, problems: &mut Vec<Problem>) {
    let Some(snat) = guest.snat.as_ref().filter(|_| !lan.mode_unknown()) else { return };
    let own = elements(guest.address.as_ref());
    let message = if lan.mode() != Mode::Nat {
        format!(
            "only guests of nat LANs leave by an address of the host's, and \"{}\" is {}",
            lan.name.value,
            lan.mode().word()
        )
    } else if !own.is_empty() && own.iter().all(|address| address.value.is_ipv4() != snat.value.is_ipv4()) {
        format!("the guest has no address of {}'s family", snat.value)
    } else {
        return;
    };
    problems.push(Problem::config(snat.span.clone(), message).help("leave it out"));
}

/// The connections that a kernel tracks at once with a gigabyte of memory or more (nf_conntrack_init_start of
/// net/netfilter/nf_conntrack_core.c).
const ASSUMED_TABLE: u32 = 262_144;

/// Bandwidth is limited at the guest's port, and only a port that warren knows can be found.
fn check_limit(guest: &config::Guest, problems: &mut Vec<Problem>) {
    let Some(limit) = guest.limit.as_ref().filter(|_| guest.kind() == Kind::Reserved) else { return };
    let message = "what plugs itself in has a port of its own choosing, which `limit` cannot find";
    problems.push(Problem::config(limit.span.clone(), message).help("leave it out, or give the guest another `kind`"));
}

/// Guests and aliases of one zone must have names of their own; DNS does not tell upper from lower case.
fn check_names(scope: &Scope<'_>, problems: &mut Vec<Problem>) {
    let mut names: HashMap<(String, String), &std::ops::Range<usize>> = HashMap::new();
    let mut everywhere: HashMap<String, &Spanned<String>> = HashMap::new();
    for (i, guest) in scope.config.guests.iter().enumerate() {
        let lower = guest.name.value.to_ascii_lowercase();
        let zone = scope.lan_of_guest(i).map(|lan| lans::domain(lan).to_ascii_lowercase()).unwrap_or_default();
        if let Some(other) = everywhere.insert(lower.clone(), &guest.name) {
            let message = format!("\"{}\" and \"{}\" are one name to DNS", guest.name.value, other.value);
            let problem = Problem::config(guest.name.span.clone(), message).help("rename one of them");
            problems.push(problem.also(other.span.clone(), "the other guest"));
        }
        names.entry((zone, lower)).or_insert(&guest.name.span);
    }
    for (i, guest) in scope.config.guests.iter().enumerate() {
        let Some(lan) = scope.lan_of_guest(i) else { continue };
        for alias in elements(guest.aliases.as_ref()) {
            let key = (lans::domain(lan).to_ascii_lowercase(), alias.value.to_ascii_lowercase());
            match names.get(&key) {
                Some(other) => {
                    let message = format!("\"{}\" is a name of this zone already", alias.value);
                    let problem = Problem::config(alias.span.clone(), message).help("give the alias another name");
                    problems.push(problem.also((*other).clone(), "it stands for this"));
                }
                None => {
                    names.insert(key, &alias.span);
                }
            }
        }
    }
}

/// The hardware address of a guest: as written, or made from LAN and name.
pub(super) fn mac_of(scope: &Scope<'_>, guest: &config::Guest, lan: &config::Lan) -> Mac {
    if let Some(mac) = &guest.mac {
        return mac.value;
    }
    let (bridge, name) = (lan.name.value.as_str(), guest.name.value.as_str());
    match scope.facts.machine_id.as_deref() {
        // On the outer LAN another server may have a LAN and a guest of the same names.
        Some(id) if lan.mode() == Mode::Bridged => Mac::derived(&["guest", bridge, name, id.trim()]),
        _ => Mac::derived(&["guest", bridge, name]),
    }
}

/// The guests as they are meant, with `ports` as [`super::links::assign`] gave them.
pub(super) fn build(scope: &Scope<'_>, ports: Vec<Option<Names>>) -> Vec<Guest> {
    let guests = scope.config.guests.iter().enumerate().zip(ports);
    guests.filter_map(|((i, guest), names)| build_one(scope, i, guest, scope.lan_of_guest(i)?, names?)).collect()
}

fn build_one(scope: &Scope<'_>, at: usize, guest: &config::Guest, lan: &config::Lan, names: Names) -> Option<Guest> {
    let Names { port, through } = names;
    let limit = guest.limit.as_ref().map(|limit| &limit.value);
    let rate = |bandwidth: &Option<Spanned<config::Bandwidth>>| bandwidth.as_ref().map(|b| b.value.bits);
    let outward = limit.and_then(|limit| Some(Outward { rate: rate(&limit.outward)?, through: through? }));
    let limit = limit.map(|limit| Limit { inward: rate(&limit.inward), outward });
    let kind = match guest.kind() {
        Kind::Lxc => GuestKind::Lxc(Box::new(containers::build(guest))),
        Kind::Netns => GuestKind::Netns,
        Kind::Reserved => GuestKind::Reserved,
        Kind::Vm => GuestKind::Vm { owner: guest.owner.as_ref().map(|owner| owner.value.clone()) },
    };
    Some(Guest {
        name: guest.name.value.clone(),
        kind,
        lan: lan.bridge.clone()?,
        mac: mac_of(scope, guest, lan),
        port,
        addresses: scope.addresses_of(at),
        leased: scope.leased.get(at).copied().flatten().is_some(),
        aliases: elements(guest.aliases.as_ref()).iter().map(|alias| alias.value.clone()).collect(),
        allowed: elements(guest.allowed_addresses.as_ref()).iter().map(|net| net.value.trunc()).collect(),
        snat: guest.snat.as_ref().map(|snat| snat.value),
        max_connections: match &guest.max_connections {
            Some(most) => u32::try_from(most.value).unwrap_or(u32::MAX),
            None => (scope.facts.conntrack_max.unwrap_or(ASSUMED_TABLE) / 4).max(1),
        },
        limit: limit.filter(|limit| limit.inward.is_some() || limit.outward.is_some()),
    })
}
