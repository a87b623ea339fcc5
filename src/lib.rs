//! The programs: the operator, the API server and their clients, one module each; they never import one another.

pub mod api;
pub mod cli;
pub mod kubectl;
pub mod operator;
pub mod redact;
pub mod reference;
pub mod shutdown;
pub mod table;
pub mod telemetry;
