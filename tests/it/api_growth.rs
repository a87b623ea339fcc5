//! What clients leave behind in the process: neither memory nor descriptors, whatever they send and however large it is.

use tokio::io::AsyncWriteExt as _;

use crate::api_clients::{SHORT, hostile, put_path, request};
use crate::api_raw::{connect, descriptors, memory, raw};
use crate::api_support::{Server, TOKEN, World, answer, laws, package, until};
use crate::store_fixture::noise;

laws!(
    broken_clients_leave_neither_memory_nor_descriptors_behind,
    large_requests_leave_nothing_behind_whether_they_are_refused_or_answered,
);

/// KiB that a request may leave behind, on the average of very many: what an allocator keeps in hand is spread over them.
const LEAST_LEAK: usize = 20;

/// Sends rounds of requests, and measures the process between those that warm it up and the rest.
async fn grows(server: &Server, rounds: usize, requests: usize, round: impl AsyncFn(usize)) {
    let pid = server.pid();
    for n in 0..rounds / 4 {
        round(n).await;
    }
    // What keeps connections to the database open has opened them by now.
    let open = descriptors(&pid);
    let resident = memory(&pid, "VmRSS");
    for n in rounds / 4..rounds + rounds / 4 {
        round(n).await;
    }
    until("the end of every connection", async || (descriptors(&pid) <= open + 4).then_some(())).await;
    let grown = memory(&pid, "VmRSS").saturating_sub(resident);
    let most = u64::try_from(rounds * requests * LEAST_LEAK).unwrap();
    assert!(grown < most, "{} requests made the process grow by {grown} KiB", rounds * requests);
    answer(server.bare("GET", "/readyz")).await.expect(200);
}

async fn broken_clients_leave_neither_memory_nor_descriptors_behind(world: World) {
    let server = world.with(&[SHORT]).await;
    let tries: Vec<_> = hostile().into_iter().filter(|(_, bytes, _)| bytes.len() < 300_000).collect();
    grows(&server, 40, tries.len() + 2, async |_| {
        futures::future::join_all(tries.iter().map(|(_, bytes, _)| raw(&server.address, bytes))).await;
        // Gone in the middle of a head, and of a body.
        let half = request("PUT", &put_path(b"gone"), "content-length: 9\r\n");
        for part in [b"GET /jam/sta".to_vec(), [&half[..], b"go"].concat()] {
            connect(&server.address).await.write_all(&part).await.unwrap();
        }
    })
    .await;
}

async fn large_requests_leave_nothing_behind_whether_they_are_refused_or_answered(world: World) {
    const LARGE: usize = 400_000;
    let settings = [("JAM_MAX_PREIMAGE_BYTES", "500000"), ("JAM_ALLOWED_TOKENS", TOKEN)];
    let server = world.with(&settings).await;
    let tries: Vec<_> = hostile().into_iter().filter(|(_, bytes, _)| bytes.len() >= 300_000).collect();
    assert!(tries.len() >= 3, "{}", tries.len());
    let (kept, other, too_large) = (noise(LARGE, 1), noise(LARGE, 2), noise(500_001, 3));
    let (path, of_large) = (put_path(&kept), put_path(&too_large));
    server.upload(&kept).await;
    let wrong = [package("s", &"n".repeat(LARGE)).to_string(), " ".repeat(LARGE), "[".repeat(LARGE)];
    let call = async |method: &str, path: &str, body: Vec<u8>, status: u16| {
        assert_eq!(answer(server.request(method, path).body(body)).await.status, status, "{method} {path}");
    };
    grows(&server, 40, tries.len() + wrong.len() + 5, async |_| {
        for (_, bytes, _) in &tries {
            raw(&server.address, bytes).await;
        }
        for body in &wrong {
            call("POST", "/jam/packages", body.clone().into_bytes(), 400).await;
        }
        call("POST", "/jam/packages", vec![b' '; (1 << 20) + 1], 413).await;
        call("PUT", &put_path(b"of other bytes"), other.clone(), 400).await;
        call("PUT", &path, kept.clone(), 200).await;
        call("PUT", &of_large, too_large.clone(), 413).await;
        call("GET", &path, Vec::new(), 200).await;
    })
    .await;
}
