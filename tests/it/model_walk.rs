//! Random sequences of calls over HTTP: the server on memory, the server on PostgreSQL and a simple model answer alike.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::Value;

use crate::api_support::{World, file, token_file};
use crate::model_state::{CAP, Expected, Model, answer};
use crate::model_words::{Draft, Expiry, Part, Way, When, Who};
use crate::model_world::{ADMIN, BOUND, Paging, Seen};

/// Cases by default, so that the law costs seconds; `JAM_MODEL_CASES` raises them.
const CASES: u32 = 15;
/// Calls of one case.
const CALLS: std::ops::Range<usize> = 20..60;
/// What an administrator's token may do.
const ALL: [&str; 4] = ["read", "submit", "process", "admin"];
const STATUSES: [&str; 4] = ["pending", "refined", "disputed", "applied"];

#[derive(Debug, Clone)]
enum Call {
    Upload(u8, Way),
    Meta(u8),
    Bytes(u8, Part, bool),
    Delete(u8),
    Submit(Draft),
    Process(usize),
    Read(usize),
    Report(usize),
    Attestations(usize),
    Attest(usize, u8, u64, bool),
    Packages(Option<u8>, Option<usize>, Option<When>, Paging),
    Reports(Option<u8>, Option<usize>, Paging),
    Receipts(u8, bool, Paging),
    Latest(usize, bool),
    Status(Option<u8>),
}

fn draft() -> impl Strategy<Value = Draft> {
    let some = |most: u8| prop_oneof![2 => Just(None), 1 => (0..most).prop_map(Some)];
    let blobs = || prop::collection::vec(0..4_u8, 0..3);
    let expiry = prop_oneof![4 => Just(None), 1 => Just(Some(Expiry::Ahead)), 1 => Just(Some(Expiry::Past))];
    let parts = (0..3_u8, 0..3_u8, some(4), some(4), expiry, (blobs(), blobs()));
    parts.prop_map(|(service, nonce, id, key, expiry, blobs)| Draft { service, nonce, id, key, expiry, blobs })
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![3 => Just(Way::Whole), 2 => Just(Way::Chunked), 1 => Just(Way::Wrong)]
}

fn part() -> impl Strategy<Value = Part> {
    // Blobs have 0 to 400 bytes.
    let place = || (0..10_u64).prop_map(|n| n * 50);
    prop_oneof![
        Just(Part::Whole),
        any::<bool>().prop_map(Part::Unless),
        (place(), place()).prop_map(|(first, last)| Part::Range(first, last)),
        place().prop_map(Part::From),
        place().prop_map(Part::Last),
    ]
}

fn when() -> impl Strategy<Value = Option<When>> {
    prop_oneof![
        2 => Just(None),
        1 => (0..10_usize).prop_map(|n| Some(When::Before(n))),
        1 => (0..10_usize).prop_map(|n| Some(When::After(n))),
    ]
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![3 => Just(Who::Anybody), 1 => Just(Who::Bound), 2 => Just(Who::Admin)]
}

fn paging() -> impl Strategy<Value = Paging> {
    (1..5_usize, any::<bool>()).prop_map(|(limit, by_cursor)| Paging { limit, by_cursor })
}

fn call() -> impl Strategy<Value = Call> {
    let service = || prop::option::of(0..4_u8);
    let status = || prop::option::of(0..4_usize);
    prop_oneof![
        4 => (0..4_u8, way()).prop_map(|(n, way)| Call::Upload(n, way)),
        8 => draft().prop_map(Call::Submit),
        4 => (1..4_usize).prop_map(Call::Process),
        3 => (0..10_usize, 0..3_u8, 1..3_u64, prop::bool::weighted(0.3))
            .prop_map(|(n, worker, weight, other)| Call::Attest(n, worker, weight, other)),
        1 => (0..5_u8).prop_map(Call::Meta),
        3 => (0..5_u8, part(), any::<bool>()).prop_map(|(n, part, head)| Call::Bytes(n, part, head)),
        4 => (0..5_u8).prop_map(Call::Delete),
        1 => (0..12_usize).prop_map(Call::Read),
        1 => (0..12_usize).prop_map(Call::Report),
        1 => (0..12_usize).prop_map(Call::Attestations),
        2 => (service(), status(), when(), paging())
            .prop_map(|(service, status, when, paging)| Call::Packages(service, status, when, paging)),
        1 => (service(), status(), paging()).prop_map(|(service, status, paging)| Call::Reports(service, status, paging)),
        1 => (0..4_u8, any::<bool>(), paging()).prop_map(|(service, asc, paging)| Call::Receipts(service, asc, paging)),
        1 => (0..12_usize, any::<bool>()).prop_map(|(n, report)| Call::Latest(n, report)),
        1 => service().prop_map(Call::Status),
    ]
}

/// What the model answers to a call; lists are compared elsewhere.
fn foretold(model: &mut Model, call: &Call) -> Option<Expected> {
    Some(match call {
        Call::Upload(n, way) => model.upload(*n, *way),
        Call::Meta(n) => model.meta(*n),
        Call::Bytes(n, part, head) => model.bytes(*n, *part, *head),
        Call::Delete(n) => model.delete(*n),
        Call::Submit(draft) => model.submit(draft),
        Call::Process(limit) => model.process(*limit),
        Call::Read(n) => model.read(*n),
        Call::Report(n) => model.report(*n),
        Call::Attestations(n) => model.attestations(*n),
        Call::Attest(n, worker, weight, other) => model.attest(*n, &worker_of(*worker), *weight, *other),
        Call::Latest(n, report) => model.latest(&hash_of(model, *n, *report)),
        Call::Status(service) => model.denied(*service).unwrap_or_else(|| {
            answer(200, service.map_or_else(|| model.heads().into(), |service| model.head(service)))
        }),
        Call::Packages(..) | Call::Reports(..) | Call::Receipts(..) => return None,
    })
}

/// The first worker is the server's own name, which has attested already.
fn worker_of(n: u8) -> String {
    if n == 0 { "local".into() } else { format!("w{n}") }
}

fn hash_of(model: &Model, n: usize, report: bool) -> String {
    if report && n < model.packages() { model.content(n) } else { format!("P{n}") }
}

/// What the server answers. The model has made the call already.
async fn answered(seen: &mut Seen, model: &Model, call: &Call) -> Expected {
    match call {
        Call::Upload(n, way) => seen.upload(*n, *way, model).await,
        Call::Meta(n) => seen.meta(*n, model).await,
        Call::Bytes(n, part, head) => seen.bytes(*n, *part, *head, model).await,
        Call::Delete(n) => seen.delete(*n, model).await,
        Call::Submit(draft) => seen.submit(draft, model).await,
        Call::Process(limit) => seen.process(*limit, model).await,
        Call::Read(n) => seen.of_package(*n, "?include_receipt=true", model).await,
        Call::Report(n) => seen.of_package(*n, "/report?include_receipt=true", model).await,
        Call::Attestations(n) => seen.of_package(*n, "/attestations", model).await,
        Call::Attest(n, worker, weight, other) => seen.attest(*n, &worker_of(*worker), (*weight, *other), model).await,
        Call::Latest(n, report) => seen.latest(*n, &hash_of(model, *n, *report), model).await,
        Call::Status(service) => {
            let query = service.map(|service| format!("?service_id=s{service}")).unwrap_or_default();
            let mut got = seen.get(&format!("/jam/status{query}"), model).await;
            let key = if service.is_some() { "accumulator_root" } else { "accumulator_roots" };
            if got.status == 200 {
                got.body = got.body[key].take();
            }
            got
        }
        Call::Packages(..) | Call::Reports(..) | Call::Receipts(..) => unreachable!("lists are read by `listed`"),
    }
}

/// Whether the caller may not see the list; then the server says so.
async fn refused(seen: &mut Seen, model: &Model, service: Option<u8>, path: &str) -> bool {
    let Some(wanted) = model.denied(service) else { return false };
    assert_eq!(seen.get(path, model).await, wanted, "{path}");
    true
}

/// Reads a list from the server and from the model; both must be the same, in pages of the same sizes.
async fn listed(seen: &mut Seen, model: &Model, call: &Call) {
    let filter = |service: &Option<u8>, status: &Option<usize>| {
        let service = service.map(|service| format!("&service_id=s{service}")).unwrap_or_default();
        service + &status.map(|status| format!("&status={}", STATUSES[status])).unwrap_or_default()
    };
    let named = |status: &Option<usize>| status.map(|status| STATUSES[status]);
    let (wanted, receipts, got, paging) = match call {
        Call::Packages(service, status, when, paging) => {
            let narrowed = filter(service, status) + &seen.narrowed(*when);
            let path = format!("/jam/packages?include_receipt=true{narrowed}");
            if refused(seen, model, *service, &path).await {
                return;
            }
            let (packages, mut receipts) = model.list(*service, named(status), *when);
            receipts.retain(|_| !seen.legacy);
            (packages, receipts, seen.list(&path, paging, model).await, paging)
        }
        Call::Reports(service, status, paging) => {
            let path = format!("/jam/reports?{}", filter(service, status));
            if refused(seen, model, *service, &path).await {
                return;
            }
            let mut got = seen.list(&path, paging, model).await;
            let mut wanted = model.reports(*service, named(status));
            // Reports of one batch have one time; which of them is first depends on their random ids.
            for list in [&mut got.1, &mut wanted] {
                list.sort_by_key(|report| report["id"].to_string());
            }
            (wanted, Vec::new(), got, paging)
        }
        Call::Receipts(service, ascending, paging) => {
            let order = if *ascending { "asc" } else { "desc" };
            let path = format!("/jam/receipts?service_id=s{service}&order={order}");
            if refused(seen, model, Some(*service), &path).await {
                return;
            }
            (model.receipts(*service, *ascending), Vec::new(), seen.list(&path, paging, model).await, paging)
        }
        _ => return,
    };
    let sizes: Vec<usize> = wanted.chunks(paging.limit).map(<[Value]>::len).collect();
    assert_eq!(got.0, if sizes.is_empty() { vec![0] } else { sizes }, "{call:?}");
    assert_eq!(got.1, wanted, "{call:?}");
    assert_eq!(got.2, receipts, "{call:?}");
}

async fn walk(threshold: u64, legacy: bool, calls: &[(Who, Call)]) {
    let (threshold_text, cap) = (threshold.to_string(), CAP.to_string());
    let (_tokens, bound) = file("tokens.json", &token_file(&[(BOUND, None, Some(&["s0"])), (ADMIN, Some(&ALL), None)]));
    let settings = [
        ("JAM_ATTESTATION_THRESHOLD", threshold_text.as_str()),
        ("JAM_MAX_PENDING_PACKAGES", cap.as_str()),
        ("JAM_TOKENS_FILE", bound.to_str().unwrap()),
        ("JAM_LEGACY_LIST_RESPONSE", if legacy { "true" } else { "false" }),
    ];
    let postgres = World::postgres().await;
    let servers = [World::memory().with(&settings).await, postgres.with(&settings).await];
    let mut worlds = servers.map(|server| Seen::new(server, legacy));
    let mut model = Model::new(threshold);
    for (n, (who, call)) in calls.iter().chain(&last_look()).enumerate() {
        model.who = *who;
        let wanted = foretold(&mut model, call);
        for (seen, store) in worlds.iter_mut().zip(["memory", "postgres"]) {
            seen.who = *who;
            match &wanted {
                Some(wanted) => {
                    assert_eq!(answered(seen, &model, call).await, *wanted, "{store}, call {n}: {who:?} {call:?}");
                }
                None => listed(seen, &model, call).await,
            }
        }
    }
}

/// Whatever was done, everything is looked at once more.
fn last_look() -> Vec<(Who, Call)> {
    let paging = || Paging { limit: 3, by_cursor: true };
    let mut calls =
        vec![Call::Status(None), Call::Packages(None, None, None, paging()), Call::Reports(None, None, paging())];
    calls.extend((0..4).map(Call::Meta));
    calls.extend((0..3).map(|service| Call::Receipts(service, true, paging())));
    [Who::Anybody, Who::Bound, Who::Admin]
        .iter()
        .flat_map(|who| calls.iter().map(|call| (*who, call.clone())))
        .collect()
}

#[test]
fn memory_postgres_and_a_simple_model_answer_every_sequence_of_calls_alike() {
    let cases = std::env::var_os("JAM_MODEL_CASES")
        .map_or(CASES, |text| text.to_str().and_then(|text| text.parse().ok()).expect("JAM_MODEL_CASES is a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config { cases, max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let sequences = (1..3_u64, prop::bool::weighted(0.3), prop::collection::vec((who(), call()), CALLS));
    let outcome = TestRunner::new(config).run(&sequences, |(threshold, legacy, calls)| {
        runtime.block_on(walk(threshold, legacy, &calls));
        Ok::<(), TestCaseError>(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
