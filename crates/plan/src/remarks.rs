//! What a spec decides that stands in none of its objects: whether and when something happens, and whose tokens count.

use crate::crd::{JamInstance, MigrationMode, Rotation};
use crate::{names, resolve, tokens};

/// A sentence for each such decision of an instance.
pub fn remarks(instance: &JamInstance) -> Vec<String> {
    let spec = &instance.spec;
    let paused = spec.paused.then(|| "it is paused: nothing is changed".to_owned());
    let waits = spec.migrations.mode == MigrationMode::Manual && resolve::dsn_reference(instance).is_some();
    let waits = waits.then(|| format!("each migration waits for the annotation {}", names::APPROVE_MIGRATION));
    let own = tokens::own_tokens(spec)
        .map(|(field, secret)| format!("whoever has a token of Secret {secret} ({field}) may call it"));
    let admins = tokens::admin_tokens(spec)
        .map(|(field, secret)| format!("whoever has a token of Secret {secret} ({field}) administers it"));
    let rotation = spec.tokens.as_ref().and_then(|tokens| tokens.rotation.as_ref());
    let rotation = rotation.map(|Rotation { interval_days, overlap_hours }| {
        format!("each consumer gets a new token every {interval_days} days; the old one is accepted {overlap_hours} hours more")
    });
    [paused, waits, own, admins, rotation].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::render;

    #[test]
    fn what_no_object_shows_is_said_and_nothing_else() {
        let said = |spec: serde_json::Value| {
            let head = json!({"kind": "JamInstance", "metadata": {"name": "main"}, "spec": spec});
            remarks(&render::instance(&head).unwrap())
        };
        assert_eq!(said(json!({})), Vec::<String>::new());
        let mut spec = json!({"database": {"dsnSecretRef": {"name": "db"}}, "migrations": {"mode": "Manual"}});
        assert_eq!(said(spec.clone()), ["each migration waits for the annotation jam.network/approve-migration"]);
        spec["database"].take();
        assert_eq!(said(spec), Vec::<String>::new(), "in memory there is nothing to migrate");
        let rotated = json!({"consumers": [{"name": "a"}], "rotation": {"intervalDays": 7, "overlapHours": 3}});
        assert_eq!(
            said(json!({"paused": true, "tokens": rotated})),
            [
                "it is paused: nothing is changed",
                "each consumer gets a new token every 7 days; the old one is accepted 3 hours more"
            ]
        );
        let own = json!({"globalTokensSecretRef": {"name": "g"}, "adminTokensSecretRef": {"name": "b"}});
        assert_eq!(
            said(json!({"tokens": own})),
            [
                "whoever has a token of Secret g (globalTokensSecretRef) may call it",
                "whoever has a token of Secret b (adminTokensSecretRef) administers it"
            ]
        );
    }
}
