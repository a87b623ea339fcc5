//! What `jam verify` makes of records that are gone, whose id was used again, or that have no receipt to compare.

use std::time::{Duration, Instant};

use jam_domain::receipt::root_of;
use jam_domain::{Attestation, EntryType, HashAlgorithm, Receipt, attestation, canonical};
use serde_json::{Value, json};

use crate::api_support::{Server, TOKEN, World, package};
use crate::cli_support::{Fake, Ran, Reply};
use crate::receipts_standing::verify;
use crate::receipts_vectors::python;
use crate::support::postgres;

/// One database behind a server that keeps receipts and one that keeps none.
pub struct Both {
    pub dsn: String,
    pub keeps: Server,
    pub without: Server,
}

impl Both {
    pub async fn new() -> Self {
        let dsn = postgres::migrated_database().await;
        let hash = ("JAM_ACCUMULATOR_HASH", "sha256");
        let keeps = World::on(&dsn).with(&[hash]).await;
        let without = World::on(&dsn).with(&[hash, ("JAM_ACCUMULATORS_ENABLED", "false")]).await;
        Self { dsn, keeps, without }
    }

    /// Deletes what retention deletes in the end.
    async fn delete_records(&self) {
        for table in ["attestations", "reports", "packages"] {
            postgres::execute(&self.dsn, &format!("delete from {table}")).await;
        }
    }

    /// Dates the whole chain of `s` and its records back, as if all of it had happened these days ago.
    pub async fn happened_before(&self, days: u8) {
        let earlier = format!("created_at = created_at - interval '{days} days'");
        for table in ["packages", "reports", "attestations"] {
            postgres::execute(&self.dsn, &format!("update {table} set {earlier}")).await;
        }
        let listed = async |name: &str| {
            let path = format!("/jam/{name}?service_id=s&limit=200&order=asc");
            self.keeps.get(&path).await.expect(200).json()["items"].as_array().unwrap().clone()
        };
        let hash = |record: &Value| HashAlgorithm::Sha256.hash(&canonical::bytes(record));
        let (mut prev_root, mut updates) = (String::new(), Vec::new());
        for receipt in listed("receipts").await {
            let mut receipt: Receipt = serde_json::from_value(receipt).unwrap();
            let report = receipt.entry_type == EntryType::Report;
            let id = if report { &receipt.extra.as_ref().unwrap()["package_id"] } else { &json!(receipt.hash) };
            let path = format!("/jam/packages/{}{}", id.as_str().unwrap(), if report { "/report" } else { "" });
            let mut record = self.keeps.get(&path).await.expect(200).json();
            record = if report { record["report"].take() } else { record };
            record["status"] = json!(receipt.status);
            receipt.metadata_hash = hex::encode(hash(&record));
            receipt.processed_at = receipt.processed_at.plus_seconds(-86_400 * i64::from(days));
            receipt.prev_root = prev_root;
            receipt.new_root = root_of(HashAlgorithm::Sha256, &receipt);
            let Receipt { seq, prev_root: before, new_root: root, metadata_hash, processed_at, .. } = &receipt;
            let bytes = |hex: &str| format!("decode('{hex}', 'hex')");
            let (before, after, content) = (bytes(before), bytes(root), bytes(metadata_hash));
            updates.push(format!(
                "update receipts set prev_root = {before}, new_root = {after}, metadata_hash = {content},
                    processed_at = '{processed_at}' where seq = {seq};
                 update accumulators set seq = {seq}, root = {after}, updated_at = '{processed_at}'"
            ));
            prev_root = receipt.new_root;
        }
        for report in listed("reports").await {
            let (id, package) = (report["id"].as_str().unwrap(), report["package_id"].as_str().unwrap());
            let words = self.keeps.get(&format!("/jam/packages/{package}/attestations")).await.expect(200).json();
            let word: Attestation = serde_json::from_value(words["items"][0].clone()).unwrap();
            let signature = json!(attestation::signature(HashAlgorithm::Sha256, &report, &word));
            updates.push(format!(
                "update attestations set body = jsonb_set(body::jsonb, '{{signature}}', '{signature}')::json
                 where report_id = '{id}'"
            ));
        }
        postgres::execute(&self.dsn, &updates.join(";")).await;
    }

    pub fn is_whole(&self, what: &str) -> Ran {
        let ran = verify(&self.keeps, &[]);
        assert_eq!(ran.code, 0, "{what}: {ran:?}");
        let (code, _, err) = self.python();
        assert_eq!((code, err.as_str()), (0, ""), "{what}");
        ran
    }

    pub fn python(&self) -> (i32, String, String) {
        python(&["--url", &self.keeps.address, "--service", "s", "--records"], TOKEN)
    }
}

pub async fn process(server: &Server) {
    server.post("/jam/process", &json!({})).await.expect(200);
}

pub async fn submit(server: &Server, id: &Value, service: &str, nonce: &str) {
    let mut new = package(service, nonce);
    new["id"] = id.clone();
    server.post("/jam/packages", &new).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_used_again_without_a_receipt_is_counted_and_no_finding() {
    let both = Both::new().await;
    let id = both.keeps.submit("s", "1").await["id"].take();
    process(&both.keeps).await;
    both.happened_before(2).await;
    assert!(!both.is_whole("two days ago").out.contains("no longer listed"));
    both.delete_records().await;
    submit(&both.without, &id, "s", "2").await;
    let counted = "\nids used again without receipts: 1, whose packages nothing in the chain covers\n";
    let pending = both.is_whole("pending again");
    assert!(
        pending.out.contains("\n2 of their packages and reports are no longer listed") && pending.out.contains(counted),
        "{pending:?}"
    );
    process(&both.without).await;
    let applied = both.is_whole("applied again, without a receipt");
    assert!(applied.out.contains(counted), "{applied:?}");
    both.delete_records().await;
    submit(&both.without, &id, "s", "3").await;
    process(&both.keeps).await;
    let receipted = both.is_whole("its report alone has a receipt");
    assert!(receipted.out.contains("3 receipts verified") && receipted.out.contains(counted), "{receipted:?}");
    both.delete_records().await;
    submit(&both.keeps, &id, "t", "4").await;
    process(&both.keeps).await;
    let elsewhere = both.is_whole("used by another service");
    assert!(elsewhere.out.contains(counted), "{elsewhere:?}");
    both.delete_records().await;
    submit(&both.keeps, &id, "s", "5").await;
    let settings = [("JAM_ATTESTATION_THRESHOLD", "2"), ("JAM_ACCUMULATOR_HASH", "sha256")];
    process(&World::on(&both.dsn).with(&settings).await).await;
    let refined = both.is_whole("with a receipt, and its report waits for further words");
    assert!(!refined.out.contains("ids used again"), "{refined:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_package_does_not_pass_for_one_whose_id_was_used_again() {
    let both = Both::new().await;
    both.keeps.submit("s", "1").await;
    process(&both.keeps).await;
    both.keeps.submit("s", "2").await;
    process(&both.without).await;
    both.keeps.submit("s", "3").await;
    both.happened_before(3).await;
    let settings = [("JAM_LEGACY_LIST_RESPONSE", "true"), ("JAM_ACCUMULATOR_HASH", "sha256")];
    let bare = World::on(&both.dsn).with(&settings).await;
    postgres::execute(&both.dsn, "create table whole as table packages").await;
    let body = "body = jsonb_set(body::jsonb, '{nonce}', '\"x\"')::json";
    let without = format!("{body}, receipt_seq = null");
    let later = |interval: &str| format!("{without}, created_at = created_at + interval '{interval}'");
    let applied = "(select processed_at from receipts where seq = 2)";
    // 1 is applied, 3 as well, with a report that has no receipt, and 4 is pending.
    let cases = [
        (1, without.clone()),
        (1, format!("{body}, created_at = created_at + interval '1 hour'")),
        (1, format!("{body}, created_at = created_at + interval '2 days'")),
        (1, later("1 hour")),
        (1, later("2 days")),
        (1, format!("{without}, created_at = {applied}")),
        (1, format!("{without}, created_at = {applied}, service_id = 'other'")),
        (1, format!("{}, service_id = 'other'", later("2 days"))),
        (1, format!("{body}, receipt_seq = 3, created_at = {applied}")),
        (3, later("5 milliseconds")),
        (3, later("2 days")),
        (3, later("6 days")),
        (4, without.clone()),
        (4, later("5 milliseconds")),
        (4, later("23 hours")),
        (4, later("73 hours")),
    ];
    let restore = "truncate packages; insert into packages table whole";
    for (seq, set) in cases {
        postgres::execute(&both.dsn, &format!("update packages set {set} where receipt_seq = {seq}")).await;
        let place = format!("seq {seq}: metadata_hash is not the hash of");
        for server in [&both.keeps, &bare] {
            let ran = verify(server, &[]);
            assert!(ran.code == 1 && ran.err.contains(&place), "{seq} {set}: {ran:?}");
        }
        let (code, _, err) = both.python();
        assert!(code == 1 && err.contains(&place), "{seq} {set}: {err}");
        postgres::execute(&both.dsn, restore).await;
        both.is_whole(&set);
    }
    // One that has no report yet and is dated a day later is as good as deleted and made by hand: it is counted.
    let by_hand = later("25 hours");
    postgres::execute(&both.dsn, &format!("update packages set {by_hand} where receipt_seq = 4")).await;
    assert!(both.is_whole(&by_hand).out.contains("\nids used again without receipts: 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extra_of_a_report_that_names_a_package_of_later_is_found() {
    let both = Both::new().await;
    both.keeps.submit("s", "1").await;
    process(&both.keeps).await;
    both.happened_before(3).await;
    // Neither pending nor applied does it have a receipt of its own, as one whose id was used again.
    let later = both.without.submit("s", "2").await["id"].as_str().unwrap().to_owned();
    let extra = format!("jsonb_build_object('package_id', '{later}', 'report_id', extra::jsonb->>'report_id')::json");
    postgres::execute(&both.dsn, &format!("update receipts set extra = {extra} where seq = 2")).await;
    for of in ["pending", "applied"] {
        if of == "applied" {
            process(&both.without).await;
        }
        let ran = verify(&both.keeps, &[]);
        assert!(ran.code == 1 && ran.err.contains("seq 2: "), "{of}: {ran:?}");
        let (code, _, err) = both.python();
        assert!(code == 1 && err.contains("seq 2: "), "{of}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_that_a_list_does_not_tell_apart_are_asked_for_and_the_rest_is_counted() {
    let dsn = postgres::migrated_database().await;
    let server = World::on(&dsn).serve().await;
    let bare = World::on(&dsn).with(&[("JAM_LEGACY_LIST_RESPONSE", "true")]).await;
    for nonce in 0..52 {
        server.submit("s", &nonce.to_string()).await;
    }
    let not_compared = |server: &Server| {
        let ran = verify(server, &["--output", "json"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        serde_json::from_str::<Value>(&ran.out).unwrap()["record_receipts_not_compared"].clone()
    };
    assert_eq!((not_compared(&server), not_compared(&bare)), (json!(0), json!(2)));
    let said = "\nreceipts of records not compared: 2 (the server answers with bare arrays)\n";
    assert!(verify(&bare, &[]).out.contains(said));
    let swap = "update packages set receipt_seq = 103 - receipt_seq where receipt_seq in (51, 52)";
    postgres::execute(&dsn, swap).await;
    let ran = verify(&bare, &[]);
    assert!(ran.code == 1 && ran.err.contains(": this is the receipt of"), "{ran:?}");
    postgres::execute(&dsn, swap).await;
    // Beside each of them one without a receipt.
    let beside = "insert into packages (id, service_id, status, created_at, created_by, fingerprint, body)
        select gen_random_uuid(), service_id, status, created_at + interval '1 microsecond', created_by, fingerprint, body
        from packages";
    postgres::execute(&dsn, beside).await;
    assert_eq!(not_compared(&server), json!(2));
    assert!(verify(&server, &[]).out.contains(": 2 (others beside them have none)\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_reports_without_receipts_are_counted() {
    let both = Both::new().await;
    both.keeps.submit("s", "1").await;
    process(&both.keeps).await;
    assert!(!both.is_whole("all have receipts").out.contains("without receipts"));
    both.without.submit("s", "2").await;
    process(&both.without).await;
    let ran = verify(&both.keeps, &[]);
    assert!(ran.code == 0 && ran.out.contains("\napplied reports without receipts: 1; "), "{ran:?}");
    // Of which the list of this server says nothing.
    let settings = [("JAM_LEGACY_LIST_RESPONSE", "true"), ("JAM_ACCUMULATOR_HASH", "sha256")];
    let bare = World::on(&both.dsn).with(&settings).await;
    let said: Value = serde_json::from_str(&verify(&bare, &["--output", "json"]).out).unwrap();
    assert_eq!(said["applied_reports_without_receipts"], json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_waits_when_it_is_turned_away_and_counts_what_is_gone() {
    let both = Both::new().await;
    for nonce in ["1", "2", "3"] {
        both.keeps.submit("s", nonce).await;
    }
    process(&both.keeps).await;
    let oldest = "(select hash from receipts where seq = 1)";
    for table in ["packages where id", "reports where package_id"] {
        postgres::execute(&both.dsn, &format!("delete from {table}::text = {oldest}")).await;
    }
    let settings = [("JAM_RATE_LIMIT_PER_MINUTE", "120"), ("JAM_ACCUMULATOR_HASH", "sha256")];
    let slow = World::on(&both.dsn).with(&settings).await;
    while slow.get("/jam/status").await.status == 200 {}
    let (code, out, err) = python(&["--url", &slow.address, "--service", "s", "--records"], TOKEN);
    assert!(code == 0 && out.ends_with("\n2 records are gone: not compared\n"), "{out} {err}");
    // What the server can't read is no more whole for being there.
    postgres::execute(&both.dsn, "update packages set body = '[]' where receipt_seq = 2").await;
    let (code, _, err) = both.python();
    assert!(code == 1 && err.contains("seq 2: its record can't be read: "), "{err}");
    let (code, _, err) = python(&["--url", &both.keeps.address, "--service", "s", "--records"], "another-token");
    assert!(code == 2 && err.contains(" 401 "), "{err}");
}

#[test]
fn python_waits_a_second_at_least_whatever_the_server_says() {
    let fake = Fake::answering(|call, _| {
        let status = if call < 2 { "429 Too Many Requests" } else { "401 Unauthorized" };
        Some(Reply(status, "retry-after: 0\r\n".into(), "{}".into()))
    });
    let started = Instant::now();
    let (code, _, err) = python(&["--url", &fake.addr, "--service", "s"], TOKEN);
    assert!(code == 2 && err.contains(" 401 "), "{err}");
    assert_eq!(fake.calls(), 3);
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
}
