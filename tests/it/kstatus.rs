//! What kstatus, and with it Helm's `--wait`, Argo CD and Flux, computes of a resource whose kind it does not know.
//!
//! Its published rules (sigs.k8s.io/cli-utils, pkg/kstatus/status: `checkGenericProperties`, `checkReadyCondition`, `Compute`) in their
//! order. One text for both test programs: tests/e2e asks it of real pods, tests/it of the real API server.

use serde_json::Value;

/// `Current`, `InProgress`, `Failed` or `Terminating`.
pub fn kstatus(object: &Value) -> &'static str {
    let (metadata, status) = (&object["metadata"], &object["status"]);
    if metadata["deletionTimestamp"].as_str().is_some_and(|at| !at.is_empty()) {
        return "Terminating";
    }
    // Where one of the two is missing it does not ask: the default of the schema is there for that (adr/0022).
    let seen = (metadata["generation"].as_i64(), status["observedGeneration"].as_i64());
    if let (Some(wanted), Some(observed)) = seen
        && wanted != observed
    {
        return "InProgress";
    }
    let conditions = || status["conditions"].as_array().into_iter().flatten();
    // Whichever of the two comes first.
    for told in conditions().filter(|told| told["status"] == "True") {
        match told["type"].as_str() {
            Some("Reconciling") => return "InProgress",
            Some("Stalled") => return "Failed",
            Some(_) | None => {}
        }
    }
    let ready = conditions().find(|told| told["type"] == "Ready").and_then(|told| told["status"].as_str());
    match ready {
        Some("False" | "Unknown") => "InProgress",
        // It takes what tells it nothing for finished.
        Some(_) | None => "Current",
    }
}
