//! What keeps an object from going: a finalizer that nobody else serves.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Instance, kubectl};

/// A finalizer on an object called jam. It is given up with the test, however that ends: a definition whose instance hangs would hang as
/// well, and every test after it.
pub struct Hold<'a> {
    namespace: &'a str,
    kind: &'a str,
}

impl<'a> Hold<'a> {
    /// Keeps this object of an instance, or the instance itself.
    pub fn on(instance: &'a Instance, kind: &'a str) -> Self {
        let hold = Self { namespace: &instance.namespace, kind };
        let held = hold.set(&json!(["e2e.jam.network/hold"]));
        assert!(held.status.success(), "{}", String::from_utf8_lossy(&held.stderr));
        hold
    }

    fn set(&self, finalizers: &Value) -> Output {
        let change = json!({"metadata": {"finalizers": finalizers}}).to_string();
        kubectl(&["-n", self.namespace, "patch", self.kind, "jam", "--type", "merge", "-p", &change])
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.set(&Value::Null);
    }
}
