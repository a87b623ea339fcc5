//! Ids that were used again, of which the chain knows the report alone: both verifiers measure against its receipt.

use serde_json::{Value, json};

use crate::receipts_gone::{Both, process, submit};
use crate::receipts_standing::verify;
use crate::support::postgres;

const AGAIN: &str = "\nids used again without receipts: 1, whose packages nothing in the chain covers\n";

/// A chain of some days ago: seq 1 is the report of a package that has no receipt, 2 and 3 are another package and its report.
async fn report_alone(both: &Both) -> Value {
    let id = both.without.submit("s", "1").await["id"].take();
    process(&both.keeps).await;
    both.keeps.submit("s", "2").await;
    process(&both.keeps).await;
    both.happened_before(3).await;
    assert!(!both.is_whole("as it was").out.contains("ids used again"));
    id
}

/// Deletes what there is of one package, as retention does in the end.
async fn delete(both: &Both, id: &Value) {
    let id = id.as_str().unwrap();
    let sql = format!(
        "delete from attestations where report_id in (select id from reports where package_id = '{id}');
         delete from reports where package_id = '{id}'; delete from packages where id = '{id}'"
    );
    postgres::execute(&both.dsn, &sql).await;
}

/// Makes another report of a package's, which is signed by nobody that a verifier knows.
fn another_report(id: &str) -> String {
    format!(
        "update attestations set worker_id = 'w' where report_id in (select id from reports where package_id = '{id}');
         update reports set receipt_seq = null, body = jsonb_set(body::jsonb, '{{refine_output_compact}}', '\"\"')::json
         where package_id = '{id}';
         with new as (select gen_random_uuid() as id, id as old from reports where package_id = '{id}'),
         said as (update attestations a set report_id = new.id from new where a.report_id = new.old)
         update reports r set id = new.id from new where r.id = new.old"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_which_the_report_alone_has_a_receipt_may_be_used_again() {
    let both = Both::new().await;
    let id = report_alone(&both).await;
    delete(&both, &id).await;
    submit(&both.without, &id, "s", "3").await;
    both.is_whole("pending again");
    process(&both.without).await;
    let applied = both.is_whole("applied again, without a receipt");
    assert!(applied.out.contains("3 receipts verified") && applied.out.contains(AGAIN), "{applied:?}");
    assert!(applied.out.contains("\n1 of their packages and reports are no longer listed"), "{applied:?}");
    // The last of its reports in the chain counts, which was made just now: retention may delete it at once (archive_days 0).
    delete(&both, &id).await;
    submit(&both.without, &id, "s", "4").await;
    process(&both.keeps).await;
    both.is_whole("its report has a receipt again");
    delete(&both, &id).await;
    submit(&both.without, &id, "s", "5").await;
    process(&both.without).await;
    assert!(both.is_whole("used a fourth time").out.contains(AGAIN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_report_of_a_package_without_a_receipt_does_not_pass_for_one_whose_id_was_used_again() {
    let both = Both::new().await;
    let id = report_alone(&both).await;
    let id = id.as_str().unwrap();
    let tables = ["packages", "reports", "attestations"];
    for table in tables {
        postgres::execute(&both.dsn, &format!("create table whole_{table} as table {table}")).await;
    }
    let other = another_report(id);
    let made = "(select processed_at from receipts where seq = 1)";
    let dated = |at: &str| format!("{other}; update packages set created_at = {at} where id = '{id}'");
    let (later, report) = (format!("{made} + interval '1 hour'"), format!("where package_id = '{id}'"));
    let cases = [
        other.clone(),
        dated(made),
        // Older than its package.
        dated(&later),
        dated("now() + interval '1 hour'")
            + &format!("; update reports set created_at = now() + interval '1 hour' {report}"),
    ];
    for sql in cases {
        postgres::execute(&both.dsn, &sql).await;
        let ran = verify(&both.keeps, &[]);
        let place = format!("seq 1: the report of package {id} is ");
        assert!(ran.code == 1 && ran.err.contains(&place), "{sql}: {ran:?}");
        let (code, _, err) = both.python();
        assert!(code == 1 && err.contains("seq 1: metadata_hash is not the hash of"), "{sql}: {err}");
        for table in tables {
            let restore = format!("truncate {table}; insert into {table} overriding system value table whole_{table}");
            postgres::execute(&both.dsn, &restore).await;
        }
        both.is_whole(&sql);
    }
    // With dates that fit it is as good as deleted and submitted again: it is counted.
    let by_hand = dated(&later) + &format!("; update reports set created_at = {later} {report}");
    postgres::execute(&both.dsn, &by_hand).await;
    assert!(both.is_whole(&by_hand).out.contains(AGAIN));
    let said: Value = serde_json::from_str(&verify(&both.keeps, &["--output", "json"]).out).unwrap();
    assert_eq!(said["ids_used_again_without_receipts"], json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_report_of_an_id_that_was_used_again_is_not_excused_by_the_use_before_it() {
    let both = Both::new().await;
    let id = both.keeps.submit("s", "1").await["id"].take();
    process(&both.without).await;
    both.happened_before(3).await;
    delete(&both, &id).await;
    submit(&both.without, &id, "s", "2").await;
    process(&both.keeps).await;
    assert!(both.is_whole("its report has a receipt").out.contains(AGAIN));
    postgres::execute(&both.dsn, &another_report(id.as_str().unwrap())).await;
    let ran = verify(&both.keeps, &[]);
    assert!(ran.code == 1 && ran.err.contains("seq 2: "), "{ran:?}");
    let (code, _, err) = both.python();
    assert!(code == 1 && err.contains("seq 2: "), "{err}");
}
