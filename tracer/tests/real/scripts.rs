//! PHP, whose functions and lines are named, and Ruby, of which the report says that they are not.

use crate::common::client::{Kind, leak_line_in};
use crate::{FOUND, NOTHING_FOUND, watch};

const SOURCE: &str = "php/frames.php";

/// The shapes of `frames.php`, and the function of each.
const SHAPES: [(&str, &str); 5] = [
    ("method", "Shop\\Größe\\Model::läs"),
    ("recursive", "Shop\\Größe\\descend"),
    ("closure", "Shop\\Größe\\{closure}"),
    ("generator", "Shop\\Größe\\inner"),
    ("thrown", "Shop\\Größe\\frames"),
];

#[test]
fn functions_of_php_are_found() {
    let commands = SHAPES.map(|(shape, _)| format!("frames {shape} 3"));
    let seen = watch(Kind::Php, &commands.each_ref().map(String::as_str));
    let whole = &seen.report.0;
    let accusations = seen.report.accusations();
    let mut found: Vec<_> = accusations
        .iter()
        .map(|finding| {
            // All begin by the same helper; what each did then is its last use.
            assert_eq!(finding.function(), Some("Shop\\Größe\\begin"), "{whole:#}");
            assert_eq!(finding.line(), Some(leak_line_in(SOURCE, "begin")), "{whole:#}");
            let last = finding.innermost("last_use").expect("a frame of the program's own");
            let at_home = last["file"].as_str().is_some_and(|file| file.ends_with(SOURCE));
            let said = (finding.verdict(), finding.certainty(), finding.count());
            (last["function"].as_str().unwrap_or("?"), at_home, last["line"].as_u64(), said)
        })
        .collect();
    found.sort_unstable();
    let mut wanted = SHAPES.map(|(shape, function)| {
        (function, true, Some(leak_line_in(SOURCE, shape)), ("idle in transaction", "proven", 3))
    });
    wanted.sort_unstable();
    assert_eq!(found, wanted, "{whole:#}");
    assert_eq!(seen.exit, FOUND);
}

#[test]
fn functions_of_php_whose_transactions_end_are_not_reported() {
    let commands = SHAPES.map(|(shape, _)| format!("frames_ended {shape} 3"));
    let seen = watch(Kind::Php, &commands.each_ref().map(String::as_str));
    assert!(seen.report.accusations().is_empty(), "{:#}", seen.report.0);
    assert_eq!(seen.exit, NOTHING_FOUND);
}

#[test]
fn of_ruby_the_script_is_named_and_why_no_function_is() {
    let seen = watch(Kind::Ruby, &["leak transaction 3"]);
    let whole = &seen.report.0;
    let finding = seen.report.only_accusation();
    let said = (finding.verdict(), finding.certainty(), finding.count(), finding.function());
    assert_eq!(said, ("idle in transaction", "proven", 3, None), "{whole:#}");
    let stacks = finding.0["stacks"].as_array().expect("a list");
    assert!(!stacks.is_empty(), "{whole:#}");
    for stack in stacks {
        let why = stack["truncated"].as_str().unwrap_or_default();
        let beginning = "no Ruby frames: its functions and lines are not read; the script is /";
        assert!(why.starts_with(beginning) && why.ends_with("/ruby/main.rb"), "{why}");
    }
}
