//! The ConfigMap with the evidence against a revision that was given up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Desired, Kind, Write, identity};
use crate::names::Component;
use crate::resolve::Resolved;

/// Most bytes of one text.
const LONGEST: usize = 8192;

/// The ConfigMap, when the rollout was given up just now. `pods` has what each pod said, by name; it is cut to what fits.
pub fn evidence(resolved: &Resolved, pods: BTreeMap<String, String>) -> Option<Desired> {
    let status = Some(&resolved.rollout_status).filter(|_| resolved.given_up)?;
    let name = status.evidence.clone()?;
    let why = status.message.as_deref().unwrap_or_default();
    let back = resolved.revision.image();
    let summary = format!(
        "generation: {}\nrevision: {}\nimage: {}\nwhy: {why}\nrolled back to: {} ({back})\n",
        status.generation,
        status.revision,
        resolved.wanted.image,
        resolved.revision.name(),
    );
    let mut data: BTreeMap<_, _> = pods.into_iter().map(|(pod, text)| (format!("{pod}.txt"), end_of(&text))).collect();
    data.insert("summary.txt".into(), summary);
    let map = ConfigMap {
        metadata: identity::metadata(resolved, &name, Component::Api),
        data: Some(data),
        ..ConfigMap::default()
    };
    Some(Desired::new(resolved, Kind::ConfigMap, name, Write::CreateOnce, &map))
}

/// The last words say what went wrong.
fn end_of(text: &str) -> String {
    let mut from = text.len().saturating_sub(LONGEST);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}
