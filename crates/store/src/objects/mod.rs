//! Blobs outside of the database: objects in a bucket or files in a directory, each under the key of its upload (docs/adr/0030).

mod place;
mod trouble;
mod writing;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, MultipartId, ObjectStore, ObjectStoreExt as _, PutPayload};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

pub use trouble::Trouble;
pub(crate) use writing::{PART, Pieces, Writing};

/// How long an answer may take that carries little, and one to a part or a whole upload.
const ANSWER: Duration = Duration::from_secs(10);
const WRITE: Duration = Duration::from_mins(1);
/// How long an answer to the question whether it is there counts: a good one, and a bad one.
const WELL: Duration = Duration::from_secs(10);
const UNWELL: Duration = Duration::from_secs(3);
/// How long that question may take: who asks it has a probe to answer.
const QUESTION: Duration = Duration::from_secs(1);

/// A place for objects. Nothing in it is asked before it is used.
#[derive(Clone)]
pub struct Objects(Arc<Inner>);

struct Inner {
    backend: Backend,
    prefix: Path,
    /// Where it is, for people; never a credential.
    place: String,
    /// Whether nobody gave credentials, so that the node is asked for some.
    anonymous: bool,
    /// Whether it answered, and when that was known.
    last: Mutex<Option<(Instant, Result<(), Trouble>)>>,
}

enum Backend {
    S3(AmazonS3),
    Files { files: LocalFileSystem, root: PathBuf },
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Objects").field(&self.0.place).finish()
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.place)
    }
}

impl Objects {
    /// The place that this URL names, `s3://bucket/prefix` or `file:///dir`, reached as those of the variables say that begin
    /// with `AWS_`. Nothing is asked over the network.
    ///
    /// # Errors
    /// Words that follow the setting's name, without any credential.
    pub fn open(url: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        place::open(url, variables).map(|inner| Self(Arc::new(inner)))
    }

    /// The storage class of what is here.
    pub fn storage_class(&self) -> &'static str {
        match self.0.backend {
            Backend::S3(_) => "s3",
            Backend::Files { .. } => "file",
        }
    }

    /// Asks whether it serves us, at once.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn probe(&self) -> Result<(), Trouble> {
        match &self.0.backend {
            Backend::S3(s3) => {
                let nothing = self.0.prefix.clone().join("nothing-is-here");
                match self.bounded(ANSWER, s3.get_opts(&nothing, GetOptions::default())).await {
                    Ok(_) | Err(Trouble::Missing) => Ok(()),
                    // What a key may not list it is not told to be missing either.
                    Err(Trouble::Refused { place: _, why }) if why.starts_with("AccessDenied") => self.note(Ok(())),
                    Err(trouble) => Err(trouble),
                }
            }
            Backend::Files { files: _, root } => {
                let there = tokio::fs::metadata(root).await;
                self.note(there.map(drop).map_err(|error| self.away(error.to_string())))
            }
        }
    }

    /// Whether it serves us, as far as was known a moment ago.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn health(&self) -> Result<(), Trouble> {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match last {
            Some((at, known)) if at.elapsed() < if known.is_ok() { WELL } else { UNWELL } => known,
            Some(_) | None => match timeout(QUESTION, self.probe()).await {
                Ok(known) => known,
                Err(_) => self.note(Err(self.away("not within a second"))),
            },
        }
    }

    fn path(&self, blob: Uuid) -> Path {
        self.0.prefix.clone().join(blob.to_string())
    }

    fn store(&self) -> &dyn ObjectStore {
        match &self.0.backend {
            Backend::S3(s3) => s3,
            Backend::Files { files, root: _ } => files,
        }
    }

    fn away(&self, why: impl Into<String>) -> Trouble {
        Trouble::Away { place: self.0.place.clone(), why: why.into() }
    }

    /// Puts an end to waiting, and errors into words.
    async fn bounded<T>(
        &self,
        patience: Duration,
        step: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Trouble> {
        let done = match timeout(patience, step).await {
            Ok(done) => done.map_err(|error| trouble::trouble(&self.0.place, self.0.anonymous, &error)),
            Err(_) => Err(self.away("not in time")),
        };
        self.note(done)
    }

    /// Remembers whether it answered.
    fn note<T>(&self, done: Result<T, Trouble>) -> Result<T, Trouble> {
        let known = match &done {
            Ok(_) | Err(Trouble::Missing) => Ok(()),
            Err(trouble @ (Trouble::Refused { .. } | Trouble::Away { .. })) => Err(trouble.clone()),
        };
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), known));
        done
    }

    /// Writes a whole object.
    pub(crate) async fn put(&self, blob: Uuid, bytes: PutPayload) -> Result<(), Trouble> {
        let path = self.path(blob);
        self.bounded(WRITE, self.store().put(&path, bytes)).await.map(drop)
    }

    /// Begins to write an object of several parts.
    pub(crate) async fn begin(&self, blob: Uuid) -> Result<Writing, Trouble> {
        let path = self.path(blob);
        match &self.0.backend {
            Backend::S3(s3) => {
                let upload = self.bounded(ANSWER, s3.create_multipart(&path)).await?;
                Ok(Writing::S3 { path, upload, parts: Vec::new() })
            }
            Backend::Files { files, root: _ } => {
                Ok(Writing::File(self.bounded(ANSWER, files.put_multipart(&path)).await?))
            }
        }
    }

    /// Writes the next part; all but the last have [`PART`] bytes.
    pub(crate) async fn part(&self, writing: &mut Writing, bytes: PutPayload) -> Result<(), Trouble> {
        match (writing, &self.0.backend) {
            (Writing::S3 { path, upload, parts }, Backend::S3(s3)) => {
                let part = self.bounded(WRITE, s3.put_part(path, upload, parts.len(), bytes)).await?;
                parts.push(part);
                Ok(())
            }
            (Writing::File(upload), _) => self.bounded(WRITE, upload.put_part(bytes)).await,
            (Writing::S3 { .. }, Backend::Files { .. }) => Err(self.away("it was another one a moment ago")),
        }
    }

    /// Makes the parts an object, and says how long it is.
    pub(crate) async fn complete(&self, blob: Uuid, writing: Writing) -> Result<u64, Trouble> {
        match (writing, &self.0.backend) {
            (Writing::S3 { path, upload, parts }, Backend::S3(s3)) => {
                self.bounded(WRITE, s3.complete_multipart(&path, &upload, parts)).await.map(drop)?;
            }
            (Writing::File(mut upload), _) => self.bounded(WRITE, upload.complete()).await.map(drop)?,
            (Writing::S3 { .. }, Backend::Files { .. }) => return Err(self.away("it was another one a moment ago")),
        }
        let path = self.path(blob);
        self.bounded(ANSWER, self.store().head(&path)).await.map(|meta| meta.size)
    }

    /// Bytes of an object, which are all in memory then; and how long the object is. None where it ends before the range.
    pub(crate) async fn read(&self, blob: Uuid, range: Range<u64>) -> Result<(Bytes, u64), Trouble> {
        let path = self.path(blob);
        let start = range.start;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let read = async {
            match self.store().get_opts(&path, options).await {
                Ok(found) => {
                    let size = found.meta.size;
                    Ok((found.bytes().await?, size))
                }
                // A range that begins beyond the end is refused in words that differ from store to store: it may be no trouble of the
                // store but an object that was cut short, and then its length tells.
                Err(error @ object_store::Error::Generic { .. }) => match self.store().head(&path).await {
                    Ok(meta) if meta.size <= start => Ok((Bytes::new(), meta.size)),
                    Ok(_) | Err(_) => Err(error),
                },
                Err(error) => Err(error),
            }
        };
        let read = self.bounded(ANSWER, read).await;
        if let (Err(Trouble::Missing), Backend::Files { files: _, root }) = (&read, &self.0.backend) {
            // Without its directory no file is missing: the volume is not mounted.
            let there = tokio::fs::metadata(root).await;
            self.note(there.map(drop).map_err(|error| self.away(error.to_string())))?;
        }
        read
    }

    /// Removes an object and whatever there is of its upload. That nothing is there is as good.
    pub(crate) async fn remove(&self, blob: Uuid, upload: Option<&str>) -> Result<(), Trouble> {
        let path = self.path(blob);
        let gone = |done: Result<(), Trouble>| match done {
            Err(Trouble::Missing) => Ok(()),
            done => done,
        };
        match (&self.0.backend, upload) {
            (Backend::S3(s3), Some(upload)) => {
                // An upload that became an object has ended; some servers refuse to end it again.
                if self.bounded(ANSWER, s3.head(&path)).await == Err(Trouble::Missing) {
                    let upload: MultipartId = upload.to_owned();
                    return gone(self.bounded(ANSWER, s3.abort_multipart(&path, &upload)).await);
                }
            }
            (Backend::Files { files, root: _ }, _) => {
                // What a killed server was writing has this name: the key is its own, so it is the first one of it.
                if let Ok(file) = files.path_to_filesystem(&path) {
                    let mut staged = file.into_os_string();
                    staged.push("#1");
                    match tokio::fs::remove_file(staged).await {
                        Ok(()) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                        Err(error) => return Err(self.away(error.to_string())),
                    }
                }
            }
            (Backend::S3(_), None) => {}
        }
        gone(self.bounded(ANSWER, self.store().delete(&path)).await)
    }
}
