//! Laws of a database with a full disk, and of one that is reached through TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jam_domain::PreimageHash;
use jam_store::{PostgresConfig, PostgresStore, Put, Store, StoreError, SubmitError, migrate};

use crate::api_support::{World, answer, until};
use crate::store_fixture::{engine, noise, package, put, upload, verified_chain};
use crate::support::postgres::{self, Server, execute};

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A database of ours with its tables on a disk of their own, so small that it is soon full.
async fn on_a_small_disk(server: &Server) -> (String, PathBuf) {
    let place = server.small_disk();
    fs::create_dir_all(place.join("tables")).unwrap();
    server.own(&place.join("tables"));
    let dsn = server.empty_database().await;
    let admin = server.dsn("postgres");
    execute(&admin, &format!("create tablespace small location '{}'", place.join("tables").display())).await;
    let name = dsn.rsplit('/').next().unwrap().split('?').next().unwrap();
    execute(&admin, &format!("alter database {name} set tablespace small")).await;
    migrate::apply(&PostgresConfig::new(&dsn)).await.unwrap();
    (dsn, place)
}

/// Takes all the room that is left.
pub fn fill(disk: &Path) -> PathBuf {
    let filler = disk.join("filler");
    let left = fs::File::create(&filler).unwrap();
    let mut writer = std::io::BufWriter::new(left);
    // Until it is full.
    while std::io::Write::write_all(&mut writer, &[7; 4096]).is_ok() {}
    let _ = writer.into_parts();
    filler
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_is_503_with_retry_after_and_heals_by_itself() {
    let server = Server::private();
    let (dsn, disk) = on_a_small_disk(&server).await;
    let store = PostgresStore::connect(PostgresConfig::new(&dsn)).await.unwrap();
    let api = World::on(&dsn).serve().await;
    store.submit(package("s"), &engine()).await.unwrap();
    let filler = fill(&disk);
    let blob = noise(2 << 20, 1);
    let bytes = blob.chunks(100_000).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect::<Vec<_>>();
    let refused = store.put_preimage(upload(&blob), Box::pin(futures::stream::iter(bytes))).await;
    assert!(matches!(refused, Err(jam_store::PutError::Store(StoreError::Unavailable(_)))), "{refused:?}");
    // Rows fit into the pages that there are for a while.
    let full = async {
        loop {
            if let Err(error) = store.submit(package("s"), &engine()).await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(std::time::Duration::from_mins(1), full).await.unwrap();
    assert!(matches!(error, SubmitError::Store(StoreError::Unavailable(_))), "{error:?}");
    let put_over_http = async |bytes: Vec<u8>| {
        let path = format!("/jam/preimages/{}", PreimageHash::of(&bytes));
        answer(api.request("PUT", &path).body(bytes)).await
    };
    let away = put_over_http(noise(1 << 20, 2)).await;
    assert!(away.header("retry-after").parse::<u32>().unwrap() >= 1);
    let body = away.refused(503, "jam_store_unavailable");
    assert!(!body.to_string().contains("space"), "nothing from inside: {body}");
    assert!(store.packages(&jam_domain::page::PackageFilter::default(), crate::store_fixture::first(5)).await.is_ok());
    fs::remove_file(filler).unwrap();
    until("room", async || (put_over_http(noise(1 << 20, 3)).await.status == 201).then_some(())).await;
    store.submit(package("s"), &engine()).await.unwrap();
    assert!(matches!(put(&store, &blob, 100_000).await, Put::Created(_)));
    verified_chain(&store, "s").await;
}

/// An authority and, signed by it, a certificate of a server at this address.
fn certificates(place: &Path, name: &str, address: &str) -> (PathBuf, PathBuf, PathBuf) {
    fs::create_dir_all(place).unwrap();
    let at = |file: &str| place.join(format!("{name}-{file}")).display().to_string();
    let (ca, ca_key, key, request, certificate, extensions) =
        (at("ca.crt"), at("ca.key"), at("key"), at("csr"), at("crt"), at("ext"));
    let subject = format!("/CN=authority {name}");
    let new = ["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    run("openssl", &[&new[..], &["-x509", "-days", "2", "-subj", &subject, "-keyout", &ca_key, "-out", &ca]].concat());
    run("openssl", &[&new[..], &["-subj", "/CN=database", "-keyout", &key, "-out", &request]].concat());
    fs::write(&extensions, format!("subjectAltName={address}\n")).unwrap();
    let sign = ["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &request, "-CA", &ca, "-CAkey", &ca_key];
    run("openssl", &[&sign[..], &["-extfile", &extensions, "-out", &certificate]].concat());
    (ca.into(), certificate.into(), key.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tls_parameters_of_the_dsn_are_honoured() {
    let server = Server::private();
    let place = server.place("tls");
    let (ca, certificate, key) = certificates(&place, "ours", "IP:127.0.0.1");
    let (stranger, ..) = certificates(&place, "stranger", "IP:127.0.0.1");
    server.own(&key);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let plain = server.migrated_database().await;
    for (setting, file) in [("ssl_cert_file", &certificate), ("ssl_key_file", &key)] {
        execute(&plain, &format!("alter system set {setting} = '{}'", file.display())).await;
    }
    execute(&plain, "alter system set ssl = on").await;
    execute(&plain, "select pg_reload_conf()").await;
    let dsn = |parameters: &str| plain.replace("sslmode=disable", parameters);
    let verified = |ca: &Path| dsn(&format!("sslmode=verify-full&sslrootcert={}", ca.display()));
    let store = async |dsn: String| {
        let config = PostgresConfig { acquire_timeout: std::time::Duration::from_secs(2), ..PostgresConfig::new(dsn) };
        PostgresStore::connect(config).await.unwrap()
    };
    let trusting = store(verified(&ca)).await;
    until("TLS", async || trusting.ping().await.ok()).await;
    let encrypted = "select count(*) from pg_stat_ssl s join pg_stat_activity a using (pid)
        where s.ssl and a.application_name = 'jam-api'";
    assert!(postgres::number(&plain, encrypted).await >= 1);
    trusting.submit(package("s"), &engine()).await.unwrap();
    migrate::status(&PostgresConfig::new(verified(&ca))).await.expect("migrations speak it, too");
    let suspicious = store(verified(&stranger)).await;
    assert!(matches!(suspicious.ping().await, Err(StoreError::Unavailable(_))), "another authority");
    let elsewhere = store(verified(&ca).replace("127.0.0.1", "localhost")).await;
    assert!(matches!(elsewhere.ping().await, Err(StoreError::Unavailable(_))), "the certificate has another name");
    store(dsn(&format!("sslmode=verify-ca&sslrootcert={}", ca.display())).replace("127.0.0.1", "localhost"))
        .await
        .ping()
        .await
        .expect("verify-ca does not ask for the name");
    store(dsn("sslmode=require")).await.ping().await.expect("require trusts whoever answers");
    execute(&plain, "alter system set ssl = off").await;
    execute(&plain, "select pg_reload_conf()").await;
    let refused = async || store(dsn("sslmode=require")).await.ping().await.err();
    until("plain text is refused", refused).await;
}
