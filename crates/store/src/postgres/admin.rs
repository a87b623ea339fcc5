//! What administrators do to the database: every change in one transaction with its line of the audit.

use async_trait::async_trait;
use jam_domain::audit::{AuditEntry, Deed};
use jam_domain::page::{AuditCursor, Page, PageRequest};

use super::pool::again;
use super::{PostgresStore, audit};
use crate::{Administration, Stored};

#[async_trait]
impl Administration for PostgresStore {
    async fn audit(&self, page: PageRequest<AuditCursor>) -> Stored<Page<AuditEntry, AuditCursor>> {
        self.read(|| audit::list(&self.pool, page)).await
    }

    async fn note(&self, deed: Deed) -> Stored<()> {
        self.begun(again(|| audit::note(&self.pool, &deed))).await
    }
}
