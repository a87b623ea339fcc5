//! Children that could not be written: each is told, and what does without it goes on.

use jam_plan::{Kind, ObjectRef, Reason, Refusal, names};

use super::error::Error;

/// What could not be written in one walk.
#[derive(Debug, Default)]
pub struct Setbacks {
    /// What the API server refuses as the spec wants it, with its words: it would again.
    refused: Vec<(ObjectRef, String)>,
    /// What a rule beside it is in the way of.
    denied: Vec<(ObjectRef, kube::Error)>,
    /// What was removed, to be made again, or will be; what each waits for.
    removed: Vec<(ObjectRef, &'static str)>,
    /// Whether new pods would lack something.
    bars_pods: bool,
}

impl Setbacks {
    /// Whether this would run without what it needs, and so waits.
    ///
    /// A migration is not asked for here: what may not run before it is not among the wanted objects.
    pub fn hold_back(&self, kind: Kind) -> bool {
        self.bars_pods && runs_pods(kind)
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.refused.is_empty() && self.denied.is_empty() && self.removed.is_empty()
    }

    /// The API server refuses this object; whether new pods would be shut out by what is there of it.
    pub fn refuse(&mut self, instance: &str, object: &ObjectRef, shuts_out: bool, words: String) {
        self.bars_pods |= shuts_out || serves_pods(instance, object);
        self.refused.push((object.clone(), words));
    }

    /// A rule is in its way.
    pub fn deny(&mut self, instance: &str, object: &ObjectRef, shuts_out: bool, error: kube::Error) {
        self.bars_pods |= shuts_out || serves_pods(instance, object);
        self.denied.push((object.clone(), error));
    }

    /// It was removed, to be made again: until then the instance is not as its spec wants it.
    pub fn removed(&mut self, instance: &str, object: &ObjectRef) {
        self.bars_pods |= serves_pods(instance, object);
        self.removed.push((object.clone(), "waits for its end"));
    }

    /// Somebody has changed again what was made again for a change, not long ago.
    pub fn changed(&mut self, instance: &str, object: &ObjectRef) {
        self.bars_pods |= serves_pods(instance, object);
        self.removed.push((object.clone(), "was changed again, and is removed after a pause, a longer one each time"));
    }

    /// What is said of it all: in the words about the first, with the names of the others.
    ///
    /// # Errors
    /// Where something is to be tried again.
    pub fn told(self) -> Result<Option<Refusal>, Error> {
        let Self { refused, denied, removed, bars_pods: _ } = self;
        let all = refused.iter().map(|(object, _)| object).chain(denied.iter().map(|(object, _)| object));
        let all: Vec<ObjectRef> = all.cloned().collect();
        let refused = refused
            .into_iter()
            .next()
            .map(|(object, words)| Refusal::new(Reason::InvalidObject, format!("{words}{}", beside(&all, &object))));
        match denied.into_iter().next() {
            Some((object, source)) => {
                let what = format!("{object} cannot be written{}", beside(&all, &object));
                Err(Error::Denied { what, refused, source })
            }
            None if refused.is_none() && !removed.is_empty() => {
                let told: Vec<_> = removed.iter().map(|(object, why)| format!("{object} {why}")).collect();
                Err(Error::Leaving { what: told.join("; ") })
            }
            None => Ok(refused),
        }
    }
}

/// The others, by name.
fn beside(all: &[ObjectRef], told: &ObjectRef) -> String {
    let others: Vec<_> = all.iter().filter(|object| *object != told).map(ToString::to_string).collect();
    if others.is_empty() { String::new() } else { format!(" (nor can {})", others.join(", ")) }
}

/// Whether pods come of it.
pub fn runs_pods(kind: Kind) -> bool {
    matches!(kind, Kind::Job | Kind::Deployment | Kind::CronJob)
}

/// Whether pods mount it, or run as it.
pub fn serves_pods(instance: &str, object: &ObjectRef) -> bool {
    match object.kind {
        Kind::ServiceAccount => true,
        Kind::ConfigMap => !names::is_dashboard(&object.name),
        // A consumer's own is its consumer's.
        Kind::Secret => object.name == names::token_hashes(instance),
        Kind::NetworkPolicy
        | Kind::Job
        | Kind::Service
        | Kind::Deployment
        | Kind::CronJob
        | Kind::PodDisruptionBudget
        | Kind::HorizontalPodAutoscaler
        | Kind::Ingress
        | Kind::HttpRoute
        | Kind::ServiceMonitor
        | Kind::PrometheusRule => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: Kind, name: &str) -> ObjectRef {
        ObjectRef { kind, name: name.into() }
    }

    fn quota() -> kube::Error {
        kube::Error::Api(kube::core::Status::failure("exceeded quota", "Forbidden").with_code(403).boxed())
    }

    #[test]
    fn pods_wait_for_what_they_mount_or_run_as_and_for_nothing_else() {
        for (object, bars) in [
            (object(Kind::ServiceAccount, "main"), true),
            (object(Kind::ConfigMap, "main-config-a"), true),
            (object(Kind::Secret, "main-token-hashes"), true),
            (object(Kind::Secret, "main-token-demo"), false),
            (object(Kind::ConfigMap, "main-dashboard"), false),
            (object(Kind::NetworkPolicy, "main"), false),
            (object(Kind::Service, "main"), false),
            (object(Kind::Job, "main-migrate-a-0"), false),
        ] {
            let mut all = [Setbacks::default(), Setbacks::default(), Setbacks::default()];
            all[0].refuse("main", &object, false, "no".into());
            all[1].deny("main", &object, false, quota());
            all[2].removed("main", &object);
            for setbacks in all {
                for kind in Kind::ALL {
                    assert_eq!(setbacks.hold_back(kind), bars && runs_pods(kind), "{object}: {kind:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_removed_is_not_there_yet_and_what_is_refused_beside_it_is_the_graver_word() {
        let removed = || {
            let mut setbacks = Setbacks::default();
            setbacks.removed("main", &object(Kind::ConfigMap, "main-config-a"));
            setbacks.removed("main", &object(Kind::Deployment, "main"));
            setbacks
        };
        assert!(!removed().is_none(), "nothing else is removed meanwhile");
        let Err(Error::Leaving { what }) = removed().told() else { panic!("it is not there") };
        assert_eq!(what, "ConfigMap main-config-a waits for its end; Deployment main waits for its end");
        let mut setbacks = Setbacks::default();
        setbacks.changed("main", &object(Kind::Job, "main-migrate-a-0"));
        assert!(!setbacks.is_none());
        let Err(Error::Leaving { what }) = setbacks.told() else { panic!("it is not as wanted") };
        assert!(what.contains("Job main-migrate-a-0 was changed again"), "{what}");
        let mut setbacks = removed();
        setbacks.refuse("main", &object(Kind::Ingress, "main"), false, "Ingress main: bad key".into());
        assert_eq!(setbacks.told().unwrap().unwrap().message, "Ingress main: bad key");
        let mut setbacks = removed();
        setbacks.deny("main", &object(Kind::Service, "main"), false, quota());
        assert!(matches!(setbacks.told(), Err(Error::Denied { .. })));
    }

    #[test]
    fn the_first_is_told_in_its_words_and_the_others_by_their_names() {
        assert_eq!(Setbacks::default().told().unwrap(), None);
        let mut setbacks = Setbacks::default();
        setbacks.refuse("main", &object(Kind::Service, "main"), false, "Service main: bad key".into());
        setbacks.refuse("main", &object(Kind::Ingress, "main"), false, "Ingress main: bad key".into());
        setbacks.deny("main", &object(Kind::NetworkPolicy, "main"), false, quota());
        let Err(Error::Denied { what, refused, source: _ }) = setbacks.told() else { panic!("it is tried again") };
        assert_eq!(refused.unwrap().message, "Service main: bad key (nor can Ingress main, NetworkPolicy main)");
        assert_eq!(what, "NetworkPolicy main cannot be written (nor can Service main, Ingress main)");
    }
}
