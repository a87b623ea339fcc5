//! What administrators do to the memory store: every change under one lock with its line of the audit.

use async_trait::async_trait;
use jam_domain::audit::{AuditEntry, Deed};
use jam_domain::page::{AuditCursor, Page, PageRequest, Start};
use jam_domain::{By, PreimageHash};

use super::state::State;
use super::{MemoryStore, preimages};
use crate::{Administration, Stored};

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

    async fn note(&self, deed: Deed) -> Stored<()> {
        self.state().audit.write(deed);
        Ok(())
    }
}
