//! A chain of the real server on a real PostgreSQL: Rust and Python verify it, and both find every change made in the database.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api_support::{Server, TOKEN, package};
use crate::cli_support::{Ran, slctl_with};
use crate::receipts_vectors::python;
use crate::support::postgres;

/// What is changed in the link with seq 3 of service `s` (a report), how, and what both verifiers say of the place.
const CHANGES: [(&str, &str, &str); 12] = [
    ("service_id", "service_id = 'other'", "seq 4 where 3 belongs"),
    ("seq", "seq = 30", "seq 4 where 3 belongs"),
    ("entry_type", "entry_type = 'package'", "seq 3: new_root does not follow"),
    ("hash", "hash = overlay(hash placing 'ff' from 1)", "seq 3: new_root does not follow"),
    (
        "prev_root",
        "prev_root = set_byte(prev_root, 31, (get_byte(prev_root, 31) + 1) % 256)",
        "seq 3: prev_root is not",
    ),
    (
        "new_root",
        "new_root = set_byte(new_root, 0, (get_byte(new_root, 0) + 1) % 256)",
        "seq 3: new_root does not follow",
    ),
    (
        "metadata_hash",
        "metadata_hash = set_byte(metadata_hash, 9, 255 - get_byte(metadata_hash, 9))",
        "seq 3: new_root",
    ),
    ("status", "status = 'disputed'", "seq 3: new_root does not follow"),
    ("processed_at", "processed_at = processed_at + interval '1 microsecond'", "seq 3: new_root does not follow"),
    ("extra", "extra = '{\"package_id\": \"01890a5d-ac96-774b-bcce-b302099a8057\", \"report_id\": \"x\"}'", "seq 3: "),
    (
        "extra",
        "extra = jsonb_set(extra::jsonb, '{report_id}', '\"01890a5d-ac96-774b-bcce-b302099a8057\"')::json",
        "seq 3: extra",
    ),
    ("extra", "extra = null", "seq 3: "),
];

struct Chained {
    server: Server,
    dsn: String,
}

impl Chained {
    /// A server with a chain of service `s`: package 1, package 2, report 3, report 4, package 5, package 6.
    async fn new() -> Self {
        let dsn = postgres::migrated_database().await;
        let settings = [("JAM_STORE", "postgres"), ("JAM_PG_DSN", &dsn), ("JAM_ACCUMULATOR_HASH", "sha256")];
        let server = Server::with(&settings).await;
        let mut odd = package("s", "ü€😀\"\\\u{1}\u{7f}");
        odd["items"][0]["memo"] = json!("\t\r\n\u{2028}");
        odd["items"][0]["max_fee"] = json!(i64::MAX);
        server.post("/jam/packages", &odd).await.expect(201);
        server.submit("s", "2").await;
        server.post("/jam/process?limit=2", &Value::Null).await.expect(200);
        server.submit("s", "3").await;
        server.submit("s", "4").await;
        postgres::execute(&dsn, "create table kept as table receipts; create table kept_heads as table accumulators")
            .await;
        Self { server, dsn }
    }

    async fn restore(&self) {
        let sql = "truncate receipts, accumulators; insert into receipts table kept; insert into accumulators table kept_heads";
        postgres::execute(&self.dsn, sql).await;
    }

    fn slctl(&self) -> Ran {
        let environment = [("SERVICE_LAYER_ADDR", self.server.address.as_str()), ("SERVICE_LAYER_TOKEN", TOKEN)];
        slctl_with(&environment, &["jam", "verify", "--service", "s"])
    }

    fn python(&self, more: &[&str]) -> (i32, String, String) {
        python(&[&["--url", &self.server.address, "--service", "s"], more].concat(), TOKEN)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_and_python_agree_on_a_chain_of_the_real_server() {
    let chained = Chained::new().await;
    let ran = chained.slctl();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.starts_with("service s: 6 receipts verified, root "), "{ran:?}");
    assert_eq!(chained.python(&[]), (0, ran.out.clone(), String::new()));
    assert_eq!(chained.python(&["--records"]), (0, ran.out, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_pages_verify_without_the_server() {
    let mut chained = Chained::new().await;
    let directory = tempfile::tempdir().unwrap();
    let (mut files, mut cursor, mut root) = (Vec::new(), String::new(), String::new());
    loop {
        let path = format!("/jam/receipts?service_id=s&order=asc&limit=4{cursor}");
        let page = chained.server.get(&path).await.expect(200);
        let file = directory.path().join(files.len().to_string()).display().to_string();
        std::fs::write(&file, &page.bytes).unwrap();
        files.push(file);
        let page = page.json();
        root = page["items"].as_array().unwrap().last().map_or(root, |last| last["new_root"].as_str().unwrap().into());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    chained.server.signal("KILL").await;
    chained.server.ended().await;
    let [one, two] = &files[..] else { panic!("two pages: {files:?}") };
    assert_eq!(python(&[one, two, "--seq", "6", "--root", &root], "").0, 0);
    let (code, _, err) = python(&[two, one], "");
    assert_eq!(code, 1, "pages in the wrong order: {err}");
    let (code, _, err) = python(&[one, "--seq", "6", "--root", &root], "");
    assert!(code == 1 && err.contains("the receipts end at seq 4, the root is at seq 6"), "{err}");
    let (code, _, err) = python(&[one, two, "--root", &"0".repeat(64)], "");
    assert!(code == 1 && err.contains("seq 6: the root is 0000"), "{err}");
    assert_eq!(python(&["/nowhere"], "").0, 2);
    assert_eq!(python(&["--url", &chained.server.address, "--service", "s"], TOKEN).0, 2, "nobody answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_any_stored_field_is_found_and_located() {
    let chained = Chained::new().await;
    for (column, set, place) in CHANGES {
        postgres::execute(&chained.dsn, &format!("update receipts set {set} where service_id = 's' and seq = 3")).await;
        let ran = chained.slctl();
        assert_eq!(ran.code, 1, "{column}: {ran:?}");
        assert!(ran.err.contains(place), "{column}: {ran:?}");
        assert!(ran.out.contains("2 receipts verified up to the break"), "{column}: {ran:?}");
        let (code, _, err) = chained.python(&["--records"]);
        assert_eq!(code, 1, "{column}: {err}");
        assert!(err.contains(place), "{column}: {err}");
        chained.restore().await;
        assert_eq!(chained.slctl().code, 0, "{column} is restored");
    }
    let columns = columns(&chained.dsn, "receipts").await;
    let changed: BTreeSet<&str> = CHANGES.iter().map(|(column, _, _)| *column).collect();
    assert_eq!(columns.iter().map(String::as_str).collect::<BTreeSet<_>>(), changed, "a column nobody tampers with");
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_pages_of_which_python_cannot_tell_the_hash_are_not_called_broken() {
    let server = Server::with(&[("JAM_ACCUMULATOR_HASH", "blake3-256")]).await;
    server.submit("s", "1").await;
    let page = server.get("/jam/receipts?service_id=s&order=asc").await.expect(200);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("page").display().to_string();
    std::fs::write(&file, &page.bytes).unwrap();
    let (code, _, err) = python(&[&file], "");
    assert!(code == 2 && err.contains("changed, or the chain is blake3-256: see accumulator_hash"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_removed_inserted_or_swapped_and_a_moved_head_are_found_and_located() {
    let chained = Chained::new().await;
    let cases = [
        ("delete from receipts where seq = 1", "seq 2 where 1 belongs"),
        ("delete from receipts where seq = 3", "seq 4 where 3 belongs"),
        ("delete from receipts where seq = 6", "end at seq 5, the"),
        (
            "update receipts set seq = case seq when 2 then -2 when 3 then -3 else seq end;
          update receipts set seq = case seq when -2 then 3 when -3 then 2 else seq end",
            "seq 2: prev_root is not",
        ),
        ("update accumulators set root = set_byte(root, 0, 255 - get_byte(root, 0))", "seq 6: the"),
        ("update accumulators set seq = 7", "the receipts end at seq 6"),
        ("delete from accumulators", "the head is missing: the server has a receipt with seq 6 and no root"),
    ];
    for (sql, place) in cases {
        postgres::execute(&chained.dsn, sql).await;
        let ran = chained.slctl();
        assert!(ran.code == 1 && ran.err.contains(place), "{sql}: {ran:?}");
        let (code, _, err) = chained.python(&[]);
        assert!(code == 1 && err.contains(place), "{sql}: {err}");
        chained.restore().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_package_or_report_does_not_fit_its_receipt() {
    let chained = Chained::new().await;
    postgres::execute(
        &chained.dsn,
        "create table kept_packages as table packages; create table kept_reports as table reports",
    )
    .await;
    let cases = [
        (
            "update packages set body = replace(body::text, '\"nonce\":\"3\"', '\"nonce\":\"9\"')::json",
            "seq 5: metadata_hash is not the hash of",
        ),
        (
            "update reports set body = replace(body::text, 'refine_output_compact\":\"', 'refine_output_compact\":\"AAAA')::json
             where id::text = (select extra->>'report_id' from receipts where seq = 3)",
            "seq 3: metadata_hash is not the hash of",
        ),
        ("delete from packages where body::text like '%\"nonce\":\"3\"%'", ""),
    ];
    for (sql, place) in cases {
        postgres::execute(&chained.dsn, sql).await;
        let (code, out, err) = chained.python(&["--records"]);
        let ran = chained.slctl();
        if sql.starts_with("delete") {
            // Retention deletes records as well: the chain is whole, and what could not be compared is counted.
            assert!(code == 0 && out.ends_with("\n1 records are gone: not compared\n"), "{out} {err}");
            assert!(
                ran.code == 0 && ran.out.contains("\n1 of their packages and reports are no longer listed"),
                "{ran:?}"
            );
        } else {
            assert!(code == 1 && err.contains(place), "{sql}: {err}");
            assert!(ran.code == 1 && ran.err.contains(place), "{sql}: {ran:?}");
        }
        let restore = "truncate packages, reports; insert into packages table kept_packages; insert into reports table kept_reports";
        postgres::execute(&chained.dsn, restore).await;
        assert_eq!(chained.python(&["--records"]).0, 0, "{sql} is undone");
    }
}

/// What is changed in each column of a record that got a receipt, and what verify says of it. `None`: no receipt covers the
/// column, and docs/receipts.md says so.
const RECORDS: [(&str, &str, &str, Option<&str>); 30] = [
    ("packages", "id", "id = gen_random_uuid()", Some("seq 1: this receipt is given for ")),
    ("packages", "service_id", "service_id = 'other'", Some("seq 1: metadata_hash")),
    ("packages", "status", "status = 'disputed'", Some("seq 1: package")),
    ("packages", "created_at", "created_at = created_at + interval '1 microsecond'", Some("seq 1: metadata_hash")),
    ("packages", "created_by", "created_by = 'ffffffff'", Some("seq 1: metadata_hash")),
    ("packages", "idempotency_key", "idempotency_key = 'k'", None),
    ("packages", "fingerprint", "fingerprint = ''", None),
    ("packages", "receipt_seq", "receipt_seq = 2", Some("seq 1: this is the receipt of")),
    ("packages", "receipt_seq", "receipt_seq = null", Some("seq 1: this is the receipt of")),
    ("packages", "body", "body = jsonb_set(body::jsonb, '{nonce}', '\"x\"')::json", Some("seq 1: metadata_hash")),
    ("packages", "restored_at", "restored_at = now()", None),
    ("reports", "id", "id = gen_random_uuid()", Some("seq 3: this receipt is given for ")),
    ("reports", "package_id", "package_id = gen_random_uuid()", Some("seq 3: metadata_hash")),
    ("reports", "service_id", "service_id = 'other'", Some("seq 3: metadata_hash")),
    ("reports", "status", "status = 'disputed'", Some("seq 3: report")),
    ("reports", "created_at", "created_at = created_at + interval '1 microsecond'", Some("seq 3: metadata_hash")),
    ("reports", "receipt_seq", "receipt_seq = 4", Some("seq 3: this is the receipt of")),
    (
        "reports",
        "body",
        "body = jsonb_set(body::jsonb, '{refine_output_hash}', '\"x\"')::json",
        Some("seq 3: metadata_hash"),
    ),
    ("accumulators", "service_id", "service_id = 'other'", Some("the head is missing: the server has")),
    ("accumulators", "seq", "seq = 7", Some("the receipts end at seq 6")),
    ("accumulators", "root", "root = set_byte(root, 0, 255 - get_byte(root, 0))", Some("seq 6: the server's root is")),
    ("accumulators", "updated_at", "updated_at = now()", Some("seq 6: the server's root was updated at")),
    ("attestations", "report_id", "report_id = gen_random_uuid()", Some("seq 3: report")),
    ("attestations", "worker_id", "worker_id = 'w'", Some("seq 3: report")),
    ("attestations", "ordinal", "ordinal = default", None),
    ("attestations", "weight", "weight = 9", Some("seq 3: the attestation of worker local")),
    (
        "attestations",
        "created_at",
        "created_at = created_at + interval '1 microsecond'",
        Some("seq 3: the attestation of worker local"),
    ),
    (
        "attestations",
        "body",
        "body = jsonb_set(body::jsonb, '{signature}', '\"x\"')::json",
        Some("seq 3: the attestation"),
    ),
    (
        "attestations",
        "body",
        "body = jsonb_set(body::jsonb, '{engine}', '\"x\"')::json",
        Some("seq 3: the attestation"),
    ),
    (
        "attestations",
        "body",
        "body = jsonb_set(body::jsonb, '{engine_version}', '\"x\"')::json",
        Some("seq 3: the attestation"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_any_column_behind_a_receipt_is_found_and_located_or_is_named_as_not_covered() {
    let chained = Chained::new().await;
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/receipts.md")).unwrap();
    let tables = ["packages", "reports", "accumulators", "attestations"];
    for table in tables {
        postgres::execute(&chained.dsn, &format!("create table whole_{table} as table {table}")).await;
    }
    for (table, column, set, place) in RECORDS {
        let which = match table {
            "packages" => "where id::text = (select hash from receipts where service_id = 's' and seq = 1)",
            "reports" => {
                "where id::text = (select extra->>'report_id' from receipts where service_id = 's' and seq = 3)"
            }
            "attestations" => {
                "where report_id::text = (select extra->>'report_id' from receipts where service_id = 's' and seq = 3)"
            }
            _ => "where true",
        };
        postgres::execute(&chained.dsn, &format!("update {table} set {set} {which}")).await;
        let ran = chained.slctl();
        if let Some(place) = place {
            assert!(ran.code != 0 && ran.err.contains(place), "{table}.{column}, {set}: {ran:?}");
        } else {
            assert_eq!(ran.code, 0, "{table}.{column}, {set}: {ran:?}");
            assert!(page.contains(&format!("`{table}.{column}`")), "docs/receipts.md must name {table}.{column}");
        }
        let columns = columns(&chained.dsn, table).await.join(", ");
        let restore = format!(
            "truncate {table}; insert into {table} ({columns}) overriding system value select {columns} from whole_{table}"
        );
        postgres::execute(&chained.dsn, &restore).await;
        assert_eq!(chained.slctl().code, 0, "{table}.{column} is restored");
    }
    for table in &tables {
        let tried = |column: &String| RECORDS.iter().any(|(of, name, ..)| of == table && name == column);
        let untried: Vec<String> = columns(&chained.dsn, table).await.into_iter().filter(|name| !tried(name)).collect();
        assert_eq!(untried, Vec::<String>::new(), "columns of {table} that nobody tampers with");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_records_whose_receipts_were_exchanged_are_found() {
    let chained = Chained::new().await;
    for (table, one, two) in [("packages", 1, 2), ("reports", 3, 4)] {
        let swap =
            format!("update {table} set receipt_seq = {one} + {two} - receipt_seq where receipt_seq in ({one}, {two})");
        postgres::execute(&chained.dsn, &swap).await;
        let ran = chained.slctl();
        assert!(ran.code == 1 && ran.err.contains(": this is the receipt of"), "{table}: {ran:?}");
        postgres::execute(&chained.dsn, &swap).await;
        assert_eq!(chained.slctl().code, 0);
    }
}

async fn columns(dsn: &str, table: &str) -> Vec<String> {
    let sql = "select column_name::text from information_schema.columns
        where table_schema = 'public' and table_name = $1 order by ordinal_position";
    sqlx::query_scalar(sql).bind(table).fetch_all(&mut postgres::connect(dsn).await).await.unwrap()
}
