//! The JAM API server. A request's walk: `router` → `admit` (who → may → limit) → a handler → a rule of `domain` → the
//! store → the answer.

pub mod action;
mod admin;
mod admit;
mod body;
mod build;
mod cleanup;
mod connection;
mod controls;
mod cors;
mod eager;
mod events;
mod fault;
mod feed;
mod health;
mod limiter;
mod lists;
mod metrics;
mod metrics_server;
mod openapi;
mod otlp;
mod packages;
mod patient;
mod pending;
mod preimages;
mod process;
mod program;
mod query;
mod receipts;
mod reports;
mod room;
mod router;
mod serve;
mod server;
mod settings;
mod shapes;
mod spans;
mod state;
mod status;
mod store;
mod tokens;
mod trace;
mod unspoken;
mod work;

pub use program::{Program, main};
