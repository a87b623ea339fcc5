//! What the tests of slctl share: a real server, the program's transcript, and a fake server for what no real one does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

/// The token that a [`Server`] takes.
pub const TOKEN: &str = "a-token-of-the-tests";

/// The real `jam-api serve` with the memory store on a free port; stopped when dropped.
pub struct Server {
    child: Child,
    pub addr: String,
}

impl Server {
    /// A server with JAM on, no rate limit and these settings besides.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_jam-api"))
            .arg("serve")
            .env_clear()
            .env("JAM_LISTEN", "127.0.0.1:0")
            .env("JAM_METRICS_LISTEN", "")
            .env("JAM_ENABLED", "true")
            .env("JAM_ALLOWED_TOKENS", TOKEN)
            .env("JAM_RATE_LIMIT_PER_MINUTE", "0")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("jam-api starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let heard = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, addr) = line.split_once("listening on ")?;
            Some(addr.split_whitespace().next()?.trim_start_matches("http://").to_owned())
        });
        // The pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        let addr = heard.expect("jam-api says where it listens");
        Self { child, addr: format!("http://{addr}") }
    }

    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Runs slctl against this server with its token.
    pub fn slctl(&self, args: &[&str]) -> Ran {
        slctl(&self.addr, args)
    }

    /// The same, wanting success; gives stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.slctl(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "slctl {args:?}");
        ran.out
    }

    /// The same, with stdout as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("stdout is JSON")
    }

    /// Submits a package of one item and gives its id.
    pub fn submit(&self, service: &str, params: &str) -> String {
        let args = ["jam", "package", "--service", service, "--kind", "k", "--params-hash", params, "--output", "name"];
        self.ok(&args).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One run of slctl.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs slctl with nothing of this machine's environment and the tests' token.
pub fn slctl(addr: &str, args: &[&str]) -> Ran {
    slctl_with(&[("SERVICE_LAYER_ADDR", addr), ("SERVICE_LAYER_TOKEN", TOKEN)], args)
}

/// Runs slctl with exactly this environment.
pub fn slctl_with(environment: &[(&str, &str)], args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_slctl"))
        .env_clear()
        .envs(environment.iter().copied())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("slctl runs");
    let text = |bytes| String::from_utf8(bytes).expect("slctl prints UTF-8");
    Ran { code: output.status.code().expect("slctl exits"), out: text(output.stdout), err: text(output.stderr) }
}

/// A refusal: its exit code, nothing on stdout, and exactly this line on stderr.
#[track_caller]
pub fn refused(ran: &Ran, code: i32, line: &str) {
    assert_eq!(ran, &Ran { code, out: String::new(), err: format!("{line}\n") });
}

/// A refusal whose line begins and ends like this.
#[track_caller]
pub fn refused_like(ran: &Ran, code: i32, begin: &str, end: &str) {
    assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "one line: {ran:?}");
    assert!(ran.err.starts_with(begin), "{ran:?} begins with {begin:?}");
    assert!(ran.err.trim_end().ends_with(end), "{ran:?} ends with {end:?}");
}

/// The text with ids, hashes and times blurred, so that it can be compared.
pub fn blur(text: &str) -> String {
    let (mut blurred, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let starts = |shape: &str| {
            rest.len() >= shape.len()
                && rest.bytes().zip(shape.bytes()).all(|(byte, wanted)| match wanted {
                    b'h' => byte.is_ascii_hexdigit(),
                    b'd' => byte.is_ascii_digit(),
                    other => byte == other,
                })
        };
        let hash = "h".repeat(64);
        let shapes = [
            ("hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh", "<id>"),
            (hash.as_str(), "<hash>"),
            ("dddd-dd-ddTdd:dd:dd.ddddddZ", "<time>"),
        ];
        if let Some((shape, word)) = shapes.into_iter().find(|(shape, _)| starts(shape)) {
            blurred.push_str(word);
            rest = &rest[shape.len()..];
        } else {
            blurred.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    // Columns were as wide as what is blurred now.
    blurred.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

pub fn write(directory: &Path, name: &str, bytes: &[u8]) -> String {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What the fake server answers with: status line, further headers, body.
pub struct Reply(pub &'static str, pub String, pub String);

impl Reply {
    pub fn json(body: &Value) -> Self {
        Self("200 OK", String::new(), body.to_string())
    }
}

/// A server that answers what a test tells it: only for what a real one can't be brought to do.
pub struct Fake {
    pub addr: String,
    calls: Arc<AtomicUsize>,
}

impl Fake {
    /// `answer` gets the number of the call from 0 on and its head; `None` breaks the connection off.
    pub fn answering(answer: impl Fn(usize, &str) -> Option<Reply> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(head) = read_head(&stream) else { continue };
                let number = counter.fetch_add(1, Ordering::SeqCst);
                if let Some(reply) = answer(number, &head) {
                    send(stream, &reply);
                }
            }
        });
        Self { addr, calls }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn slctl(&self, args: &[&str]) -> Ran {
        slctl(&self.addr, args)
    }
}

fn read_head(mut stream: &TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            // A TLS hello: answered as a plain HTTP server does.
            Ok(1) if head.is_empty() && byte[0] == 0x16 => {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").ok()?;
                return None;
            }
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    String::from_utf8(head).ok()
}

fn send(mut stream: TcpStream, Reply(status, headers, body): &Reply) {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}");
    stream.write_all(text.as_bytes()).ok();
}
