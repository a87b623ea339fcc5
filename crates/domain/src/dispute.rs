//! Disputes: packages that could not be refined, or of which workers got different outputs, and how administrators end them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::{Act, By, Deed};
use crate::names::{PackageId, ReportId, TokenId};
use crate::record::{PackageStatus, WorkReport};
use crate::time::Timestamp;

/// How a dispute was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// One report stands, and is applied.
    Accepted,
    /// None stands: the package stays disputed.
    Rejected,
}

/// The end of a dispute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resolution {
    /// How.
    pub outcome: Outcome,
    /// The report that stands, when one does.
    pub report_id: Option<ReportId>,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: TokenId,
}

impl Resolution {
    /// With this report, or without any.
    pub fn of(report_id: Option<ReportId>, by: &By) -> Self {
        let outcome = if report_id.is_some() { Outcome::Accepted } else { Outcome::Rejected };
        Self { outcome, report_id, at: by.at, by: by.token_id.clone() }
    }

    /// Its line in the audit.
    pub fn deed(&self, by: &By, package: PackageId, reason: &str) -> Deed {
        let before = json!({"status": PackageStatus::Disputed, "reason": reason});
        let (act, after) = match self.outcome {
            Outcome::Accepted => {
                let after = json!({"status": PackageStatus::Applied, "report_id": self.report_id});
                (Act::AcceptReport, after)
            }
            Outcome::Rejected => (Act::RejectReports, json!({"status": PackageStatus::Disputed})),
        };
        Deed::of(by, act, package, before, after)
    }
}

/// The report of a worker who got another output than the report of the package says. What stands in the output, nobody but
/// that worker knows.
pub fn rival(of: &WorkReport, refine_output_hash: &str, now: Timestamp) -> WorkReport {
    WorkReport {
        id: ReportId::new(),
        package_id: of.package_id,
        service_id: of.service_id.clone(),
        refine_output_hash: refine_output_hash.to_owned(),
        refine_output_compact: String::new(),
        traces: None,
        created_at: now,
        status: PackageStatus::Disputed,
    }
}

/// Why a package with reports is disputed.
pub fn conflict(of: &WorkReport, worker: &str, refine_output_hash: &str) -> String {
    format!("worker {worker} got the output {refine_output_hash}, the report says {}", of.refine_output_hash)
}
