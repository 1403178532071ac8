//! Tables read, told apart, and made again; other people's too.

use kernel::nft::{RawTable, Transaction, fingerprint};
use model::ruleset::*;

use crate::support::{create, in_namespace, nft, open, tool, try_tool};
use crate::tables::{self, forward};

fn print_of(family: u8) -> String {
    fingerprint(&open().dump_table(family, "warren").unwrap().unwrap())
}

#[test]
fn a_fingerprint_changes_with_every_tampering() {
    let changes = [
        "insert rule inet warren forward-all accept",
        "add rule inet warren forward-all accept",
        "add rule inet warren forward-all counter",
        "flush chain inet warren forward-all",
        "flush table inet warren",
        "add chain inet warren another-one",
        "add set inet warren another-set { type ipv4_addr; }",
        "add counter inet warren another-counter",
        "chain inet warren forward-all { policy drop; }",
        "add rule inet warren nat-post ip saddr { 10.0.0.1, 10.0.0.2 } accept",
        "add table inet warren { flags dormant; }",
    ];
    for change in changes {
        in_namespace(move || {
            create(&tables::inet());
            let before = print_of(1);
            assert_eq!(print_of(1), before, "two dumps");
            tool(&["nft", change], "");
            assert_ne!(print_of(1), before, "{change}");
        });
    }
}

#[test]
fn a_fingerprint_changes_with_one_rule_less_or_moved() {
    in_namespace(|| {
        create(&tables::inet());
        let before = print_of(1);
        let listed = nft("-a list chain inet warren forward-all");
        let line = listed.lines().find(|line| line.contains("ct status dnat accept")).unwrap();
        let (rule, handle) = line.trim().split_once(" # handle ").unwrap();
        nft(&format!("delete rule inet warren forward-all handle {handle}"));
        let without = print_of(1);
        assert_ne!(without, before);
        nft(&format!("add rule inet warren forward-all {rule}"));
        assert_ne!(print_of(1), before, "the rule is there again, but at the end");
        assert_ne!(print_of(1), without);
    });
}

#[test]
fn a_fingerprint_tells_rules_of_another_order_apart() {
    let table = tables::bridge();
    let mut other = table.clone();
    other.chains[0].rules.swap(0, 1);
    let of = |table: Table| {
        in_namespace(move || {
            create(&table);
            print_of(7)
        })
    };
    assert_eq!(of(table.clone()), of(table.clone()));
    assert_ne!(of(table), of(other));
}

#[test]
fn a_fingerprint_stays_while_elements_and_counters_change() {
    in_namespace(|| {
        let mut table = tables::inet();
        table.chains.push(Chain {
            name: "output-count".into(),
            hook: Some(Hook { at: HookPoint::Output, kind: ChainKind::Filter, priority: 0 }),
            rules: vec![tables::rule([Statement::Counter])],
        });
        create(&table);
        let before = print_of(1);
        let set = &table.sets["forward-4"];
        let mut change = Transaction::new();
        change.add_elements(Family::Inet, "forward-4", set, &[forward(77)].into());
        change.delete_elements(Family::Inet, "forward-4", set, &[forward(1)].into());
        open().commit(&change).unwrap();
        tool(&["ip", "link", "set", "lo", "up"], "");
        // Our rules masquerade the answer away; it is the packet that counts.
        let _ = try_tool(&["ping", "-c", "1", "-W", "1", "127.0.0.1"], "");
        let listed = nft("list chain inet warren output-count");
        assert!(!listed.contains("packets 0"), "the counter counts: {listed}");
        assert_eq!(print_of(1), before);
        // Another's table is another matter.
        nft("add table inet other");
        assert_eq!(print_of(1), before);
    });
}

/// Dumps every table, by way of text, and makes them all again in another namespace.
fn copied(setup: impl FnOnce() + Send + 'static) -> (String, String, String) {
    let (listed, dumps) = in_namespace(move || {
        setup();
        let mut nft_socket = open();
        let mut dumps = Vec::new();
        let mut change = Transaction::new();
        for table in nft_socket.tables().unwrap() {
            let raw = nft_socket.dump_table(table.family, &table.name).unwrap().unwrap();
            change.clear(table.family, &table.name);
            dumps.push(raw.to_dump());
        }
        let listed = nft("list ruleset");
        // In place, too.
        for dump in &dumps {
            change.replay(&RawTable::from_dump(dump).unwrap());
        }
        nft_socket.commit(&change).unwrap_or_else(|e| panic!("{e}"));
        ((listed, nft("list ruleset")), dumps)
    });
    let again = in_namespace(move || {
        let mut change = Transaction::new();
        for dump in &dumps {
            change.replay(&RawTable::from_dump(dump).unwrap());
        }
        open().commit(&change).unwrap_or_else(|e| panic!("{e}"));
        nft("list ruleset")
    });
    (listed.0, listed.1, again)
}

fn assert_copied(setup: impl FnOnce() + Send + 'static) {
    let (before, in_place, elsewhere) = copied(setup);
    assert!(!before.is_empty());
    assert_eq!(in_place, before);
    assert_eq!(elsewhere, before);
}

#[test]
fn our_tables_are_copied() {
    assert_copied(|| {
        create(&tables::inet());
        create(&tables::bridge());
    });
}

/// What others write: anonymous sets and maps, verdict maps, objects, dynamic sets, timeouts, chains without names.
const FOREIGN: &str = r#"
table inet filter {
    comment "somebody's"
    counter seen { packets 5 bytes 600 }
    quota much { over 25 mbytes }
    limit some { rate 10/second }
    set blocked { type ipv4_addr; flags interval; auto-merge; comment "bad"; elements = { 192.0.2.0/24, 198.51.100.1-198.51.100.7 } }
    set meters { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1h; }
    set per-guest { type ipv4_addr; size 65535; flags dynamic; }
    set fixed { type inet_service; flags constant; elements = { 22, 80 } }
    set tagged { typeof ip saddr . tcp dport; elements = { 192.0.2.1 . 80 comment "one" } }
    map ways { type ifname : verdict; elements = { "eth0" : jump inner, "eth1" : drop, "eth9" : goto inner } }
    map counted { type ipv4_addr : counter; elements = { 192.0.2.1 : "seen" } }
    chain inner {
        tcp dport { 22, 80, 8000-8010 } accept
        ip saddr . tcp dport { 192.0.2.1 . 1-10, 192.0.2.2 . 22 } counter packets 3 bytes 300 drop
        meta l4proto { tcp, udp } reject
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        counter name "seen"
        quota name "much" drop
        iifname vmap @ways
        tcp dport vmap { 22 : accept, 23 : drop, 24 : jump inner }
        ip saddr @blocked log prefix "blocked " level warn drop
        tcp dport @fixed ct state new update @meters { ip saddr limit rate 10/second burst 7 packets counter } accept
        iifname "eth3" jump {
            tcp dport 1 accept
        }
        ct state new add @per-guest { ip saddr ct count over 100 } drop
        tcp flags syn tcp option maxseg size set 1400
        meta mark set ct mark
        ct mark set 0x17
        limit rate 5/minute burst 9 packets accept
        ip daddr 192.0.2.1 reject with icmp type admin-prohibited
        tcp dport 443 reject with tcp reset
        limit name "some" accept
    }
    chain nat {
        type nat hook prerouting priority dstnat + 1; policy accept;
        tcp dport 80 dnat ip to 10.0.0.1:8080
        tcp dport 81 redirect to :3128
        dnat ip to tcp dport map { 90 : 10.0.0.2, 91 : 10.0.0.3 }
    }
}
table ip6 six {
    chain input {
        type filter hook input priority 5; policy accept;
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        ip6 saddr != fe80::/10 hbh nexthdr tcp drop
        exthdr frag exists drop
    }
}
table arp someones {
    chain in { type filter hook input priority 0; policy accept; arp operation request counter; }
}
table netdev early {
    chain in { type filter hook ingress device "lo" priority -500; policy accept; ip saddr 192.0.2.9 drop; }
}
"#;

#[test]
fn tables_that_nft_made_are_copied() {
    assert_copied(|| {
        tool(&["nft", "-f", "-"], FOREIGN);
    });
}

#[test]
fn tables_that_iptables_made_are_copied() {
    assert_copied(|| {
        let rules = "*filter\n:FORWARD DROP [7:900]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:MINE - [0:0]\n\
            -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
            -A FORWARD -p tcp -m tcp --dport 22 -m comment --comment \"ssh\" -j ACCEPT\n\
            -A FORWARD -p tcp -m multiport --dports 80,443 -j MINE\n\
            -A FORWARD -p udp -m udp --sport 53 -m limit --limit 5/min -j ACCEPT\n\
            -A FORWARD -p icmp -m icmp --icmp-type 8 -j ACCEPT\n\
            -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\n\
            -A FORWARD ! -p udp -j LOG --log-prefix \"x \"\n\
            -A MINE -i eth0 -s 192.0.2.0/24 -m addrtype --dst-type LOCAL -j REJECT --reject-with tcp-reset -p tcp\n\
            COMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
            -A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.1:80\n\
            -A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n";
        tool(&["iptables-nft-restore"], rules);
    });
}

#[test]
fn damaged_dumps_are_refused() {
    in_namespace(|| {
        create(&tables::bridge());
        let dump = open().dump_table(7, "warren").unwrap().unwrap().to_dump();
        assert!(RawTable::from_dump(&dump).is_ok());
        let mut cut = dump.clone();
        cut.0.remove(0);
        assert!(RawTable::from_dump(&cut).is_err());
        cut.0.clear();
        assert!(RawTable::from_dump(&cut).is_err());
        cut.0.push("0007zz".into());
        assert!(RawTable::from_dump(&cut).is_err());
        assert_eq!(open().dump_table(7, "nothing").unwrap(), None);
    });
}

#[test]
fn foreign_hooks_tell_who_drops() {
    in_namespace(|| {
        create(&tables::inet());
        create(&tables::bridge());
        let text = "table ip a { chain x { counter; drop; }\n chain f { type filter hook forward priority 3; \
            policy accept; jump x; }\n chain g { type filter hook output priority 4; policy drop; }\n \
            chain i { type filter hook input priority 0; accept; }; }\n\
            table inet b { chain y { reject; }\n chain pre { type filter hook prerouting priority -310; \
            iifname vmap { \"a\" : accept, \"b\" : jump y }; }; }\n\
            table ip6 warren { chain n { type filter hook forward priority 0; tcp dport vmap { 1 : drop }; }; }\n";
        tool(&["nft", "-f", "-"], text);
        tool(&["iptables-nft", "-I", "INPUT", "-p", "tcp", "-j", "REJECT"], "");
        let found = open().foreign_hooks().unwrap();
        let mut lines: Vec<String> = found
            .iter()
            .map(|c| format!("{c} {} {} {} {}", c.hook.word(), c.priority, c.policy_drop, c.drops))
            .collect();
        lines.sort();
        let expected = [
            "chain inet b pre prerouting -310 false true",
            "chain ip a f forward 3 false true",
            "chain ip a g output 4 true false",
            "chain ip a i input 0 false false",
            "chain ip filter INPUT input 0 false true",
            "chain ip6 warren n forward 0 false true",
        ];
        assert_eq!(lines, expected);
    });
}
