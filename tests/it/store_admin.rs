//! Laws of the admin plane in both stores: every change leaves one line of the audit, in the transaction of its effect.

use jam_domain::audit::{Act, AuditEntry, Deed};
use jam_domain::retention::{Cleaned, CleanupRun};
use jam_domain::{PackageId, PreimageHash};
use jam_store::{Restored, Store};
use serde_json::{Value, json};

use crate::store_fixture::{World, all_pages, by, engine, first, laws, put};
use crate::store_retention::{aged, at, rule};
use crate::support::postgres;

laws!(
    every_change_by_an_administrator_is_in_the_audit_with_before_and_after,
    what_changed_nothing_leaves_no_line,
    the_audit_is_paged_newest_first_without_gap_or_repeat,
    of_changes_at_once_each_has_a_line_of_its_own,
);

pub async fn audit(store: &dyn Store) -> Vec<AuditEntry> {
    store.audit(first(200)).await.unwrap().items
}

/// A package in the archive since the moment of these tests.
async fn archived(store: &dyn Store) -> PackageId {
    let id = store.submit(aged("s", 40), &engine()).await.unwrap().package.id;
    store.process(1, &engine()).await.unwrap();
    assert_eq!(store.cleanup(&rule(0), false).await.unwrap().archived_packages, 1);
    id
}

async fn every_change_by_an_administrator_is_in_the_audit_with_before_and_after(world: World) {
    let store = world.store();
    let id = archived(&*store).await;
    assert_eq!(audit(&*store).await, [], "a cleanup by schedule is nobody's deed");
    assert!(matches!(store.restore(id, &by(at(1))).await.unwrap(), Restored::Back(_)));
    put(&*store, b"blob", 9).await;
    let hash = PreimageHash::of(b"blob");
    let preimage = serde_json::to_value(store.preimage(hash).await.unwrap()).unwrap();
    assert_eq!(store.delete_preimage(hash, &by(at(2))).await.unwrap(), Some(true));
    let cleaned = Cleaned { archived_packages: 3, ..Cleaned::default() };
    let run = CleanupRun { started_at: at(3), finished_at: at(3), cutoff: Some(at(-27)), cleaned, error: None };
    store.record_cleanup(run, Some(&by(at(3)))).await.unwrap();
    store.note(Deed::of(&by(at(4)), Act::RunCleanup, "by hand", json!(1), json!({"ä": null}))).await.unwrap();
    let lines = audit(&*store).await;
    let said: Vec<_> = lines.iter().map(|line| (line.id, line.at, line.action, line.target.clone())).collect();
    let wanted = [
        (4, at(4), Act::RunCleanup, "by hand".to_owned()),
        (3, at(3), Act::RunCleanup, String::new()),
        (2, at(2), Act::DeletePreimage, hash.to_string()),
        (1, at(1), Act::RestorePackage, id.to_string()),
    ];
    assert_eq!(said, wanted);
    assert!(lines.iter().all(|line| line.token_id == by(at(0)).token_id));
    assert_eq!((&lines[0].before, &lines[0].after), (&json!(1), &json!({"ä": null})));
    assert_eq!((&lines[1].before, &lines[1].after["archived"]["packages"]), (&Value::Null, &json!(3)));
    assert_eq!((&lines[2].before, &lines[2].after), (&preimage, &Value::Null));
    assert_eq!((&lines[3].before, &lines[3].after), (&json!({"archived_at": at(0)}), &json!({"restored_at": at(1)})));
}

async fn what_changed_nothing_leaves_no_line(world: World) {
    let store = world.store();
    assert_eq!(store.restore(PackageId::new(), &by(at(1))).await.unwrap(), Restored::NotArchived);
    assert_eq!(store.delete_preimage(PreimageHash::of(b"none"), &by(at(1))).await.unwrap(), None);
    put(&*store, b"held", 9).await;
    let mut new = aged("s", 1);
    new.package.preimage_hashes = Some(vec![PreimageHash::of(b"held")]);
    store.submit(new, &engine()).await.unwrap();
    assert_eq!(store.delete_preimage(PreimageHash::of(b"held"), &by(at(1))).await.unwrap(), Some(false));
    assert_eq!(audit(&*store).await, []);
}

async fn the_audit_is_paged_newest_first_without_gap_or_repeat(world: World) {
    let store = world.store();
    for n in 1..=7 {
        store.note(Deed::of(&by(at(n)), Act::RunCleanup, n, Value::Null, json!(n))).await.unwrap();
    }
    let lines = all_pages(3, async |page| {
        let page = store.audit(page).await.unwrap();
        // What is written meanwhile is in front of what is read.
        store.note(Deed::of(&by(at(9)), Act::RunCleanup, "later", Value::Null, Value::Null)).await.unwrap();
        page
    });
    let targets: Vec<String> = lines.await.into_iter().map(|line| line.target).collect();
    assert_eq!(targets, ["7", "6", "5", "4", "3", "2", "1"]);
}

async fn of_changes_at_once_each_has_a_line_of_its_own(world: World) {
    let notes = (0..40_usize).map(|n| {
        let store = world.replica(n);
        async move { store.note(Deed::of(&by(at(0)), Act::RunCleanup, n, Value::Null, Value::Null)).await }
    });
    assert!(futures::future::join_all(notes).await.iter().all(Result::is_ok));
    let lines = audit(&*world.store()).await;
    assert!(lines.iter().map(|line| line.id).eq((1..=40).rev()));
    let targets: std::collections::BTreeSet<_> = lines.iter().map(|line| &line.target).collect();
    assert_eq!(targets.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_line_cannot_be_written_the_change_does_not_happen() {
    let world = World::postgres().await;
    let store = world.store();
    let id = archived(&*store).await;
    put(&*store, b"blob", 9).await;
    let hash = PreimageHash::of(b"blob");
    let dsn = world.dsn.as_deref().unwrap();
    postgres::execute(dsn, "alter table audit add constraint nothing check (false)").await;
    assert!(store.restore(id, &by(at(1))).await.is_err());
    assert!(store.archived(id).await.unwrap().is_some() && store.package(id).await.unwrap().is_none());
    assert!(store.delete_preimage(hash, &by(at(1))).await.is_err());
    assert!(store.preimage(hash).await.unwrap().is_some());
    let run = |error: Option<&str>| CleanupRun {
        started_at: at(0),
        finished_at: at(0),
        cutoff: None,
        cleaned: Cleaned::default(),
        error: error.map(str::to_owned),
    };
    assert!(store.record_cleanup(run(None), Some(&by(at(1)))).await.is_err());
    assert_eq!(store.cleanups().await.unwrap(), None);
    postgres::execute(dsn, "alter table audit drop constraint nothing").await;
    assert!(matches!(store.restore(id, &by(at(1))).await.unwrap(), Restored::Back(_)));
    assert_eq!(audit(&*store).await.len(), 1);
}
