//! What of a record does not stand in columns: what PostgreSQL keeps as JSON, and what a page of a list is measured by in both stores.

use std::io;

use jam_domain::page::{Page, TimeCursor, fitting};
use jam_domain::{Attestation, PreimageHash, Timestamp, WorkItem, WorkPackage, WorkReport};
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

/// What a word for a report takes in an answer beside its body and the name of its worker.
pub(crate) const WORD: u64 = 128;

/// The body of a word.
#[derive(Serialize)]
pub(crate) struct WordBody<'a> {
    signature: &'a str,
    engine: &'a str,
    engine_version: &'a str,
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

impl<'a> WordBody<'a> {
    /// The same of a word.
    pub(crate) fn of(word: &'a Attestation) -> Self {
        let Attestation { report_id: _, worker_id: _, signature, weight: _, created_at: _, engine, engine_version } =
            word;
        Self { signature, engine, engine_version }
    }
}

/// How much these words take.
pub(crate) fn words_bytes(words: &[Attestation]) -> u64 {
    words.iter().map(|word| bytes(&WordBody::of(word)) + word.worker_id.len() as u64 + WORD).sum()
}

/// The page of reports, ending where their bodies and so many bytes of words reach its bytes.
pub(crate) fn ending(page: Page<WorkReport, TimeCursor>, words: Vec<u64>) -> Page<WorkReport, TimeCursor> {
    let Page { mut items, next } = page;
    let fits = fitting(items.iter().zip(words).map(|(report, words)| bytes(&ReportBody::of(report)) + words)) as usize;
    if fits >= items.len() {
        return Page { items, next };
    }
    items.truncate(fits);
    let next = items.last().map(|last| TimeCursor { created_at: last.created_at, id: last.id.0 });
    Page { items, next }
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
