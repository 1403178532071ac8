//! `--x11 GUEST COMMAND`: a program of a guest's, shown here, by `ssh -X` through the server.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::learn::{self, Learned};
use super::line::{self, Server};
use crate::context::{Exit, Failure, Outcome};

/// Becomes ssh, whose end is that of the program.
pub fn run(server: &Server, words: &[String]) -> Outcome {
    let Some((guest, command)) = words.split_first().filter(|(_, command)| !command.is_empty()) else {
        return Err(Failure::new(Exit::Usage, "--x11 wants a guest and a command, such as --x11 cnx6 xterm"));
    };
    if ["DISPLAY", "WAYLAND_DISPLAY"].iter().all(|name| std::env::var_os(name).is_none()) {
        return Err(Failure::new(Exit::Failed, "there is no display here (DISPLAY is not set)"));
    }
    let (user, guest) = guest.split_once('@').unwrap_or(("root", guest));
    let said = line::ask_once(server)?;
    let learned = said.as_deref().map_or_else(Learned::default, learn::read);
    let known = learned.guest(guest);
    if learned.is_warren && known.is_none() {
        let all: Vec<&str> = learned.guests.iter().map(|guest| &*guest.name).collect();
        let message = format!("{server} has no guest \"{guest}\"; it has {}", all.join(", "));
        return Err(Failure::new(Exit::Failed, message));
    }
    let mut ssh = Command::new("ssh");
    ssh.args(["-X", "-o", "ForwardX11=yes", "-J"]).arg(server.jump());
    // Without a warren there, the server resolves the name.
    let host = known.and_then(|known| known.addresses.first()).map_or_else(|| guest.to_owned(), ToString::to_string);
    if let Some(known) = known {
        ssh.args(["-o", &format!("HostKeyAlias={}", known.full())]);
    }
    ssh.arg("--").arg(format!("{user}@{host}")).args(command.iter().map(|word| quoted(word)));
    let error = ssh.exec();
    Err(Failure::new(Exit::Failed, format!("cannot start ssh: {error}")))
}

/// A word as the guest's shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_stay_words() {
        for (word, said) in [("xterm", "xterm"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$x", "'$x'")] {
            assert_eq!(quoted(word), said);
        }
    }
}
