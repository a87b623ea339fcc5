//! Laws of the settings: the order of the layers, and the refusals.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn args(flags: &[&str]) -> SettingsArgs {
    Program::try_parse_from([&["jam-api"], flags].concat()).unwrap().settings
}

/// Settings given by the environment, without touching the process's own.
fn with_environment(mut args: SettingsArgs, variables: &[(&str, &str)]) -> SettingsArgs {
    for (name, text) in variables {
        let key = keys::KEYS.iter().find(|key| key.env == *name).unwrap();
        args.given.push(keys::Given { key, text: (*text).into(), source: Source::Environment(key.env) });
    }
    args
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jam.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

fn mistakes(args: &SettingsArgs) -> Vec<String> {
    load(args, Purpose::Serve).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_profile() {
    let (_dir, path) =
        file("retention_days: 1\narchive_days: 1\nmax_pending_packages: 1\nprofile: staging\npg_dsn: postgres://f");
    let flags = ["--config", &path, "--retention-days", "3", "--allowed-tokens", "a,b"];
    let environment = [("JAM_RETENTION_DAYS", "2"), ("JAM_ARCHIVE_DAYS", "2")];
    let mut given = with_environment(args(&flags), &environment);
    given.given.retain(|g| !(g.key.name == "retention_days" && matches!(g.source, Source::Environment(_))));
    let loaded = load(&given, Purpose::Serve).ok().unwrap();
    let settings = &loaded.settings;
    assert_eq!((settings.retention_days, settings.archive_days, settings.max_pending_packages), (3, 2, 1));
    assert!(settings.enabled, "the baseline of staging");
    let shown = show(&loaded);
    for line in [
        "retention_days = 3  # flag --retention-days",
        "archive_days = 2  # environment JAM_ARCHIVE_DAYS",
        "max_pending_packages = 1  # file",
        "enabled = true  # profile staging",
        "pg_dsn = <redacted>  # file",
        "allowed_tokens = <2 redacted>  # flag --allowed-tokens",
        "listen = \"0.0.0.0:8080\"  # default",
    ] {
        assert!(shown.lines().any(|l| l == line), "{line} is not in\n{shown}");
    }
}

/// A value other than the default for each key, as text and in YAML; `None` for those that this build refuses.
fn sample(name: &str) -> Option<(&'static str, &'static str)> {
    let same = |text| Some((text, text));
    match name {
        "profile" => same("staging"),
        "enabled" | "legacy_list_response" => same("true"),
        "auth_required" | "accumulators_enabled" | "health_public" => same("false"),
        "store" => same("postgres"),
        "pg_dsn" => same("postgres://u:p@elsewhere/d"),
        "accumulator_hash" => same("sha256"),
        "tokens_file" | "admin_tokens_file" => same("/dev/null"),
        "listen" | "metrics_listen" => Some(("127.0.0.1:7", "'127.0.0.1:7'")),
        "allowed_tokens" | "api_tokens" => Some(("one;two,three", "[one, two, three]")),
        "allowed_media_types" => Some(("text/*, image/png", "[text/*, image/png]")),
        "allowed_origins" => {
            Some(("https://a.example;https://b.example", "['https://a.example', 'https://b.example']"))
        }
        "trusted_proxies" => Some(("10.0.0.0/8, 192.168.0.1", "[10.0.0.0/8, 192.168.0.1]")),
        "services" => Some(("", "[{id: svc-1, maxPendingPackages: 2}]")),
        "blob_store" => same("file:///tmp"),
        "otlp_endpoint" => Some(("http://otel:4318", "'http://otel:4318'")),
        "rate_limit_per_minute"
        | "max_preimage_bytes"
        | "max_pending_packages"
        | "retention_days"
        | "archive_days"
        | "attestation_threshold"
        | "pg_max_connections"
        | "claim_timeout_seconds"
        | "max_bytes_in_flight"
        | "client_timeout_seconds"
        | "shutdown_delay_seconds" => same("9"),
        other => panic!("{other}: say which value it is tried with"),
    }
}

/// The line of a key in `check-config`.
fn shown_line(args: &SettingsArgs, key: &str) -> String {
    let base = [("JAM_ALLOWED_TOKENS", "t"), ("API_TOKENS", "g"), ("JAM_PG_DSN", "postgres://u:p@h/d")];
    // A blob store is for the database alone.
    let database = (key == "blob_store").then_some(("JAM_STORE", "postgres"));
    let base: Vec<_> =
        base.into_iter().chain(database).filter(|(env, _)| keys::find(key).unwrap().env != *env).collect();
    let mut given = with_environment(args.clone(), &base);
    given.given.retain(|one| one.key.name != key || !base.iter().any(|(env, _)| one.key.env == *env));
    let loaded = load(&given, Purpose::Serve).unwrap_or_else(|mistakes| panic!("{key}: {mistakes:?}"));
    let shown = show(&loaded);
    shown.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap().to_owned()
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn every_key_is_read_from_flag_environment_file_and_manifest() {
    for key in keys::KEYS.iter().filter(|key| key.env != "DATABASE_URL") {
        let Some((text, yaml)) = sample(key.name) else { continue };
        let unset = shown_line(&args(&[]), key.name).split("  # ").next().unwrap().to_owned();
        let (_services, services) = file(yaml);
        let text = if key.form == Form::File { services.as_str() } else { text };
        let flag = format!("--{}", key.flag);
        let (_snake, in_file) = file(&format!("{}: {yaml}", key.name));
        let spec = match key.part {
            Part::Profile => format!("{{profile: {yaml}, runtime: {{jam: {{}}}}}}"),
            Part::Block | Part::Wiring => format!("{{runtime: {{jam: {{{}: {yaml}}}}}}}", camel(key.name)),
        };
        let (_manifest, in_manifest) = file(&format!(
            "apiVersion: jam.network/v1alpha1\nkind: JamInstance\nmetadata: {{name: x}}\nspec: {spec}\n"
        ));
        let mut ways = vec![
            (args(&[&flag, text]), format!("flag {flag}")),
            (with_environment(args(&[]), &[(key.env, text)]), format!("environment {}", key.env)),
            (args(&["--config", &in_file]), "file".to_owned()),
        ];
        // The wiring of one process has no place in a manifest.
        if key.part != Part::Wiring {
            ways.push((args(&["--config", &in_manifest]), "file".to_owned()));
        }
        let mut values = std::collections::BTreeSet::new();
        for (given, source) in ways {
            let line = shown_line(&given, key.name);
            let (value, from) = line.split_once("  # ").unwrap();
            assert_eq!(from, source, "{line}");
            assert!(value != unset || key.secret, "{line}: nothing has changed");
            values.insert(value.to_owned());
        }
        assert_eq!(values.len(), 1, "every way gives the same value: {values:?}");
    }
}

#[test]
fn a_token_file_that_cannot_be_used_is_one_of_the_mistakes() {
    let (_dir, path) = file("- {id: x, sha256: short}");
    let tried = [("/no/such/file", "can't read /no/such/file"), (path.as_str(), "sha256")];
    let tried = tried.into_iter().flat_map(|one| ["tokens-file", "admin-tokens-file"].map(|key| (key, one)));
    for (key, (path, words)) in tried {
        let mistakes = mistakes(&args(&[&format!("--{key}"), path, "--listen", "nowhere"]));
        let begin = format!("{} ", key.replace('-', "_"));
        assert!(mistakes.iter().any(|line| line.starts_with(&begin) && line.contains(words)), "{mistakes:?}");
        assert!(mistakes.iter().any(|line| line.starts_with("listen ")), "and the others beside it: {mistakes:?}");
        assert!(mistakes.iter().all(|line| !line.contains("tokens_file tokens_file")), "{mistakes:?}");
    }
}

#[test]
fn the_own_dsn_variable_wins_over_the_common_one_and_both_over_the_file() {
    let (_dir, path) = file("pg_dsn: postgres://file");
    let dsn = |variables: &[(&str, &str)]| {
        let given = with_environment(args(&["--config", &path, "--allowed-tokens", "a"]), variables);
        load(&given, Purpose::Serve).ok().unwrap().wiring.pg_dsn.unwrap().reveal().to_owned()
    };
    assert_eq!(dsn(&[]), "postgres://file");
    assert_eq!(dsn(&[("DATABASE_URL", "postgres://common")]), "postgres://common");
    assert_eq!(dsn(&[("JAM_PG_DSN", "postgres://own"), ("DATABASE_URL", "postgres://common")]), "postgres://own");
}

#[test]
fn every_mistake_is_named_at_once_with_its_source() {
    let (_dir, path) = file("store: redis\ncolour: red\nattestation_threshold: 0");
    let environment = [("JAM_RATE_LIMIT_PER_MINUTE", "many"), ("JAM_ENABLED", "perhaps")];
    let given =
        with_environment(args(&["--config", &path, "--listen", "nowhere", "--trusted-proxies", "x"]), &environment);
    let mistakes = mistakes(&given);
    for (key, source) in [
        ("store", "file"),
        ("colour", "file"),
        ("attestation_threshold", "file"),
        ("rate_limit_per_minute", "environment JAM_RATE_LIMIT_PER_MINUTE"),
        ("enabled", "environment JAM_ENABLED"),
        ("listen", "flag --listen"),
        ("trusted_proxies", "flag --trusted-proxies"),
    ] {
        let of_key = mistakes.iter().find(|m| m.starts_with(key)).unwrap_or_else(|| panic!("{key}: {mistakes:?}"));
        assert!(of_key.ends_with(&format!("({source})")), "{of_key}");
    }
    assert!(mistakes.iter().any(|m| m.starts_with("allowed_tokens is empty")), "{mistakes:?}");
}

#[test]
fn no_connection_and_no_time_at_all_are_refused_by_name() {
    for (flag, key) in [
        ("--pg-max-connections", "pg_max_connections"),
        ("--claim-timeout", "claim_timeout_seconds"),
        ("--client-timeout", "client_timeout_seconds"),
    ] {
        let told = mistakes(&args(&[flag, "0", "--allowed-tokens", "a"]));
        assert_eq!(told, [format!("{key} must be at least 1 (flag {flag})")]);
    }
}

#[test]
fn more_than_postgres_can_be_told_or_a_stop_may_take_is_refused_by_name() {
    for (flag, key, most) in [
        ("--pg-max-connections", "pg_max_connections", 262_143),
        ("--claim-timeout", "claim_timeout_seconds", 86_400),
        ("--shutdown-delay", "shutdown_delay_seconds", 3600),
    ] {
        let told = |number: u32| mistakes(&args(&[flag, &number.to_string(), "--allowed-tokens", "a"]));
        assert_eq!(told(most), Vec::<String>::new());
        for much in [most + 1, 3_000_000, u32::MAX] {
            assert_eq!(told(much), [format!("{key} must be at most {most} (flag {flag})")]);
        }
    }
    // Nobody waits for as long as that, and nothing breaks.
    let others = ["--client-timeout", "4294967295", "--shutdown-delay", "0", "--allowed-tokens", "a"];
    assert_eq!(mistakes(&args(&others)), Vec::<String>::new());
}

#[test]
fn a_mistake_of_the_block_hides_none_between_the_block_and_the_wiring() {
    let keys = |flags: &[&str]| -> Vec<String> {
        let mistakes = mistakes(&args(flags)).into_iter();
        mistakes.map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    let threshold = ["--store", "postgres", "--attestation-threshold", "0"];
    assert_eq!(keys(&threshold), ["attestation_threshold", "pg_dsn", "allowed_tokens"]);
    let origins = ["--profile", "production", "--allowed-origins", "http://a.b"];
    assert_eq!(keys(&origins), ["allowed_origins", "pg_dsn", "allowed_tokens"]);
    let memory = ["--attestation-threshold", "0", "--blob-store", "file:///tmp"];
    assert_eq!(keys(&memory), ["attestation_threshold", "blob_store", "allowed_tokens"]);
    let list = "[{id: a b}, {id: dup}, {id: dup, colour: red}, {id: dup, retention_days: 1, retentionDays: 2}, \
                {id: much, retention_days: 36501}]";
    let (_list, services) = file(list);
    let told = mistakes(&args(&["--services-file", &services, "--allowed-tokens", "a"]));
    let begins = ["services[0].id ", "services[2].colour ", "services[3] ", "services names dup twice"];
    for begin in [&begins[..], &["services has much: retention_days must be at most 36500"]].concat() {
        assert!(told.iter().any(|line| line.starts_with(begin)), "{begin}: {told:?}");
    }
    // What has the wrong type is there.
    let (_wrong, path) = file("pg_dsn: [hush]\nallowed_tokens: {hush: 1}\nstore: postgres");
    assert_eq!(keys(&["--config", &path]), ["allowed_tokens", "pg_dsn"]);
}

#[test]
fn postgres_without_a_dsn_and_auth_without_a_token_refuse_to_start() {
    let mistakes_of = |flags: &[&str]| mistakes(&args(flags));
    assert!(mistakes_of(&["--store", "postgres", "--allowed-tokens", "a"])[0].starts_with("pg_dsn is missing"));
    assert!(mistakes_of(&[])[0].contains("JAM_ALLOWED_TOKENS=$(openssl rand -hex 32) jam-api serve"));
    assert!(mistakes_of(&["--auth-required", "false"]).is_empty());
    assert!(mistakes_of(&["--api-tokens", "a"]).is_empty());
    assert!(load(&args(&[]), Purpose::Work).is_ok());
}

#[test]
fn a_dsn_that_no_database_can_have_is_refused_in_one_line_without_its_password() {
    for dsn in
        ["mysql://u:hush@h/x", "garbage:hush", "postgres://u:hush@h:port/x", "postgres://u:hush@h/x?sslmode=maybe"]
    {
        let given = args(&["--store", "postgres", "--allowed-tokens", "a", "--pg-dsn", dsn]);
        let mistakes = mistakes(&given);
        assert!(mistakes.len() == 1 && mistakes[0].starts_with("pg_dsn can't be read: "), "{mistakes:?}");
        assert!(!mistakes[0].contains("hush") && !mistakes[0].contains("error with configuration"), "{mistakes:?}");
    }
}

#[test]
fn a_parameter_of_the_dsn_that_nobody_reads_is_refused_with_those_that_there_are() {
    let told = |parameters: &str| {
        let dsn = format!("postgres://u:hush@h/x?{parameters}");
        mistakes(&args(&["--store", "postgres", "--allowed-tokens", "a", "--pg-dsn", &dsn]))
    };
    for typo in ["sslmod=require", "sslmode=require&SSLMODE=require", "channel_binding=require", "passwrod=hush"] {
        let name = typo.rsplit('&').next().unwrap().split('=').next().unwrap();
        let [line] = &told(typo)[..] else { panic!("one mistake: {typo}") };
        let named = format!("pg_dsn can't be read: \"{name}\" is none of its parameters: sslmode, sslrootcert, ");
        assert!(line.starts_with(&named) && !line.contains("hush"), "{line}");
    }
    // What may be the end of a secret is not repeated.
    let [line] = &told("password=a&hush")[..] else { panic!("one mistake") };
    assert!(line.contains("it has a parameter that is none: sslmode") && !line.contains("hush"), "{line}");
    let known = "sslmode=disable&ssl-root-cert=/x&options[search_path]=jam&options=-c%20work_mem%3D4MB&user=u&application_name=x";
    let libpqs = "connect_timeout=10&keepalives_idle=30&pgbouncer=true";
    assert_eq!((told(known), told(libpqs)), (Vec::<String>::new(), Vec::new()));
}

#[test]
fn a_blob_store_needs_postgres_and_a_url_that_names_a_place() {
    let mistakes_of = |more: &[&str]| {
        let postgres = ["--allowed-tokens", "a", "--pg-dsn", "postgres://h/d"];
        mistakes(&args(&[&postgres, more].concat()))
    };
    let told = mistakes_of(&["--store", "memory", "--blob-store", "file:///tmp"]);
    assert!(told.len() == 1 && told[0].starts_with("blob_store needs store postgres"), "{told:?}");
    for url in ["https://bucket", "s3://hush:hush@bucket", "file:///no/such/directory"] {
        let told = mistakes_of(&["--store", "postgres", "--blob-store", url]);
        assert!(told.len() == 1 && told[0].starts_with("blob_store ") && !told[0].contains("hush"), "{told:?}");
        assert!(told[0].ends_with("(flag --blob-store)"), "{told:?}");
    }
    assert!(mistakes_of(&["--store", "postgres", "--blob-store", "file:///tmp"]).is_empty());
}

#[test]
fn an_endpoint_that_spans_cannot_be_sent_to_is_refused_without_its_password() {
    for endpoint in ["x", "otel:4318", "grpc://otel:4317", "http://", "http://otel:4318/?a=b", "https://u:hush@otel"] {
        let mistakes = mistakes(&args(&["--otlp-endpoint", endpoint, "--allowed-tokens", "a"]));
        assert!(mistakes.len() == 1 && mistakes[0].starts_with("otlp_endpoint "), "{endpoint}: {mistakes:?}");
        assert!(!mistakes[0].contains("hush"), "{mistakes:?}");
    }
}

#[test]
fn no_mistake_shows_a_secret() {
    let (_dir, path) = file("pg_dsn: [hush]\nallowed_tokens: {hush: 1}");
    let given = args(&["--config", &path, "--api-tokens", "hush hush"]);
    assert!(mistakes(&given).iter().all(|m| !m.contains("hush")), "{:?}", mistakes(&given));
}

#[test]
fn limits_of_services_come_from_a_file_of_their_own() {
    let (_dir, path) = file("- {id: svc-1, max_pending_packages: 2}");
    let loaded = load(&args(&["--services-file", &path, "--allowed-tokens", "a"]), Purpose::Serve).ok().unwrap();
    assert_eq!(loaded.settings.service_pending_cap(&"svc-1".parse().unwrap()), 2);
}

#[test]
fn an_empty_metrics_address_turns_metrics_off() {
    let given = with_environment(args(&["--allowed-tokens", "a"]), &[("JAM_METRICS_LISTEN", "")]);
    assert_eq!(load(&given, Purpose::Serve).ok().unwrap().wiring.metrics_listen, None);
}
