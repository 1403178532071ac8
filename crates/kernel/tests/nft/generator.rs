use model::ruleset::Table; use proptest::prelude::*; pub fn table() -> impl Strategy<Value = Table> { Just(crate::tables::inet()) }
