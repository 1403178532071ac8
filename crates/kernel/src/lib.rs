//! The only crate that changes the kernel: network namespaces, links, addresses, routes, sysctls and nf_tables by
//! netlink. What to change is decided in the model crate; this one observes and does.

pub mod answers;
pub mod apply;
mod bus;
pub mod carry;
pub mod confine;
pub mod conntrack;
pub mod error;
pub mod execute;
pub mod facts;
pub mod files;
pub mod holders;
pub mod host_names;
pub mod journal;
pub mod legacy;
pub mod listen;
pub mod manager;
pub mod memory;
pub mod mends;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod observe;
pub mod privilege;
pub mod processes;
pub mod rtnl;
pub mod seek;
pub mod session;
pub mod sockdiag;
pub mod standing;
pub mod sysctl;
pub mod systemd;
pub mod takeover;
pub mod tap;
pub mod unmanaged;
pub mod watch;
pub mod ways;
