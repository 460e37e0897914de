//! The corpus: real programs on real clients, leaky and healthy, and what connleak says of each.
//!
//! One file per family of clients lists its scenarios as data; [`run`] runs one against a server of
//! its own, [`table`] prints what came of all. Needs root, PostgreSQL and the installed clients;
//! selected by the feature `real`, with `main` instead of the test harness because the table is its
//! output. Invariant: the exit code is 0 only when every scenario gave what it must.

#[path = "../common/mod.rs"]
mod common;

mod c;
mod go;
mod java;
mod node;
mod php;
mod pooler;
mod python;
mod ruby;
mod run;
mod rust;
mod scenario;
mod table;

use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use scenario::Scenario;
use table::Table;

/// Scenarios at a time: they wait more than they work.
const AT_A_TIME: usize = 4;

/// What was asked for on the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// Only the scenarios that are part of every test.
    fast: bool,
    /// Only those whose client or name contains one of these words.
    words: Vec<String>,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--fast" => options.fast = true,
                word => options.words.push(word.to_owned()),
            }
        }
        options
    }

    fn wants(&self, scenario: &Scenario) -> bool {
        let contains = |word: &String| {
            scenario.client.contains(word.as_str()) || scenario.name.contains(word.as_str())
        };
        (!self.fast || scenario.fast) && (self.words.is_empty() || self.words.iter().any(contains))
    }
}

fn main() -> ExitCode {
    let options = Options::parse(std::env::args().skip(1));
    let families = [
        node::scenarios(),
        go::scenarios(),
        python::scenarios(),
        rust::scenarios(),
        java::scenarios(),
        php::scenarios(),
        ruby::scenarios(),
        c::scenarios(),
        pooler::scenarios(),
    ];
    let wanted: Vec<Scenario> =
        families.into_iter().flatten().filter(|scenario| options.wants(scenario)).collect();
    if wanted.is_empty() {
        eprintln!("corpus: no scenario of that name");
        return ExitCode::from(2);
    }
    let table = Mutex::new(Table::default());
    let next = Mutex::new(wanted.iter().enumerate());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let taken = next.lock().expect("no holder panics").next();
                    let Some((index, scenario)) = taken else { return };
                    let row = run::run(scenario);
                    println!("corpus: {}", row.line());
                    table.lock().expect("no holder panics").add(index, row);
                }
            });
        }
    });
    let table = table.into_inner().expect("no holder panicked");
    print!("\n{table}");
    if table.is_as_expected() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
