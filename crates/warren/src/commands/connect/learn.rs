//! What a server's `warren --json status` says of its LANs. It comes from elsewhere: names that are none are left out.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Deserialize;

/// What is known of the LANs of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Whether a warren answers there, and its network is up.
    pub is_warren: bool,
    /// Where its SOCKS listens, if it does.
    pub door: Option<SocketAddr>,
    /// The LANs' domains.
    pub domains: Vec<String>,
    /// The LANs' subnets.
    pub nets: Vec<IpNet>,
    /// The guests.
    pub guests: Vec<Named>,
    /// The names of sites.
    pub sites: Vec<String>,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name, a label.
    pub name: String,
    /// Its LAN's domain.
    pub domain: Option<String>,
    /// Its other names.
    pub aliases: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Named {
    /// The name with its domain.
    pub fn full(&self) -> String {
        self.domain.as_ref().map_or_else(|| self.name.clone(), |domain| format!("{}.{domain}", self.name))
    }
}

impl Learned {
    /// With domains that were named by hand.
    pub fn with(mut self, domains: &[String]) -> Self {
        self.domains
            .extend(domains.iter().map(|domain| domain.trim_matches('.').to_lowercase()).filter(|d| is_name(d)));
        self
    }

    /// Whether there is nothing that would tell a LAN's name from others.
    pub fn knows_nothing(&self) -> bool {
        self.domains.is_empty() && self.guests.is_empty()
    }

    /// The guest of a name, with its domain or without, or one of its other names.
    pub fn guest(&self, name: &str) -> Option<&Named> {
        self.guests
            .iter()
            .find(|guest| guest.name == name || guest.full() == name || guest.aliases.iter().any(|alias| alias == name))
    }
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    up: bool,
    #[serde(default)]
    lans: Vec<Lan>,
    #[serde(default)]
    guests: Vec<Guest>,
    #[serde(default)]
    sites: Vec<Site>,
    #[serde(default)]
    socks: Option<Socks>,
    #[serde(default)]
    services: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Lan {
    bridge: String,
    domain: String,
    #[serde(default)]
    addresses: Vec<IpNet>,
}

#[derive(Deserialize)]
struct Guest {
    name: String,
    lan: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct Site {
    #[serde(default)]
    hosts: Vec<String>,
}

#[derive(Deserialize)]
struct Socks {
    listen: Vec<SocketAddr>,
}

/// What `said` tells: one document, or several where the first was that of a refusal.
pub fn read(said: &str) -> Learned {
    let documents = serde_json::Deserializer::from_str(said).into_iter::<Status>();
    let Some(status) = documents.map_while(Result::ok).find(|status| status.up) else { return Learned::default() };
    let names = |list: Vec<String>| list.into_iter().filter(|name| is_name(name)).collect::<Vec<_>>();
    let domain_of = |bridge: &str| {
        let lan = status.lans.iter().find(|lan| lan.bridge == bridge);
        lan.map(|lan| lan.domain.clone()).filter(|domain| is_name(domain))
    };
    let guest = |guest: Guest| Named {
        domain: domain_of(&guest.lan),
        name: guest.name,
        aliases: names(guest.aliases),
        addresses: guest.addresses,
    };
    Learned {
        is_warren: true,
        // Without the services nobody listens there.
        door: status.services.and(status.socks.as_ref()).and_then(|socks| socks.listen.first().copied()),
        domains: names(status.lans.iter().map(|lan| lan.domain.clone()).collect()),
        nets: status.lans.iter().flat_map(|lan| lan.addresses.iter().map(IpNet::trunc)).collect(),
        sites: names(status.sites.into_iter().flat_map(|site| site.hosts).collect()),
        guests: status.guests.into_iter().map(guest).filter(|guest| is_name(&guest.name)).collect(),
    }
}

/// Letters, digits, `-`, `_` and dots, not at the front: it goes into scripts and command lines.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().all(plain) && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_left_out_and_a_refusal_passed_over() {
        let said = r#"{"version":1,"ok":false,"exit":4}
            {"version":1,"ok":true,"up":true,"services":{},
             "lans":[{"bridge":"br1","domain":"cnx.example","addresses":["10.1.1.1/24"]},
                     {"bridge":"br2","domain":"a\");evil(\"","addresses":[]}],
             "guests":[{"name":"cnx6","lan":"br1","addresses":["10.1.1.6"],"aliases":["www","-oProxyCommand=x"]},
                       {"name":"a b","lan":"br1"}, {"name":"alone","lan":"br2"}],
             "socks":{"listen":["127.0.0.1:1080","[::1]:1080"],"lans":null}}"#;
        let learned = read(said);
        assert_eq!(learned.domains, ["cnx.example"]);
        assert_eq!(learned.guests.iter().map(Named::full).collect::<Vec<_>>(), ["cnx6.cnx.example", "alone"]);
        assert_eq!(learned.guest("www").map(|guest| guest.aliases.len()), Some(1));
        assert_eq!(learned.door, "127.0.0.1:1080".parse().ok());
        assert!(read(&said.replace("\"services\":{}", "\"services\":null")).door.is_none(), "nobody listens");
        for nothing in ["", "warren: not found", r#"{"up":false}"#, "[1]"] {
            assert_eq!(read(nothing), Learned::default(), "{nothing}");
        }
    }
}
