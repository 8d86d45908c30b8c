//! The runs of fault injection.

fn main() {}
