//! Changes of warren.toml itself: comments, order and spelling of everything else stay as they are.

use model::config;
use model::config::grammar::Listen;
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value, value};

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It cannot be read as TOML.
    #[error("the file is no TOML: {0}")]
    Syntax(#[from] toml_edit::TomlError),
    /// `forward` is neither a list of tables nor of inline tables.
    #[error("`forward` in the file is no list of tables")]
    Shape,
    /// What was given for LISTEN is none.
    #[error("{0}")]
    Listen(String),
    /// No forward listens there.
    #[error("no forward listens on {listen}{}", .others.is_empty().then(String::new).unwrap_or_else(|| format!("\nthere is: {}", .others.join(", "))))]
    Unknown {
        /// What was asked for.
        listen: String,
        /// What there is.
        others: Vec<String>,
    },
}

/// The text with a forward more, behind the others. Whether it is a good one is for who reads the new text to say.
pub fn add_forward(text: &str, listen: &str, to: &str) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse()?;
    let entry = document.entry("forward").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    match entry {
        Item::ArrayOfTables(tables) => {
            let mut table = Table::new();
            table.insert("listen", value(listen));
            table.insert("to", value(to));
            if !text.is_empty() {
                table.decor_mut().set_prefix("\n");
            }
            tables.push(table);
        }
        Item::Value(Value::Array(list)) => {
            let table: InlineTable = [("listen", listen), ("to", to)].into_iter().collect();
            list.push(table);
        }
        _ => return Err(EditError::Shape),
    }
    Ok(document.to_string())
}

/// The text without the forward that listens there; `8080`, `"8080"` and `8080/tcp` are the same.
pub fn remove_forward(text: &str, listen: &str) -> Result<String, EditError> {
    let mut document: DocumentMut = text.parse()?;
    let wanted = parse_listen(listen)?;
    // What the file means is the reader's to say; it keeps the forwards in the file's order.
    let (config, _) = config::parse(text);
    let listens = |forward: &config::Forward| forward.listen.as_ref().map(|listen| listen.value.clone());
    let Some(index) = config.forwards.iter().position(|forward| listens(forward).as_ref() == Some(&wanted)) else {
        let written = |forward: &config::Forward| {
            Some(text.get(forward.listen.as_ref()?.span.clone())?.trim_matches('"').to_owned())
        };
        let others = config.forwards.iter().filter_map(written).collect();
        return Err(EditError::Unknown { listen: listen.to_owned(), others });
    };
    match document.get_mut("forward") {
        Some(Item::ArrayOfTables(tables)) if index < tables.len() => {
            tables.remove(index);
        }
        Some(Item::Value(Value::Array(list))) if index < list.len() => {
            list.remove(index);
        }
        _ => return Err(EditError::Shape),
    }
    Ok(document.to_string())
}

fn parse_listen(listen: &str) -> Result<Listen, EditError> {
    let mut table = Table::new();
    table.insert("listen", value(listen));
    let mut document = DocumentMut::new();
    document.insert("forward", Item::ArrayOfTables(ArrayOfTables::from_iter([table])));
    let (config, problems) = config::parse(&document.to_string());
    match config.forwards.first().and_then(|forward| forward.listen.as_ref()) {
        Some(listen) => Ok(listen.value.clone()),
        None => Err(EditError::Listen(
            problems.first().map_or_else(|| format!("{listen} is nothing to listen on"), |p| p.message.clone()),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "# ours\n[lan.br1] # the LAN\naddress = ['10.1.1.1/24']\n\n[[forward]] # ssh\nlisten = \"22210/tcp\"  # far up\nto = \"cnx6:22\"\n\n[[forward]]\nlisten = 8080\nto = \"cnx6\"\n\n# the end\n[socks]\n";

    #[test]
    fn a_forward_more_comes_behind_the_others_and_all_else_stays() {
        let text = add_forward(TEXT, "53/udp", "cnx7").unwrap();
        assert_eq!(text, TEXT.replace("\n# the end", "\n[[forward]]\nlisten = \"53/udp\"\nto = \"cnx7\"\n\n# the end"));
        let first = add_forward("[lan.br1]\n", "1", "a").unwrap();
        assert_eq!(first, "[lan.br1]\n\n[[forward]]\nlisten = \"1\"\nto = \"a\"\n");
        let inline = add_forward("forward = [{ listen = 1, to = \"a\" }]\n", "2", "b").unwrap();
        assert_eq!(inline, "forward = [{ listen = 1, to = \"a\" }, { listen = \"2\", to = \"b\" }]\n");
    }

    #[test]
    fn what_is_added_the_short_way_is_what_is_edited() {
        let facts = model::facts::HostFacts::assumed(model::address::IfName::new("eth0").unwrap());
        let head = "# ours\n[host]\nuplink = 'eth0' # up\n[lan.br1]\naddress = ['10.1.1.1/24']\n[guest.cnx6]\n\
                    kind = 'reserved'\naddress = ['10.1.1.6']\n";
        let forwards = [
            "[[forward]]\nlisten = 1\nto = \"cnx6\"\n",
            "\n\n[[forward]] # ssh\nlisten = \"22210/tcp\"  # far up\nto = \"cnx6:22\"\n\n[[forward]]\nto = 'cnx6'\nlisten = 8080\n",
            "[[forward]]\nlisten = \"9090\"\n  to = \"cnx6:22\" \n",
        ];
        for forwards in forwards {
            let text = format!("{head}{forwards}");
            for (listen, to) in [("53/udp", "cnx6"), ("4000-4010", "cnx6:5000-5010"), ("70/tcp,udp", "10.1.1.6:7")] {
                if let Some(added) = model::addition::addition(&text, listen, to, &facts) {
                    assert_eq!(format!("{text}{}", added.tail), add_forward(&text, listen, to).unwrap());
                }
            }
            assert!(model::addition::addition(&text, "53", "cnx6", &facts).is_some(), "{text}");
        }
    }

    #[test]
    fn a_forward_goes_however_its_port_is_spelt() {
        for spelt in ["8080", "8080/tcp"] {
            let text = remove_forward(TEXT, spelt).unwrap();
            assert_eq!(text, TEXT.replace("\n[[forward]]\nlisten = 8080\nto = \"cnx6\"\n", ""), "{spelt}");
        }
        let text = remove_forward(TEXT, "22210").unwrap();
        assert!(!text.contains("22210") && text.contains("# ours") && text.contains("# the LAN"), "{text}");
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let error = remove_forward(TEXT, "9090").unwrap_err().to_string();
        assert_eq!(error, "no forward listens on 9090\nthere is: 22210/tcp, 8080");
        assert!(matches!(remove_forward(TEXT, "not a port"), Err(EditError::Listen(_))));
        assert!(matches!(add_forward("forward = 1", "1", "a"), Err(EditError::Shape)));
        assert!(matches!(add_forward("= 1", "1", "a"), Err(EditError::Syntax(_))));
    }
}
