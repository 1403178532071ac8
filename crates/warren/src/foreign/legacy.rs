//! iptables-legacy's tables as this host has them, and what is said where they cannot be looked into.

use model::foreign::Layer;
use model::foreign::saved::Saved;
use model::network::Network;

use super::Marked;
use crate::context::Failure;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    /// The tables, family by family.
    pub(super) tables: Vec<Saved>,
    /// Why what is there could not be read.
    pub(super) note: Option<String>,
}

impl Legacy {
    /// Nothing is run where there are no such tables.
    pub(super) fn gather(network: &Network, marked: Marked) -> Result<Self, Failure> {
        let names = kernel::legacy::tables()?;
        if names.is_empty() {
            return Ok(Self::default());
        }
        Ok(match kernel::legacy::read() {
            Ok(tables) if marked == Marked::LeftOut => {
                Self { tables: tables.into_iter().map(Saved::without_ours).collect(), note: None }
            }
            Ok(tables) => Self { tables, note: None },
            Err(why) => Self { tables: Vec::new(), note: Some(unknown(network, &names, &why)) },
        })
    }

    /// Whether anything there drops packets.
    pub(super) fn drops(&self) -> bool {
        self.tables.iter().any(|saved| !saved.dropping().is_empty())
    }
}

/// That it is not known what these tables stop, and what to do.
pub(super) fn unknown(network: &Network, tables: &[(Layer, String)], why: &dyn std::fmt::Display) -> String {
    let names: Vec<String> = tables.iter().map(|(family, table)| format!("{} {table}", family.word())).collect();
    let bridges = network.lans.iter().map(|lan| {
        format!(
            "`iptables-legacy -I FORWARD -i {0} -j ACCEPT` and `iptables-legacy -I FORWARD -o {0} -j ACCEPT`",
            lan.bridge
        )
    });
    format!(
        "iptables-legacy has tables here ({}), which nf_tables does not show, and what they stop could not be found \
         out, so warren does not write there: {why}; see `iptables-legacy-save`; where `warren check` shows that they \
         stop something, {} let it pass",
        names.join(", "),
        bridges.collect::<Vec<_>>().join(", ")
    )
}

/// The names of what was saved, as [`unknown`] wants them.
pub(super) fn names(saved: &Saved) -> Vec<(Layer, String)> {
    saved.tables.iter().map(|table| (saved.family, table.name.clone())).collect()
}
