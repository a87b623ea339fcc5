//! A network between pods and their database that can be slow or dead: a relay of bytes in this process, on node 1's address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The address of node 1 (dev/cluster/lib/nodes.sh), in whose network the tests run and which pods on both nodes reach.
const NODE: &str = "10.200.0.1";
/// A delay that stands for a network that carries nothing any more.
const DEAD: u64 = u64::MAX;

/// Relays connections to one server, each piece of bytes after the delay of the moment.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    delay: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Relays to this server, without delay for now.
    pub async fn to(server: String) -> Self {
        let listener = TcpListener::bind((NODE, 0)).await.expect("the tests run in the network of node 1");
        let (address, delay) = (listener.local_addr().expect("it is bound"), Arc::<AtomicU64>::default());
        let of_all = Arc::clone(&delay);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, delay) = (server.clone(), Arc::clone(&of_all));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let back = tokio::spawn(carry(from_server, to_client, Arc::clone(&delay)));
                    carry(from_client, to_server, delay).await;
                    back.abort();
                });
            }
        });
        Self { address, delay, task }
    }

    /// Every piece takes this much longer, each way.
    pub fn takes(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_millis()).expect("a short time"), Ordering::Relaxed);
    }

    /// Connections stay and nothing goes through them: nobody is told that anything is wrong.
    pub fn goes_silent(&self) {
        self.delay.store(DEAD, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, delay: Arc<AtomicU64>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(delay.load(Ordering::Relaxed)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
