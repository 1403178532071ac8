//! What of ours stands in others' firewalls: rules in tables of nf_tables and of iptables-legacy, and zones of
//! firewalld's, which is asked over D-Bus (org.fedoraproject.FirewallD1.zone, firewalld.dbus(5)), since a reload takes
//! away what it does not know.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use model::address::IfName;
use model::foreign::Mend;
use model::foreign::naming::{self, Conditions};
use zbus::blocking::fdo::DBusProxy;
use zbus::blocking::{Connection, Proxy, connection};
use zbus::names::BusName;

use crate::error::{Context as _, KernelError, Result, explained};
use crate::{legacy, nft};

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const INTERFACE: &str = "org.fedoraproject.FirewallD1.zone";
/// firewalld writes its rules before it answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Those of ours that stand. A zone is only looked for where `wanted` names it: the bridge in it is ours.
///
/// # Errors
/// Where the firewall, a firewalld that runs, or an iptables-legacy that `wanted` names cannot be asked.
pub fn observe(wanted: &BTreeSet<Mend>) -> Result<BTreeSet<Mend>> {
    let mut found = nft::mends()?;
    found.extend(legacy::mends(wanted)?);
    let zones = wanted.iter().filter(|mend| matches!(mend, Mend::Zone { .. }));
    let mut zones = zones.peekable();
    if zones.peek().is_none() {
        return Ok(found);
    }
    let Some(firewalld) = Firewalld::find()? else { return Ok(found) };
    for mend in zones {
        if let Mend::Zone { zone, interface } = mend
            && firewalld.zone_of(interface)? == *zone
        {
            found.insert(mend.clone());
        }
    }
    Ok(found)
}

/// All that others' firewalls ask of interfaces. Where iptables-legacy's programs are missing, that it has tables is told
/// elsewhere.
pub fn conditions() -> Result<Vec<Conditions>> {
    let mut rules = nft::conditions()?;
    rules.extend(legacy::read().unwrap_or_default().iter().flat_map(naming::of_saved));
    Ok(rules)
}

/// Makes a mend.
///
/// # Errors
/// The refusal of the kernel, firewalld or iptables-legacy, and where the table, chain or firewalld is gone.
pub fn add(mend: &Mend) -> Result<()> {
    match mend {
        Mend::Accept { family, table, chain, way } => nft::add_mend(*family, table, chain, way),
        Mend::Zone { zone, interface } => match Firewalld::find()? {
            Some(firewalld) => firewalld.call("addInterface", zone, interface),
            None => Err(KernelError::new("change", "firewalld's zones", io::Error::other("firewalld does not run"))),
        },
        Mend::Legacy { family, table, chain, way } => legacy::add_mend(*family, table, chain, way),
        Mend::Twin { .. } => nft::add_twin(mend),
        Mend::Except { .. } => nft::add_except(mend),
        Mend::Element { .. } => nft::add_element(mend),
        Mend::LegacyTwin { .. } => legacy::add_twin(mend),
    }
}

/// Takes a mend back.
///
/// # Errors
/// The refusal of the kernel, firewalld or iptables-legacy. One that is gone is no error.
pub fn delete(mend: &Mend) -> Result<()> {
    match mend {
        Mend::Accept { .. } | Mend::Twin { .. } | Mend::Except { .. } | Mend::Element { .. } => nft::delete_mend(mend),
        Mend::Zone { zone, interface } => match Firewalld::find()? {
            Some(firewalld) if firewalld.zone_of(interface)? == *zone => {
                firewalld.call("removeInterface", zone, interface)
            }
            // What it held in memory alone went with it.
            _ => Ok(()),
        },
        Mend::Legacy { family, table, chain, way } => legacy::delete_mend(*family, table, chain, way),
        Mend::LegacyTwin { .. } => legacy::delete_twin(mend),
    }
}

/// A firewalld that runs.
struct Firewalld {
    zones: Proxy<'static>,
}

impl Firewalld {
    /// None where no firewalld runs; it is never started by being asked.
    fn find() -> Result<Option<Self>> {
        // Without a system bus there is no firewalld.
        let Ok(bus) = Self::bus() else { return Ok(None) };
        let runs = |bus: &Connection| -> zbus::Result<bool> {
            Ok(DBusProxy::new(bus)?.name_has_owner(BusName::try_from(SERVICE)?)?)
        };
        if !runs(&bus).map_err(refused).context("ask for", "firewalld")? {
            return Ok(None);
        }
        let zones = Proxy::new(&bus, SERVICE, PATH, INTERFACE).map_err(refused).context("ask for", "firewalld")?;
        Ok(Some(Self { zones }))
    }

    fn bus() -> zbus::Result<Connection> {
        connection::Builder::system()?.method_timeout(PATIENCE).build()
    }

    /// The interface's zone; empty where it is in none but the default one.
    fn zone_of(&self, interface: &IfName) -> Result<String> {
        let answer = self.zones.call("getZoneOfInterface", &(interface.as_str(),));
        answer.map_err(refused).context("ask firewalld for the zone of", interface.as_str())
    }

    fn call(&self, method: &'static str, zone: &str, interface: &IfName) -> Result<()> {
        let answer: zbus::Result<String> = self.zones.call(method, &(zone, interface.as_str()));
        let operation = if method == "addInterface" { "put into" } else { "take out of" };
        let object = format!("firewalld's zone {zone}, the interface {interface}");
        match answer {
            Ok(_) => Ok(()),
            // The error's name is the errno's, its text firewalld's own words.
            Err(e) => Err(KernelError::new(
                operation,
                object,
                explained(io::Error::other("firewalld refused"), e.to_string()),
            )),
        }
    }
}

fn refused(error: zbus::Error) -> io::Error {
    io::Error::other(error)
}
