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
    /// Look at this host, and write a first configuration for it; a file that is there stays
    Init {
        /// Print it, and write nothing
        #[arg(long)]
        print: bool,
    },
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
        /// Put back what was unless `warren confirm` comes within so many seconds; 60 by default where the uplink
        /// itself changes and the file was never confirmed before
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
        confirm: Option<u64>,
    },
    /// Keep the last `up`, which else is put back by itself
    Confirm,
    /// Put back what was before the last `up`; guests' disks stay as they are
    Rollback,
    /// Take away all that warren made, and put back all that it changed
    Down {
        /// Stop the guests too
        #[arg(long)]
        guests: bool,
    },
    /// `up`, then the LANs' names, leases and routers, in the foreground; SIGHUP reads the file again
    Serve {
        /// Leave the guests as they are: another unit of systemd's starts them
        #[arg(long)]
        no_guests: bool,
    },
    /// Show what is up, and what is not as it should be
    Status,
    /// Print the certificate that self-signed sites are signed with, to be imported by who should believe them
    Ca,
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
    /// The containers' life
    Guest {
        /// What to do
        #[command(subcommand)]
        command: GuestCommand,
    },
    /// Forwards, edited in the file and applied
    Forward {
        /// What to do with them
        #[command(subcommand)]
        command: ForwardCommand,
    },
    /// Draw the network
    Map {
        /// Write it there; a name that ends in .svg or .txt
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// On your own machine: a tunnel over ssh and a browser that sees the server's LAN, names resolved inside
    Connect(Connect),
    /// Write the network as files for who would rather run it by hand
    Export {
        /// The format
        #[arg(value_enum)]
        format: ExportFormat,
    },
    /// Write what a shell needs to complete warren's words
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual page
    Man,
    /// Write systemd's units: the network comes up at boot, behind every firewall service, and its guests after it
    Install {
        /// Print them, and change nothing
        #[arg(long)]
        print: bool,
    },
    /// Take the units out again; the network stays up
    Uninstall,
    /// What the units call
    #[command(hide = true)]
    Boot {
        /// Start the guests of the network that is up
        #[arg(long)]
        guests: bool,
        /// Stop them
        #[arg(long, conflicts_with = "guests")]
        stop: bool,
    },
    /// Put back what was unless it is confirmed in time
    #[command(hide = true)]
    Watchdog {
        /// In a process of its own that nobody waits for
        #[arg(long)]
        detach: bool,
    },
    /// Hold a kept lab
    #[command(hide = true)]
    Hold,
    /// Read what the LANs send, for `serve`
    #[command(hide = true)]
    Worker,
    /// Find out in a lab what others' firewalls stop
    #[command(hide = true)]
    Judge,
}

/// Where to, and with what.
#[derive(Debug, clap::Args)]
pub struct Connect {
    /// The server, as ssh knows it
    #[arg(value_name = "[USER@]SERVER")]
    pub server: String,
    /// Where its sshd listens, or a forward to a guest's
    #[arg(short, long)]
    pub port: Option<u16>,
    /// Only the LANs' names and addresses go through the tunnel
    #[arg(long)]
    pub lan_only: bool,
    /// Names below it are a LAN's; for a server whose warren cannot be asked
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Vec<String>,
    /// firefox, chromium or one of their kin; "none" prints the proxy's settings instead
    #[arg(long, value_name = "PROGRAM")]
    pub browser: Option<String>,
    /// The proxy's port here; a free one by default
    #[arg(long, value_name = "PORT")]
    pub listen: Option<u16>,
    /// Show a program of a guest's here, by ssh -X
    #[arg(long, num_args = 2.., value_names = ["GUEST", "COMMAND"], allow_hyphen_values = true)]
    pub x11: Option<Vec<String>>,
    /// Print that, and open nothing
    #[arg(long, value_enum, conflicts_with = "x11")]
    pub print: Option<Printed>,
    /// Pages for the browser to open, or options of its own
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

/// What `connect` prints.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Printed {
    /// Lines for ssh's configuration: `ssh GUEST` by way of the server
    SshConfig,
    /// A proxy auto-configuration for the LANs' names
    Pac,
}

/// What to do with a guest.
#[derive(Debug, Subcommand)]
pub enum GuestCommand {
    /// Make a guest that the file names, without starting it
    Create {
        /// The guest
        name: String,
    },
    /// Start a guest, and wait until it has its addresses
    Start {
        /// The guest
        name: String,
    },
    /// Stop a guest: it is asked to end, and killed where it does not in time
    Stop {
        /// The guest
        name: String,
        /// How long it may take
        #[arg(long, value_name = "SECONDS", default_value_t = guests::run::STOP.as_secs())]
        timeout: u64,
    },
    /// Stop and start
    Restart {
        /// The guest
        name: String,
        /// How long it may take to stop
        #[arg(long, value_name = "SECONDS", default_value_t = guests::run::STOP.as_secs())]
        timeout: u64,
    },
    /// Run a command in a guest; it ends with the command's own exit code
    Exec {
        /// The guest
        name: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Open root's shell in a guest
    Shell {
        /// The guest
        name: String,
    },
    /// Delete a guest, its disk included
    Destroy {
        /// The guest
        name: String,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
    /// Show the guests and what they do
    List,
    /// Called by LXC when a guest's cable is plugged in: gives it what LXC does not know of
    #[command(hide = true)]
    Plugged {
        /// The guest
        name: String,
        /// What LXC says besides
        #[arg(hide = true)]
        rest: Vec<String>,
    },
}

/// What to do with forwards.
#[derive(Debug, Subcommand)]
pub enum ForwardCommand {
    /// A forward more, written into the file behind the others
    Add {
        /// Where the world comes in, such as 22210/tcp
        listen: String,
        /// Where it goes, such as cnx6:22
        to: String,
    },
    /// Take a forward out of the file
    Remove {
        /// Where it listens
        listen: String,
    },
    /// Show the forwards of the file
    List,
}

/// What `export` writes.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum ExportFormat {
    /// An nftables ruleset for `nft -f`
    Nft,
    /// The sites, to be included in nginx's `http { }`
    Nginx,
}
