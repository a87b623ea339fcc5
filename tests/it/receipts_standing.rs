//! What `jam verify` finds beside the chain: statuses without the rows that they need, and attestations that were changed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jam_domain::{HashAlgorithm, canonical};
use serde_json::{Value, json};

use crate::api_support::{Server, TOKEN, World, laws, package};
use crate::cli_support::{Ran, slctl_with};
use crate::support::postgres;

laws!(packages_on_their_way_stand_as_their_reports_say, a_list_of_reports_carries_what_was_said_for_each);

const TABLES: [&str; 3] = ["packages", "reports", "attestations"];

/// A server with threshold 2, and its chain of service `s`: package 1 is refined, package 2 pending, package 3 applied by the word of
/// another worker (its report is 5), package 4 disputed.
struct Various {
    server: Server,
    dsn: String,
    /// By the seq of the receipt, from 1 on.
    packages: Vec<String>,
}

async fn various(world: &World) -> (Server, Vec<String>) {
    let server = world.with(&[("JAM_ATTESTATION_THRESHOLD", "2")]).await;
    let mut packages = Vec::new();
    for nonce in ["applied", "refined", "disputed", "pending"] {
        packages.push(server.submit("s", nonce).await["id"].as_str().unwrap().to_owned());
    }
    server.post("/jam/process?limit=3", &Value::Null).await.expect(200);
    let path = async |package: &String| {
        let report = server.get(&format!("/jam/packages/{package}/report")).await.expect(200).json();
        format!("/jam/reports/{}/attestations", report["report"]["id"].as_str().unwrap())
    };
    let same = json!({"worker_id": "w", "signature": "c2ln"});
    server.post(&path(&packages[0]).await, &same).await.expect(201);
    let other = json!({"worker_id": "w", "signature": "c2ln", "refine_output_hash": "ab".repeat(32)});
    server.post(&path(&packages[2]).await, &other).await.expect(201);
    (server, packages)
}

/// What `jam verify` says of service `s`.
pub fn verify(server: &Server, more: &[&str]) -> Ran {
    let environment = [("SERVICE_LAYER_ADDR", server.address.as_str()), ("SERVICE_LAYER_TOKEN", TOKEN)];
    slctl_with(&environment, &[&["jam", "verify", "--service", "s"], more].concat())
}

impl Various {
    async fn new() -> Self {
        let dsn = postgres::migrated_database().await;
        let (server, packages) = various(&World::on(&dsn)).await;
        for table in TABLES {
            postgres::execute(&dsn, &format!("create table whole_{table} as table {table}")).await;
        }
        Self { server, dsn, packages }
    }

    /// What verify says after this change, which is undone.
    async fn after(&self, sql: &str) -> Ran {
        postgres::execute(&self.dsn, sql).await;
        let ran = verify(&self.server, &[]);
        for table in TABLES {
            let restore = format!("truncate {table}; insert into {table} overriding system value table whole_{table}");
            postgres::execute(&self.dsn, &restore).await;
        }
        ran
    }

    async fn finds(&self, sql: &str, place: &str) {
        let ran = self.after(sql).await;
        assert!(ran.code == 1 && ran.err.contains(place), "{sql}: {ran:?}");
    }
}

async fn packages_on_their_way_stand_as_their_reports_say(world: World) {
    let (server, _) = various(&world).await;
    let ran = verify(&server, &["--output", "json"]);
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &said["verified"], &said["receipts"]), (0, &json!(true), &json!(5)), "{ran:?}");
    let words = (&said["attestations_verified"], &said["attestations_not_covered"]);
    assert_eq!(words, (&json!(3), &json!(1)), "three of the server, one of another worker: {said}");
    assert_eq!((&said["reports_below_threshold"], &said["reports_without_attestations"]), (&json!(0), &json!(0)));
    assert!(
        verify(&server, &[])
            .out
            .ends_with("\nattestations by other workers or older releases, whose fields nothing proves: 1\n")
    );
}

async fn a_list_of_reports_carries_what_was_said_for_each(world: World) {
    let (server, packages) = various(&world).await;
    let page = server.get("/jam/reports?service_id=s&include_attestations=true").await.expect(200).json();
    let reports = page["items"].as_array().unwrap();
    assert_eq!((reports.len(), page["attestations"].as_array().unwrap().len()), (3, 3));
    for (at, report) in reports.iter().enumerate() {
        let package = report["package_id"].as_str().unwrap();
        let own = server.get(&format!("/jam/packages/{package}/attestations")).await.json()["items"].clone();
        assert_eq!(page["attestations"][at], own, "of {package}, one of {packages:?}");
    }
    server.get("/jam/reports?include_attestations=perhaps").await.refused(400, "jam_validation_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_without_the_rows_that_it_needs_is_found_and_located() {
    let various = Various::new().await;
    let [applied, refined, disputed, pending] = &various.packages[..] else { panic!("four packages") };
    let cases = [
        (pending, "refined", format!("seq 4: package {pending} is refined, and it has no report")),
        (pending, "applied", format!("seq 4: package {pending} is applied, and it has no report")),
        (pending, "disputed", format!("seq 4: package {pending} is disputed, and nothing says why")),
        (refined, "pending", format!("seq 2: package {refined} is pending, and its report is refined")),
        (refined, "applied", format!("seq 2: package {refined} is applied, and its report is refined")),
        (refined, "disputed", format!("seq 2: package {refined} is disputed, and its report is refined")),
        (disputed, "refined", format!("seq 3: package {disputed} is refined, and its report is disputed")),
        (applied, "refined", format!("seq 1: package {applied} is refined, and its report has a receipt")),
    ];
    for (package, status, place) in cases {
        various.finds(&format!("update packages set status = '{status}' where id = '{package}'"), &place).await;
    }
    for status in ["pending", "disputed", "applied"] {
        let place = format!("seq 2: package {refined} is refined, and its report is {status}");
        various.finds(&format!("update reports set status = '{status}' where package_id = '{refined}'"), &place).await;
    }
    let gone = [
        (
            format!("delete from reports where package_id = '{refined}'"),
            format!("seq 2: package {refined} is refined, and it has no"),
        ),
        (
            format!("delete from packages where id = '{refined}'"),
            format!("seq 2: package {refined} is not there, and its report is"),
        ),
    ];
    for (sql, place) in gone {
        various.finds(&sql, &place).await;
    }
    assert_eq!(verify(&various.server, &[]).code, 0, "all is undone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_report_that_has_no_receipt_yet_is_found_by_its_attestation() {
    let various = Various::new().await;
    let refined = &various.packages[1];
    let changes = [
        "created_at = created_at + interval '1 microsecond'",
        "body = jsonb_set(body::jsonb, '{refine_output_hash}', '\"x\"')::json",
        "body = jsonb_set(body::jsonb, '{refine_output_compact}', '\"eA==\"')::json",
        "body = jsonb_set(body::jsonb, '{traces}', '[]')::json",
        "service_id = 'other'",
    ];
    for set in changes {
        let sql = format!("update reports set {set} where package_id = '{refined}'");
        various.finds(&sql, "seq 2: the attestation of worker local does not fit report").await;
    }
    let sql = format!("update reports set package_id = gen_random_uuid() where package_id = '{refined}'");
    various.finds(&sql, &format!("seq 2: package {refined} is refined, and it has no report")).await;
    // A disputed package may have no report: that this one is its, its attestation alone says.
    let sql = format!("update reports set package_id = gen_random_uuid() where package_id = '{}'", various.packages[2]);
    various.finds(&sql, " is not there, and its report is: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_took_the_receipt_of_another_is_found_and_located() {
    let various = Various::new().await;
    let [_, refined, _, pending] = &various.packages[..] else { panic!("four packages") };
    let foreign = "01890a5d-ac96-774b-bcce-b302099a8057";
    let forged = |seq: &str| {
        format!(
            "insert into packages (id, service_id, status, created_at, created_by, fingerprint, receipt_seq, body)
             select '{foreign}', service_id, status, created_at, created_by, fingerprint, {seq}, body
             from packages where id = '{pending}'"
        )
    };
    let renamed = format!("update packages set id = '{foreign}' where id = '{refined}'");
    let with_report = format!("; update reports set package_id = '{foreign}' where package_id = '{refined}'");
    let bare = forged("null").replace(foreign, "01890a5d-ac96-774b-bcce-b302099a8058");
    let cases = [
        (format!("update packages set id = '{foreign}' where id = '{pending}'"), 4),
        (forged("4"), 4),
        (forged("2"), 2),
        (renamed.clone(), 2),
        (renamed.clone() + &with_report, 2),
        // Beside a record that never got a receipt, the receipts of a page don't say whose they are.
        (format!("{renamed}; {bare}"), 2),
    ];
    for (sql, seq) in cases {
        let place = format!("seq {seq}: this receipt is given for {foreign}, which it does not name");
        various.finds(&sql, &place).await;
    }
    // Nor then whether two of them have changed places.
    let [_, _, disputed, _] = &various.packages[..] else { panic!("four packages") };
    let swapped = format!("update packages set receipt_seq = 5 - receipt_seq where receipt_seq in (2, 3); {bare}");
    various
        .finds(&swapped, &format!("seq 3: this is the receipt of {disputed}, for which the server gives another"))
        .await;
    let twice = format!("update packages set receipt_seq = 2 where receipt_seq = 3; {bare}");
    various
        .finds(&twice, &format!("seq 3: this is the receipt of {disputed}, for which the server gives another"))
        .await;
    // Nor whether one has moved onto a record beside its own, which has none then.
    let beside = format!(
        "{}; update packages set receipt_seq = null where id = '{refined}';
         update packages set receipt_seq = 2, created_at = p.created_at + interval '1 microsecond'
         from packages p where p.id = '{refined}' and packages.id = '{foreign}'",
        forged("null")
    );
    various
        .finds(&beside, &format!("seq 2: this is the receipt of {refined}, for which the server gives another or none"))
        .await;
    // What never got a receipt, as while accumulators were off, is no finding.
    assert_eq!(various.after(&forged("null")).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_used_again_once_its_record_was_deleted_is_no_finding() {
    let dsn = postgres::migrated_database().await;
    let server = World::on(&dsn).serve().await;
    let mut again = server.submit("s", "1").await;
    server.post("/jam/process", &json!({})).await.expect(200);
    for table in ["attestations", "reports", "packages"] {
        postgres::execute(&dsn, &format!("delete from {table}")).await;
    }
    let id = again["id"].take();
    let mut again = package("s", "2");
    again["id"] = id;
    server.post("/jam/packages", &again).await.expect(201);
    let pending = verify(&server, &[]);
    assert_eq!(pending.code, 0, "{pending:?}");
    server.post("/jam/process", &json!({})).await.expect(200);
    let applied = verify(&server, &[]);
    assert!(applied.code == 0 && applied.out.contains("4 receipts verified"), "{applied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_server_cannot_read_is_located_and_named_in_its_log() {
    let various = Various::new().await;
    let [_, refined, disputed, _] = &various.packages[..] else { panic!("four packages") };
    let reports = various.server.get("/jam/reports?service_id=s").await.expect(200).json()["items"].clone();
    let report = |at: usize| reports[at]["id"].as_str().unwrap().to_owned();
    let after_report = next(&format!("report {}, newest first", report(0)), "report");
    let after_package = next(&format!("package {disputed}, newest first"), "package");
    let cases = [
        (
            format!("update packages set body = '[]' where id = '{refined}'"),
            after_package,
            format!("package {refined}"),
        ),
        (
            format!("update reports set body = '[]' where id = '{}'", report(1)),
            after_report.clone(),
            format!("report {}", report(1)),
        ),
        (
            format!("update attestations set weight = -1 where worker_id = 'local' and report_id = '{}'", report(1)),
            after_report,
            format!("attestation of worker local for report {}", report(1)),
        ),
    ];
    let logged = |row: &str| various.server.log().contains(&format!("{row}: "));
    for (sql, place, row) in cases {
        various.finds(&sql, &place).await;
        assert!(logged(&row), "{row}: {}", various.server.log());
    }
    for column in ["status", "entry_type"] {
        let set = |value: &str, seq: u8| format!("update receipts set {column} = '{value}' where seq = {seq}");
        let right = if column == "status" { "pending" } else { "package" };
        for seq in [1, 3] {
            various.finds(&set("zzz", seq), &next(&format!("seq {}", seq - 1), "receipt")).await;
            assert!(logged(&format!("receipt {seq} of service s")), "{}", various.server.log());
            postgres::execute(&various.dsn, &set(right, seq)).await;
        }
    }
    assert_eq!(verify(&various.server, &[]).code, 0, "all is undone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_server_cannot_read_is_located_wherever_it_stands() {
    let various = Various::new().await;
    let [_, refined, _, pending] = &various.packages[..] else { panic!("four packages") };
    let own = [
        (
            format!("update packages set body = '[]' where id = '{pending}'"),
            "the server can't read the newest package".into(),
        ),
        (
            format!("update packages set body = '[]', service_id = 'other' where id = '{refined}'"),
            format!("seq 2: the server can't read package {refined} or its report"),
        ),
    ];
    // Far down the list: the pages before it and half pages lead to it.
    let many = format!(
        "insert into packages (id, service_id, status, created_at, created_by, fingerprint, body)
         select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, service_id, status,
            created_at - n * interval '1 hour', created_by, fingerprint, case n when 301 then '[]'::json else body end
         from packages, generate_series(1, 450) n where id = '{pending}'"
    );
    let far = next("package 00000000-0000-7000-8000-000000000300, newest first", "package");
    for (sql, place) in own.into_iter().chain([(many, far)]) {
        various.finds(&sql, &place).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_bytes_of_a_preimage_that_a_package_names_are_found_when_they_are_asked_for() {
    let dsn = postgres::migrated_database().await;
    let server = World::on(&dsn).serve().await;
    let (hash, empty) = (server.upload(b"abc").await, server.upload(b"").await);
    let mut naming = package("s", "1");
    naming["preimage_hashes"] = json!([hash, empty]);
    server.submit("s", "0").await;
    let id = server.post("/jam/packages", &naming).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let whole = verify(&server, &["--preimages"]);
    assert!(whole.code == 0 && whole.out.ends_with("whose bytes were compared: 2\n"), "{whole:?}");
    let cases = [
        ("update blob_chunks set bytes = 'abd'", "has other bytes"),
        ("update blob_chunks set bytes = 'ab'", "breaks off"),
        ("delete from blob_chunks", "breaks off"),
        ("delete from preimages where size > 0", "is not stored"),
    ];
    for (sql, found) in cases {
        postgres::execute(&dsn, sql).await;
        let ran = verify(&server, &["--preimages"]);
        let place = format!("seq 2: preimage {hash}, which package {id} names, {found}");
        assert!(ran.code == 1 && ran.err.contains(&place), "{sql}: {ran:?}");
        assert_eq!(verify(&server, &[]).code, 0, "bytes are read on demand alone");
    }
}

/// What is said of what stands after this one.
fn next(before: &str, what: &str) -> String {
    format!("after {before}: the server can't read the next {what}")
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_nothing_proves_are_counted_and_missing_weight_is_located() {
    let various = Various::new().await;
    let ran = various.after("delete from attestations where worker_id = 'w'").await;
    let light =
        "\napplied reports whose attestations weigh less than the threshold in force now: 1, the first at seq 5; ";
    assert!(ran.code == 0 && ran.out.contains(light), "{ran:?}");
    // What an older release signed covers neither weights nor times.
    let refined = &various.packages[1];
    let bundle = various.server.get(&format!("/jam/packages/{refined}/report")).await.json();
    let (report, word) = (&bundle["report"], &bundle["attestations"][0]);
    let said = json!({"domain": "jam-attestation-v1", "report_id": report["id"], "worker_id": "local",
        "refine_output_hash": report["refine_output_hash"]});
    let older = BASE64.encode(HashAlgorithm::Blake3.hash(&canonical::bytes(&said)));
    let id = word["report_id"].as_str().unwrap();
    let sign = |signature: &str| {
        format!(
            "update attestations set weight = 9, body = jsonb_set(body::jsonb, '{{signature}}', '\"{signature}\"')::json where report_id = '{id}'"
        )
    };
    let ran = various.after(&sign(&older)).await;
    assert!(
        ran.code == 0
            && ran.out.contains("\nattestations by other workers or older releases, whose fields nothing proves: 2\n"),
        "{ran:?}"
    );
    various.finds(&sign("c2ln"), "seq 2: the attestation of worker local does not fit report").await;
}
