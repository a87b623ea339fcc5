//! What integration tests stand on: real parts, started once for each test process.

pub mod cluster;
pub mod objects;
pub mod postgres;
