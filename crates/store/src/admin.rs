//! What administrators ask of a store beside everybody else: every change leaves a line in the audit, in the transaction of
//! its effect.

use async_trait::async_trait;
use jam_domain::audit::{AuditEntry, Deed};
use jam_domain::page::{AuditCursor, Page, PageRequest};

use crate::Stored;

/// The admin plane of a store.
#[async_trait]
pub trait Administration {
    /// What administrators did, newest first.
    async fn audit(&self, page: PageRequest<AuditCursor>) -> Stored<Page<AuditEntry, AuditCursor>>;
    /// Writes the line of something whose effect is not in the store.
    async fn note(&self, deed: Deed) -> Stored<()>;
}
