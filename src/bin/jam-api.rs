//! The JAM API server; everything it does is in `jam::api`.

use std::process::ExitCode;

fn main() -> ExitCode {
    jam::api::main()
}
