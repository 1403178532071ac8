//! What is told: settings for programs that one starts oneself, and lines for ssh's configuration.

use std::fmt::Write as _;

use super::learn::Learned;
use super::line::Server;

/// How to use the proxy at that port of this machine.
pub fn settings(server: &Server, learned: &Learned, port: u16) -> String {
    let example = learned.guests.first().map_or_else(|| "GUEST".to_owned(), super::learn::Named::full);
    let mut text = format!(
        "SOCKS5 proxy at 127.0.0.1:{port}; names are resolved at {server}\n\
         \x20 curl      curl --socks5-hostname 127.0.0.1:{port} http://{example}/\n\
         \x20 programs  ALL_PROXY=socks5h://127.0.0.1:{port}\n\
         \x20 Firefox   Settings, Network Settings, Manual: SOCKS Host 127.0.0.1, Port {port}, SOCKS v5, Proxy DNS\n\
         \x20 Chromium  --proxy-server=socks5://127.0.0.1:{port} --host-resolver-rules=\"MAP * ~NOTFOUND, EXCLUDE 127.0.0.1\"\n"
    );
    for guest in &learned.guests {
        let addresses: Vec<String> = guest.addresses.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "  guest     {} ({})", guest.full(), addresses.join(", "));
    }
    for site in &learned.sites {
        let _ = writeln!(text, "  site      {site}");
    }
    text.push_str("until it is interrupted (^C)");
    text
}

/// Lines by which `ssh GUEST` goes there by way of the server.
pub fn ssh_config(server: &Server, learned: &Learned) -> String {
    let mut text = format!("# Guests of {server}, by `warren connect --print ssh-config`.\n");
    for guest in &learned.guests {
        let Some(address) = guest.addresses.first() else { continue };
        let full = guest.full();
        let mut names: Vec<&str> =
            [&*guest.name, &*full].into_iter().chain(guest.aliases.iter().map(|a| &**a)).collect();
        names.dedup();
        let _ = write!(
            text,
            "\nHost {}\n    HostName {address}\n    HostKeyAlias {full}\n    ProxyJump {}\n",
            names.join(" "),
            server.jump()
        );
    }
    text
}
