//! Packages in memory: acceptance in one step under the lock, and lists.

use jam_domain::event::Fact;
use jam_domain::page::{PackageFilter, Page, PageRequest, TimeCursor, fitting};
use jam_domain::receipt::Entry;
use jam_domain::refine::Engine;
use jam_domain::submission::passed_expiry;
use jam_domain::{PackageId, PackageStatus, Receipt, ServiceId, WorkPackage};

use super::index::Cut;
use super::receipts::turn;
use super::state::{PackageRow, State, narrowed};
use crate::bodies::{PackageBody, bytes};
use crate::work::{field_of, preimages_of};
use crate::{NewPackage, StoreError, SubmitError, Submitted};

pub(super) fn submit(state: &mut State, new: NewPackage, engine: &Engine) -> Result<Submitted, SubmitError> {
    if let Some(replay) = replay(state, &new)? {
        keep_key(state, &new, replay.package.id);
        return Ok(replay);
    }
    check(state, &new)?;
    let NewPackage { package, fingerprint, idempotency_key, .. } = new;
    let receipt = engine.receipts.then(|| {
        let entry = Entry::of_package(engine.algorithm, &package);
        state.ledgers.append(&package.service_id, |chain| chain.append(engine.algorithm, entry, package.created_at))
    });
    for hash in preimages_of(&package) {
        if let Some(blob) = state.preimages.get_mut(&hash) {
            blob.record.refcount += 1;
        }
    }
    if let Some(key) = &idempotency_key {
        state.keys.insert((package.created_by.clone(), key.clone()), package.id);
    }
    let told = Fact::Submitted(package.service_id.clone(), package.id, receipt.as_ref().map(|receipt| receipt.seq));
    state.story.tell(package.created_at, vec![told]);
    let row = PackageRow {
        package: package.clone(),
        fingerprint,
        idempotency_key,
        receipt: receipt.as_ref().map(|receipt| receipt.seq),
        report: None,
        dispute: None,
        rivals: Vec::new(),
        resolution: None,
        restored_at: None,
    };
    state.package_index.insert(&package.service_id, package.status, row.place());
    state.packages.insert(package.id, row);
    Ok(Submitted { package, receipt, replayed: false })
}

/// What is stored already under the same key or id: the answer when the bodies are equal, else a conflict.
fn replay(state: &State, new: &NewPackage) -> Result<Option<Submitted>, SubmitError> {
    let key = new.idempotency_key.as_ref().map(|key| (new.package.created_by.clone(), key.clone()));
    let by_key = key.and_then(|key| state.keys.get(&key)).and_then(|id| state.stored(*id));
    let by_id = state.stored(new.package.id);
    let (row, what) = match (by_key, by_id) {
        (Some(row), _) => (row, "Idempotency-Key"),
        (None, Some(row)) if new.id_from_client => (row, "id"),
        (None, Some(_)) => return Err(StoreError::Fault("a new package id is taken".into()).into()),
        (None, None) => return Ok(None),
    };
    let other_id = new.id_from_client && row.package.id != new.package.id;
    if other_id || row.fingerprint != new.fingerprint {
        return Err(SubmitError::Conflict { what });
    }
    let package = row.package.clone();
    let receipt = row.receipt.and_then(|seq| state.receipt(&package.service_id, seq));
    Ok(Some(Submitted { package, receipt, replayed: true }))
}

/// A key that was answered by the id of the package stands for it from now on, as if it had come the first time.
fn keep_key(state: &mut State, new: &NewPackage, id: PackageId) {
    let Some(key) = &new.idempotency_key else { return };
    let row = match state.packages.get_mut(&id) {
        Some(row) => row,
        None => match state.archive.get_mut(&id) {
            Some(archived) => &mut archived.row,
            None => return,
        },
    };
    if row.idempotency_key.is_none() && row.package.created_by == new.package.created_by {
        row.idempotency_key = Some(key.clone());
        state.keys.insert((new.package.created_by.clone(), key.clone()), id);
    }
}

/// The checks in the order of their answers: expiry, preimages, the instance's cap, the service's cap.
fn check(state: &State, new: &NewPackage) -> Result<(), SubmitError> {
    if let Some(expiry) = passed_expiry(&new.package) {
        return Err(SubmitError::Expired(expiry));
    }
    if let Some(unknown) = preimages_of(&new.package).into_iter().find(|hash| !state.preimages.contains_key(hash)) {
        let field = field_of(&new.package, &unknown);
        return Err(SubmitError::UnknownPreimage { hash: unknown, field });
    }
    let reached = |cap: u32, service: Option<&ServiceId>| {
        cap > 0 && state.package_index.count(service, PackageStatus::Pending) as u64 >= u64::from(cap)
    };
    if reached(new.pending_cap, None) {
        return Err(SubmitError::PendingLimit { cap: new.pending_cap, service: None });
    }
    let service = &new.package.service_id;
    if reached(new.service_pending_cap, Some(service)) {
        return Err(SubmitError::PendingLimit { cap: new.service_pending_cap, service: Some(service.clone()) });
    }
    Ok(())
}

pub(super) fn row(state: &State, id: PackageId, archived: bool) -> Option<&PackageRow> {
    if archived { state.archive.get(&id).map(|archived| &archived.row) } else { state.packages.get(&id) }
}

pub(super) fn receipt(state: &State, id: PackageId, archived: bool) -> Option<Receipt> {
    let row = row(state, id, archived)?;
    state.receipt(&row.package.service_id, row.receipt?)
}

pub(super) fn pending(state: &State) -> u64 {
    state.package_index.count(None, PackageStatus::Pending) as u64
}

pub(super) fn list(
    state: &State,
    filter: &PackageFilter,
    page: PageRequest<TimeCursor>,
) -> Page<WorkPackage, TimeCursor> {
    let PackageFilter { service_id, status, created_after, created_before, visible, archived } = filter;
    let services = narrowed(service_id.as_ref(), visible.as_ref());
    let cut = Cut {
        status: *status,
        after: *created_after,
        before: *created_before,
        start: page.start,
        count: page.limit as usize + 1,
    };
    let index = if *archived { &state.archive_index } else { &state.package_index };
    let mut places = index.cut(services.as_deref(), &cut);
    let package = |place: &TimeCursor| state.stored(PackageId(place.id)).map(|row| &row.package);
    let fits = fitting(places.iter().filter_map(package).map(|package| bytes(&PackageBody::of(package))));
    let next = turn(&mut places, page.limit.min(fits));
    Page { items: places.iter().filter_map(package).cloned().collect(), next }
}
