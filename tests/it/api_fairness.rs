//! One client's stalled bodies and unread downloads are nobody else's: other tokens are served as if it were not there.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::api_clients::put_path;
use crate::api_raw::{connect, head};
use crate::api_support::{Server, World, answer, laws, package};
use crate::store_fixture::noise;

laws!(
    stalled_uploads_of_one_token_keep_no_other_token_waiting,
    stalled_submissions_of_one_token_keep_no_other_token_waiting,
    downloads_that_one_token_does_not_read_keep_no_other_token_waiting,
    stalled_uploads_keep_not_even_the_submissions_of_their_own_token_waiting,
);

/// More than what all stalled bodies together would take, at 10 MB in memory and a window of about 1 MiB elsewhere.
const STALLED: usize = 150;
/// Longer than any test waits for an answer: who stalls is not hung up on before.
const SETTINGS: [(&str, &str); 2] = [("JAM_ALLOWED_TOKENS", "stalling,honest"), ("JAM_CLIENT_TIMEOUT", "300")];

/// This many requests of the stalling token, each with a head and no body to speak of.
async fn stall(server: &Server, request: impl Fn(usize) -> String) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for at in 0..STALLED {
        let mut stream = connect(&server.address).await;
        stream.write_all(request(at).as_bytes()).await.unwrap();
        open.push(stream);
    }
    open
}

/// Again and again, so that every stalled request has been taken up in between: a submission, an upload and a download.
async fn is_served(server: &Server, token: &str) {
    for round in 0..20_u64 {
        let submit = server.bare("POST", "/jam/packages").bearer_auth(token);
        answer(submit.body(package("s", &format!("{token}{round}")).to_string())).await.expect(201);
        let blob = noise(100_000, round * 2);
        let path = put_path(&blob);
        answer(server.bare("PUT", &path).bearer_auth(token).body(blob.clone())).await.expect(201);
        assert_eq!(answer(server.bare("GET", &path).bearer_auth(token)).await.expect(200).bytes, blob);
    }
}

async fn stalled_uploads_of_one_token_keep_no_other_token_waiting(world: World) {
    let server = world.with(&SETTINGS).await;
    let _open = stall(&server, |at| {
        let path = put_path(at.to_string().as_bytes());
        head("PUT", &path, "stalling", "content-length: 10000000\r\n") + "0123456789"
    })
    .await;
    is_served(&server, "honest").await;
}

async fn stalled_submissions_of_one_token_keep_no_other_token_waiting(world: World) {
    let server = world.with(&SETTINGS).await;
    let _open = stall(&server, |at| {
        let length = if at % 2 == 0 { "content-length: 1048576" } else { "transfer-encoding: chunked" };
        head("POST", "/jam/packages", "stalling", &format!("{length}\r\n"))
    })
    .await;
    is_served(&server, "honest").await;
}

async fn downloads_that_one_token_does_not_read_keep_no_other_token_waiting(world: World) {
    let server = world.with(&SETTINGS).await;
    let blob = noise(10 << 20, 7);
    let path = put_path(&blob);
    answer(server.bare("PUT", &path).bearer_auth("honest").body(blob)).await.expect(201);
    let _open = stall(&server, |_| head("GET", &path, "stalling", "")).await;
    is_served(&server, "honest").await;
}

async fn stalled_uploads_keep_not_even_the_submissions_of_their_own_token_waiting(world: World) {
    let server = world.with(&SETTINGS).await;
    let _open = stall(&server, |at| {
        let path = put_path(at.to_string().as_bytes());
        head("PUT", &path, "stalling", "content-length: 10000000\r\n")
    })
    .await;
    for round in 0..20_u64 {
        let submit = server.bare("POST", "/jam/packages").bearer_auth("stalling");
        answer(submit.body(package("s", &round.to_string()).to_string())).await.expect(201);
    }
}
