//! The program `jam-operator`: exit 0 when it did what it was told, 1 with one sentence when it could not; `plan --diff` as `kubectl diff`.

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match jam::operator::main(jam::operator::OperatorArgs::parse()).await {
        Ok(code) => ExitCode::from(code),
        Err(jam::operator::Trouble { sentence, code }) => {
            use std::io::Write as _;
            // Nothing is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "jam-operator: {sentence}");
            ExitCode::from(code)
        }
    }
}
