//! `pause`, `resume`, `enable`, `disable`: one field of the spec, and what that changes in so many words.

use serde_json::{Value, json};

use super::args::SwitchArgs;
use super::cluster::{Cluster, Instance, place, spec, told};
use super::fault::Fault;
use super::{note, wait};

/// What is switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// The operator's hands off.
    Pause,
    /// The operator's hands on.
    Resume,
    /// JAM on.
    Enable,
    /// JAM off.
    Disable,
}

impl Switch {
    fn wanted(self) -> bool {
        match self {
            Self::Pause | Self::Enable => true,
            Self::Resume | Self::Disable => false,
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::Pause | Self::Resume => "spec.paused",
            Self::Enable | Self::Disable => "spec.runtime.jam.enabled",
        }
    }

    /// What it means for those who call, and for the pods.
    fn means(self) -> &'static str {
        match self {
            Self::Pause => "nothing of it is written until kubectl jam resume; its pods go on serving",
            Self::Resume => "what was changed meanwhile is carried out now",
            Self::Enable => "/jam/* is served again when its pods are replaced, one at a time",
            Self::Disable => {
                "every /jam/* path answers 404 when its pods are replaced, one at a time; /healthz, /readyz and \
                 /system/* go on, and what is stored stays"
            }
        }
    }

    /// The field as it is. What the spec leaves to the profile is known by the operator alone.
    fn present(self, instance: &Instance) -> Option<bool> {
        match self {
            Self::Pause | Self::Resume => Some(spec(instance, "/paused") == Some(&Value::Bool(true))),
            Self::Enable | Self::Disable => {
                spec(instance, "/runtime/jam/enabled").and_then(Value::as_bool).or(told(instance).enabled)
            }
        }
    }

    fn patch(self) -> Value {
        let wanted = self.wanted();
        match self {
            Self::Pause | Self::Resume => json!({"spec": {"paused": wanted}}),
            Self::Enable | Self::Disable => json!({"spec": {"runtime": {"jam": {"enabled": wanted}}}}),
        }
    }

    /// Whether the operator has carried it out.
    fn is_done(self, instance: &Instance) -> Result<Option<()>, Fault> {
        if !wait::is_current(instance) {
            return Ok(None);
        }
        let paused = wait::is(instance, "Paused");
        let done = match self {
            Self::Pause => paused,
            Self::Resume => !paused && wait::is(instance, "Ready"),
            Self::Enable | Self::Disable => {
                told(instance).enabled == Some(self.wanted()) && wait::is(instance, "Ready")
            }
        };
        if !done {
            wait::unless_stalled(instance)?;
        }
        Ok(done.then_some(()))
    }
}

/// Changes the field, where it is not so already.
pub async fn switch(cluster: &Cluster, args: &SwitchArgs, switch: Switch) -> Result<String, Fault> {
    let SwitchArgs { name, wait: waiting } = args;
    let before = cluster.instance(name).await?;
    let (at, field, wanted) = (place(&before), switch.field(), switch.wanted());
    let present = switch.present(&before);
    let is_paused = spec(&before, "/paused") == Some(&Value::Bool(true));
    let mut text = if present == Some(wanted) {
        format!("{at}: {field} is {wanted} already, nothing is changed\n")
    } else {
        cluster.change(name, &switch.patch()).await?;
        let present = present.map_or_else(|| "left to the profile".into(), |present| present.to_string());
        format!("{at}: {field}: {present} -> {wanted}\n  {}\n", switch.means())
    };
    if is_paused && matches!(switch, Switch::Enable | Switch::Disable) {
        note(&format!("{at} is paused: nothing happens until kubectl jam resume {name} -n {}", cluster.namespace));
        return Ok(text);
    }
    if waiting.wait {
        let what = format!("{field}={wanted} to be in force");
        wait::until(cluster, name, *waiting, &what, |instance| switch.is_done(instance)).await?;
        text.push_str("  in force\n");
    }
    Ok(text)
}
