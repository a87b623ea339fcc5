//! The claims, on a real two-node cluster: run through `dev/test`, inside `dev/cluster/shell`, with the operator installed by helm.

mod alone;
mod audit;
mod autoscaling;
mod bad_rollouts;
mod children;
mod cleanup;
mod consumer;
mod database;
mod databases;
mod deletions;
mod hold;
#[path = "../it/kstatus.rs"]
mod kstatus;
mod last;
mod migrations;
mod network;
mod optional;
mod overrides;
mod path;
mod removal;
mod repair;
mod rollback;
mod rollouts;
mod rotation;
mod slow;
mod steady;
mod support;
mod toggle;
mod traffic;
