//! Everything a person types while working on connleak.
fn main() {}
