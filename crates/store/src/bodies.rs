//! What of a record does not stand in columns: what PostgreSQL keeps as JSON, and what a page of a list is measured by in both stores.

use std::io;

use jam_domain::{PreimageHash, Timestamp, WorkItem, WorkPackage, WorkReport};
use serde::Serialize;

/// The body of a package.
#[derive(Serialize)]
pub(crate) struct PackageBody<'a> {
    items: &'a [WorkItem],
    nonce: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preimage_hashes: Option<&'a [PreimageHash]>,
}

/// The body of a report.
#[derive(Serialize)]
pub(crate) struct ReportBody<'a> {
    refine_output_hash: &'a str,
    refine_output_compact: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traces: Option<&'a [String]>,
}

impl<'a> PackageBody<'a> {
    /// What does not stand in columns; a new field must be put into one of them.
    pub(crate) fn of(package: &'a WorkPackage) -> Self {
        let WorkPackage {
            id: _,
            service_id: _,
            items,
            created_by: _,
            nonce,
            expiry,
            signature,
            preimage_hashes,
            status: _,
            created_at: _,
        } = package;
        let (signature, preimage_hashes) = (signature.as_deref(), preimage_hashes.as_deref());
        Self { items, nonce, expiry: *expiry, signature, preimage_hashes }
    }
}

impl<'a> ReportBody<'a> {
    /// The same of a report.
    pub(crate) fn of(report: &'a WorkReport) -> Self {
        let WorkReport {
            id: _,
            package_id: _,
            service_id: _,
            refine_output_hash,
            refine_output_compact,
            traces,
            created_at: _,
            status: _,
        } = report;
        Self { refine_output_hash, refine_output_compact, traces: traces.as_deref() }
    }
}

/// Counts what is written.
struct Count(u64);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long a body is as JSON.
pub(crate) fn bytes(body: &impl Serialize) -> u64 {
    let mut count = Count(0);
    // Counting never fails, and neither does writing a record: what was counted until then is the answer.
    let _ = serde_json::to_writer(&mut count, body);
    count.0
}
