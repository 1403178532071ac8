//! `[web]`: what a browser on this host is shown, and told of the way to the LANs: a proxy auto-configuration file, as
//! browsers have read it since Navigator 2.0.

use std::fmt::Write as _;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::network::{Lan, Mode};

/// `[web]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Web {
    /// Where it listens: on loopback alone.
    pub listen: Vec<SocketAddr>,
    /// The file with the token, where it is not in the state folder.
    pub token_file: Option<String>,
    /// The proxy auto-configuration, where `[socks]` is.
    pub proxy_pac: Option<String>,
}

/// The file's text: names and addresses of `lans` by the SOCKS listener, all else as before. No name is resolved by the
/// browser for it, which could not.
#[must_use]
pub fn proxy_pac<'a>(socks: SocketAddr, lans: impl Iterator<Item = &'a Lan>) -> String {
    let mut conditions = Vec::new();
    // A bridged LAN's names and addresses are its outer network's.
    for lan in lans.filter(|lan| lan.mode != Mode::Bridged) {
        let domain = lan.domain.to_ascii_lowercase();
        conditions.push(format!("host === \"{domain}\" || dnsDomainIs(host, \".{domain}\")"));
        for net in &lan.addresses {
            conditions.push(match net.trunc() {
                IpNet::V4(net) => format!("four && isInNet(host, \"{}\", \"{}\")", net.network(), net.netmask()),
                IpNet::V6(net) => format!("six && isInNetEx(host, \"{net}\")"),
            });
        }
    }
    let mut text = format!(
        "// Made by warren: the way into its LANs.\n\
         function FindProxyForURL(url, host) {{\n\
         \x20 var socks = \"SOCKS5 {socks}; SOCKS {socks}\";\n\
         \x20 host = host.toLowerCase().replace(/^\\[|\\]$|\\.$/g, \"\");\n\
         \x20 var four = /^\\d+\\.\\d+\\.\\d+\\.\\d+$/.test(host);\n\
         \x20 var six = host.indexOf(\":\") >= 0 && typeof isInNetEx === \"function\";\n"
    );
    for condition in conditions {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  if ({condition}) return socks;");
    }
    text.push_str("  return \"DIRECT\";\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use crate::config;
    use crate::facts::HostFacts;
    use crate::network::resolve;

    #[test]
    fn the_way_in_is_for_the_lans_that_socks_enters_and_no_other() {
        let text = "[host]\nuplink = \"eth0\"\n[lan.br1]\naddress = [\"10.1.1.1/24\", \"fd10:1:1::1/64\"]\ndomain = \"CNX.example\"\n\
                    [lan.br2]\naddress = [\"10.1.2.1/23\"]\n[socks]\nlisten = [\"[::1]:1081\", \"127.0.0.1:1080\"]\nlans = [\"br1\"]\n[web]\n";
        let (config, problems) = config::parse(text);
        assert!(problems.is_empty(), "{problems:?}");
        let facts = HostFacts::assumed(crate::address::IfName::new("eth0").unwrap());
        let web = resolve(&config, &facts).unwrap().web.unwrap();
        assert_eq!(web.listen, ["127.0.0.1:7117".parse().unwrap()]);
        let expected = r#"// Made by warren: the way into its LANs.
function FindProxyForURL(url, host) {
  var socks = "SOCKS5 [::1]:1081; SOCKS [::1]:1081";
  host = host.toLowerCase().replace(/^\[|\]$|\.$/g, "");
  var four = /^\d+\.\d+\.\d+\.\d+$/.test(host);
  var six = host.indexOf(":") >= 0 && typeof isInNetEx === "function";
  if (host === "cnx.example" || dnsDomainIs(host, ".cnx.example")) return socks;
  if (four && isInNet(host, "10.1.1.0", "255.255.255.0")) return socks;
  if (six && isInNetEx(host, "fd10:1:1::/64")) return socks;
  return "DIRECT";
}
"#;
        assert_eq!(web.proxy_pac.unwrap(), expected);
        let (config, _) = config::parse(
            &text.replace("[socks]\nlisten = [\"[::1]:1081\", \"127.0.0.1:1080\"]\nlans = [\"br1\"]\n", ""),
        );
        assert_eq!(resolve(&config, &facts).unwrap().web.unwrap().proxy_pac, None);
    }
}
