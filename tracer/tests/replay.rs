//! Recorded streams and the reports they must give, byte for byte; and properties of the model.
//!
//! `UPDATE_EXPECT=1 cargo test -p tracer --test replay` rewrites streams and reports; what it
//! changes is for a person to judge.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may panic; clippy knows only the test functions as tests"
)]

#[path = "streams/holders.rs"]
mod holders;
#[path = "streams/native.rs"]
mod native;
#[path = "streams/places.rs"]
mod places;
#[path = "streams/pool_properties.rs"]
mod pool_properties;
#[path = "streams/pools.rs"]
mod pools;
#[path = "streams/properties.rs"]
mod properties;
#[path = "streams/scenarios.rs"]
mod scenarios;
#[path = "streams/scene.rs"]
mod scene;
#[path = "streams/transactions.rs"]
mod transactions;
#[path = "streams/traps.rs"]
mod traps;

use std::path::PathBuf;

use expect_test::expect_file;
use tracer::{
    model::{Certainty, Event, Verdict},
    record::{Reader, Writer, replay},
    report::{Report, TextOptions, exit_code, write_json, write_text},
};

use scenarios::SCENARIOS;

fn recording(events: &[Event]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &scene::header()).unwrap();
    for event in events {
        writer.event(event).unwrap();
    }
    let end = events.last().map_or(scene::ms(0), Event::at);
    writer.finish(end, &[]).unwrap()
}

fn report_of(recording: &[u8]) -> Report {
    replay(Reader::open(recording, "stream").unwrap()).unwrap()
}

fn scenario(name: &str) -> Report {
    let (_, stream) = SCENARIOS.iter().find(|(known, _)| *known == name).unwrap();
    report_of(&recording(&stream()))
}

fn text(report: &Report, options: TextOptions) -> String {
    let mut out = Vec::new();
    write_text(report, options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn json(report: &Report) -> String {
    let mut out = Vec::new();
    write_json(report, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "streams", name].iter().collect()
}

#[test]
fn streams_give_their_reports() {
    for (name, stream) in SCENARIOS {
        let recording = String::from_utf8(recording(&stream())).unwrap();
        expect_file![path(&format!("{name}.jsonl"))].assert_eq(&recording);
        let report = report_of(recording.as_bytes());
        expect_file![path(&format!("{name}.txt"))]
            .assert_eq(&text(&report, TextOptions::default()));
        expect_file![path(&format!("{name}.json"))].assert_eq(&json(&report));
    }
}

#[test]
fn no_healthy_stream_gives_a_finding() {
    for (name, _) in SCENARIOS {
        let findings = scenario(name).findings;
        let healthy = name.starts_with("healthy") || *name == "nothing";
        assert_eq!(findings.is_empty(), healthy, "{name}: {findings:#?}");
    }
}

#[test]
fn reports_follow_their_schema() {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "schema", "report.schema.json"].iter().collect();
    let schema = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    for (name, _) in SCENARIOS {
        let report = serde_json::from_str(&json(&scenario(name))).unwrap();
        let errors: Vec<_> = schema.iter_errors(&report).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
    }
    let mut wrong: serde_json::Value = serde_json::from_str(&json(&scenario("nothing"))).unwrap();
    wrong["findings"] = serde_json::json!([{ "verdict": "leek" }]);
    assert!(!schema.is_valid(&wrong));
}

#[track_caller]
fn finds(name: &str, verdict: Verdict, certainty: Certainty, count: u64, function: Option<&str>) {
    let report = scenario(name);
    let [finding] = report.findings.as_slice() else { panic!("{:#?}", report.findings) };
    let blame = finding.blame.as_ref().map(|blame| blame.function.as_str());
    assert_eq!(
        (finding.verdict, finding.certainty, finding.count, blame),
        (verdict, certainty, count, function)
    );
    assert_eq!(exit_code(&report), u8::from(verdict.is_fault()));
}

#[test]
fn an_observed_checkout_without_release_is_a_proven_leak() {
    let total = Some("main.(*billing).invoiceTotal");
    finds("leak_observed", Verdict::Leak, Certainty::Proven, 5, total);
    finds("leak_observed_exit", Verdict::Leak, Certainty::Proven, 5, total);
}

#[test]
fn losses_make_it_less_certain() {
    let total = Some("main.(*billing).invoiceTotal");
    finds("leak_observed_lost", Verdict::Leak, Certainty::Strong, 5, total);
}

#[test]
fn a_path_whose_connections_are_passed_over_again_and_again_leaks() {
    finds("leak_inferred", Verdict::Leak, Certainty::Strong, 5, Some("getUser"));
    finds("leak_inferred_burst", Verdict::Leak, Certainty::Strong, 7, Some("getUser"));
}

#[test]
fn an_inference_with_a_healthy_explanation_left_is_a_suspicion() {
    finds("leak_inferred_once", Verdict::Leak, Certainty::Suspected, 1, Some("getUser"));
    finds("leak_inferred_tls", Verdict::Leak, Certainty::Suspected, 2, Some("getUser"));
    finds("leak_before_the_watch", Verdict::Leak, Certainty::Suspected, 2, None);
}

#[test]
fn without_application_frames_no_library_is_blamed() {
    finds("leak_without_names", Verdict::Leak, Certainty::Strong, 4, None);
    assert!(
        text(&scenario("leak_without_names"), TextOptions::default())
            .contains("Application frames are not on the")
    );
}

#[test]
fn the_server_says_that_a_transaction_is_open() {
    finds("idle_in_transaction", Verdict::IdleInTransaction, Certainty::Proven, 2, Some("reserve"));
    finds("leak_in_transaction", Verdict::Leak, Certainty::Proven, 1, Some("reserve"));
}

#[test]
fn unused_connections_of_a_pool_that_opens_on_demand_are_found() {
    finds("never_used", Verdict::NeverUsed, Certainty::Strong, 2, Some("warmUp"));
}

#[test]
fn a_return_inside_a_transaction_is_proven_by_the_pool_and_the_server() {
    let verdict = Verdict::ReturnedInTransaction;
    let reserve = Some("main.(*stock).reserve");
    finds("returned_in_transaction", verdict, Certainty::Proven, 3, reserve);
    let why = &scenario("returned_in_transaction").findings[0].evidence;
    assert!(why.iter().any(|why| why.contains("1 of them went out again")), "{why:?}");
}

#[test]
fn pools_that_are_made_again_and_again_are_found_by_the_line_that_opens() {
    let verdict = Verdict::AbandonedPool;
    finds("abandoned_pool", verdict, Certainty::Strong, 8, Some("main.rate"));
    finds("abandoned_pool_filled", verdict, Certainty::Strong, 24, None);
    finds("abandoned_pool_by_threads", verdict, Certainty::Suspected, 24, None);
    finds("abandoned_pool_of_the_driver", verdict, Certainty::Suspected, 9, None);
}

#[test]
fn what_was_taken_before_the_probes_were_there_is_suspected() {
    let total = Some("main.(*billing).total");
    finds("leak_before_the_probes", Verdict::Leak, Certainty::Suspected, 3, total);
}

#[test]
fn suspicions_from_before_stand_with_the_certain_finding() {
    let report = scenario("leak_with_suspicions_from_before");
    let certain: Vec<_> = report.findings.iter().map(|finding| finding.certainty).collect();
    assert_eq!(certain[0], Certainty::Proven);
    assert!(certain.len() > 1 && certain[1..].iter().all(|c| *c == Certainty::Suspected));
    let text = text(&report, TextOptions::default());
    assert_eq!(text.matches("LEAK: ").count(), 1, "{text}");
    assert!(text.contains("more connections of this process have been silent"), "{text}");
}

#[test]
fn the_time_until_the_pool_is_empty_is_told_where_its_size_is_known() {
    let without = scenario("leak_observed");
    assert_eq!((without.findings[0].pool_max, without.findings[0].exhausted_in_ms), (None, None));
    assert!(!text(&without, TextOptions::default()).contains("is empty in"));
    let report = scenario("leak_in_a_pool_of_known_size");
    let leak = &report.findings[0];
    // Five are out of thirty, and the report says how many a minute.
    assert_eq!(leak.pool_max, Some(30));
    let pace = leak.growth_per_minute.unwrap();
    let wanted = (25.0 * 60_000.0 / pace) as u64;
    assert!(leak.exhausted_in_ms.unwrap().abs_diff(wanted) <= 1, "{leak:#?}");
    let with = text(&report, TextOptions::default());
    assert!(with.contains("at this pace the pool of 30 is empty in "), "{with}");
}

#[test]
fn a_long_query_is_information() {
    finds("long_query", Verdict::LongQuery, Certainty::Proven, 1, None);
    let export = Some("main.(*billing).export");
    finds("long_query_with_notices", Verdict::LongQuery, Certainty::Proven, 1, export);
}

/// Verdicts and counts, and whether callers are told to wait.
fn said(name: &str) -> Vec<(Verdict, u64, bool)> {
    let waits = |why: &String| why.contains("for a connection of this pool");
    let findings = scenario(name).findings.into_iter();
    findings.map(|row| (row.verdict, row.count, row.evidence.iter().any(waits))).collect()
}

#[test]
fn a_leak_and_a_pool_that_is_too_small_are_told_apart() {
    finds("pool_too_small", Verdict::PoolTooSmall, Certainty::Strong, 2, None);
    finds("pool_too_small_out_of_turn", Verdict::PoolTooSmall, Certainty::Strong, 2, None);
    finds("pool_too_small_short_lived", Verdict::PoolTooSmall, Certainty::Strong, 2, None);
    assert_eq!(said("leak_with_waiters"), [(Verdict::Leak, 3, true)]);
    assert_eq!(said("leak_in_a_small_pool"), [(Verdict::Leak, 1, true)]);
    let each = [(Verdict::Leak, 2, false), (Verdict::PoolTooSmall, 2, false)];
    assert_eq!(said("leak_beside_a_small_pool"), each);
    assert_eq!(said("leak_before_a_small_pool"), [(Verdict::Leak, 4, false)]);
    assert_eq!(said("long_query_with_waiters"), [(Verdict::LongQuery, 2, true)]);
}

#[test]
fn an_answer_that_nobody_reads_is_a_leak_as_certain_as_its_checkout() {
    let export = Some("main.(*billing).export");
    finds("leak_unread", Verdict::Leak, Certainty::Proven, 3, export);
    finds("leak_unread_and_read", Verdict::Leak, Certainty::Proven, 5, export);
    finds("leak_unread_inferred", Verdict::Leak, Certainty::Suspected, 1, Some("load"));
    let why = &scenario("leak_unread").findings[0].evidence;
    assert!(why.iter().any(|why| why.contains("344017 bytes of the server's answer")), "{why:?}");
    let why = &scenario("leak_unread_inferred").findings[0].evidence;
    assert!(why.iter().any(|why| why.contains("still working on the rows it has")), "{why:?}");
}

#[test]
fn text_fits_eighty_columns_and_holds_no_control_character() {
    for (name, _) in SCENARIOS {
        let text = text(&scenario(name), TextOptions { color: false, stacks: true });
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
            assert!(
                !line.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{2069}').contains(&c)),
                "{name}: {line:?}"
            );
        }
    }
}

#[test]
fn json_holds_no_markup_and_gives_the_strings_back() {
    let report = scenario("hostile_names");
    let json = json(&report);
    assert!(!json.contains(['<', '>', '&', '\u{202e}', '\u{2066}', '\x1b']));
    let read: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read["findings"][0]["pool"], "<script>\u{202e}pool");
}

#[test]
fn colour_changes_nothing_but_colour() {
    let report = scenario("leak_inferred");
    let plain = text(&report, TextOptions::default());
    let colored = text(&report, TextOptions { color: true, stacks: false });
    assert!(colored.contains("\x1b["));
    let mut stripped = String::new();
    let mut rest = colored.as_str();
    while let Some((before, after)) = rest.split_once("\x1b[") {
        stripped += before;
        rest = after.split_once('m').unwrap().1;
    }
    assert_eq!(stripped + rest, plain);
}

#[test]
fn a_recording_without_its_end_gives_the_report_and_says_so() {
    let (_, stream) = SCENARIOS[0];
    let whole = recording(&stream());
    let cut = &whole[..whole.len() - 30];
    let report = report_of(cut);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(exit_code(&report), 2);
    assert!(text(&report, TextOptions::default()).contains("Not everything was seen"));
}
