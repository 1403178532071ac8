//! The command line, as shared with people by `--help`.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};

/// A private network inside one server: one file, one command, proved by packets.
#[derive(Debug, Parser)]
#[command(name = "warren", version, max_term_width = 110, propagate_version = true)]
pub struct Arguments {
    /// The configuration
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "WARREN_CONFIG",
        default_value = "/etc/warren/warren.toml",
        global = true
    )]
    pub config: PathBuf,

    /// What must outlive a restart: prior values of what was changed, the journal
    #[arg(long, value_name = "DIR", env = "WARREN_STATE_DIR", default_value = "/var/lib/warren", global = true)]
    pub state_dir: PathBuf,

    /// What a restart may empty: the lock, what was applied last
    #[arg(long, value_name = "DIR", env = "WARREN_RUN_DIR", default_value = "/run/warren", global = true)]
    pub run_dir: PathBuf,

    /// One JSON document instead of words (docs/json.md)
    #[arg(long, global = true)]
    pub json: bool,

    /// Errors alone
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Every step
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check the file alone: every problem, with its place
    Validate {
        /// The configuration, in place of --config
        file: Option<PathBuf>,
    },
    /// Show what `up` would change; changes nothing
    Plan {
        /// Exit 3 where there are changes
        #[arg(long)]
        exit_code: bool,
    },
    /// Make the network what the file says: all of it, or nothing
    Up {
        /// Take over from the network of another file
        #[arg(long)]
        replace: bool,
        /// The network alone
        #[arg(long)]
        no_guests: bool,
    },
    /// Take away all that warren made, and put back all that it changed
    Down {
        /// Stop the guests too
        #[arg(long)]
        guests: bool,
    },
    /// Show what is up, and what is not as it should be
    Status,
    /// Prove the running network with real packets
    Check {
        /// Only what is asked from there: host, world, or a guest's name
        #[arg(long, value_name = "PLACE")]
        from: Option<String>,
    },
    /// Prove the file in throwaway namespaces; needs no root, touches nothing
    Rehearse {
        /// The configuration, in place of --config
        file: Option<PathBuf>,
        /// Leave the lab, and say how to step into it
        #[arg(long)]
        keep: bool,
    },
    /// Draw the network
    Map {
        /// Write it there; a name that ends in .txt
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Write the network as files for who would rather run it by hand
    Export {
        /// The format
        #[arg(value_enum)]
        format: ExportFormat,
    },
    /// Hold a kept lab
    #[command(hide = true)]
    Hold,
}

/// What `export` writes.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum ExportFormat {
    /// An nftables ruleset for `nft -f`
    Nft,
}
