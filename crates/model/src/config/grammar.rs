//! The grammars of values, one small module each. Every one is a total function from a TOML value to a type or a
//! [`Bad`](super::reader::Bad).

mod address;
mod bandwidth;
mod duration;
mod listen;
mod name;
mod range;
mod reach;
mod socket;
mod target;

pub use address::{cidr, cidr_or_address, host_cidr, single, station};
pub use bandwidth::{Bandwidth, bandwidth};
pub use duration::{Seconds, duration};
pub use listen::{Listen, What, fixed_port, listen, port_text, ports};
pub(crate) use name::interface;
pub use name::{dns_name, guest_name, if_name, is_label, mac, relative_name, site_host};
pub use range::{AddressRange, address_range};
pub use reach::{Reach, reach};
pub use socket::{EntrySocket, entry_socket, loopback_socket};
pub use target::{Place, Target, target};
