//! Laws of the kinds around the pods: cleanup, network, routes, monitoring.

use serde_json::{Value, json};

use super::super::*;
use crate::fixtures::{
    but, cluster_for, in_memory, migrated_cluster_for, named, objects, on_postgres, resolved, settled_cluster_for,
};
use crate::observed::Observed;

/// The object of this kind and name that an instance with these changes has when everything runs.
fn child(change: Value, name: &str) -> Value {
    let instance = but(&on_postgres(), change);
    let all = objects(&instance, &settled_cluster_for(&instance));
    let found = all.items.into_iter().find(|item| item.object.to_string() == name);
    found.unwrap_or_else(|| panic!("there is no {name}")).body
}

#[test]
fn the_cleanup_runs_by_its_schedule_one_at_a_time_and_not_for_ever() {
    let cleanup = json!({"cleanup": {"schedule": "5 4 * * *", "timeZone": "Europe/Berlin", "suspend": true}});
    let spec = child(cleanup, "CronJob main-cleanup")["spec"].clone();
    let at = |path: &str| spec.pointer(path).cloned().unwrap_or_default();
    assert_eq!((at("/schedule"), at("/timeZone")), (json!("5 4 * * *"), json!("Europe/Berlin")));
    assert_eq!((at("/suspend"), at("/concurrencyPolicy")), (json!(true), json!("Forbid")));
    assert_eq!((at("/successfulJobsHistoryLimit"), at("/failedJobsHistoryLimit")), (json!(3), json!(3)));
    assert!(at("/startingDeadlineSeconds").is_i64() && at("/jobTemplate/spec/activeDeadlineSeconds").is_i64());
    assert_eq!(at("/jobTemplate/spec/podReplacementPolicy"), "Failed");
    assert_eq!(at("/jobTemplate/spec/template/spec/restartPolicy"), "Never");
    let arguments = |change: Value| {
        let job = child(json!({"cleanup": change}), "CronJob main-cleanup");
        job.pointer("/spec/jobTemplate/spec/template/spec/containers/0/args").cloned().unwrap()
    };
    assert_eq!(arguments(json!({})), json!(["cleanup", "--config", "/etc/jam/config/config.yaml"]));
    assert_eq!(arguments(json!({"dryRun": true})).as_array().unwrap().last().unwrap(), "--dry-run");
}

#[test]
fn the_cleanup_gets_the_dsn_and_no_token() {
    let job = child(json!({"cleanup": {}}), "CronJob main-cleanup").to_string();
    assert!(job.contains(r#""secretKeyRef":{"key":"dsn","name":"jam-db","optional":false}"#));
    assert!(!job.contains("token-hashes") && !job.contains("/etc/jam/tokens"), "{job}");
}

#[test]
fn the_cleanup_waits_for_the_migration_and_is_kept_meanwhile() {
    let instance = but(&on_postgres(), json!({"cleanup": {}}));
    let cron_job = ObjectRef { kind: Kind::CronJob, name: "main-cleanup".into() };
    let waiting = objects(&instance, &cluster_for(&instance));
    assert!(waiting.keep.contains(&cron_job) && waiting.items.iter().all(|item| item.object != cron_job));
    assert!(objects(&instance, &migrated_cluster_for(&instance)).items.iter().any(|item| item.object == cron_job));
}

#[test]
fn the_memory_store_has_no_cron_job() {
    let instance = but(&in_memory(), json!({"cleanup": {}}));
    let all = objects(&instance, &settled_cluster_for(&instance));
    assert!(all.items.iter().all(|item| item.object.kind != Kind::CronJob) && all.keep.is_empty());
}

#[test]
fn a_network_policy_lets_exactly_the_needed_traffic_through() {
    let callers = json!([{"podSelector": {"matchLabels": {"app": "a"}}}, {}]);
    let instance = but(&on_postgres(), json!({"networkPolicy": {"allowFrom": callers, "egressPorts": [5432]}}));
    let cluster = Observed { database_port: Some(6432), ..settled_cluster_for(&instance) };
    let mut resolved = resolved(&instance, &cluster);
    resolved.egress.open.insert(4317);
    let spec = network::policy(&resolved).unwrap().body["spec"].clone();
    assert_eq!(
        spec["ingress"],
        json!([
            {
                "from": [
                    {"podSelector": {"matchLabels": {"app": "a"}}},
                    {"podSelector": {}},
                    {
                        "podSelector": {"matchLabels": {"jam.network/component": "operator"}},
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "jam-system"}},
                    },
                ],
                "ports": [{"port": "http", "protocol": "TCP"}],
            },
            {"ports": [{"port": "metrics", "protocol": "TCP"}]},
        ])
    );
    assert_eq!(
        spec["egress"],
        json!([
            {"ports": [
                {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"},
                {"port": 5353, "protocol": "UDP"}, {"port": 5353, "protocol": "TCP"},
                {"port": "dns", "protocol": "UDP"}, {"port": "dns-tcp", "protocol": "TCP"},
            ]},
            {"ports": ([4317, 5432, 6432].map(|port| json!({"port": port, "protocol": "TCP"})))},
        ]),
        "DNS also where its pods have another port than its Service, and the database where the spec says so"
    );
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]), "what is not listed is closed");
    let of_pods = spec["podSelector"]["matchLabels"].as_object().unwrap();
    for component in ["API", "worker", "migration", "cleanup"] {
        assert!(!of_pods.contains_key("app.kubernetes.io/component"), "it holds for the {component} pods as well");
    }
}

#[test]
fn where_nobody_is_named_everybody_may_call_and_memory_goes_nowhere() {
    let spec = child(json!({"networkPolicy": {}}), "NetworkPolicy main")["spec"].clone();
    assert!(spec["ingress"][0].get("from").is_none(), "{spec}");
    assert_eq!(spec["egress"][1]["ports"], json!([{"port": 5432, "protocol": "TCP"}]), "as PostgreSQL has it");
    let instance = but(&in_memory(), json!({"networkPolicy": {}}));
    let policy = network::policy(&resolved(&instance, &cluster_for(&instance))).unwrap();
    assert_eq!(policy.body["spec"]["egress"].as_array().unwrap().len(), 1, "DNS and nothing else");
}

#[test]
fn a_route_takes_its_hosts_from_every_named_gateway_to_the_service() {
    let route = json!({"httpRoute": {
        "enabled": true, "hostnames": ["jam.example"],
        "parentRefs": [{"name": "outer", "namespace": "edge", "sectionName": "https"}, {"name": "inner"}],
    }, "service": {"port": 8000}});
    let spec = child(route, "HTTPRoute main")["spec"].clone();
    let wanted = json!({
        "hostnames": ["jam.example"],
        "parentRefs": [{"name": "outer", "namespace": "edge", "sectionName": "https"}, {"name": "inner"}],
        "rules": [{"backendRefs": [{"name": "main", "port": 8000}]}],
    });
    assert_eq!(spec, wanted);
}

#[test]
fn a_kind_that_is_not_served_is_left_out_and_nothing_else() {
    let change = json!({
        "httpRoute": {"enabled": true, "parentRefs": [{"name": "g"}]},
        "monitoring": {"serviceMonitor": true, "prometheusRule": true, "dashboard": true},
    });
    let instance = but(&on_postgres(), change);
    let cluster = settled_cluster_for(&instance);
    let bare = Observed { unserved: Kind::optional().collect(), ..cluster.clone() };
    let (all, left) = (named(&objects(&instance, &cluster)), named(&objects(&instance, &bare)));
    let missing: Vec<_> = all.into_iter().filter(|name| !left.contains(name)).collect();
    assert_eq!(missing, ["HTTPRoute main", "ServiceMonitor main", "PrometheusRule main"]);
    assert!(left.contains(&"ConfigMap main-dashboard".to_owned()) && left.contains(&"Service main-metrics".to_owned()));
}

#[test]
fn what_is_scraped_is_found_by_the_service_monitor_workers_included() {
    let change = json!({"monitoring": {"serviceMonitor": true}, "workers": {"replicas": 1}});
    let service = child(change.clone(), "Service main-metrics");
    let monitor = child(change.clone(), "ServiceMonitor main");
    let wanted = monitor.pointer("/spec/selector/matchLabels").unwrap().as_object().unwrap();
    assert!(wanted.iter().all(|(key, value)| service["metadata"]["labels"][key] == *value));
    assert!(
        wanted.iter().any(|(key, value)| child(change.clone(), "Service main")["metadata"]["labels"][key] != *value),
        "the Service of the API is not scraped a second time"
    );
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    for pods in ["Deployment main", "Deployment main-worker"] {
        let template = child(change.clone(), pods).pointer("/spec/template").cloned().unwrap();
        let selector = service["spec"]["selector"].as_object().unwrap();
        assert!(selector.iter().all(|(key, value)| template["metadata"]["labels"][key] == *value), "{pods}");
        assert!(template["spec"]["containers"][0]["ports"].to_string().contains(r#""name":"metrics""#), "{pods}");
    }
}

#[test]
fn alerts_and_panels_speak_of_this_instance_alone() {
    let change = json!({"cleanup": {}, "monitoring": {"prometheusRule": true, "dashboard": true}});
    let rule = child(change.clone(), "PrometheusRule main");
    let rules = rule.pointer("/spec/groups/0/rules").unwrap().as_array().unwrap().clone();
    assert_eq!(rules.len(), crate::alerts::OF_INSTANCE.len());
    let map = child(change, "ConfigMap main-dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard: Value = serde_json::from_str(map["data"]["jam-jam-main.json"].as_str().unwrap()).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions = rules.iter().chain(targets).map(|one| one["expr"].as_str().unwrap());
    for expression in expressions {
        let selectors = expression.matches('{').count();
        let ours = expression.matches(r#"{namespace="jam",service="main-metrics""#).count();
        assert!(
            selectors > 0 && selectors == ours && !expression.contains("$S") && !expression.contains("$D"),
            "{expression}"
        );
    }
}

#[test]
fn a_dashboard_goes_at_once_and_does_not_wait_for_the_pods() {
    assert!(
        names::is_dashboard(&names::dashboard("main")) && !names::is_dashboard(&names::config("main", "0123456789"))
    );
}

#[test]
fn a_default_limit_is_never_below_what_is_requested() {
    let limits = |resources: Value| {
        let pods = child(json!({"podTemplate": {"resources": resources}}), "Deployment main");
        pods.pointer("/spec/template/spec/containers/0/resources/limits").unwrap().clone()
    };
    let default = limits(json!({"requests": {"cpu": "4"}}));
    assert_eq!(default, json!({"memory": "512Mi", "ephemeral-storage": "2Gi"}), "no limit of CPU");
    let more = limits(json!({"requests": {"memory": "1Gi", "ephemeral-storage": "3072Mi"}}));
    assert_eq!(more, json!({"memory": "1Gi", "ephemeral-storage": "3072Mi"}));
    assert_eq!(limits(json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}))["memory"], "2Gi");
}

#[test]
fn a_default_request_is_never_above_a_limit_that_is_given() {
    let requests = |resources: Value| {
        let pods = child(json!({"podTemplate": {"resources": resources}}), "Deployment main");
        pods.pointer("/spec/template/spec/containers/0/resources/requests").unwrap().clone()
    };
    let less = requests(json!({"limits": {"cpu": "20m", "memory": "16Mi", "ephemeral-storage": "1Gi"}}));
    assert_eq!(less, json!({"cpu": "20m", "memory": "16Mi", "ephemeral-storage": "64Mi"}));
    let given = requests(json!({"requests": {"memory": "8Mi"}, "limits": {"memory": "16Mi"}}));
    assert_eq!(given["memory"], "8Mi");
    assert_eq!(
        requests(json!({"limits": {"memory": "1e9"}}))["memory"],
        "64Mi",
        "what cannot be compared changes nothing"
    );
}

#[test]
fn servers_and_workers_are_told_where_spans_go_and_nobody_else_is() {
    let change = json!({
        "monitoring": {"otlpEndpoint": "http://otel:4318"}, "workers": {"replicas": 1}, "cleanup": {},
        "networkPolicy": {"enabled": true},
    });
    let told = |change: Value, name: &str| {
        let object = child(change, name).to_string();
        object.contains(r#"{"name":"OTEL_EXPORTER_OTLP_ENDPOINT","value":"http://otel:4318"}"#)
    };
    for (name, expected) in
        [("Deployment main", true), ("Deployment main-worker", true), ("CronJob main-cleanup", false)]
    {
        assert_eq!(told(change.clone(), name), expected, "{name}");
    }
    assert!(!told(json!({"monitoring": {"serviceMonitor": true}}), "Deployment main"));
    assert!(child(change, "NetworkPolicy main").to_string().contains(r#""port":4318"#), "the way there is open");
}

#[test]
fn a_cleanup_is_overdue_by_its_own_schedule_and_an_alert_only_where_one_is_expected() {
    let told = |cleanup: Option<Value>| {
        let mut spec = json!({"monitoring": {"prometheusRule": true}});
        spec["cleanup"] = cleanup.unwrap_or_default();
        let instance = but(&on_postgres(), spec);
        let items = objects(&instance, &settled_cluster_for(&instance)).items;
        let of = |kind: Kind| items.iter().find(|item| item.object.kind == kind).map(|item| item.body.clone()).unwrap();
        let variables = of(Kind::Deployment)["spec"]["template"]["spec"]["containers"][0]["env"].clone();
        let stale = variables.as_array().unwrap().iter().find(|one| one["name"] == "JAM_CLEANUP_STALE_AFTER").cloned();
        let rules = of(Kind::PrometheusRule).pointer("/spec/groups/0/rules").cloned().unwrap();
        let alert = rules.as_array().unwrap().iter().find(|rule| rule["alert"] == "JamCleanupOverdue");
        let threshold = alert.map(|rule| rule["expr"].as_str().unwrap().rsplit("> ").next().unwrap().to_owned());
        (stale.unwrap()["value"].as_str().unwrap().to_owned(), threshold)
    };
    let hours = |hours: i64| (hours * 3600).to_string();
    assert_eq!(told(Some(json!({}))), (hours(50), Some(hours(50))));
    let weekly = hours(2 * (7 * 24 + 1));
    assert_eq!(told(Some(json!({"schedule": "@weekly"}))), (weekly.clone(), Some(weekly.clone())));
    // Neither of these restarts a pod: the servers go on counting by the schedule, and nobody is woken.
    assert_eq!(told(Some(json!({"schedule": "@weekly", "suspend": true}))), (weekly.clone(), None));
    assert_eq!(told(Some(json!({"schedule": "@weekly", "dryRun": true}))), (weekly, None));
    assert_eq!(told(None), ("0".to_owned(), None));
}

#[test]
fn the_alert_of_a_cleanup_counts_from_the_moment_at_which_it_was_resumed() {
    let mut instance = but(&on_postgres(), json!({"cleanup": {}, "monitoring": {"prometheusRule": true}}));
    let told = json!({"timetable": "suspended", "timetableSince": "1970-01-01T00:00:10Z"});
    instance.status = serde_json::from_value(json!({"cleanup": told})).unwrap();
    let mut cluster = settled_cluster_for(&instance);
    cluster.at = crate::fixtures::at(9_000_000);
    let all = objects(&instance, &cluster).items.iter().map(|item| item.body.to_string()).collect::<String>();
    assert!(all.contains(" > 0), 9000000) > 180000"), "{all}");
}

#[test]
fn the_cleanup_gives_up_by_itself_before_its_deadline_and_no_second_pod_begins_then() {
    let instance = but(&on_postgres(), json!({"cleanup": {}}));
    let items = objects(&instance, &settled_cluster_for(&instance)).items;
    let cron_job = items.iter().find(|item| item.object.kind == Kind::CronJob).unwrap();
    let job = &cron_job.body["spec"]["jobTemplate"]["spec"];
    assert_eq!(job["activeDeadlineSeconds"], 21_600);
    let limit = json!({"name": "JAM_CLEANUP_TIMEOUT", "value": "21300s"});
    assert!(job["template"]["spec"]["containers"][0]["env"].as_array().unwrap().contains(&limit), "{job}");
    assert_eq!(job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"], json!([124]));
}

#[test]
fn the_memory_store_knows_itself_when_its_cleanup_is_overdue() {
    let instance = but(&in_memory(), json!({"cleanup": {"suspend": true}, "monitoring": {"prometheusRule": true}}));
    let items = objects(&instance, &settled_cluster_for(&instance)).items;
    let all = items.iter().map(|item| item.body.to_string()).collect::<String>();
    assert!(!all.contains("JAM_CLEANUP_STALE_AFTER"), "{all}");
    assert!(all.contains(&format!(" > 0), 0) > {}\"", crate::alerts::STALE_IN_MEMORY)), "{all}");
}
