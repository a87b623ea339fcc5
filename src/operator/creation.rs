//! New objects by server-side apply: what appeared under the name meanwhile is somebody else's, and is not merged into.

use jam_plan::names;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::Value;

/// The version of no object: the first ones of a cluster have it. To an object that is there the API server then refuses to
/// apply, and one that is not it creates (adr/0044).
const NO_OBJECT: &str = "1";

/// Creates an object as an apply does, so that later ones may take fields out again.
///
/// # Errors
/// 409 when there is an object of this name.
pub async fn create(api: &Api<DynamicObject>, name: &str, body: &Value) -> Result<DynamicObject, kube::Error> {
    let mut body = body.clone();
    body["metadata"]["resourceVersion"] = NO_OBJECT.into();
    api.patch(name, &PatchParams::apply(names::FIELD_MANAGER), &Patch::Apply(&body)).await
}
