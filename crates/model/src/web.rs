//! `[web]`: what a browser on this host is shown, and told of the way to the LANs: a proxy auto-configuration file, as
//! browsers have read it since Navigator 2.0.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

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

/// What is inside: what goes by the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Host names, as they are.
    pub names: BTreeSet<String>,
    /// Domains: themselves, and all names below them.
    pub domains: BTreeSet<String>,
    /// Networks, by their addresses.
    pub nets: BTreeSet<IpNet>,
}

impl Inside {
    /// What LANs have. A bridged LAN's names and addresses are its outer network's.
    pub fn of<'a>(lans: impl Iterator<Item = &'a Lan>) -> Self {
        let mut inside = Self::default();
        for lan in lans.filter(|lan| lan.mode != Mode::Bridged) {
            inside.domains.insert(lan.domain.to_lowercase());
            inside.nets.extend(lan.addresses.iter().map(IpNet::trunc));
        }
        inside
    }
}

/// The function that is asked, behind the lists. Addresses are compared as bits by itself: `isInNet` may ask a
/// resolver, and not every browser has `isInNetEx`.
const PAC: &str = r#"
function bits(parts, base, width) {
  return parts.map(function (part) { return ("0000000000000000" + parseInt(part, base).toString(2)).slice(-width); }).join("");
}

function addressBits(host) {
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) return "4" + bits(host.split("."), 10, 8);
  if (!/^[0-9a-f:]+$/.test(host) || host.indexOf(":") < 0) return "";
  var halves = host.split("::");
  var head = halves[0] ? halves[0].split(":") : [], tail = halves[1] ? halves[1].split(":") : [];
  while (head.length + tail.length < 8) head.push("0");
  return "6" + bits(head.concat(tail), 16, 16);
}

function FindProxyForURL(url, host) {
  var i, at;
  host = host.toLowerCase().replace(/^\[|\]$/g, "").replace(/\.$/, "");
  if (names.indexOf(host) >= 0 || domains.indexOf(host) >= 0) return proxy;
  for (i = 0; i < domains.length; i++)
    if (host.slice(-domains[i].length - 1) === "." + domains[i]) return proxy;
  at = addressBits(host);
  for (i = 0; i < nets.length; i++) if (at && at.slice(0, nets[i].length) === nets[i]) return proxy;
  return "DIRECT";
}
"#;

/// The file's text: what is inside by the SOCKS listener, all else as before. No name is resolved by the browser for
/// it, which could not, and would tell its own network what is looked for here. A browser that takes SOCKS of an
/// earlier version would resolve names itself, so none is offered.
#[must_use]
pub fn proxy_pac(socks: SocketAddr, inside: &Inside) -> String {
    let nets: BTreeSet<String> = inside.nets.iter().map(prefix).collect();
    let list = |words: &BTreeSet<String>| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", ");
    format!(
        "// Made by warren: the way into its LANs.\nvar proxy = \"SOCKS5 {socks}\";\nvar names = [{}];\n\
         var domains = [{}];\n// 4 or 6, and the first bits of the addresses.\nvar nets = [{}];\n{PAC}",
        list(&inside.names),
        list(&inside.domains),
        list(&nets)
    )
}

/// A network as the function knows it: the family, and its bits.
fn prefix(net: &IpNet) -> String {
    let (family, bits) = match net.network() {
        IpAddr::V4(v4) => ('4', format!("{:032b}", u32::from(v4))),
        IpAddr::V6(v6) => ('6', format!("{:0128b}", u128::from(v6))),
    };
    format!("{family}{}", bits.get(..usize::from(net.prefix_len())).unwrap_or_default())
}

/// A word as JavaScript reads it. Names are letters, digits, dots and dashes, but it is not here that this is seen to.
fn quoted(word: &str) -> String {
    let plain = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '<' | '>');
    format!("\"{}\"", word.chars().filter(plain).collect::<String>())
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
        let pac = web.proxy_pac.unwrap();
        for line in [
            "var proxy = \"SOCKS5 [::1]:1081\";",
            "var domains = [\"cnx.example\"];",
            "var nets = [\"4000010100000000100000001\", \"61111110100010000000000000000000100000000000000010000000000000000\"];",
        ] {
            assert!(pac.lines().any(|l| l == line), "{line} is not in\n{pac}");
        }
        assert!(!pac.contains("10.1.2"), "{pac}");
        let (config, _) = config::parse(
            &text.replace("[socks]\nlisten = [\"[::1]:1081\", \"127.0.0.1:1080\"]\nlans = [\"br1\"]\n", ""),
        );
        assert_eq!(resolve(&config, &facts).unwrap().web.unwrap().proxy_pac, None);
    }
}
