//! The program itself: settings and refusals, migrations, the worker, the stop, and what its output never shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jam_domain::PreimageHash;
use serde_json::json;
use sqlx::Executor as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::api_support::{Server, TOKEN, World, answer, file, jam_api, package, ran, until};
use crate::support::postgres;

const MANIFEST: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: jam}\n---\n\
    apiVersion: jam.network/v1alpha1\nkind: JamInstance\nmetadata: {name: quickstart, namespace: jam}\n\
    spec:\n  replicas: 3\n  runtime: {jam: {enabled: true, store: memory, rateLimitPerMinute: 6000}}\n\
    tokens: {consumers: [{name: demo}]}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_runs_on_a_laptop_once_a_token_is_named() {
    let (_dir, path) = file("quickstart.yaml", MANIFEST);
    let config =
        ["serve", "--config", path.to_str().unwrap(), "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let (code, _, err) = ran(&config, &[]).await;
    assert_eq!((code, err.lines().count()), (2, 1), "{err}");
    assert!(err.contains("JAM_ALLOWED_TOKENS=$(openssl rand -hex 32) jam-api serve"), "{err}");
    let mut command = jam_api(&config);
    command.env("JAM_ALLOWED_TOKENS", TOKEN);
    let server = Server::of(command).await;
    assert_eq!(server.get("/jam/status").await.expect(200).json()["rate_limit_per_minute"], 6000);
    until("the warning", async || server.log().contains("ephemeral").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_warns_once_that_it_is_ephemeral_and_postgres_never() {
    for (world, warnings) in [(World::memory(), 1), (World::postgres().await, 0)] {
        let mut server = world.serve().await;
        server.submit("s", "").await;
        server.get("/system/status").await.expect(200);
        server.signal("TERM").await;
        assert!(server.ended().await.success());
        let log = until("the last line", async || Some(server.log()).filter(|log| log.contains("\"stopped\""))).await;
        assert_eq!(log.matches("ephemeral").count(), warnings, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_wrong_are_refused_by_name_all_at_once() {
    let (_dir, path) = file("jam.yaml", "store: redis\ncolour: red\n");
    let arguments = ["check-config", "--config", path.to_str().unwrap(), "--rate-limit-per-minute", "many"];
    let (code, out, err) = ran(&arguments, &[("JAM_ENABLED", "perhaps")]).await;
    assert_eq!((code, out.as_str()), (2, ""));
    for key in ["store", "colour", "rate_limit_per_minute", "enabled", "allowed_tokens"] {
        assert!(err.lines().any(|line| line.starts_with(&format!("jam-api: {key} "))), "{key} in {err}");
    }
    for arguments in [
        &["serve", "--store", "postgres"][..],
        &["serve", "--otlp-endpoint", "otel:4318"],
        &["serve", "--no-such-flag"],
        &[],
    ] {
        let (code, _, err) = ran(arguments, &[("JAM_ALLOWED_TOKENS", "t")]).await;
        assert_eq!(code, 2, "{arguments:?}: {err}");
    }
    let (code, _, err) = ran(&["serve", "--config", "/no/such/file"], &[]).await;
    assert!(code == 2 && err.contains("/no/such/file"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_shows_every_setting_its_source_and_no_secret() {
    let environment =
        [("JAM_ALLOWED_TOKENS", "hush-1,hush-2"), ("DATABASE_URL", "postgres://u:hush@h/d"), ("JAM_STORE", "postgres")];
    let (code, out, err) = ran(&["check-config", "--retention-days", "3"], &environment).await;
    assert_eq!((code, err.as_str()), (0, ""));
    for line in [
        "store = \"postgres\"  # environment JAM_STORE",
        "retention_days = 3  # flag --retention-days",
        "pg_dsn = <redacted>  # environment DATABASE_URL",
        "allowed_tokens = <2 redacted>  # environment JAM_ALLOWED_TOKENS",
        "rate_limit_per_minute = 60  # profile local",
    ] {
        assert!(out.lines().any(|l| l == line), "{line} in\n{out}");
    }
    assert!(!out.contains("hush"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_applies_once_says_what_and_exits_3_when_it_never_can() {
    let dsn = postgres::fresh_database().await;
    let migrate = async |arguments: &[&str]| ran(arguments, &[("JAM_STORE", "postgres"), ("JAM_PG_DSN", &dsn)]).await;
    let (code, out, err) = migrate(&["migrate", "--status"]).await;
    assert!(code == 1 && out.contains("schema version none") && err.contains("jam-api migrate"), "{out}{err}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result");
    let (code, out, _) = migrate(&["migrate", "--dry-run", "--result-file", file.to_str().unwrap()]).await;
    assert!(code == 0 && out.contains("would apply: 1 "), "{out}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), out, "the operator reads the same");
    let (one, two) = tokio::join!(migrate(&["migrate"]), migrate(&["migrate"]));
    assert_eq!((one.0, two.0), (0, 0), "{one:?} {two:?}");
    assert_eq!([&one.1, &two.1].iter().filter(|out| out.contains("applied: 1 ")).count(), 1, "{one:?} {two:?}");
    assert!(migrate(&["migrate"]).await.1.contains("nothing applied"));
    let (_, out, _) = migrate(&["migrate", "--dry-run", "--result-file", file.to_str().unwrap()]).await;
    assert!(jam_plan::observed::applies_nothing(&out), "the operator knows by this that nobody has to approve: {out}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), out);
    assert_eq!(migrate(&["migrate", "--status"]).await.0, 0);
    postgres::execute(&dsn, "delete from _sqlx_migrations where version = 3").await;
    let (code, out, _) = migrate(&["migrate", "--status"]).await;
    assert!(code == 1 && out.contains("schema version 2,") && out.contains("is pending: 3 "), "{code} {out}");
    postgres::execute(&dsn, "update _sqlx_migrations set version = 999 where version = 1").await;
    let (code, _, err) = migrate(&["migrate"]).await;
    assert_eq!(code, 3, "{err}");
    let (code, out, _) = ran(&["migrate"], &[]).await;
    assert!(code == 0 && out.contains("nothing to migrate"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_told_to_stop_ends_at_once_and_leaves_nothing_half_done() {
    let dsn = postgres::fresh_database().await;
    let mut other = postgres::connect(&dsn).await;
    // Somebody makes the table of migrations and does not commit: the migration waits in the middle of a statement.
    other.execute("begin; create table _sqlx_migrations (version bigint)").await.unwrap();
    let mut command = jam_api(&["migrate"]);
    command.envs([("JAM_STORE", "postgres"), ("JAM_PG_DSN", &dsn)]);
    let child = command.spawn().unwrap();
    let pid = child.id().unwrap().to_string();
    until("it waits in the database", async || {
        const WAITING: &str =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        (postgres::number(&dsn, WAITING).await == 1).then_some(())
    })
    .await;
    assert!(tokio::process::Command::new("kill").args(["-s", "TERM", &pid]).status().await.unwrap().success());
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await;
    let output = ended.expect("it does not wait for the database").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(143), "{said}");
    assert!(said.contains("stopped half way"), "{said}");
    other.execute("rollback").await.unwrap();
    let (code, out, err) = ran(&["migrate"], &[("JAM_STORE", "postgres"), ("JAM_PG_DSN", &dsn)]).await;
    assert!(code == 0 && out.contains("applied: 1 "), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_whose_time_is_up_ends_by_itself_and_says_what_it_waited_for() {
    const LOCKS: &str = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
        where d.datname = current_database() and locktype = 'advisory'";
    let dsn = postgres::fresh_database().await;
    let mut other = postgres::connect(&dsn).await;
    // The first run waits in the middle of a statement, the second one for the first.
    other.execute("begin; create table _sqlx_migrations (version bigint)").await.unwrap();
    let world = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn.as_str())];
    let mut first = jam_api(&["migrate"]).envs(world).spawn().unwrap();
    until("the first run", async || (postgres::number(&dsn, LOCKS).await == 1).then_some(())).await;
    let (code, out, err) = ran(&["migrate", "--timeout", "5"], &world).await;
    let last = err.lines().last().unwrap_or_default();
    assert_eq!((code, out.as_str()), (124, ""), "{err}");
    assert!(last.contains("gave up after 5 s, waiting for another migration of this database: process "), "{last}");
    assert!(last.contains(" of postgres") && last.contains("--timeout, spec.migrations.timeoutSeconds"), "{last}");
    assert_eq!(postgres::number(&dsn, LOCKS).await, 1, "it does not wait on in the database");
    first.kill().await.unwrap();
    other.execute("rollback").await.unwrap();
    let (code, out, err) = ran(&["migrate"], &[&world[..], &[("JAM_MIGRATE_TIMEOUT", "60s")]].concat()).await;
    assert!(code == 0 && out.contains("applied: 1 "), "{out}{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_not_exactly_ours_is_not_ready_until_it_is_migrated() {
    let dsn = postgres::fresh_database().await;
    let settings = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn.as_str())];
    let server = Server::with(&settings).await;
    let unready = answer(server.bare("GET", "/readyz")).await.expect(503);
    assert_eq!(unready.header("retry-after"), "2");
    let unready = unready.json();
    assert_eq!((&unready["checks"]["store"]["ok"], &unready["checks"]["schema"]["ok"]), (&json!(true), &json!(false)));
    assert!(unready["checks"]["schema"]["reason"].as_str().unwrap().contains("jam-api migrate"), "{unready}");
    server.get("/jam/packages").await.refused(503, "jam_store_unavailable");
    let [first, second] = [ran(&["migrate"], &settings).await, ran(&["migrate"], &settings).await];
    assert_eq!((first.0, second.0), (0, 0));
    assert!(!second.2.contains("already exists"), "a second run says nothing of what is there: {}", second.2);
    until("readiness", async || (answer(server.bare("GET", "/readyz")).await.status == 200).then_some(())).await;
    server.submit("s", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_a_database_of_another_program_from_an_empty_one() {
    for (sql, reason) in [
        ("select 1", "the database has no schema yet, version "),
        ("create table customers (id int)", "the database is another program's, and no migration is applied to it: name an empty one"),
        (
            "create table _sqlx_migrations (version bigint primary key, description text not null, success boolean not null,
                checksum bytea not null); insert into _sqlx_migrations values (20240101, 'init', true, 'x')",
            "the database is another program's, ",
        ),
    ] {
        let dsn = postgres::fresh_database().await;
        postgres::execute(&dsn, sql).await;
        let settings = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn.as_str())];
        let server = Server::with(&settings).await;
        let schema = answer(server.bare("GET", "/readyz")).await.expect(503).json()["checks"]["schema"].take();
        assert!(schema["reason"].as_str().unwrap().starts_with(reason), "{sql}: {schema}");
        assert_eq!((schema["ok"].clone(), schema["found"].clone()), (json!(false), json!(null)), "{sql}");
        let says = if reason.contains("no schema") { 0 } else { 3 };
        assert_eq!(ran(&["migrate"], &settings).await.0, says, "{sql}: migrate does what readiness says");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_is_503_with_retry_after_and_heals_by_itself() {
    let database = postgres::Server::private();
    let dsn = database.migrated_database().await;
    database.stop();
    let settings = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn.as_str())];
    let server = Server::with(&settings).await;
    let ready = async || answer(server.bare("GET", "/readyz")).await;
    for _ in 0..2 {
        let unready =
            until("unreadiness", async || Some(ready().await).filter(|answer| answer.status == 503)).await.json();
        assert_eq!(
            (&unready["code"], &unready["checks"]["store"]["ok"]),
            (&json!("jam_store_unavailable"), &json!(false))
        );
        let away = server.get("/jam/packages").await;
        assert!(away.header("retry-after").parse::<u32>().unwrap() >= 1);
        away.refused(503, "jam_store_unavailable");
        server.post("/jam/packages", &package("s", "")).await.refused(503, "jam_store_unavailable");
        server.post("/jam/process", &json!(null)).await.refused(503, "jam_store_unavailable");
        let put = server.request("PUT", &format!("/jam/preimages/{}", PreimageHash::of(b"x"))).body("x");
        answer(put).await.refused(503, "jam_store_unavailable");
        assert_eq!(answer(server.bare("GET", "/jam/healthz")).await.expect(503).json()["status"], "unavailable");
        assert_eq!(server.get("/system/status").await.expect(200).json()["status"], "degraded");
        answer(server.bare("GET", "/healthz")).await.expect(200);
        assert_eq!(server.metric("jam_build_info").await, Some(1.0), "a scrape does not fail");
        database.start();
        until("readiness", async || (ready().await.status == 200).then_some(())).await;
        server.submit("s", "").await;
        database.crash();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_empties_the_queue_and_stops_when_told() {
    let dsn = postgres::migrated_database().await;
    let settings = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn.as_str())];
    let server = Server::with(&settings).await;
    let mut command = jam_api(&["work", "--interval", "100ms", "--metrics-listen", ""]);
    let mut worker = command.envs(settings).spawn().unwrap();
    for n in 0..5 {
        server.submit("s", &n.to_string()).await;
    }
    let applied = async || {
        let list = server.get("/jam/packages?status=applied").await.json();
        (list["items"].as_array().unwrap().len() == 5).then_some(())
    };
    until("five applied packages", applied).await;
    let pid = worker.id().unwrap().to_string();
    tokio::process::Command::new("kill").arg(pid).status().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(10), worker.wait()).await.unwrap().unwrap().success());
    let (code, _, err) = ran(&["work"], &[]).await;
    assert!(code == 2 && err.contains("store is memory"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_finishes_what_is_in_flight_and_takes_nothing_new() {
    for delay in ["0", "4"] {
        let mut server = Server::with(&[("JAM_SHUTDOWN_DELAY", delay)]).await;
        let host = server.address.trim_start_matches("http://").to_owned();
        let bytes = vec![7; 50_000];
        let mut slow = TcpStream::connect(&host).await.unwrap();
        let head = format!(
            "PUT /jam/preimages/{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 50000\r\n\r\n",
            PreimageHash::of(&bytes)
        );
        slow.write_all(head.as_bytes()).await.unwrap();
        slow.write_all(&bytes[..10_000]).await.unwrap();
        // The first bytes are in: the request is in flight.
        server.get("/jam/status").await.expect(200);
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.signal("TERM").await;
        if delay == "4" {
            let draining = async || {
                let ready = answer(server.bare("GET", "/readyz")).await;
                (ready.status == 503).then(|| ready.json())
            };
            assert_eq!(until("draining", draining).await["checks"]["draining"]["ok"], false);
            server.get("/jam/status").await.expect(200);
        }
        until("the end of accepting", async || TcpStream::connect(&host).await.is_err().then_some(())).await;
        slow.write_all(&bytes[10_000..]).await.unwrap();
        let mut said = String::new();
        slow.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 201"), "{said}");
        assert!(server.ended().await.success());
    }
}

/// Asks on one connection, with pauses, until an answer says that the server closes it: how many were answered. Whoever has its
/// first answer is counted.
async fn asked_until_closed(host: String, pause: Duration, begun: Arc<AtomicUsize>) -> Result<u32, String> {
    let mut stream = TcpStream::connect(&host).await.map_err(|e| e.to_string())?;
    for answered in 0.. {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.map_err(|e| e.to_string())?;
        let (mut said, mut bytes) = (String::new(), [0; 4096]);
        while !said.ends_with('}') {
            match stream.read(&mut bytes).await {
                Ok(count @ 1..) => said.push_str(&String::from_utf8_lossy(&bytes[..count])),
                other => return Err(format!("request {answered} got {other:?} after {said:?}")),
            }
        }
        if said.to_lowercase().contains("connection: close") {
            return Ok(answered + 1);
        }
        if answered == 0 {
            begun.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(pause).await;
    }
    Err("it never ended".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stop_tells_kept_connections_to_close_and_loses_no_request_on_them() {
    let mut server = Server::start().await;
    let host = server.address.trim_start_matches("http://").to_owned();
    let begun = Arc::<AtomicUsize>::default();
    let client = |n: u64| asked_until_closed(host.clone(), Duration::from_millis(n * 10), begun.clone());
    let clients: Vec<_> = (1..=32).map(|n| tokio::spawn(client(n))).collect();
    until("the first answers", async || (begun.load(Ordering::Relaxed) == clients.len()).then_some(())).await;
    server.signal("TERM").await;
    for client in clients {
        let answered = client.await.unwrap();
        assert!(answered.as_ref().is_ok_and(|count| *count > 1), "{answered:?}");
    }
    assert!(server.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_under_our_prefix_that_is_no_setting_is_refused_by_every_command() {
    let wrong =
        [("JAM_ALLOWED_TOKENS", "t"), ("JAM_AUTH", "false"), ("JAM_RATE_LIMIT_PER_MIN", "3"), ("JAM_COLOUR", "red")];
    for command in ["check-config", "serve", "work", "migrate", "cleanup"] {
        let (code, out, err) = ran(&[command], &wrong).await;
        assert_eq!((code, out.as_str()), (2, ""), "{command}: {err}");
        for line in [
            "jam-api: JAM_AUTH is not a setting; JAM_AUTH_REQUIRED is (environment)",
            "jam-api: JAM_COLOUR is not a setting of jam-api: take it out of the environment (environment)",
            "jam-api: JAM_RATE_LIMIT_PER_MIN is not a setting; JAM_RATE_LIMIT_PER_MINUTE is (environment)",
        ] {
            assert!(err.lines().any(|said| said == line), "{command}: {line} in {err}");
        }
    }
    let links = [("JAM_ALLOWED_TOKENS", "t"), ("JAM_SERVICE_HOST", "10.0.0.1"), ("JAM_PORT_80_TCP_ADDR", "10.0.0.1")];
    assert_eq!(
        ran(&["check-config"], &links).await.0,
        0,
        "what Kubernetes tells of a Service named jam is none of ours"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_runs_output_shows_no_token_no_dsn_and_no_blob() {
    let world = World::postgres().await;
    let secrets = ["hushtoken1", "hushtoken2", "hushtoken3", "hushblob"];
    let settings = [("JAM_ALLOWED_TOKENS", "hushtoken1"), ("API_TOKENS", "hushtoken2"), ("JAM_LOG", "trace")];
    let mut server = world.with(&settings).await;
    let call = async |method: &str, path: &str, token: &str, body: &'static str| {
        answer(server.bare(method, path).bearer_auth(token).body(body)).await.status
    };
    let hash = PreimageHash::of(b"hushblob");
    let blob = format!("/jam/preimages/{hash}");
    assert_eq!(call("PUT", &blob, "hushtoken1", "hushblob").await, 201);
    assert_eq!(call("GET", &blob, "hushtoken1", "").await, 200);
    assert_eq!(call("PUT", "/jam/preimages/x", "hushtoken1", "hushblob").await, 400);
    assert_eq!(call("GET", "/jam/status", "hushtoken2", "").await, 403);
    assert_eq!(call("GET", "/jam/status", "hushtoken3", "").await, 401);
    assert_eq!(call("POST", "/jam/packages", "hushtoken1", "hushblob").await, 400);
    server.signal("TERM").await;
    assert!(server.ended().await.success());
    let log = until("the last line", async || Some(server.log()).filter(|log| log.contains("\"stopped\""))).await;
    for secret in secrets {
        assert!(!log.contains(secret), "{secret}");
    }
    assert!(!log.contains("postgres://"), "the DSN");
    assert!(log.contains(&hash.to_string()), "something was logged");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["level"].is_string() && line["time"].is_string(), "{line}");
    }
}
