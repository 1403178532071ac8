//! What is an LXC container's alone: where it comes from, and the lines that are handed on to others.

use crate::config::{self, Spanned, elements, shown};
use crate::network::{Container, Source};
use crate::problem::Problem;

/// Keys of LXC's that warren writes itself, and the word of the file that says them. Those that end in a dot stand for
/// all that begin so.
const OURS: [(&str, &str); 5] = [
    ("lxc.net.", "lan, address and mac"),
    ("lxc.network.", "lan, address and mac"),
    ("lxc.uts.name", "the guest's name"),
    ("lxc.rootfs.path", "rootfs"),
    ("lxc.idmap", "privileged"),
];

/// How public keys begin (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
const KEY_TYPES: [&str; 4] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];

pub(super) fn check(guest: &config::Guest, problems: &mut Vec<Problem>) {
    if let Some(template) = &guest.template {
        let name = &template.value;
        // A name becomes a part of a file's name, and both an argument of lxc-create.
        let fine = !name.starts_with('-') && (name.starts_with('/') || !name.contains('/'));
        if !fine || name.chars().any(char::is_control) {
            let message = format!("\"{}\" is no template's name", shown(name));
            let problem = Problem::config(template.span.clone(), message);
            problems
                .push(problem.help("write one of /usr/share/lxc/templates without `lxc-`, or a script's full path"));
        }
    }
    if let Some(rootfs) = guest.rootfs.as_ref().filter(|rootfs| !rootfs.value.starts_with('/')) {
        let message = format!("\"{}\" is not a full path", shown(&rootfs.value));
        let problem = Problem::config(rootfs.span.clone(), message);
        problems.push(problem.help("write it from the root on: rootfs = \"/srv/…\""));
    }
    elements(guest.args.as_ref()).iter().for_each(|arg| check_line(arg, "an argument", problems));
    for key in elements(guest.ssh_keys.as_ref()) {
        check_line(key, "a key", problems);
        // Options may stand before the type: they are looked over.
        let known = key.value.split_whitespace().any(|word| KEY_TYPES.iter().any(|kind| word.starts_with(kind)));
        if !known {
            let problem = Problem::config(key.span.clone(), format!("\"{}\" is no public SSH key", shown(&key.value)));
            problems.push(problem.help("write what stands in a .pub file: \"ssh-ed25519 AAAA… me@there\""));
        }
    }
    for line in elements(guest.config.as_ref()) {
        check_line(line, "a line", problems);
        check_config(line, problems);
    }
}

fn check_line(text: &Spanned<String>, what: &str, problems: &mut Vec<Problem>) {
    if text.value.chars().any(|c| matches!(c, '\n' | '\r' | '\0')) {
        let problem = Problem::config(text.span.clone(), format!("{what} of several lines"));
        problems.push(problem.help("write them as several: [\"…\", \"…\"]"));
    }
}

fn check_config(line: &Spanned<String>, problems: &mut Vec<Problem>) {
    let text = line.value.trim();
    if text.is_empty() || text.starts_with('#') {
        return;
    }
    let Some((key, _)) = text.split_once('=').filter(|(key, _)| key.trim().starts_with("lxc.")) else {
        let problem = Problem::config(line.span.clone(), format!("\"{}\" is no line of LXC's", shown(text)));
        problems.push(problem.help("write it as lxc.container.conf(5) says: \"lxc.KEY = VALUE\""));
        return;
    };
    let key = key.trim();
    let ours = OURS.iter().find(|(own, _)| key == *own || (own.ends_with('.') && key.starts_with(own)));
    if let Some((_, says)) = ours {
        let problem = Problem::config(line.span.clone(), format!("`{}` is warren's own to write", shown(key)));
        problems.push(problem.help(format!("say it by {says}")));
    }
}

pub(super) fn build(guest: &config::Guest) -> Container {
    let texts = |list: Option<&config::List<String>>| elements(list).iter().map(|text| text.value.clone()).collect();
    let template = guest
        .template
        .as_ref()
        .map(|name| Source::Template { name: name.value.clone(), args: texts(guest.args.as_ref()) });
    Container {
        source: template.or_else(|| guest.rootfs.as_ref().map(|path| Source::Rootfs(path.value.clone()))),
        privileged: guest.privileged.as_ref().is_some_and(|flag| flag.value),
        ssh_keys: texts(guest.ssh_keys.as_ref()),
        config: texts(guest.config.as_ref()),
        autostart: guest.autostart.as_ref().is_none_or(|flag| flag.value),
    }
}
