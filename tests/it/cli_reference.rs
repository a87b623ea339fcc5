//! The reference page and the completion scripts say what the command line is.

use crate::cli_support::slctl_with;

#[test]
fn the_reference_page_is_what_help_says() {
    let page = slctl_with(
        &[("SERVICE_LAYER_ADDR", "http://not.in.the.page"), ("SERVICE_LAYER_TOKEN", "secret")],
        &["reference"],
    );
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/slctl.md")).unwrap_or_default();
    assert!(kept.contains("--admin-token <T>"), "only what holds for every command is left out");
    assert!(page.out == kept, "docs/slctl.md is not current: run `slctl reference > docs/slctl.md`");
}

#[test]
fn every_shell_gets_a_script_with_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = slctl_with(&[], &["completion", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        for word in ["preimage", "packages", "verify", "include-receipt", "token-file"] {
            assert!(ran.out.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(slctl_with(&[], &["completion", "tcsh"]).code, 2);
}

#[test]
fn what_the_command_line_does_not_allow_is_usage() {
    let cases: [(&[&str], &str); 13] = [
        (&["jam", "preimage"], "--file"),
        (&["jam", "preimage", "--stat"], "--hash"),
        (&["jam", "preimage", "--get", "--hash", &"a".repeat(64)], "-o"),
        (&["jam", "preimage", "--stat", "--hash", "A"], "64 lower-case hex digits"),
        (&["jam", "package", "--service", "s"], "--kind"),
        (&["jam", "package", "--service", "a b", "--kind", "k", "--params-hash", "p"], "a service id is"),
        (&["jam", "package", "--file", "f", "--service", "s"], "cannot be used with"),
        (&["jam", "packages", "--status", "done"], "pending, refined, disputed, applied"),
        (&["jam", "packages", "--limit", "x"], "--limit"),
        (&["jam", "packages", "--limit", "-1"], "invalid value '-1' for '--limit <N>'"),
        (&["jam", "report", "--package", "x"], "is not a UUID"),
        (&["jam", "process", "--limit", "5", "--all"], "cannot be used with"),
        (&["jam", "receipt", "../status"], "hex digits and hyphens"),
    ];
    for (args, word) in cases {
        let ran = slctl_with(&[], args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}");
        assert!(ran.err.contains(word), "{args:?}: {} has {word:?}", ran.err);
    }
}

#[test]
fn an_address_a_token_or_a_file_that_cannot_be_is_usage() {
    let line = |environment: &[(&str, &str)], args: &[&str]| {
        let ran = slctl_with(environment, args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}");
        ran.err
    };
    assert_eq!(
        line(&[("SERVICE_LAYER_ADDR", "ftp://x")], &["status"]),
        "\"ftp://x\" is not an address: it starts with neither http:// nor https://; set --addr or SERVICE_LAYER_ADDR to http://HOST:PORT (usage)\n"
    );
    let secret = line(&[("SERVICE_LAYER_TOKEN", "se\ncret")], &["status"]);
    assert_eq!(secret, "the token has characters that a header can't carry (usage)\n");
    let missing = line(&[], &["--token-file", "no/such/file", "status"]);
    assert_eq!(missing, "cannot read no/such/file: No such file or directory (os error 2) (file)\n");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let ran = line(&[], &["jam", "preimage", "--file", path]);
    assert!(ran.contains("is not a regular file"), "{ran}");
}

#[test]
fn a_package_file_that_is_no_package_is_told_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let file = crate::cli_support::write(directory.path(), "package.json", b"{\"service_id\": }");
    let ran = slctl_with(&[], &["jam", "package", "--file", &file]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("is not a package in JSON: expected value at line 1 column 16 (usage)"), "{ran:?}");
}

#[test]
fn without_a_command_the_help_is_printed_whatever_the_environment_is() {
    for environment in [&[][..], &[("SERVICE_LAYER_TOKEN", "t")], &[("SERVICE_LAYER_ADDR", "http://a")]] {
        let ran = slctl_with(environment, &[]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""));
        assert!(ran.err.starts_with("The client of the JAM API\n"), "{ran:?}");
        assert!(ran.err.contains("slctl [OPTIONS] <COMMAND>") && !ran.err.contains("reference"), "{ran:?}");
    }
    let unknown = slctl_with(&[], &["jamm"]);
    assert!(unknown.code == 2 && unknown.err.contains("unrecognized subcommand 'jamm'"), "{unknown:?}");
}
