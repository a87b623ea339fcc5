//! `jam process`: has the server process what is pending.

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use crate::cli::answer::Answer;
use crate::cli::args::ProcessArgs;
use crate::cli::client::{Call, Client, Repeat};
use crate::cli::fault::Fault;

/// Packages of one call with `--all`.
const BATCH: u32 = 100;

/// The server's count of one call.
#[derive(Debug, Default, Deserialize)]
struct Processed {
    /// Packages taken.
    #[serde(default)]
    count: u64,
    /// Of these, packages that ended disputed.
    #[serde(default)]
    failed: u64,
}

/// `jam process`.
pub async fn run(client: &Client, args: ProcessArgs) -> Result<Answer, Fault> {
    let ProcessArgs { limit, all } = args;
    let mut sum = Processed::default();
    if all {
        while let Some(Processed { count, failed }) = once(client, BATCH).await? {
            sum.count += count;
            sum.failed += failed;
        }
    } else if let Some(one) = once(client, limit).await? {
        sum = one;
    }
    let Processed { count, failed } = sum;
    let any = count > 0;
    let text = match (any, failed) {
        (false, _) => "nothing was pending\n".to_owned(),
        (true, 0) => format!("processed {}\n", packages(count)),
        (true, _) => format!("processed {}, {failed} of them disputed\n", packages(count)),
    };
    let answer = Answer::json(json!({"processed": any, "count": count, "failed": failed})).with_text(text);
    Ok(if failed > 0 { answer.with_note("see `slctl jam packages --status disputed`") } else { answer })
}

/// One call; `None` when nothing was pending. A broken connection is not tried again: work may have been done.
async fn once(client: &Client, limit: u32) -> Result<Option<Processed>, Fault> {
    let call = Call::new(Method::POST, &["jam", "process"], Repeat::WhenTurnedAway).with("limit", Some(limit));
    let reply = client.send(call).await?;
    if reply.status == 204 {
        return Ok(None);
    }
    let processed: Processed = reply.json()?;
    // A server that answers 200 with nothing done has come to the end too.
    Ok((processed.count > 0).then_some(processed))
}

fn packages(count: u64) -> String {
    if count == 1 { "1 package".into() } else { format!("{count} packages") }
}
