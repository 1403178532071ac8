//! `warren init`: a first configuration, from what this host is.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};

use kernel::nft::{ForeignChain, Nft};
use model::init::{self, Sights};
use model::ruleset::HookPoint;

use crate::context::{Context, Exit, Failure, Outcome};
use crate::output;

/// Writes the file; one that is there stays.
pub fn run(context: &Context, print: bool) -> Outcome {
    let facts = kernel::facts::gather()?;
    let sights = Sights { chains: chains(), peer: context.session.map(|session| session.peer) };
    let proposal = init::propose(&facts, &sights);
    if !print {
        write(context, &proposal.text)?;
    }
    if context.json {
        output::json(&serde_json::json!({
            "version": output::JSON_VERSION,
            "ok": true,
            "config": (!print).then_some(&context.config),
            "lan": proposal.bridge,
            "addresses": proposal.addresses,
            "text": proposal.text,
        }));
    } else if print {
        output::line(proposal.text.trim_end());
    } else if !context.quiet {
        let addresses: Vec<String> = proposal.addresses.iter().map(ToString::to_string).collect();
        output::line(&format!(
            "{} is written: LAN {} with {}.\nRead it, then `warren rehearse` and `warren plan`.",
            context.config.display(),
            proposal.bridge,
            addresses.join(" and ")
        ));
    }
    Ok(Exit::Done)
}

/// Others' chains that may drop what is forwarded; nothing where the firewall may not be read.
fn chains() -> Option<Vec<String>> {
    let hooks = Nft::open().and_then(|mut nft| nft.foreign_hooks()).ok()?;
    let drops = |chain: &&ForeignChain| chain.hook == HookPoint::Forward && (chain.policy_drop || chain.drops);
    Some(hooks.iter().filter(drops).map(ToString::to_string).collect())
}

/// All of it or nothing; a file that is there is somebody's work.
fn write(context: &Context, text: &str) -> Result<(), Failure> {
    let path = &context.config;
    let failed = |operation: &str, e: &io::Error| {
        let exit = match e.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Exit::Privilege,
            _ => Exit::Failed,
        };
        let hint = if exit == Exit::Privilege { "\nrun it as root, or name another file with `-c FILE`" } else { "" };
        Failure::new(exit, format!("cannot {operation} {}: {e}{hint}", path.display()))
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(|e| failed("make the folder of", &e))?;
    }
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let why = "it is there already, and stays as it is; `warren init --print` shows what would be written";
            return Err(Failure::new(Exit::Failed, format!("cannot write {}: {why}", path.display())));
        }
        Err(e) => return Err(failed("write", &e)),
    };
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| {
        // Half a file would be taken for a whole one.
        let _ = fs::remove_file(path);
        failed("write", &e)
    })
}
