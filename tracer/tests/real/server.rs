//! `--server`: what the server itself says, with and without it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xtask::postgres::{Config, Server, free_port};

use crate::common::client::{Client, Kind};
use crate::common::pooler::{Pooler, Pooling};
use crate::common::report::Report;
use crate::common::tracer::{Output, Tracer, connleak, run};
use crate::common::{server, server_with, until_sessions};
use crate::{COULD_NOT_RUN, FOUND, NOTHING_FOUND};

/// Node over TLS, to a certificate that nobody signed.
const NODE_TLS: Kind = Kind::Node(r#"{"ssl":{"rejectUnauthorized":false},"idleTimeoutMillis":0}"#);

fn url(port: u16) -> String {
    format!("postgresql://postgres@127.0.0.1:{port}/postgres")
}

fn asking(server: &Server, urls: &[String]) -> Tracer {
    let mut more = vec!["--format", "json"];
    for url in urls {
        more.extend(["--server", url]);
    }
    Tracer::watch_with(server, &more)
}

fn coverage(report: &Report) -> Vec<&str> {
    let lines = report.0["capture"]["coverage"].as_array().expect("a list").iter();
    lines.map(|line| line.as_str().expect("text")).collect()
}

fn tls_server() -> Server {
    server_with(&Config { tls: true, ..Config::default() })
}

#[test]
fn transactions_from_before_the_start_are_proven_by_the_server() {
    let server = server();
    let mut client = Client::start(Kind::C, &server);
    client.run("leak transaction 3");
    let tracer = asking(&server, &[url(server.port())]);
    let output = tracer.finish_after_silence();
    let report = output.report();
    let finding = report.only_accusation();
    assert_eq!((finding.verdict(), finding.count()), ("idle in transaction", 3), "{:#}", report.0);
    assert_eq!(finding.certainty(), "proven", "{:#}", report.0);
    assert_eq!(finding.0["user"], "postgres", "{:#}", report.0);
    assert_eq!(finding.0["database"], "postgres", "{:#}", report.0);
    // Open for longer than they were watched: the server knows since when.
    let (held, watched) = (&finding.0["held_ms"]["min"], &report.0["capture"]["duration_ms"]);
    assert!(held.as_u64() > watched.as_u64(), "{:#}", report.0);
    assert_eq!(output.exit, FOUND);
    // Its own session is in none of the lists.
    assert_eq!(report.0["connections"].as_array().map(Vec::len), Some(3), "{:#}", report.0);
    for connection in report.connections_of(client.pid()) {
        assert_eq!(connection["server"]["state"], "idle in transaction", "{connection:#}");
        assert_eq!(connection["state"], "idle in transaction", "{connection:#}");
        assert!(connection["backend_pid"].is_u64(), "{connection:#}");
    }
    let used = &report.0["capture"]["servers"][0];
    assert_eq!((&used["sessions"], &used["max_sessions"]), (&3.into(), &200.into()), "{used:#}");
}

#[test]
fn without_the_server_transactions_from_before_the_start_are_not_known() {
    let server = server();
    let mut client = Client::start(Kind::C, &server);
    client.run("leak transaction 3");
    let output = asking(&server, &[]).finish_after_silence();
    let report = output.report();
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    assert!(report.0["capture"].get("servers").is_none(), "{:#}", report.0);
}

#[test]
fn idle_connections_from_before_the_start_are_idle_by_the_servers_word() {
    let server = server();
    let mut client = Client::start(Kind::C, &server);
    client.run("keep");
    let output = asking(&server, &[url(server.port())]).finish_after_silence();
    let report = output.report();
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    assert_eq!(output.exit, NOTHING_FOUND);
    let connections = report.connections_of(client.pid());
    assert_eq!(connections.len(), 1, "{:#}", report.0);
    assert_eq!(connections[0]["server"]["state"], "idle", "{:#}", report.0);
    assert!(coverage(&report).is_empty(), "{:#}", report.0);
}

#[test]
fn a_word_of_before_is_void_once_the_connection_speaks() {
    let server = server();
    let mut client = Client::start(Kind::Python, &server);
    client.run("prefill 1");
    let tracer = asking(&server, &[url(server.port())]);
    client.run("healthy 3");
    let report = tracer.finish_after_silence().report();
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    let connections = report.connections_of(client.pid());
    assert_eq!(connections.len(), 1, "{:#}", report.0);
    assert_eq!(connections[0]["server"]["state"], "idle", "{:#}", report.0);
}

#[test]
fn under_tls_a_listener_is_told_by_the_server() {
    let server = tls_server();
    let mut client = Client::start(NODE_TLS, &server);
    let tracer = asking(&server, &[url(server.port())]);
    client.run("listen");
    // Others are opened while it is silent, as where one was not given back.
    client.run("healthy 7");
    client.run("burst 7");
    // The server's own view of who asks: encrypted, for it offers that.
    let asks = "application_name = 'connleak' and pid in (select pid from pg_stat_ssl where ssl)";
    until_sessions(&server, asks, 1);
    let output = tracer.finish_after_silence();
    let report = output.report();
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    assert_eq!(output.exit, NOTHING_FOUND);
    let connections = report.connections_of(client.pid());
    assert_eq!(connections.len(), 8, "{:#}", report.0);
    for connection in &connections {
        assert_eq!(connection["tls"], true, "{connection:#}");
        assert_eq!(connection["user"], "postgres", "{connection:#}");
    }
    let listens = connections.iter().filter(|one| one["last_statement"] == "listen orders");
    assert_eq!(listens.count(), 1, "{:#}", report.0);
}

#[test]
fn under_tls_a_listener_is_no_more_than_suspected_without_the_server() {
    let server = tls_server();
    let mut client = Client::start(NODE_TLS, &server);
    let tracer = asking(&server, &[]);
    client.run("listen");
    client.run("healthy 7");
    client.run("burst 7");
    let report = tracer.finish_after_silence().report();
    let finding = report.only_accusation();
    assert_eq!((finding.count(), finding.certainty()), (1, "suspected"), "{:#}", report.0);
}

#[test]
fn under_tls_transactions_are_proven_by_the_server() {
    let server = tls_server();
    let mut client = Client::start(NODE_TLS, &server);
    let tracer = asking(&server, &[url(server.port())]);
    client.run("leak_alone idle_in_transaction 5");
    client.run("healthy 3");
    let report = tracer.finish_after_silence().report();
    let found = report.with_verdict("idle in transaction");
    assert_eq!(found.len(), 1, "{:#}", report.0);
    assert_eq!((found[0].count(), found[0].certainty()), (5, "proven"), "{:#}", report.0);
    assert_eq!(report.accusations().len(), 1, "{:#}", report.0);
}

#[test]
fn a_certificate_is_checked_where_that_is_asked_for() {
    let server = tls_server();
    let mut client = Client::start(Kind::C, &server);
    client.run("leak transaction 3");
    let own = server.socket_dir().join("data/server.crt").display().to_string();
    let other = TempDir::new().expect("a temporary directory");
    let other = other.path().join("other.crt");
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj"]);
    openssl.args(["/CN=other", "-keyout", "/dev/null", "-out"]).arg(&other);
    crate::common::process::output(&mut openssl);
    let asked = |certificate: &str| {
        let url = format!("{}?sslmode=verify-ca&sslrootcert={certificate}", url(server.port()));
        asking(&server, &[url]).finish_after_silence().report()
    };
    let report = asked(&own);
    assert_eq!(report.only_accusation().certainty(), "proven", "{:#}", report.0);
    let report = asked(other.to_str().expect("plain"));
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    assert!(coverage(&report).concat().contains("encrypting: "), "{:#}", report.0);
}

/// A normal report, and one warning about the server.
fn warns(output: &Output, words: &str) {
    let report = output.report();
    let finding = report.only_accusation();
    assert_eq!((finding.verdict(), finding.count()), ("idle in transaction", 3), "{:#}", report.0);
    assert_eq!(output.exit, FOUND);
    let coverage = coverage(&report);
    assert_eq!(coverage.len(), 1, "{coverage:?}");
    assert!(coverage[0].contains(words), "{coverage:?}");
    assert!(coverage[0].ends_with("the report is without its word"), "{coverage:?}");
}

fn leaked_while_asking(server: &Server, url: String) -> Output {
    let mut client = Client::start(Kind::C, server);
    let tracer = asking(server, &[url]);
    client.run("leak transaction 3");
    tracer.finish_after_silence()
}

#[test]
fn a_server_that_is_down_costs_a_warning_and_not_the_report() {
    let server = server();
    let closed = free_port().expect("a port is free");
    warns(&leaked_while_asking(&server, url(closed)), "Connection refused");
}

#[test]
fn a_server_that_does_not_answer_delays_nothing() {
    let server = server();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = silent.local_addr().expect("bound").port();
    let mut client = Client::start(Kind::C, &server);
    let tracer = asking(&server, &[url(port)]);
    client.run("leak transaction 3");
    Tracer::silence();
    let begun = Instant::now();
    tracer.interrupt();
    let output = tracer.finish();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    warns(&output, "did not answer in time");
}

#[test]
fn something_that_is_no_server_costs_a_warning() {
    use std::io::Write as _;
    let server = server();
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = other.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            // Whoever has gone needs no answer.
            let _gone =
                stream.and_then(|mut stream| stream.write_all(b"HTTP/1.1 400 \x1b[31m\r\n"));
        }
    });
    warns(&leaked_while_asking(&server, url(port)), "it is no PostgreSQL server");
}

/// A server that wants a password from the role `watcher`.
fn guarded_server(password: &str) -> Server {
    let access = "local all all trust\n\
                  host all watcher 127.0.0.1/32 scram-sha-256\n\
                  host all all 127.0.0.1/32 trust\n";
    let server = server_with(&Config { access: Some(access.to_owned()), ..Config::default() });
    let role = format!("create role watcher login password '{password}'");
    server.psql(&role).expect("a superuser");
    server
}

#[test]
fn a_password_is_taken_from_the_environment_and_is_in_no_output() {
    const PASSWORD: &str = "hunter2-hunter3";
    let server = guarded_server(PASSWORD);
    server.psql("grant pg_monitor to watcher").expect("a superuser");
    let directory = TempDir::new().expect("a temporary directory");
    let pgpass = directory.path().join("pgpass");
    fs::write(&pgpass, format!("127.0.0.1:*:*:watcher:{PASSWORD}\n")).expect("ours");
    fs::set_permissions(&pgpass, fs::Permissions::from_mode(0o600)).expect("ours");
    let mut client = Client::start(Kind::C, &server);
    client.run("leak transaction 3");
    let place = format!("127.0.0.1:{}/postgres", server.port());
    let open = format!("postgresql://watcher@{place}");
    let whole = |password: &str| format!("postgresql://watcher:{password}@{place}");
    let wrong = format!("not-{PASSWORD}");
    let pgpass = pgpass.to_str().expect("plain").to_owned();
    let port = server.port().to_string();
    for (number, (typed, variable, value, proven)) in [
        (true, "PGPASSWORD", PASSWORD.to_owned(), true),
        (true, "PGPASSFILE", pgpass, true),
        (false, "CONNLEAK_SERVER", whole(PASSWORD), true),
        (false, "CONNLEAK_SERVER", whole(&wrong), false),
    ]
    .into_iter()
    .enumerate()
    {
        let record = directory.path().join(number.to_string());
        let mut capture = connleak();
        capture.args(["-vv", "capture", "--port", &port, "--threshold", "1s", "--duration"]);
        capture.args(["600s", "--format", "json", "--record"]).arg(&record);
        if typed {
            capture.args(["--server", &open]);
        }
        let tracer = Tracer::start(capture.env(variable, value).env("HOME", "/nonexistent"));
        let output = tracer.finish_after_silence();
        let recording = fs::read_to_string(&record).expect("written");
        for text in [&output.stdout, &output.stderr, &recording] {
            assert!(!text.contains(PASSWORD), "{variable}: {text}");
        }
        let report = output.report();
        let found: Vec<_> = report.accusations().iter().map(|one| one.certainty()).collect();
        assert_eq!(found, if proven { vec!["proven"] } else { vec![] }, "{:#}", report.0);
        let refused = coverage(&report).concat().contains("password authentication failed");
        assert_eq!(refused, !proven, "{:#}", report.0);
        let replayed = run(connleak().args(["report", "--format", "json"]).arg(&record));
        assert_eq!(replayed.stdout, output.stdout);
    }
}

#[test]
fn what_a_role_may_not_see_is_told() {
    let server = guarded_server("hunter2");
    let mut client = Client::start(Kind::C, &server);
    client.run("leak transaction 3");
    let place = format!("127.0.0.1:{}/postgres", server.port());
    let open = format!("postgresql://watcher@{place}");
    let port = server.port().to_string();
    let mut capture = connleak();
    capture.args(["capture", "--port", &port, "--threshold", "1s", "--duration", "600s"]);
    capture.args(["--format", "json", "--server", &open]).env("PGPASSWORD", "hunter2");
    let report = Tracer::start(&mut capture).finish_after_silence().report();
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    assert!(coverage(&report).concat().contains("grant it pg_monitor"), "{:#}", report.0);
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    let hidden = "hunter2";
    for url in ["postgresql://me:hunter2@127.0.0.1/x", "postgresql://127.0.0.1/x?password=hunter2"]
    {
        let output = run(connleak().args(["capture", "--duration", "1s", "--server", url]));
        assert_eq!(output.exit, COULD_NOT_RUN, "{output:#?}");
        assert!(output.stderr.contains("PGPASSWORD"), "{output:#?}");
        assert!(output.stderr.contains("CONNLEAK_SERVER"), "{output:#?}");
        assert!(!(output.stderr + &output.stdout).contains(hidden));
    }
    let mut nonsense = connleak();
    nonsense.args(["capture", "--duration", "1s"]).env("CONNLEAK_SERVER", "nonsense:hunter2");
    let output = run(&mut nonsense);
    assert_eq!(output.exit, COULD_NOT_RUN, "{output:#?}");
    assert!(!(output.stderr + &output.stdout).contains(hidden));
}

#[test]
fn behind_a_pooler_clients_are_joined_with_the_servers_sessions() {
    let server = server();
    let pooler = Pooler::start(&server, Pooling::Transaction);
    let mut leaky = Client::spawn(Kind::C.command().envs(pooler.environment(&server)));
    let mut healthy = Client::spawn(Kind::C.command().envs(pooler.environment(&server)));
    leaky.run("leak transaction 3");
    healthy.run("keep");
    let console = format!("postgresql://postgres@127.0.0.1:{}/pgbouncer", pooler.port());
    let watch = |urls: &[String]| {
        let port = pooler.port().to_string();
        let mut capture = connleak();
        capture.args(["capture", "--port", &port, "--threshold", "1s", "--duration", "600s"]);
        capture.args(["--format", "json"]);
        for url in urls {
            capture.args(["--server", url]);
        }
        Tracer::start(&mut capture).finish_after_silence().report()
    };
    // The console knows who the clients are, the server behind it what they do.
    let report = watch(&[console.clone(), url(server.port())]);
    let finding = report.only_accusation();
    assert_eq!((finding.verdict(), finding.count()), ("idle in transaction", 3), "{:#}", report.0);
    assert_eq!(finding.certainty(), "proven", "{:#}", report.0);
    assert_eq!(finding.pid(), u64::from(leaky.pid()), "{:#}", report.0);
    let servers = report.0["capture"]["servers"].as_array().expect("a list");
    assert_eq!(servers.len(), 2, "{:#}", report.0);
    let bouncer = servers.iter().find(|one| {
        one["version"].as_str().is_some_and(|version| version.starts_with("PgBouncer "))
    });
    let bouncer = bouncer.expect("recognised by what it answers");
    assert_eq!((&bouncer["sessions"], &bouncer["max_sessions"]), (&4.into(), &97.into()));
    // Without the server behind it, only who they are.
    let report = watch(&[console]);
    assert!(report.accusations().is_empty(), "{:#}", report.0);
    for client in [&leaky, &healthy] {
        for connection in report.connections_of(client.pid()) {
            assert_eq!(connection["user"], "postgres", "{connection:#}");
            assert_eq!(connection["database"], "postgres", "{connection:#}");
        }
    }
}
