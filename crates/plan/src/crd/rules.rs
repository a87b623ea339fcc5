//! The cross-field rules of the resource, in CEL, with the message that a user gets.

use serde_json::{Value, json};

use crate::resolve::refuse;
use crate::schedule;

/// One rule: where it stands (a path of property names), what must hold, what is said otherwise, which field is named.
struct Rule<'a> {
    at: &'a str,
    holds: &'a str,
    message: &'a str,
    field: Option<&'a str>,
}

/// What is said about a schedule that is none.
const NO_SCHEDULE: &str = "must be five cron fields (minute 0-59, hour 0-23, day of month 1-31, month 1-12, day of week 0-6, names allowed), such as 17 3 * * *, or one of @hourly, @daily, @weekly, @monthly, @yearly; the time zone stands in timeZone";

/// What is said about a range that runs backwards.
const NO_RANGE: &str = "a range runs backwards, such as 50-10: write two, 50-59,0-10";

const RULES: &[Rule] = &[
    Rule {
        at: "",
        holds: "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        message: "metadata.name must have at most 40 characters of a-z, 0-9 and -, the first a letter, the last not a -: the Service has the same name",
        field: None,
    },
    Rule {
        at: "",
        holds: "!has(oldSelf.status) || !has(oldSelf.status.version) || !has(oldSelf.status.version.schema) || (has(self.spec.runtime.jam.store) ? self.spec.runtime.jam.store == 'postgres' : self.spec.profile != 'local')",
        message: "spec.runtime.jam.store can't be changed: the PostgreSQL database has been migrated and holds this instance's state; make a new instance instead",
        field: Some(".spec.runtime"),
    },
    Rule {
        at: "spec",
        holds: "(has(self.runtime.jam.store) ? self.runtime.jam.store : (self.profile == 'local' ? 'memory' : 'postgres')) != 'postgres' || (has(self.database) && (has(self.database.dsnSecretRef) || has(self.database.cluster)))",
        message: "store postgres needs a database: set exactly one of spec.database.dsnSecretRef and spec.database.cluster",
        field: Some(".database"),
    },
    Rule {
        at: "spec.database",
        holds: "!(has(self.dsnSecretRef) && has(self.cluster))",
        message: "set exactly one of dsnSecretRef and cluster, not both",
        field: Some(".cluster"),
    },
    Rule {
        at: "spec",
        holds: "self.profile != 'production' || !has(self.runtime.jam.store) || self.runtime.jam.store == 'postgres'",
        message: "profile production refuses the memory store: set spec.runtime.jam.store to postgres",
        field: Some(".runtime"),
    },
    Rule {
        at: "spec",
        holds: "self.profile != 'production' || !has(self.runtime.jam.authRequired) || self.runtime.jam.authRequired",
        message: "profile production refuses authRequired: false",
        field: Some(".runtime"),
    },
    Rule {
        at: "spec",
        holds: "self.profile != 'production' || !has(self.runtime.jam.allowedOrigins) || self.runtime.jam.allowedOrigins.all(o, o.startsWith('https:'))",
        message: "profile production takes https origins only in spec.runtime.jam.allowedOrigins",
        field: Some(".runtime"),
    },
    Rule {
        at: "spec",
        holds: "(has(self.runtime.jam.store) ? self.runtime.jam.store : (self.profile == 'local' ? 'memory' : 'postgres')) != 'memory' || (self.replicas <= 1 && !has(self.autoscaling))",
        message: "store memory keeps state in one process: spec.replicas must be at most 1, without autoscaling",
        field: Some(".replicas"),
    },
    Rule {
        at: "spec",
        holds: "(has(self.runtime.jam.store) ? self.runtime.jam.store : (self.profile == 'local' ? 'memory' : 'postgres')) != 'memory' || self.workers.replicas == 0",
        message: "store memory keeps state in one process: workers can't reach it, spec.workers.replicas must be 0",
        field: Some(".workers"),
    },
    Rule {
        at: "spec",
        holds: "!has(self.tokens) || (has(self.runtime.jam.authRequired) && !self.runtime.jam.authRequired) || size(self.tokens.consumers) > 0 || has(self.tokens.allowedTokensSecretRef) || has(self.tokens.globalTokensSecretRef)",
        message: "authRequired is true and spec.tokens lets nobody in: name a consumer or a Secret with tokens, or leave spec.tokens out",
        field: Some(".tokens"),
    },
    Rule {
        at: "spec.tokens",
        holds: "size(self.consumers) == 0 || !(has(self.allowedTokensSecretRef) || has(self.globalTokensSecretRef))",
        message: "use either consumers or your own tokens (allowedTokensSecretRef, globalTokensSecretRef), not both",
        field: Some(".consumers"),
    },
    Rule {
        at: "spec.tokens",
        holds: "self.consumers.all(consumer, consumer.name != 'hashes')",
        message: "no consumer may be named hashes: its Secret would be the one of the token hashes",
        field: Some(".consumers"),
    },
    Rule {
        at: "spec.tokens",
        holds: "!has(self.rotation) || size(self.consumers) > 0",
        message: "rotation replaces the tokens of consumers: name at least one",
        field: Some(".rotation"),
    },
    Rule {
        at: "spec.tokens.rotation",
        holds: "self.overlapHours < self.intervalDays * 24",
        message: "overlapHours must be shorter than the interval (intervalDays * 24 hours)",
        field: Some(".overlapHours"),
    },
    Rule {
        at: "spec.autoscaling",
        holds: "self.minReplicas <= self.maxReplicas",
        message: "minReplicas must not be greater than maxReplicas",
        field: Some(".minReplicas"),
    },
    Rule {
        at: "spec.ingress",
        holds: "!self.enabled || has(self.host)",
        message: "host is needed when the Ingress is enabled",
        field: Some(".host"),
    },
    Rule {
        at: "spec.httpRoute",
        holds: "!self.enabled || (has(self.parentRefs) && size(self.parentRefs) > 0)",
        message: "parentRefs needs at least one Gateway when the HTTPRoute is enabled",
        field: Some(".parentRefs"),
    },
    Rule {
        at: "spec.image",
        holds: "!has(self.digest) || !has(self.tag)",
        message: "set tag or digest, not both: the digest alone decides what is pulled",
        field: Some(".digest"),
    },
    Rule {
        at: "spec.podTemplate",
        holds: "!has(self.labels) || self.labels.all(k, !k.startsWith('jam.network/') && !k.startsWith('app.kubernetes.io/'))",
        message: "labels of jam.network/ and app.kubernetes.io/ are the operator's own",
        field: Some(".labels"),
    },
    Rule {
        at: "spec.podTemplate",
        holds: "!has(self.annotations) || self.annotations.all(k, !k.startsWith('jam.network/') && !k.startsWith('app.kubernetes.io/'))",
        message: "annotations of jam.network/ and app.kubernetes.io/ are the operator's own",
        field: Some(".annotations"),
    },
    Rule {
        at: "spec.podTemplate",
        holds: "!has(self.annotations) || self.annotations.all(k, !k.startsWith('container.apparmor.security.beta.kubernetes.io/') || self.annotations[k] != 'unconfined')",
        message: "pods are not taken out of AppArmor: remove the annotation container.apparmor.security.beta.kubernetes.io/ with unconfined",
        field: Some(".annotations"),
    },
    Rule {
        at: "spec.cleanup.timeZone",
        holds: "!self.matches('^(?i:local)$')",
        message: "Local is the zone of whatever machine runs the control plane: use a name of the IANA database such as Etc/UTC or Europe/Berlin",
        field: None,
    },
    Rule {
        at: "spec.cleanup.timeZone",
        holds: "timestamp('2026-01-01T00:00:00Z').getFullYear(self) > 0",
        message: "unknown time zone: use a name of the IANA database such as Etc/UTC or Europe/Berlin",
        field: None,
    },
];

/// Puts every rule into the schema.
pub(super) fn install(schema: &mut Value) {
    let variables = variables();
    let of_variables = Rule { at: "spec.podTemplate", holds: &variables.0, message: &variables.1, field: Some(".env") };
    let day = day();
    let of_days = Rule { at: "spec.cleanup", holds: &day.0, message: &day.1, field: Some(".schedule") };
    for Rule { at, holds, message, field } in RULES.iter().chain([&of_variables, &of_days]) {
        let mut written = json!({"rule": holds, "message": message, "reason": "FieldValueInvalid"});
        if let Some(field) = field {
            written["fieldPath"] = json!(field);
        }
        if holds.contains("oldSelf") {
            written["reason"] = json!("FieldValueForbidden");
        }
        let node = property(schema, at);
        match node.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut) {
            Some(rules) => rules.push(written),
            None => node["x-kubernetes-validations"] = json!([written]),
        }
    }
    let rules = [
        (format!("self.matches(r'{}')", cron()), NO_SCHEDULE),
        (format!("!self.matches(r'{}')", backwards()), NO_RANGE),
    ];
    let rules = rules.map(|(rule, message)| json!({"rule": rule, "message": message, "reason": "FieldValueInvalid"}));
    property(schema, "spec.cleanup.schedule")["x-kubernetes-validations"] = json!(rules);
}

/// The rule about a day that is in no calendar, and its message. Who writes one into a cron line mostly means "only by hand": suspended
/// it says so.
fn day() -> (String, String) {
    let holds = format!("(has(self.suspend) && self.suspend) || !self.schedule.matches(r'{}')", never());
    (holds, format!("{}; to clean up by hand alone, suspend it", schedule::NEVER_COMES))
}

/// The rule about environment variables and its message: the same list as in [`refuse`].
fn variables() -> (String, String) {
    let listed = |names: &[&str]| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let (free, others) = (listed(&refuse::FREE_VARIABLES), listed(&refuse::OTHER_VARIABLES));
    let holds = format!(
        "!has(self.env) || self.env.all(e, (!e.name.startsWith('JAM_') || e.name in [{free}]) && !(e.name in [{others}]))"
    );
    let message = format!(
        "variables that begin with JAM_ (except {}), and {}, are set from the spec's own fields",
        refuse::FREE_VARIABLES.join(", "),
        refuse::OTHER_VARIABLES.join(", ")
    );
    (holds, message)
}

fn property<'a>(schema: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').filter(|name| !name.is_empty()).fold(schema, |node, name| {
        node.get_mut("properties").and_then(|all| all.get_mut(name)).expect("rules name properties of the schema")
    })
}

/// What Kubernetes takes as a schedule, as a regular expression: numbers in their bounds, names, ranges, steps and lists.
fn cron() -> String {
    let field = |value: &str| {
        let range = format!(r"([*?]|({value})(-({value}))?)(/[1-9][0-9]?)?");
        format!("{range}(,{range})*")
    };
    let fields = [
        field("[0-5]?[0-9]"),
        field("[01]?[0-9]|2[0-3]"),
        field("0?[1-9]|[12][0-9]|3[01]"),
        field("0?[1-9]|1[0-2]|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"),
        field("[0-6]|(?i:sun|mon|tue|wed|thu|fri|sat)"),
    ];
    format!("^(@(hourly|daily|midnight|weekly|monthly|yearly|annually)|{})$", fields.join(" "))
}

/// A range of a schedule that runs backwards, as a regular expression: numbers and names of one field. What is written half in
/// numbers and half in names is refused by [`schedule::backwards`] alone.
fn backwards() -> String {
    let lower = |from: u8| {
        let (tens, ones) = (from / 10, from % 10);
        let same = (ones > 0)
            .then(|| format!("{}[0-{}]", if tens == 0 { "0?".to_owned() } else { tens.to_string() }, ones - 1));
        let fewer = (tens > 0).then(|| "0?[0-9]".to_owned()).into_iter();
        let fewer = fewer.chain((tens > 1).then(|| format!("[1-{}][0-9]", tens - 1)));
        same.into_iter().chain(fewer).collect::<Vec<_>>().join("|")
    };
    let numbers = (1..60).map(|from| format!("0?{from}-({})", lower(from)));
    let names = [schedule::MONTHS.as_slice(), &schedule::DAYS].into_iter();
    let names = names.flat_map(|all| (1..all.len()).map(|at| format!("{}-({})", all[at], all[..at].join("|"))));
    format!("(^|[ ,])(?i:{})([/, ]|$)", numbers.chain(names).collect::<Vec<_>>().join("|"))
}

/// A day that no month of a schedule has, such as the 30th of February, as a regular expression. What is hidden in steps and ranges of
/// months is told by [`schedule::never_comes`] alone.
fn never() -> String {
    let list = |item: &str| format!("({item})(,({item}))*");
    let days = |first: &str| list(&format!("{first}(-{first})?(/[0-9]+)?"));
    let february = list("0?2|(?i:feb)");
    let short = list("0?[2469]|11|(?i:feb|apr|jun|sep|nov)");
    format!("^[^ ]+ [^ ]+ ({} {february}|{} {short}) [*?](/1)?$", days("3[01]"), days("31"))
}
