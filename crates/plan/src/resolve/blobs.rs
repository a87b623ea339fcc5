//! The blob store: where the bytes of preimages go, and the Secret with the keys to it.

use super::namespace_of;
use crate::crd::{BlobStore, JamInstance, JamInstanceSpec};
use crate::observed::{BlobKeys, Observed, SecretKey};
use crate::reason::{Reason, Refusal};

/// The keys of the Secret, which are the variables that they become. The third is there for credentials that end.
pub const BLOB_KEYS: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// A blob store whose credentials are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedBlobs {
    /// `s3://bucket/prefix`.
    pub url: String,
    /// The endpoint, for S3 that is not Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The Secret with the credentials; without one the pods find their own.
    pub secret: Option<String>,
    /// Hash of the credentials; empty without a Secret.
    pub hash: String,
}

impl ResolvedBlobs {
    /// Whether the endpoint has no TLS, which the pods have to be told that they may use.
    pub fn is_plain(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"))
    }
}

/// The Secret with credentials that a spec refers to: what the operator is to read.
pub fn blob_secret(spec: &JamInstanceSpec) -> Option<&str> {
    Some(spec.blob_store.as_ref()?.credentials_secret_ref.as_ref()?.name.as_str())
}

/// The variables that the spec's own fields become: nobody may set them once more.
pub(super) fn own_variables(blobs: &BlobStore) -> Vec<&'static str> {
    let BlobStore { url: _, endpoint, region, credentials_secret_ref } = blobs;
    let mut own = Vec::new();
    if endpoint.is_some() {
        own.extend(["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP"]);
    }
    if region.is_some() {
        own.extend(["AWS_REGION", "AWS_DEFAULT_REGION"]);
    }
    if credentials_secret_ref.is_some() {
        own.extend(BLOB_KEYS);
    }
    own
}

pub(super) fn blobs(instance: &JamInstance, observed: &Observed) -> Result<Option<ResolvedBlobs>, Refusal> {
    let Some(BlobStore { url, endpoint, region, credentials_secret_ref }) = &instance.spec.blob_store else {
        return Ok(None);
    };
    let secret = credentials_secret_ref.as_ref().map(|reference| reference.name.clone());
    let hash = match &secret {
        Some(secret) => keys(instance, secret, observed.blob_keys.as_ref())?,
        None => String::new(),
    };
    Ok(Some(ResolvedBlobs { url: url.clone(), endpoint: endpoint.clone(), region: region.clone(), secret, hash }))
}

/// The hash of the credentials, when each that is needed is there.
fn keys(instance: &JamInstance, secret: &str, found: Option<&BlobKeys>) -> Result<String, Refusal> {
    let at = format!("Secret {secret} in namespace {}", namespace_of(instance));
    let [id, key, _] = BLOB_KEYS;
    let missing = || {
        let told = format!("{at} does not exist; spec.blobStore.credentialsSecretRef needs its keys {id} and {key}");
        Refusal::new(Reason::SecretMissing, told)
    };
    let Some(found) = found else { return Err(missing()) };
    let BlobKeys(all) = found;
    for ((name, said), needed) in BLOB_KEYS.iter().zip(all).zip([true, true, false]) {
        let told = match said {
            SecretKey::NoSecret => return Err(missing()),
            SecretKey::Present { hash: _ } => continue,
            // An empty session token would be sent, and no request would be taken.
            SecretKey::NoKey if !needed => continue,
            SecretKey::NoKey => format!("{at} has no key {name}; put the credentials of spec.blobStore there"),
            SecretKey::Empty => format!("{at} has an empty key {name}; fill it or leave it out"),
        };
        return Err(Refusal::new(Reason::SecretKeyMissing, told));
    }
    found.hash().ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::{but, cluster_for, defaults, migrated_cluster_for, on_postgres, resolved};
    use crate::resolve::{Resolved, resolve};

    fn with_blobs() -> JamInstance {
        let endpoint = "http://minio.storage:9000";
        let credentials = json!({"name": "jam-blobs"});
        let blobs = json!({"url": "s3://bucket/p", "endpoint": endpoint, "region": "eu-1", "credentialsSecretRef": credentials});
        but(&on_postgres(), json!({"blobStore": blobs}))
    }

    fn present(hash: &str) -> SecretKey {
        SecretKey::Present { hash: hash.into() }
    }

    fn keyed(observed: Observed, keys: [SecretKey; 3]) -> Observed {
        Observed { blob_keys: Some(BlobKeys(keys)), ..observed }
    }

    /// Every variable of the pods, worker and API, migration and cleanup, as they are written.
    fn variables(resolved: &Resolved) -> Vec<Vec<Value>> {
        let objects = crate::desired::desired(resolved).items;
        let containers =
            ["/spec/template/spec/containers/0/env", "/spec/jobTemplate/spec/template/spec/containers/0/env"];
        let all = objects.iter().filter_map(|one| containers.iter().find_map(|path| one.body.pointer(path)));
        all.map(|env| env.as_array().unwrap().clone()).collect()
    }

    #[test]
    fn every_pod_is_told_where_the_blobs_are_and_takes_the_keys_from_the_secret() {
        let instance = but(&with_blobs(), json!({"workers": {"replicas": 1}, "cleanup": {}}));
        let keys = [present("id"), present("key"), SecretKey::NoKey];
        let all = variables(&resolved(&instance, &keyed(cluster_for(&instance), keys.clone())));
        assert_eq!(all.len(), 1, "the migration alone, at first");
        let job = crate::fixtures::job(
            &instance,
            &keyed(cluster_for(&instance), keys.clone()),
            crate::observed::JobState::Complete,
        );
        let migrated = Observed { migration_jobs: vec![job], ..keyed(cluster_for(&instance), keys) };
        let later = variables(&resolved(&instance, &migrated));
        assert_eq!(later.len(), 3, "API, workers and cleanup");
        for env in all.iter().chain(&later) {
            for (name, value) in [
                ("JAM_BLOB_STORE", "s3://bucket/p"),
                ("AWS_ENDPOINT_URL", "http://minio.storage:9000"),
                ("AWS_ALLOW_HTTP", "true"),
                ("AWS_REGION", "eu-1"),
            ] {
                assert!(env.contains(&json!({"name": name, "value": value})), "{name}: {env:?}");
            }
            for (name, optional) in BLOB_KEYS.into_iter().zip([false, false, true]) {
                let reference = json!({"name": "jam-blobs", "key": name, "optional": optional});
                let wanted = json!({"name": name, "valueFrom": {"secretKeyRef": reference}});
                assert!(env.contains(&wanted), "{name}: {env:?}");
            }
        }
    }

    #[test]
    fn without_endpoint_region_and_secret_nothing_is_said_of_them() {
        let instance = but(&on_postgres(), json!({"blobStore": {"url": "s3://bucket"}}));
        let [env] = &variables(&resolved(&instance, &cluster_for(&instance)))[..] else { panic!("one Job") };
        let names: Vec<_> = env.iter().filter_map(|one| one["name"].as_str()).collect();
        assert!(names.contains(&"JAM_BLOB_STORE") && !names.iter().any(|name| name.starts_with("AWS_")), "{names:?}");
    }

    #[test]
    fn a_missing_secret_and_a_missing_key_are_named_with_what_to_do() {
        use SecretKey::{Empty, NoKey, NoSecret};
        let instance = with_blobs();
        let at = "Secret jam-blobs in namespace jam";
        for (keys, reason, told) in [
            (None, Reason::SecretMissing, "does not exist; spec.blobStore.credentialsSecretRef needs its keys"),
            (Some([NoSecret, NoSecret, NoSecret]), Reason::SecretMissing, "does not exist"),
            (Some([NoKey, present("b"), NoKey]), Reason::SecretKeyMissing, "has no key AWS_ACCESS_KEY_ID"),
            (Some([present("a"), Empty, NoKey]), Reason::SecretKeyMissing, "has an empty key AWS_SECRET_ACCESS_KEY"),
            (Some([present("a"), present("b"), Empty]), Reason::SecretKeyMissing, "has an empty key AWS_SESSION_TOKEN"),
        ] {
            let observed = Observed { blob_keys: keys.map(BlobKeys), ..cluster_for(&instance) };
            let refusal = resolve(&instance, &observed, &defaults()).expect_err("it is refused");
            assert_eq!(refusal.reason, reason);
            assert!(refusal.message.contains(at) && refusal.message.contains(told), "{}", refusal.message);
        }
    }

    #[test]
    fn other_keys_make_other_pods_and_no_other_migration() {
        let instance = with_blobs();
        let with = |id: &str| {
            let keys = [present(id), present("key"), SecretKey::NoKey];
            resolved(&instance, &keyed(cluster_for(&instance), keys))
        };
        let (one, two) = (with("one"), with("two"));
        assert_ne!(one.wanted.inputs, two.wanted.inputs);
        assert_ne!(one.wanted.name, two.wanted.name);
        assert_eq!(one.migration, two.migration);
        let without = resolved(&on_postgres(), &migrated_cluster_for(&on_postgres()));
        assert_eq!(without.wanted.inputs, "dsn-hash-1", "an instance without one is as it was");
        let moved = one.revision.clone().with_secrets("main", Some("dsn-hash-1"), Some(&two.blobs.unwrap().hash));
        assert_eq!(moved.name(), two.wanted.name, "a good revision that is gone back to takes the new keys as well");
    }

    #[test]
    fn a_variable_that_the_spec_has_a_field_for_is_not_set_once_more() {
        for (name, refused) in
            [("AWS_ENDPOINT_URL_S3", true), ("AWS_REGION", true), ("AWS_SESSION_TOKEN", true), ("AWS_ROLE_ARN", false)]
        {
            let instance = but(&with_blobs(), json!({"podTemplate": {"env": [{"name": name, "value": "x"}]}}));
            let keys = [present("id"), present("key"), SecretKey::NoKey];
            let answer = resolve(&instance, &keyed(cluster_for(&instance), keys), &defaults());
            assert_eq!(answer.is_err_and(|refusal| refusal.message.contains(name)), refused, "{name}");
        }
    }

    #[test]
    fn the_network_policy_lets_pods_reach_the_port_of_the_endpoint() {
        let keys = || [present("id"), present("key"), SecretKey::NoKey];
        let ports = |instance: &JamInstance| resolved(instance, &keyed(cluster_for(instance), keys())).egress.open;
        assert_eq!(ports(&with_blobs()), [5432, 9000].into());
        let amazon = but(&on_postgres(), json!({"blobStore": {"url": "s3://bucket"}}));
        assert_eq!(ports(&amazon), [443, 5432].into());
    }
}
