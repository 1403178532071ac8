//! Proxy auto-configuration: just the LAN's names and addresses go through the proxy. It asks no resolver, which would
//! tell the network here what is looked for there.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::learn::Learned;

/// The script, for a proxy at that port of this machine.
pub fn pac(learned: &Learned, port: u16) -> String {
    let quoted = |list: Vec<String>| list.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ");
    let domains: Vec<String> = learned.domains.iter().map(|domain| format!(".{}", domain.to_lowercase())).collect();
    let mut names: Vec<String> = learned.domains.iter().map(|domain| domain.to_lowercase()).collect();
    let mut ranges = Vec::new();
    for guest in &learned.guests {
        names.extend([&guest.name].into_iter().chain(&guest.aliases).map(|name| name.to_lowercase()));
        // An IPv6 address as browsers write it.
        names.extend(guest.addresses.iter().filter(|address| address.is_ipv6()).map(IpAddr::to_string));
        ranges.extend(guest.addresses.iter().copied().filter_map(|address| range(IpNet::from(address))));
    }
    ranges.extend(learned.nets.iter().copied().filter_map(range));
    names.sort_unstable();
    names.dedup();
    let ranges: Vec<String> = ranges.iter().map(|(first, last)| format!("[{first}, {last}]")).collect();
    let mut script = String::new();
    let _ = write!(
        script,
        r#"function FindProxyForURL(url, host) {{
  var proxy = "SOCKS5 127.0.0.1:{port}", i;
  var names = [{names}];
  var domains = [{domains}];
  var ranges = [{ranges}];
  host = host.toLowerCase().replace(/^\[|\]$/g, "").replace(/\.$/, "");
  if (names.indexOf(host) >= 0) return proxy;
  for (i = 0; i < domains.length; i++)
    if (host.length > domains[i].length && host.slice(-domains[i].length) === domains[i]) return proxy;
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) {{
    var at = host.split(".").reduce(function (sum, part) {{ return sum * 256 + Number(part); }}, 0);
    for (i = 0; i < ranges.length; i++) if (ranges[i][0] <= at && at <= ranges[i][1]) return proxy;
  }}
  return "DIRECT";
}}
"#,
        names = quoted(names),
        domains = quoted(domains),
        ranges = ranges.join(", "),
    );
    script
}

fn range(net: IpNet) -> Option<(u32, u32)> {
    match net {
        IpNet::V4(net) => Some((net.network().into(), net.broadcast().into())),
        IpNet::V6(_) => None,
    }
}

/// The same as an address of its own.
pub fn as_url(script: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut url = "data:application/x-ns-proxy-autoconfig;base64,".to_owned();
    for three in script.as_bytes().chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for nth in 0..4 {
            let digit = bits >> (18 - 6 * nth) & 63;
            url.push(if nth <= three.len() { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::as_url;

    #[test]
    fn base64() {
        for (text, code) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(as_url(text), format!("data:application/x-ns-proxy-autoconfig;base64,{code}"), "RFC 4648, 10");
        }
    }
}
