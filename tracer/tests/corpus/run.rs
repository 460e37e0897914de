//! One scenario, run: a server, the client, the tracer, and what the report says.
//!
//! May import its neighbours. Invariant: whatever goes wrong with a scenario is its row's, and does
//! not stop the others.

use std::panic::{AssertUnwindSafe, catch_unwind};

use xtask::mysql;

use crate::common::client::Client;
use crate::common::pooler::Pooler;
use crate::common::report::{Finding, Report};
use crate::common::server_with;
use crate::common::tracer::Tracer;
use crate::scenario::{Accusation, Must, OWN, Scenario, Watched};
use crate::table::Row;

/// Where the clients' own functions are.
const CLIENTS: &str = "/tests/clients/";

/// Runs it.
pub fn run(scenario: &Scenario) -> Row {
    let watched = catch_unwind(AssertUnwindSafe(|| watch(scenario)));
    let row = |client: String| Row {
        client,
        scenario: scenario.name,
        leaky: matches!(scenario.must, Must::Accuse(_)),
        untold: matches!(scenario.must, Must::Untold),
        said: Vec::new(),
        wrong: None,
    };
    match watched {
        Ok((client, pid, report)) => Row {
            said: report.findings().iter().map(|finding| words(*finding)).collect(),
            wrong: judge(scenario.must, &report, pid).err(),
            ..row(match client {
                Some(versions) => format!("{} ({versions})", scenario.client),
                None => scenario.client.to_owned(),
            })
        },
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
            Row {
                wrong: Some(said.unwrap_or("it panicked").to_owned()),
                ..row(scenario.client.to_owned())
            }
        }
    }
}

/// What the client says it is, its process, and the report.
fn watch(scenario: &Scenario) -> (Option<String>, u32, Report) {
    if scenario.mysql {
        let server = mysql::Server::start().expect("MariaDB starts");
        return watch_on(scenario, server.port(), &server.environment(), None);
    }
    let server = server_with(&(scenario.server)());
    match scenario.pooler.map(|mode| Pooler::start(&server, mode)) {
        Some(pooler) => {
            watch_on(scenario, server.port(), &pooler.environment(&server), Some(&pooler))
        }
        None => watch_on(scenario, server.port(), &server.environment(), None),
    }
}

/// The same with the client led to a server, or to a pooler in front of it.
fn watch_on(
    scenario: &Scenario,
    port: u16,
    environment: &[(&'static str, String)],
    pooler: Option<&Pooler>,
) -> (Option<String>, u32, Report) {
    let environment = environment.iter().map(|(name, value)| (name, value));
    let mut client = Client::spawn((scenario.start)().envs(environment));
    for step in scenario.before {
        client.run(step);
    }
    let target = match scenario.watched {
        Watched::Client => Some(client.pid()),
        Watched::Pooler => Some(pooler.expect("there is one").pid()),
        Watched::Everybody => None,
    };
    let target = target.map(|pid| pid.to_string());
    let pooler = pooler.map(|pooler| pooler.port().to_string());
    let mut options = vec!["--format", "json"];
    options.extend(target.iter().flat_map(|pid| ["--pid", pid]));
    options.extend(pooler.iter().flat_map(|port| ["--port", port]));
    let tracer = Tracer::watch_port(port, &options);
    for step in scenario.steps {
        client.run(step);
    }
    let output = tracer.finish_after_silence();
    let report = output.report();
    assert_eq!(report.lost(), 0, "{output:#?}");
    let mut description = client.description().map(str::to_owned);
    if let (Some(description), Some(pooling)) = (&mut description, scenario.pooler) {
        *description = format!("{description}, {}", Pooler::description(pooling));
    }
    (description, client.pid(), report)
}

/// A finding in the table: verdict, count, certainty, and who is blamed.
fn words(finding: Finding<'_>) -> [String; 4] {
    let blamed = match (finding.function(), finding.file(), finding.line()) {
        (Some(function), Some(file), Some(line)) => {
            let file = file.rsplit('/').next().unwrap_or(file);
            format!("{function} {file}:{line}")
        }
        (Some(function), ..) => function.to_owned(),
        _ => "no line known".to_owned(),
    };
    let (verdict, certainty) = (finding.verdict().to_owned(), finding.certainty().to_owned());
    [verdict, finding.count().to_string(), certainty, blamed]
}

/// Whether the report says what it must.
fn judge(must: Must, report: &Report, client: u32) -> Result<(), String> {
    let accusations = report.accusations();
    match must {
        Must::Accuse(wanted) => match accusations[..] {
            [] => Err("missed".to_owned()),
            [one] if one.pid() != u64::from(client) => Err("of another process".to_owned()),
            [one] => is(one, wanted),
            ref all => Err(format!("{} accusations instead of one", all.len())),
        },
        Must::Nothing | Must::Untold | Must::Inform(_) if !accusations.is_empty() => {
            Err("false alarm".to_owned())
        }
        Must::Nothing | Must::Untold => match report.findings()[..] {
            [] => Ok(()),
            [one, ..] => Err(format!("says {} of nothing", one.verdict())),
        },
        Must::Inform(verdict) => match report.findings()[..] {
            [one] if one.verdict() == verdict => Ok(()),
            _ => Err(format!("does not say {verdict}, or more than that")),
        },
    }
}

fn is(finding: Finding<'_>, wanted: Accusation) -> Result<(), String> {
    let same = |what: &str, found: &str, wanted: &str| {
        if found == wanted {
            Ok(())
        } else {
            Err(format!("{what} is {found} and must be {wanted}"))
        }
    };
    same("verdict", finding.verdict(), wanted.verdict)?;
    same("count", &finding.count().to_string(), &wanted.count.to_string())?;
    same("certainty", finding.certainty(), wanted.certainty)?;
    if wanted.function == OWN {
        let is_own = finding.file().is_some_and(|file| file.contains(CLIENTS));
        return if is_own { Ok(()) } else { Err("nobody's function is blamed".to_owned()) };
    }
    let nobody = "nobody";
    same("who is blamed", finding.function().unwrap_or(nobody), wanted.function.unwrap_or(nobody))
}
