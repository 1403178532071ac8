//! `[[forward]]`

use std::ops::Range;

use ipnet::IpNet;

use super::grammar::{self, Listen, Target, What};
use super::reader::{Bad, Section, flag};
use super::{List, Spanned};

/// `[[forward]]` as written.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Its header.
    pub span: Range<usize>,
    /// Where the world comes in.
    pub listen: Option<Spanned<Listen>>,
    /// Where it goes.
    pub to: Option<Spanned<Target>>,
    /// Clients that may.
    pub sources: Option<List<IpNet>>,
    /// Guests and the host reach it at the public address too.
    pub hairpin: Option<Spanned<bool>>,
    /// Whether something of it could not be read.
    pub broken: bool,
}

pub(super) fn read(section: &mut Section<'_>) -> Forward {
    let sources = section.list("sources", grammar::cidr_or_address);
    let sources = section.not_empty(sources, "leave it out to let everyone in, or name the clients");
    let mut forward = Forward {
        span: section.span.clone(),
        listen: section.needed("listen", grammar::listen, "\"22210/tcp\""),
        to: section.needed("to", grammar::target, "\"GUEST:22\""),
        sources,
        hairpin: section.one("hairpin", flag),
        broken: false,
    };
    check_sizes(section, &forward);
    forward.broken = section.broken();
    forward
}

/// A range goes to a range of the same size, and everything goes to the same ports.
fn check_sizes(section: &mut Section<'_>, forward: &Forward) {
    let (Some(listen), Some(to)) = (&forward.listen, &forward.to) else { return };
    let Some(target) = to.value.ports else { return };
    match listen.value.what {
        What::Everything => {
            let bad = Bad::new("a forward of everything goes to the same ports").help("leave the port out");
            section.report(bad.at(to.span.clone()).also(listen.span.clone(), "everything is forwarded here"));
        }
        What::Ports { ports, .. } if ports.count() != target.count() => {
            let last = u32::from(target.first) + ports.count() - 1;
            let bad =
                Bad::new(format!("{ports} is {} but {target} is {}", ports_in_words(ports.count()), target.count()));
            let help = if last > 65535 {
                "both ranges must be of one size".to_owned()
            } else if ports.is_single() {
                format!("write one port: {}", target.first)
            } else {
                format!("write {}-{last}", target.first)
            };
            let problem = bad.help(help).at(to.span.clone());
            section.report(problem.also(listen.span.clone(), format!("{} here", ports_in_words(ports.count()))));
        }
        What::Ports { .. } => {}
    }
}

fn ports_in_words(count: u32) -> String {
    if count == 1 { "1 port".to_owned() } else { format!("{count} ports") }
}
