//! The words of which calls are made: numbers into small pools instead of ids, hashes and times.

/// Whose token a call carries: one for everything but what administrators do, one that is bound to the first service, or an administrator's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Who {
    Anybody,
    Bound,
    Admin,
}

impl Who {
    pub fn sees(self, service: u8) -> bool {
        match self {
            Self::Anybody | Self::Admin => true,
            Self::Bound => service == 0,
        }
    }

    /// What stands for its token.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Anybody => "<token>",
            Self::Bound => "<bound>",
            Self::Admin => "<admin>",
        }
    }
}

/// How a blob comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    Whole,
    /// Without a length.
    Chunked,
    /// Under the hash of other bytes.
    Wrong,
}

/// What is asked for of a blob.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part {
    Whole,
    /// Nothing, if it is this one; or if it is another one.
    Unless(bool),
    Range(u64, u64),
    From(u64),
    Last(u64),
}

/// When a package expires.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expiry {
    Past,
    Ahead,
}

impl Expiry {
    pub fn text(self) -> &'static str {
        match self {
            Self::Past => "2001-01-01T00:00:00.000000Z",
            Self::Ahead => "2999-01-01T00:00:00.000000Z",
        }
    }
}

/// Packages created before or after another one; one that is not there stands for the end of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    Before(usize),
    After(usize),
}

/// What a client submits: numbers into small pools, so that calls meet each other's traces.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub service: u8,
    pub nonce: u8,
    pub id: Option<u8>,
    pub key: Option<u8>,
    pub expiry: Option<Expiry>,
    /// Blobs of the package, and of its one item.
    pub blobs: (Vec<u8>, Vec<u8>),
}
