//! Others' firewall rules that name an interface which a bridge of ours is to take the place of.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use crate::bridged::{OFFICE, office, up};
use crate::common::snapshot::{assert_same, take};
use crate::common::{lab, tool};
use crate::serve::Serve;
use crate::support::{PATIENCE, all, reaches, serve, silent};

#[test]
fn rules_of_others_that_name_the_uplink_are_refused_until_they_name_the_bridge() {
    lab(|| {
        let scene = office();
        scene.write(OFFICE);
        let nft = |line: &str| tool(&format!("nft {line}"));
        for line in [
            "add table inet site",
            "add chain inet site in { type filter hook input priority 0 ; }",
            "add chain inet site out { type filter hook output priority 0 ; }",
            // Of somebody else's interface, and of the bridge family, where a port is still a port.
            "add rule inet site in iifname \"tun0\" counter drop",
            "add table bridge frames",
            "add chain bridge frames in { type filter hook input priority 0 ; }",
            "add rule bridge frames in iifname \"eth0\" counter accept",
        ] {
            nft(line);
        }
        scene.warren("plan").ends(0);
        let refused = |rules: &[&str], said: &str| {
            let before = take();
            for rule in rules {
                nft(&format!("add rule inet site {rule}"));
            }
            let chain = rules[0].split(' ').next().unwrap();
            let named = format!("of chain {chain} of table inet site");
            let with = take();
            scene.warren("plan").says(5, &[&named, said]);
            assert_same(&with, &take(), "after the refusal");
            for rule in tool("nft -a list table inet site").lines().filter(|line| line.contains("comment \"t\"")) {
                nft(&format!("delete rule inet site {chain} handle {}", rule.rsplit(' ').next().unwrap()));
            }
            assert_same(&before, &take(), "without the rules");
        };
        refused(&["in iifname \"eth0\" tcp dport 81 counter drop comment \"t\""], "`iifname \"br0\"");
        refused(&["out oifname \"eth*\" tcp dport 81 drop comment \"t\""], "`oifname \"br0\"");
        refused(&["in iif \"eth0\" tcp dport 81 drop comment \"t\""], "it names eth0");
        refused(&["in iifname != \"eth0\" tcp dport 81 drop comment \"t\""], "name br0 as well");
        refused(&["in iifname { \"eth0\", \"lo\" } tcp dport 81 drop comment \"t\""], "name br0 as well");
        refused(&["in iifname . tcp dport { \"eth0\" . 81 } drop comment \"t\""], "name br0 as well");
        for (program, table) in [("iptables-nft", "ip filter"), ("iptables-legacy", "ip filter of iptables-legacy")] {
            tool(&format!("{program} -A INPUT -i eth0 -p tcp --dport 81 -j DROP"));
            scene.warren("plan").says(5, &[&format!("of chain INPUT of table {table}"), "br0"]);
            if program == "iptables-nft" {
                scene.warren("up").says(5, &["it names eth0, whose place br0 takes"]);
            }
            tool(&format!("{program} -A INPUT -i br0 -p tcp --dport 81 -j DROP"));
        }
        // Beside their like for the bridge they are nobody's loss, and go on keeping out whom they kept out.
        for interface in ["eth0", "br0"] {
            nft(&format!("add rule inet site in iifname \"{interface}\" tcp dport {{ 82, 83 }} counter drop"));
        }
        up(&scene, OFFICE, &["rest"]);
        let _servers = [80, 81, 82].map(|port| serve(&scene, "server", port));
        all(
            "on br0",
            &[
                reaches("laptop", "10.0.0.100:80", "server", "10.0.0.20"),
                silent("laptop", "10.0.0.100:81"),
                silent("laptop", "10.0.0.100:82"),
            ],
        );
        scene.warren("down").ends(0);
    });
}

/// A rule that is there at the next boot, and was not at the last `up`, may be the one that lets people in by the uplink's
/// name: the uplink stays where it is, and everything else comes up.
#[test]
fn a_boot_leaves_an_uplink_that_new_rules_name_and_brings_up_the_rest() {
    lab(|| {
        let scene = office();
        let text = format!(
            "{OFFICE}\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n[guest.inner]\nkind = \"netns\"\nlan = \"br1\"\n\
             address = [\"10.1.1.6\"]\n[[forward]]\nlisten = \"8022\"\nto = \"inner:80\"\n"
        );
        let text =
            text.replace("kind = \"netns\"\naddress = [\"10.0", "kind = \"netns\"\nlan = \"br0\"\naddress = [\"10.0");
        let text = text.replace("[guest.lease]\nkind = \"netns\"\n", "");
        up(&scene, &text, &["rest", "inner"]);
        scene.warren("down").ends(0);
        // What the kernel holds after a boot: none of ours, and the rules that somebody has saved since.
        for line in [
            "add table inet site",
            "add chain inet site in { type filter hook input priority 0 ; policy drop ; }",
            "add rule inet site in iifname \"eth0\" accept",
            "add rule inet site in ct state established,related accept",
            "add rule inet site in meta l4proto ipv6-icmp accept",
        ] {
            tool(&format!("nft {line}"));
        }
        let _host = serve(&scene, "server", 80);
        scene.warren("up").says(5, &["it names eth0, whose place br0 takes"]);
        scene.warren("boot").says(0, &["eth0 is left where it is", "it names eth0"]);
        let _guests = ["inner", "rest"].map(|guest| serve(&scene, guest, 80));
        all(
            "after the boot",
            &[
                reaches("laptop", "10.0.0.100:80", "server", "10.0.0.20"),
                reaches("laptop", "10.0.0.100:8022", "inner", "10.0.0.20"),
                silent("laptop", "10.0.0.104"),
            ],
        );
        // Mended, the next `up` plugs it in.
        tool("nft add rule inet site in iifname \"br0\" accept");
        up(&scene, &text, &["rest", "inner"]);
        all(
            "after the mend",
            &[
                reaches("laptop", "10.0.0.100:80", "server", "10.0.0.20"),
                reaches("laptop", "10.0.0.104", "rest", "10.0.0.20"),
                silent("laptop", "10.0.0.109"),
            ],
        );
        scene.warren("down").ends(0);
    });
}

/// With `take-over` such rules get their like for the bridge, and lose it again.
#[test]
fn rules_of_others_that_name_a_taken_over_uplink_hold_for_its_bridge() {
    lab(|| {
        let scene = office();
        let text = crate::takeover::with_take_over();
        for line in [
            "add table inet site",
            "add set inet site doors { type inet_service ; elements = { 80, 82 } ; }",
            "add chain inet site in { type filter hook input priority 0 ; policy drop ; }",
            "add rule inet site in ct state established,related accept",
            "add rule inet site in meta l4proto { icmp, ipv6-icmp } accept",
            "add rule inet site in iifname \"eth0\" tcp dport 81 counter drop comment \"first\"",
            "add rule inet site in iifname \"eth0\" tcp dport @doors limit rate 1000/second accept",
            "add chain inet site out { type filter hook output priority 0 ; }",
            "add rule inet site out oifname \"eth0\" tcp dport 25 reject",
        ] {
            tool(&format!("nft {line}"));
        }
        tool("iptables-nft -A INPUT -i eth0 -p tcp --dport 82 -j DROP");
        let before = take();
        scene.write(OFFICE);
        scene.warren("up").says(5, &["it names eth0, whose place br0 takes"]);
        scene.write(&text);
        scene.warren("plan").says(0, &["the same for br0 as rule", "of table ip filter has for eth0"]);
        assert_same(&before, &take(), "after a look");
        up(&scene, &text, &["rest"]);
        let _servers = [80, 81, 82].map(|port| serve(&scene, "server", port));
        let tries = [
            reaches("laptop", "10.0.0.100:80", "server", "10.0.0.20"),
            silent("laptop", "10.0.0.100:81"),
            silent("laptop", "10.0.0.100:82"),
        ];
        all("on br0", &tries);
        let listed = tool("nft list chain inet site in");
        let twin = listed.lines().position(|line| line.contains("iifname \"br0\" tcp dport 81")).expect("a like");
        assert!(listed.lines().nth(twin - 1).unwrap().contains("comment \"first\""), "{listed}");
        assert!(tool("iptables-nft -S INPUT").contains("-i br0 -p tcp"), "iptables reads it");
        scene.warren("plan --exit-code").ends(0);
        // One that somebody takes out is put back by a running `serve`, and the rule that it is like stays as it is.
        scene.write(&text.replacen("[host]\n", "[host]\nhosts-resolver = false\n", 1));
        let serving = Serve::start(&scene);
        let likes = || tool("nft -a list chain inet site in").lines().filter(|line| line.contains("\"br0\"")).count();
        let whole = likes();
        let listed = tool("nft -a list chain inet site in");
        let like = listed.lines().find(|line| line.contains("iifname \"br0\" tcp dport 81")).unwrap();
        tool(&format!("nft delete rule inet site in handle {}", like.rsplit(' ').next().unwrap()));
        assert_eq!(likes(), whole - 1);
        let deadline = Instant::now() + PATIENCE;
        while likes() < whole {
            assert!(Instant::now() < deadline, "it is not put back");
            std::thread::sleep(Duration::from_millis(20));
        }
        all("repaired", &tries);
        drop(serving);
        scene.write(&text);
        scene.warren("up").ends(0);
        // A rule that comes later gets its like with the next `up`, and one that goes takes it along.
        tool("nft add rule inet site in iifname \"eth0\" tcp dport 83 accept comment \"later\"");
        let _later = serve(&scene, "server", 83);
        all("before", &[tries[0].clone(), silent("laptop", "10.0.0.100:83")]);
        scene.warren("up").ends(0);
        all("after", &[reaches("laptop", "10.0.0.100:83", "server", "10.0.0.20"), tries[1].clone()]);
        let listed = tool("nft -a list chain inet site in");
        let later = listed.lines().find(|line| line.contains("\"later\"")).unwrap().rsplit(' ').next().unwrap();
        tool(&format!("nft delete rule inet site in handle {later}"));
        scene.warren("up").ends(0);
        all("and gone", &[tries[0].clone(), silent("laptop", "10.0.0.100:83")]);
        scene.warren("down").ends(0);
        crate::support::settle(&[]);
        assert_same(&before, &take(), "after down");
        // What nothing can be put beside is refused, with what to write.
        for (rule, said) in [
            ("iifname . tcp dport != { \"eth0\" . 84, \"lo\" . 84 } drop", "name br0 as well"),
            ("iifname \"eth0\" jump { tcp dport 84 drop ; }", "give the chain in it a name"),
        ] {
            let mut quoted = std::process::Command::new("nft");
            quoted.arg(format!("insert rule inet site in {rule} comment \"t\""));
            assert!(quoted.status().unwrap().success(), "{rule}");
            scene.warren("plan").says(5, &["it names eth0, whose place br0 takes", said]);
            let listed = tool("nft -a list chain inet site in");
            let handle = listed.lines().find(|line| line.contains("\"t\"")).unwrap().rsplit(' ').next().unwrap();
            tool(&format!("nft delete rule inet site in handle {handle}"));
        }
        tool("iptables-legacy -A INPUT ! -i eth0 -p tcp --dport 84 -j DROP");
        scene.warren("plan").says(5, &["it names eth0", "`-i eth0 -j RETURN` and `-i br0 -j RETURN`"]);
        tool("iptables-legacy -F INPUT");
        scene.warren("plan").ends(0);
    });
}

/// Whatever way a rule names the uplink by: sets with and without a name, all names that begin so, its number, maps of
/// verdicts, iptables-legacy's lines.
#[test]
fn every_way_to_name_a_taken_over_uplink_holds_for_its_bridge() {
    lab(|| {
        let scene = office();
        let text = crate::takeover::with_take_over();
        for line in [
            "add table inet site",
            "add set inet site wan { type ifname ; elements = { \"eth0\", \"tun0\" } ; }",
            "add set inet site doors { type ifname . inet_service ; elements = { \"eth0\" . 87, \"tun0\" . 88 } ; }",
            "add set inet site spans { type ifname . inet_service ; flags interval ; \
             elements = { \"eth0\" . 8900-8910, \"tun0\" . 8911-8920 } ; }",
            "add map inet site ways { type ifname : verdict ; }",
            "add chain inet site outer { tcp dport 90 accept ; }",
            "add chain inet site mapped { tcp dport 91 accept ; }",
            "add element inet site ways { \"eth0\" : jump mapped, \"tun0\" : drop }",
            "add chain inet site in { type filter hook input priority 0 ; policy drop ; }",
            "add rule inet site in ct state established,related accept",
            "add rule inet site in meta l4proto { icmp, ipv6-icmp } accept",
            "add rule inet site in iifname \"eth0\" tcp dport { 80, 81, 92, 93 } accept",
            "add rule inet site in iif \"eth0\" tcp dport 82 accept",
            "add rule inet site in iif != \"lo\" iifname \"eth*\" tcp dport 83 accept",
            "add rule inet site in iifname { \"eth0\", \"lo\" } tcp dport 84 counter accept",
            "add rule inet site in iifname . tcp dport { \"eth0\" . 85, \"lo\" . 86 } accept",
            "add rule inet site in iifname . tcp dport @doors accept",
            "add rule inet site in iifname . tcp dport @spans accept",
            "add rule inet site in iifname @wan tcp dport 89 accept",
            "add rule inet site in iifname @wan tcp dport 94 accept",
            "add rule inet site in iifname vmap { \"eth0\" : jump outer, \"tun0\" : drop }",
            "add rule inet site in iifname vmap @ways",
        ] {
            tool(&format!("nft {}", line.replace('\'', "")));
        }
        let line = "-A INPUT -i eth0 -p tcp --dport 92 -m comment --comment";
        let mut quoted = std::process::Command::new("iptables-legacy");
        quoted.args(line.split(' ')).args(["say -i eth0", "-j", "DROP"]);
        assert!(quoted.status().unwrap().success(), "a rule with a comment");
        tool("iptables-legacy -A INPUT -i eth+ -p tcp --dport 93 -j DROP");
        tool("iptables-legacy -A INPUT -p tcp --dport 93 -j ACCEPT");
        let before = take();
        scene.write(OFFICE);
        scene.warren("up").says(5, &["it names eth0, whose place br0 takes"]);
        assert_same(&before, &take(), "after the refusal");
        up(&scene, &text, &["rest"]);
        let open = [80, 81, 82, 83, 84, 85, 87, 89, 90, 91, 94, 8905];
        let shut = [86, 88, 92, 93, 95, 8915];
        let _servers: Vec<_> = open.iter().chain(&shut).map(|port| serve(&scene, "server", *port)).collect();
        let tries: Vec<_> = open
            .iter()
            .map(|port| reaches("laptop", &format!("10.0.0.100:{port}"), "server", "10.0.0.20"))
            .chain(shut.iter().map(|port| silent("laptop", &format!("10.0.0.100:{port}"))))
            .collect();
        all("on br0", &tries);
        scene.warren("plan --exit-code").ends(0);
        // iptables reads what is in its tables still, and the like stands right behind what it is the like of.
        let saved = tool("iptables-legacy -S INPUT");
        let lines: Vec<&str> = saved.lines().filter(|line| line.contains("--dport 93")).collect();
        assert!(lines[1].contains("-i br0") && lines[2].ends_with("-j ACCEPT"), "{saved}");
        // Somebody takes two of them away: that is drift, and mended.
        tool("iptables-legacy -D INPUT 2");
        tool("nft delete element inet site wan { \"br0\" }");
        scene.warren("plan --exit-code").says(3, &["has for eth0"]);
        scene.warren("up").ends(0);
        all("again", &tries);
        scene.warren("down").ends(0);
        crate::support::settle(&[]);
        assert_same(&before, &take(), "after down");
    });
}

/// A firewall that lets in by the uplink what is forwarded lets it in by the bridge: nothing of it stops what the file declares.
#[test]
fn what_a_taken_over_firewall_lets_in_is_not_told_to_be_stopped() {
    lab(|| {
        let scene = office();
        let text = format!(
            "{}\n[lan.br1]\naddress = [\"10.1.1.1/24\"]\n[guest.inner]\nkind = \"netns\"\nlan = \"br1\"\n\
             address = [\"10.1.1.6\"]\n[[forward]]\nlisten = \"8022\"\nto = \"inner:80\"\n",
            crate::takeover::with_take_over()
        );
        let text =
            text.replace("kind = \"netns\"\naddress = [\"10.0", "kind = \"netns\"\nlan = \"br0\"\naddress = [\"10.0");
        let text = text.replace("[guest.lease]\nkind = \"netns\"\n", "");
        for line in [
            "add table inet site",
            "add chain inet site way { type filter hook forward priority 0 ; policy drop ; }",
            "add rule inet site way ct state established,related accept",
            "add rule inet site way iifname \"br1\" accept",
            "add rule inet site way iifname \"br0\" oifname \"br0\" accept",
            "add rule inet site way iifname { \"eth0\", \"tun0\" } tcp dport { 80, 81 } accept",
        ] {
            tool(&format!("nft {line}"));
        }
        scene.write(&text);
        let clean = |verb| {
            let told = scene.warren(verb).ends(0);
            assert!(!told.out.contains("stops") && !told.err.contains("stops"), "{} {}", told.out, told.err);
        };
        clean("plan");
        up(&scene, &text, &["rest", "inner"]);
        let _inner = serve(&scene, "inner", 80);
        all("let in", &[reaches("laptop", "10.0.0.100:8022", "inner", "10.0.0.20")]);
        clean("plan");
        clean("check");
        tool("nft flush chain inet site way");
        scene.warren("plan").says(0, &["policy of chain way of table inet site (drop) stops"]);
        scene.warren("down").ends(0);
    });
}

/// What holds of all but the uplink holds of all but its bridge: such rules are written anew in their places, and again as
/// they were.
#[test]
fn rules_that_except_a_taken_over_uplink_except_its_bridge() {
    lab(|| {
        let scene = office();
        let text = crate::takeover::with_take_over();
        for line in [
            "add table inet site",
            "add set inet site inner { type ifname ; elements = { \"eth0\", \"tun0\" } ; }",
            "add chain inet site in { type filter hook input priority 0 ; policy accept ; }",
            "add rule inet site in iifname != \"eth0\" tcp dport { 80, 81 } counter drop comment \"not from within\"",
            "add rule inet site in iif != \"eth0\" tcp dport 82 drop",
            "add rule inet site in iifname != { \"eth0\", \"lo\" } tcp dport 83 drop",
            "add rule inet site in iifname != \"eth*\" tcp dport 84 reject",
            "add rule inet site in iif != { \"eth0\", \"lo\" } tcp dport 85 drop",
            "add rule inet site in iifname != @inner tcp dport 86 drop",
            "add rule inet site in iifname \"eth0\" oifname != \"eth0\" tcp dport 91 drop",
            // Those that name it, and that no key or name could be put beside.
            "add rule inet site in iif { \"eth0\", \"lo\" } tcp dport 87 drop",
            "add rule inet site in iifname { \"eth*\", \"lo\" } tcp dport 88 drop",
            "add chain inet site moved { type nat hook prerouting priority -100 ; }",
            "add rule inet site moved iifname \"eth0\" meta l4proto tcp ip daddr 10.0.0.100 redirect to : tcp dport map { 90 : 80, 92-93 : 81 }",
        ] {
            tool(&format!("nft {line}"));
        }
        tool("iptables-nft -A INPUT ! -i eth0 -p tcp --dport 89 -j DROP");
        tool("iptables-nft -A INPUT -p tcp --dport 95 -m multiport --dports 94,95 ! -i eth0 -j DROP");
        let before = take();
        let listed = tool("iptables-nft -S INPUT");
        scene.write(OFFICE);
        scene.warren("up").says(5, &["it names eth0, whose place br0 takes", "name br0 as well"]);
        scene.write(&text);
        scene.warren("plan").says(0, &["br0 excepted beside eth0 by the rule"]);
        assert_same(&before, &take(), "after a look");
        up(&scene, &text, &["rest"]);
        let open = [80, 81, 82, 83, 84, 85, 86, 89, 95];
        let _servers: Vec<_> = open.iter().chain(&[87, 88, 91]).map(|port| serve(&scene, "server", *port)).collect();
        let mut tries: Vec<_> = open
            .iter()
            .map(|port| reaches("laptop", &format!("10.0.0.100:{port}"), "server", "10.0.0.20"))
            .chain([87, 88].iter().map(|port| silent("laptop", &format!("10.0.0.100:{port}"))))
            .collect();
        tries.push(reaches("laptop", "10.0.0.100:90", "server", "10.0.0.20"));
        all("on br0", &tries);
        // They go on keeping out whom they kept out: by the loopback, which is not excepted here.
        let here = |port: u16| {
            let line = format!("timeout 2 socat -u OPEN:/dev/null TCP4:127.0.0.1:{port},connect-timeout=1");
            std::process::Command::new("sh").args(["-c", &line]).status().unwrap().success()
        };
        assert!(here(83) && here(85), "excepted by name");
        assert!(!here(80) && !here(82) && !here(84) && !here(89));
        let rules = tool("nft list chain inet site in");
        assert!(rules.contains("; not from within\""), "its own comment is kept: {rules}");
        assert!(tool("iptables-nft -S INPUT").contains("--dport 89"), "iptables reads it");
        scene.warren("plan --exit-code").ends(0);
        // A rule that comes later is written anew by the next `up`; one that is put in once more, too.
        for _ in 0..2 {
            tool("nft add rule inet site in iifname != \"eth0\" tcp dport 96 drop");
            scene.warren("plan --exit-code").says(3, &["br0 excepted"]);
            scene.warren("up").ends(0);
        }
        scene.warren("plan --exit-code").ends(0);
        let twice = tool("nft -a list chain inet site in");
        let later = twice.lines().filter(|line| line.contains("tcp dport 96"));
        for handle in later.map(|line| line.rsplit(' ').next().unwrap()) {
            tool(&format!("nft delete rule inet site in handle {handle}"));
        }
        scene.warren("up").ends(0);
        scene.warren("down").ends(0);
        crate::support::settle(&[]);
        assert_same(&before, &take(), "after down");
        assert_eq!(tool("iptables-nft -S INPUT"), listed);
        // Put back by a rollback, too.
        scene.warren("up --confirm 3000").ends(0);
        scene.warren("rollback").ends(0);
        crate::confirm::watchdogs_end(&scene);
        crate::support::settle(&[]);
        assert_same(&before, &take(), "after a rollback");
    });
}
