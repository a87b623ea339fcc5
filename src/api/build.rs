//! What this binary was built from.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, `unknown` when the build did not say (images say it by `JAM_COMMIT`).
pub const COMMIT: &str = match option_env!("JAM_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
/// When it was built, `unknown` when the build did not say (`JAM_BUILT_AT`).
pub const BUILT_AT: &str = match option_env!("JAM_BUILT_AT") {
    Some(at) => at,
    None => "unknown",
};
/// The oldest compiler that this source builds with, or the one that the build named (`JAM_RUST_VERSION`).
pub const RUST_VERSION: &str = match option_env!("JAM_RUST_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_RUST_VERSION"),
};
