//! The whole binary, in labs, held to what people are promised, with tools that are not ours: `ip`, `nft`, `curl`,
//! `socat`, `ping`, `conntrack`.

/// A file of one LAN behind one public address, and what else stands in it: first of the LAN.
macro_rules! one_lan {
    ($more:literal) => {
        concat!(
            "[host]\nuplink = \"eth0\"\npublic = [\"203.0.113.2\"]\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n",
            $more
        )
    };
}

mod acme;
mod bridged;
mod check;
mod chromium;
mod clients;
#[path = "../../../kernel/tests/common/mod.rs"]
mod common;
mod confirm;
mod connect;
mod contract;
mod counters;
mod crash;
mod documents;
mod flows;
mod foreign;
mod forwards;
mod hosts;
mod init;
mod laptop;
mod leases;
mod limits;
mod load;
mod machines;
mod mutations;
mod networkd;
mod networkmanager;
mod qemu;
mod rehearse;
mod rest;
mod routed;
mod scale;
mod secure;
mod serve;
mod sites;
mod socks;
mod stream;
mod support;
mod takeover;
mod traffic;
mod unit;
mod uplink_rules;
mod watch;
mod web;
mod x11;
