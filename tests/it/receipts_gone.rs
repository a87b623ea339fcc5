//! What `jam verify` makes of records that are gone or that have no receipt to compare.

use serde_json::{Value, json};

use crate::api_support::{Server, World};
use crate::receipts_standing::verify;
use crate::support::postgres;

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
