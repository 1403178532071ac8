//! Hosters whose switches let nothing out of a server's port but the server's own hardware address: what is known of
//! them beforehand, and what to do there.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::facts::HostFacts;
use crate::network::{Lan, Network};

/// What a server's firmware calls itself (/sys/class/dmi/id: sys_vendor, product_name, bios_vendor, bios_version and
/// chassis_asset_tag, as the hosters' own tools and cloud-init's ds-identify know them), and whose it is then. Their
/// virtual switches drop frames of hardware addresses that they have not given themselves.
const FIRMWARE: &[(&str, &str)] = &[
    ("amazon", "Amazon EC2"),
    ("google", "Google Cloud"),
    // Azure's tag; other machines of Hyper-V's have the same vendor.
    ("7783-7084-3265-9085-8269-3286-77", "Microsoft Azure"),
    ("oraclecloud.com", "Oracle Cloud"),
    ("alibaba cloud", "Alibaba Cloud"),
    ("tencent cloud", "Tencent Cloud"),
    ("huawei cloud", "Huawei Cloud"),
    ("hetzner", "Hetzner"),
    ("digitalocean", "DigitalOcean"),
    ("vultr", "Vultr"),
    ("scaleway", "Scaleway"),
    ("ovh", "OVH"),
    ("linode", "Akamai (Linode)"),
    ("akamai", "Akamai (Linode)"),
    ("upcloud", "UpCloud"),
    ("exoscale", "Exoscale"),
    ("netcup", "netcup"),
    ("openstack", "an OpenStack cloud"),
];

/// Of each bridged LAN with a port of this host's that the outer network may not let guests speak by: why it is likely,
/// and what to write. Nothing where it does not look so; that a hoster polices is known for sure only by trying.
#[must_use]
pub fn warnings(network: &Network, facts: &HostFacts) -> Vec<String> {
    let signs = signs(facts);
    let plays_uplink = |lan: &&Lan| lan.bridge == network.uplink.name;
    network.lans.iter().filter(plays_uplink).filter_map(|lan| {
        let port = lan.carries().filter(|_| !signs.is_empty())?;
        Some(format!(
            "guests on {} may not be heard beyond this server: {}; such hosters let no hardware address out of {port} but \
             its own, and may switch off a port that shows others. With mode = \"routed\" in place of `ports` guests \
             have addresses of the hoster's without that (proxy-arp = true where it does not route them here)",
            lan.bridge,
            signs.join(", and "),
        ))
    })
    .collect()
}

/// What tells of such a hoster.
fn signs(facts: &HostFacts) -> Vec<String> {
    let told = facts.firmware.iter().find_map(|word| {
        let lower = word.to_lowercase();
        let (_, whose) = FIRMWARE.iter().find(|(mark, _)| lower.contains(mark))?;
        Some(format!("this server is one of {whose}'s, as its firmware says (\"{}\")", word.trim()))
    });
    let router = facts.routers.iter().find(|router| router.is_ipv4() && is_beyond(facts, **router));
    let told_router = router.map(|router| {
        format!("its router {router} is in none of its subnets, as hosters have it for single addresses")
    });
    told.into_iter().chain(told_router).collect()
}

/// Whether a router is reached by the link alone: no prefix of the host's holds it.
fn is_beyond(facts: &HostFacts, router: IpAddr) -> bool {
    let holds = |net: &IpNet| net.contains(&router);
    !facts.interfaces.iter().flat_map(|interface| &interface.addresses).any(holds)
}
