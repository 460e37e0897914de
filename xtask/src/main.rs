//! Everything a person types while working on connleak.
//!
//! One file per task, each with its `Options` and its `run`. Tasks install what they miss
//! ([`setup`]), so none has to be preceded by another.

mod apt;
mod bench;
mod build;
mod corpus;
mod demo;
mod go;
mod needs;
mod pythons;
mod run;
mod setup;
mod test;
mod tidy;
mod toolchain;
mod vm;

use std::process::ExitCode;

use clap::Parser as _;

/// Everything a person types while working on connleak
#[derive(clap::Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    Setup(setup::Options),
    Build(build::Options),
    Run(run::Options),
    Demo(demo::Options),
    Test(test::Options),
    Vm(vm::Options),
    Corpus(corpus::Options),
    Bench(bench::Options),
    Tidy(tidy::Options),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Setup(options) => setup::run(&options),
        Task::Build(options) => build::run(options),
        Task::Run(options) => run::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Vm(options) => vm::run(&options),
        Task::Corpus(options) => corpus::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Tidy(options) => tidy::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            // What only the person can mend is told apart from what went wrong.
            ExitCode::from(if error.is::<setup::Unavailable>() { 2 } else { 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Task::command().debug_assert();
    }
}
