//! slctl in front of a person: a progress bar on a terminal and nowhere else, and completion by the shells themselves.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cli_support::{Ran, Server, TOKEN, slctl, write};

/// Runs slctl with all its streams on a pseudo-terminal; what it shows there comes as `out`.
fn on_a_terminal(addr: &str, args: &[&str]) -> Ran {
    let program = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let output = Command::new("python3")
        .args(["-c", program, env!("CARGO_BIN_EXE_slctl")])
        .args(args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs([("SERVICE_LAYER_ADDR", addr), ("SERVICE_LAYER_TOKEN", TOKEN)])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// A server that reads an upload as a slow network brings it, in at least `lasting`, and takes it.
fn slow_receiver(lasting: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Whoever hangs up early has nothing to be told.
            let _ = receive(stream, lasting);
        }
    });
    addr
}

fn receive(mut stream: TcpStream, lasting: Duration) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let hash = head.split([' ', '/']).find(|word| word.len() == 64).unwrap_or_default().to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let Some(length) = length else {
        return stream.write_all(b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\n\r\n");
    };
    let (mut chunk, mut left, began) = (vec![0; 64 * 1024], length, Instant::now());
    while left > 0 {
        let size = left.min(chunk.len());
        stream.read_exact(&mut chunk[..size])?;
        left -= size;
        // As far along in time as in bytes.
        let kib = |bytes: usize| u32::try_from(bytes / 1024).unwrap();
        let share = lasting * kib(length - left) / kib(length).max(1);
        let (_never, wait) = std::sync::mpsc::channel::<()>();
        let _ = wait.recv_timeout(share.saturating_sub(began.elapsed()));
    }
    let body = format!(
        r#"{{"hash":"{hash}","size":{length},"media_type":"application/octet-stream","created_at":"2026-11-21T12:00:00.000000Z","uploader":"0a1b2c3d","storage_class":"database","refcount":0}}"#
    );
    let answer = format!(
        "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes())
}

#[test]
fn an_upload_shows_its_progress_on_a_terminal_only() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "large", &vec![7; 24 << 20]);
    let addr = slow_receiver(Duration::from_secs(2));
    let upload = ["jam", "preimage", "--file", &file];
    let shown = on_a_terminal(&addr, &upload);
    assert_eq!(shown.code, 0, "{shown:?}");
    let bars: Vec<&str> = shown.out.split('\r').filter(|part| part.starts_with('[')).collect();
    assert!(bars.len() >= 3, "a bar that moves: {shown:?}");
    assert!(bars.iter().all(|bar| bar.ends_with("% of 24.0 MiB")), "{bars:?}");
    let shares: Vec<u32> =
        bars.iter().map(|bar| bar[32..].trim().split('%').next().unwrap().parse().unwrap()).collect();
    assert!(shares.is_sorted() && shares.first() < shares.last() && shares.last() <= Some(&100), "{shares:?}");
    let (_, last) = shown.out.rsplit_once("\r\u{1b}[K").expect("the bar is wiped at the end");
    assert!(last.starts_with("uploaded preimage "), "{last:?}");

    let piped = slctl(&addr, &upload);
    assert_eq!((piped.code, piped.err.as_str()), (0, ""), "no bar where nobody looks");
    assert!(!piped.out.contains(['\r', '[']), "{piped:?}");
}

#[test]
fn what_is_too_quick_to_be_watched_leaves_a_clean_line() {
    let (server, directory) = (Server::start(), tempfile::tempdir().unwrap());
    let file = write(directory.path(), "small", b"hello\n");
    let shown = on_a_terminal(&server.addr, &["jam", "preimage", "--file", &file]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.out.trim_start_matches("\r\u{1b}[K").starts_with("uploaded preimage "), "{shown:?}");
}

/// An interactive zsh that reads the function `_slctl` as a user's does, and notes what it offers when Tab is pressed.
const ZSH: &str = r#"
PROMPT=
fpath=($HOME $fpath)
autoload -Uz compinit && compinit -u -D
bindkey '^I' complete-word
zstyle ':completion:*' insert-tab false
compadd() {
  # A call that only asks what would match is no offer.
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)* ]]; then builtin compadd "$@"; return; fi
  local -a matches
  builtin compadd -A matches "$@"
  print -rl -- $matches >>$HOME/offered
  builtin compadd "$@"
}
comppostfuncs=(exit)
"#;

/// What a shell offers for the last of these words, when it has read the script of `slctl completion`.
fn offered(shell: &str, words: &[&str]) -> Vec<String> {
    let script = slctl("http://unused", &["completion", shell]).out;
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "_slctl", script.as_bytes());
    let ask = match shell {
        // As readline does: the registered function, with the words and the number of the one that is being typed.
        "bash" => {
            "source \"$1\"; shift
             function=$(complete -p slctl | sed 's/.*-F \\([^ ]*\\).*/\\1/')
             COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)) COMP_LINE=\"$*\" COMP_POINT=${#COMP_LINE}
             \"$function\" slctl \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"
             printf '%s\\n' \"${COMPREPLY[@]}\""
        }
        // It completes at a prompt only: it gets a terminal, the words and the key.
        "zsh" => {
            "zmodload zsh/zpty; zpty shell zsh -f -i; zpty -w shell '. $HOME/setup'; shift
             zpty -w -n shell \"$*\"$'\\t'; while zpty -r shell; do :; done >/dev/null; cat $HOME/offered"
        }
        "fish" => "source $argv[1]; complete -C \"$argv[2..]\" | string split -f1 \\t",
        other => panic!("no shell {other}"),
    };
    write(directory.path(), "setup", ZSH.as_bytes());
    let mut command = Command::new(shell);
    match shell {
        "zsh" => command.args(["-f", "-c", ask, "zsh", &file]),
        "bash" => command.args(["--norc", "-c", ask, "bash", &file]),
        _ => command.args(["--no-config", "-c", ask, &file]),
    };
    let home = directory.path();
    let output =
        command.args(words).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home).env("TERM", "xterm").output();
    let output = output.unwrap_or_else(|error| panic!("{shell}: {error}; see dev/prerequisites"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.trim().is_empty(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    said.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_zsh_and_fish_complete_commands_flags_and_values() {
    for shell in ["bash", "zsh", "fish"] {
        let sorted = |words: &[&str]| {
            let mut all = offered(shell, words);
            all.sort();
            all
        };
        assert_eq!(sorted(&["slctl", "jam", "rep"]), ["report", "reports"], "{shell}");
        assert_eq!(sorted(&["slctl", "comp"]), ["completion"], "{shell}");
        assert_eq!(sorted(&["slctl", "jam", "packages", "--includ"]), ["--include-receipt"], "{shell}");
        // Before a subcommand fish asks clap's script in vain for the values of a flag, and offers files.
        if shell != "fish" {
            assert_eq!(sorted(&["slctl", "--output", ""]), ["json", "name", "table"]);
        }
        assert_eq!(sorted(&["slctl", "jam", "packages", "--status", "pen"]), ["pending"], "{shell}");
    }
}
