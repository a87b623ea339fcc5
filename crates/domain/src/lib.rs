//! The rules of JAM, as words and pure functions: no IO, no async, no clock; time is an argument.

pub mod attestation;
pub mod audit;
pub mod byte_range;
pub mod canonical;
pub mod client;
pub mod control;
pub mod digest;
pub mod dispute;
pub mod event;
mod fields;
pub mod limit;
pub mod names;
pub mod page;
pub mod quota;
pub mod receipt;
pub mod record;
pub mod refine;
pub mod refusal;
pub mod request;
pub mod retention;
pub mod settings;
pub mod submission;
pub mod time;
pub mod token;
mod unambiguous;
pub mod word;

pub use audit::By;
pub use digest::{HashAlgorithm, PreimageHash};
pub use names::{ItemId, PackageId, ReportId, ServiceId, TokenId};
pub use record::{
    AccumulatorRoot, Attestation, EntryType, PackageStatus, Preimage, Receipt, WorkItem, WorkPackage, WorkReport,
};
pub use refusal::{Code, Refusal};
pub use settings::{JamSettings, Profile, Settings, StoreKind};
pub use time::Timestamp;
