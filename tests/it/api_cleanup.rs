//! `jam-api cleanup` as it is run, and what a server tells of it.

use jam_store::{PostgresConfig, PostgresStore, Store};
use serde_json::{Value, json};
use sqlx::Executor;

use crate::api_support::{Server, World, jam_api, ran, until};
use crate::store_fixture::{engine, package};
use crate::support::postgres;

/// A server on a database with packages that were applied so many days ago.
async fn with_packages(days: &[i64], settings: &[(&str, &str)]) -> (Server, String, Vec<String>) {
    let dsn = postgres::migrated_database().await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    let mut ids = Vec::new();
    for days in days {
        let mut new = package("s");
        new.package.created_at = new.package.created_at.plus_seconds(-86_400 * days - 60);
        ids.push(store.submit(new, &engine()).await.unwrap().package.id.to_string());
    }
    store.process(100, &engine()).await.unwrap();
    store.close().await;
    let world = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn.as_str())];
    let server = Server::with(&[&world, settings].concat()).await;
    (server, dsn, ids)
}

async fn cleanup(dsn: &str, arguments: &[&str]) -> (i32, String, String) {
    ran(&[&["cleanup"], arguments].concat(), &[("JAM_STORE", "postgres"), ("JAM_PG_DSN", dsn)]).await
}

async fn status(server: &Server) -> Value {
    server.get("/system/status").await.expect(200).json()["jam"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_says_what_it_did_and_the_server_tells_of_it() {
    let (server, dsn, ids) = with_packages(&[40, 30, 29], &[]).await;
    let before = status(&server).await;
    assert_eq!((&before["cleanup_enabled"], &before["cleanup"]), (&json!(true), &Value::Null));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result");
    let (code, out, err) = cleanup(&dsn, &["--dry-run", "--result-file", file.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{err}");
    let noted = jam_plan::observed::CleanupOutcome::of(&std::fs::read_to_string(&file).unwrap());
    let noted = noted.expect("the operator reads what the program writes");
    assert!(noted.dry_run && noted.deleted["packages"] == 0 && noted.archived["packages"] == 2, "{noted:?}");
    assert!(noted.cutoff.is_some() && noted.duration_ms.is_some(), "{noted:?}");
    assert!(out.starts_with("cutoff 20") && out.contains("\nwould have archived 2 packages, 2 reports\n"), "{out}");
    assert_eq!(server.get(&format!("/jam/packages/{}", ids[0])).await.status, 200, "a dry run changes nothing");
    assert_eq!(status(&server).await["cleanup"], Value::Null, "and is not remembered");
    let (code, out, err) = cleanup(&dsn, &["--archive-days", "0"]).await;
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[1..3], ["archived 2 packages, 2 reports", "deleted 2 packages, 2 reports, 0 preimages"]);
    assert!(lines[3].starts_with("took ") && err.contains("cleanup done") && err.contains("\"cutoff\""), "{out}{err}");
    for (id, there) in ids.iter().zip([404, 404, 200]) {
        assert_eq!(server.get(&format!("/jam/packages/{id}")).await.status, there);
    }
    assert_eq!(server.get("/jam/packages").await.json()["items"].as_array().unwrap().len(), 1);
    let told = until("the record", async || Some(status(&server).await).filter(|jam| !jam["cleanup"].is_null())).await;
    assert_eq!(told["cleanup"]["result"], "ok");
    assert_eq!(told["cleanup"]["deleted"], json!({"packages": 2, "reports": 2, "preimages": 0}));
    assert_eq!(told["cleanup"]["archived"], json!({"packages": 2, "reports": 2}));
    assert_eq!(told["health"]["last_cleanup"], told["cleanup"]["finished_at"]);
    assert!(told["cleanup"]["cutoff"].is_string() && told["cleanup"]["duration_ms"].is_u64(), "{told}");
    assert_eq!(server.metric("jam_cleanup_deleted_packages_total").await, Some(2.0));
    assert_eq!(server.metric("jam_cleanup_deleted_packages_total").await, Some(2.0), "a second scrape adds nothing");
    assert!(server.metric("jam_cleanup_last_success_timestamp_seconds").await.unwrap() > 1.7e9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_cleanup_is_told_and_only_an_overdue_one_is_503_on_healthz_until_the_next_good_one() {
    let (server, dsn, _) = with_packages(&[40], &[("JAM_CLEANUP_STALE_AFTER", "1h")]).await;
    let healthz = async |wanted: u16| {
        let asked = async || Some(server.get("/jam/healthz").await).filter(|answer| answer.status == wanted);
        until("the health", asked).await.json()
    };
    healthz(200).await;
    postgres::execute(&dsn, "alter table archived_reports rename to gone").await;
    let (code, _, err) = cleanup(&dsn, &[]).await;
    assert!(code == 1 && err.contains("cleanup failed"), "{err}");
    let failed = async || Some(status(&server).await).filter(|told| told["cleanup"]["result"] == "failed");
    let told = until("the failure", failed).await;
    assert_eq!(told["health"]["cleanup_ok"], false);
    assert_eq!(told["health"]["store_ok"], true);
    healthz(200).await;
    postgres::execute(&dsn, "alter table gone rename to archived_reports").await;
    assert_eq!(cleanup(&dsn, &[]).await.0, 0);
    until("the success", async || (status(&server).await["health"]["cleanup_ok"] == true).then_some(())).await;
    healthz(200).await;
    postgres::execute(&dsn, "update cleanups set succeeded_at = succeeded_at - interval '61 minutes'").await;
    let overdue = healthz(503).await;
    assert_eq!(overdue["details"]["cleanup"]["ok"], false);
    assert!(overdue["error"].as_str().unwrap().contains("too long ago"), "{overdue}");
    assert_eq!(cleanup(&dsn, &[]).await.0, 0);
    healthz(200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_read_what_became_of_cleanups_serves_all_the_same() {
    let (server, dsn, _) = with_packages(&[40], &[]).await;
    postgres::execute(&dsn, "alter table cleanups rename to gone").await;
    let unknown = async || Some(status(&server).await["health"].take()).filter(|health| health["cleanup_ok"] == false);
    assert_eq!(until("the unknown", unknown).await["store_ok"], true);
    for path in ["/readyz", "/jam/healthz", "/jam/packages"] {
        server.get(path).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_beside_another_and_one_of_anothers_memory_do_nothing_and_say_so() {
    let (server, dsn, _) = with_packages(&[40], &[]).await;
    let mut other = postgres::connect(&dsn).await;
    other.execute("select pg_advisory_lock(5425451, 2)").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result");
    let (code, out, err) = cleanup(&dsn, &["--result-file", file.to_str().unwrap()]).await;
    assert_eq!((code, out.as_str()), (0, "skipped: another cleanup is running, nothing was done\n"), "no alarm: {err}");
    let noted = jam_plan::observed::CleanupOutcome::of(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert!(noted.skipped && noted.deleted.is_empty() && noted.error.is_none(), "{noted:?}");
    assert_eq!(status(&server).await["cleanup"], Value::Null);
    let (code, _, err) = ran(&["cleanup"], &[]).await;
    assert!(code == 2 && err.contains("store is memory"), "{err}");
    let (code, out, _) = cleanup(&dsn, &["--retention-days", "0", "--dry-run"]).await;
    assert!(code == 0 && out.starts_with("cutoff none") && out.contains("archived 0 packages"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_that_is_told_to_stop_stops_and_is_remembered_as_failed() {
    let (server, dsn, _) = with_packages(&[40], &[]).await;
    let mut obstacle = postgres::connect(&dsn).await;
    obstacle.execute("begin; lock table archived_packages in access exclusive mode").await.unwrap();
    let mut command = jam_api(&["cleanup"]);
    let mut run = command.env("JAM_STORE", "postgres").env("JAM_PG_DSN", &dsn).spawn().unwrap();
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    until("the wait", async || (postgres::number(&dsn, waits).await > 0).then_some(())).await;
    let pid = run.id().unwrap().to_string();
    tokio::process::Command::new("kill").arg(pid).status().await.unwrap();
    assert_eq!(run.wait().await.unwrap().code(), Some(1));
    obstacle.execute("rollback").await.unwrap();
    until("the record", async || (status(&server).await["cleanup"]["result"] == "failed").then_some(())).await;
    assert_eq!(cleanup(&dsn, &[]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_that_is_stopped_half_way_tells_what_it_did_and_so_does_the_server() {
    let (server, dsn, _) = with_packages(&[40, 41], &[]).await;
    let mut obstacle = postgres::connect(&dsn).await;
    // Packages are archived before preimages are looked through.
    obstacle.execute("begin; lock table preimages in access exclusive mode").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result");
    let mut command = jam_api(&["cleanup", "--result-file", file.to_str().unwrap()]);
    let mut run = command.env("JAM_STORE", "postgres").env("JAM_PG_DSN", &dsn).spawn().unwrap();
    let archived = "select count(*) from archived_packages";
    until("the first batch", async || (postgres::number(&dsn, archived).await == 2).then_some(())).await;
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    until("the wait", async || (postgres::number(&dsn, waits).await > 0).then_some(())).await;
    let pid = run.id().unwrap().to_string();
    tokio::process::Command::new("kill").arg(pid).status().await.unwrap();
    assert_eq!(run.wait().await.unwrap().code(), Some(1));
    let noted = jam_plan::observed::CleanupOutcome::of(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(noted.archived["packages"], 2, "{noted:?}");
    assert!(noted.error.as_deref().is_some_and(|error| error.contains("told to stop")), "{noted:?}");
    let failed = async || Some(status(&server).await).filter(|jam| jam["cleanup"]["result"] == "failed");
    let told = until("the record", failed).await;
    assert_eq!(told["cleanup"]["archived"], json!({"packages": 2, "reports": 2}));
    let (code, _, err) = cleanup(&dsn, &["--timeout", "2"]).await;
    assert!(code == 124 && err.contains("gave up after 2 s") && err.contains("what it did before stays"), "{err}");
    obstacle.execute("rollback").await.unwrap();
    until("its lock is free", async || (cleanup(&dsn, &[]).await.1.contains("took")).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_is_cleaned_up_by_its_own_server() {
    let server = World::memory().with(&[("JAM_CLEANUP_INTERVAL", "100ms"), ("JAM_RETENTION_DAYS", "1")]).await;
    let told = async || Some(status(&server).await).filter(|jam| jam["cleanup"]["result"] == "ok");
    assert!(until("a cleanup", told).await["health"]["last_cleanup"].is_string());
    let ran = async || server.metric("jam_cleanup_runs_total{result=\"ok\"").await.filter(|runs| *runs >= 2.0);
    until("another one", ran).await;
    let off = World::memory().with(&[("JAM_RETENTION_DAYS", "0")]).await;
    assert_eq!(status(&off).await["cleanup_enabled"], false);
}
