//! What administrators do to the memory store: every change under one lock with its line of the audit.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jam_domain::audit::{AuditEntry, Deed};
use jam_domain::control::{Change, Control, ControlKey, Controls};
use jam_domain::page::{AuditCursor, Page, PageRequest, Start, Visible};
use jam_domain::refine::Engine;
use jam_domain::{Attestation, By, PackageId, PreimageHash, ReportId};

use super::state::State;
use super::{MemoryStore, disputes, preimages};
use crate::{Administration, Dispute, Dissent, Resolved, Stored};

/// What was done so far, oldest first.
#[derive(Default)]
pub(super) struct Audit(Vec<AuditEntry>);

impl Audit {
    /// Adds a line.
    pub(super) fn write(&mut self, deed: Deed) {
        let id = self.0.len() as u64 + 1;
        self.0.push(AuditEntry::of(id, deed));
    }

    fn list(&self, page: PageRequest<AuditCursor>) -> Page<AuditEntry, AuditCursor> {
        let (skip, below) = match page.start {
            Start::Offset(offset) => (usize::try_from(offset).unwrap_or(usize::MAX), u64::MAX),
            Start::After(AuditCursor(id)) => (0, id),
        };
        let newest = self.0.iter().rev().filter(|entry| entry.id < below).skip(skip);
        let mut items: Vec<AuditEntry> = newest.take(page.limit as usize + 1).cloned().collect();
        let next = turn_of(&mut items, page.limit);
        Page { items, next }
    }
}

/// Cuts what was read one too far; the place to go on from when there was more.
fn turn_of(items: &mut Vec<AuditEntry>, limit: u32) -> Option<AuditCursor> {
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    items.last().filter(|_| more).map(|last| AuditCursor(last.id))
}

/// What is set at run time; kind and name are in the order of the database.
#[derive(Default)]
pub(super) struct Set {
    version: u64,
    list: BTreeMap<(&'static str, String), Control>,
}

fn control(state: &mut State, key: &ControlKey, change: &Change, by: &By) -> Option<Control> {
    let place = (key.kind(), key.name());
    let before = state.controls.list.get(&place).cloned();
    match (change, &before) {
        (Change::Set(value), _) => {
            let (set_at, set_by) = (by.at, by.token_id.clone());
            let control = Control { key: key.clone(), value: value.clone(), set_at, set_by };
            state.controls.list.insert(place, control);
        }
        (Change::Remove, Some(_)) => drop(state.controls.list.remove(&place)),
        (Change::End(value), Some(found)) if found.value == *value => drop(state.controls.list.remove(&place)),
        (Change::Remove | Change::End(_), _) => return None,
    }
    state.controls.version += 1;
    state.audit.write(Deed::controlled(by, key, before.as_ref().map(|found| &found.value), change));
    before
}

pub(super) fn delete_preimage(state: &mut State, hash: PreimageHash, by: &By) -> Option<bool> {
    let record = state.preimages.get(&hash)?.record.clone();
    let gone = preimages::delete(state, hash);
    if gone == Some(true) {
        state.audit.write(Deed::deleted_preimage(by, &record));
    }
    gone
}

#[async_trait]
impl Administration for MemoryStore {
    async fn audit(&self, page: PageRequest<AuditCursor>) -> Stored<Page<AuditEntry, AuditCursor>> {
        Ok(self.state().audit.list(page))
    }

    async fn controls_version(&self) -> Stored<u64> {
        Ok(self.state().controls.version)
    }

    async fn controls(&self) -> Stored<Controls> {
        let state = self.state();
        let Set { version, list } = &state.controls;
        Ok(Controls { version: *version, list: list.values().cloned().collect() })
    }

    async fn control(&self, key: &ControlKey, change: &Change, by: &By) -> Stored<Option<Control>> {
        Ok(control(&mut self.state(), key, change, by))
    }

    async fn dissent(&self, report: ReportId, word: Attestation, output: &str, visible: &Visible) -> Stored<Dissent> {
        Ok(disputes::dissent(&mut self.state(), report, word, output, visible))
    }

    async fn dispute(&self, package: PackageId) -> Stored<Option<Dispute>> {
        Ok(disputes::find(&self.state(), package))
    }

    async fn resolve(
        &self,
        package: PackageId,
        accepted: Option<ReportId>,
        by: &By,
        engine: &Engine,
    ) -> Stored<Resolved> {
        let now = (self.clock)();
        Ok(disputes::resolve(&mut self.state(), package, accepted, by, (engine, now)))
    }

    async fn note(&self, deed: Deed) -> Stored<()> {
        self.state().audit.write(deed);
        Ok(())
    }
}
