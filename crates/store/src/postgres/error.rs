//! What can go wrong between here and PostgreSQL, sorted by what the caller can do about it, with the DSN kept out of it.

use jam_domain::page::TimeCursor;
use sqlx::postgres::PgDatabaseError;

use crate::StoreError;

/// A failure inside the store, before it is put into words for the caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// PostgreSQL, or the way to it.
    #[error("{}", said(.0))]
    Sql(#[from] sqlx::Error),
    /// A stored value that can't be.
    #[error("{0}")]
    Corrupt(String),
    /// The same of the first row of a page, whose place is known.
    #[error("{0}")]
    Unread(String, TimeCursor),
    /// What was worked on went away meanwhile; doing it again may succeed.
    #[error("{0}")]
    Gone(&'static str),
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The connection is gone: nothing of the statement may have happened, a new connection may serve.
    Connection,
    /// Two transactions stood in each other's way and this one was rolled back: it can be done again at once.
    Collision,
    /// The database is there but can't serve now.
    Exhausted,
    /// The tables are not the ones that this build knows.
    Schema,
    /// Ours to repair.
    Fault,
}

impl Failure {
    /// What the failure means.
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Sql(error) => cause_of(error),
            Self::Corrupt(_) | Self::Unread(..) => Cause::Fault,
            Self::Gone(_) => Cause::Exhausted,
        }
    }

    /// Says in which row a value stands that can't be.
    pub(crate) fn in_row(self, row: impl FnOnce() -> String) -> Self {
        match self {
            Self::Corrupt(problem) => Self::Corrupt(format!("{}: {problem}", row())),
            Self::Sql(error @ sqlx::Error::ColumnDecode { .. }) => Self::Corrupt(format!("{}: {error}", row())),
            Self::Sql(_) | Self::Unread(..) | Self::Gone(_) => self,
        }
    }

    /// Where the server, if it answered at all, says that it went wrong.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => {
                error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code)
            }
            Self::Sql(_) | Self::Corrupt(_) | Self::Unread(..) | Self::Gone(_) => None,
        }
    }
}

/// The library's words, without the line of PostgreSQL's own source that it adds.
fn said(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(database) => format!("error returned from database: {}", database.message()),
        None => error.to_string(),
    }
}

fn cause_of(error: &sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed | sqlx::Error::BeginFailed => {
            Cause::Connection
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Cause::Exhausted,
        sqlx::Error::Database(database) => {
            database.try_downcast_ref::<PgDatabaseError>().map_or(Cause::Fault, |error| cause_of_code(error.code()))
        }
        // The library's own enum, which may grow: what is not known to pass is a fault.
        _ => Cause::Fault,
    }
}

/// The codes of <https://www.postgresql.org/docs/15/errcodes-appendix.html>.
fn cause_of_code(code: &str) -> Cause {
    match code {
        // Shut down by an administrator, crashed, starting up, dropped, idle for too long: the connection is closed.
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" => Cause::Connection,
        "40001" | "40P01" => Cause::Collision,
        // A statement took too long, a lock was not to be had, or this is a standby that is not promoted yet; the password
        // or the database name is wrong now, which can be put right without a new release.
        "57014" | "55P03" | "25006" | "28000" | "28P01" | "3D000" => Cause::Exhausted,
        "42P01" | "42703" => Cause::Schema,
        _ if code.starts_with("08") => Cause::Connection,
        // Disk full, out of memory, too many connections.
        _ if code.starts_with("53") => Cause::Exhausted,
        _ => Cause::Fault,
    }
}

/// Keeps the DSN and its password out of every word that leaves the store.
#[derive(Clone)]
pub(crate) struct Redaction {
    secrets: Vec<String>,
    /// Host and port, which may be told.
    place: String,
}

impl Redaction {
    pub(crate) fn of(dsn: &str) -> Self {
        let rest = dsn.split_once("://").map_or("", |(_, rest)| rest);
        let (credentials, address) = rest.rsplit_once('@').unwrap_or(("", rest));
        let place = address.split(['/', '?']).next().unwrap_or_default().to_owned();
        let password = credentials.split_once(':').map_or("", |(_, password)| password);
        let decoded = percent_decoded(password);
        let secrets = [dsn, credentials, password, &decoded];
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty()).map(str::to_owned).collect();
        Self { secrets, place }
    }

    pub(crate) fn clean(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[redacted]"))
    }

    /// The failure in words for the log and in the kind that decides the answer.
    pub(crate) fn answer(&self, failure: &Failure, wanted: i64) -> StoreError {
        let words = match failure {
            Failure::Sql(sqlx::Error::PoolTimedOut) => {
                format!("no connection to {} in time: it does not answer, or every connection is in use", self.place)
            }
            Failure::Sql(_) | Failure::Corrupt(_) | Failure::Unread(..) | Failure::Gone(_) => failure.to_string(),
        };
        let words = self.clean(&words);
        match failure.cause() {
            Cause::Connection | Cause::Collision | Cause::Exhausted => StoreError::Unavailable(words),
            Cause::Schema => StoreError::Schema { found: None, wanted },
            Cause::Fault => match failure {
                Failure::Unread(_, place) => StoreError::Unread(words, *place),
                Failure::Sql(_) | Failure::Corrupt(_) | Failure::Gone(_) => StoreError::Fault(words),
            },
        }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten().and_then(|pair| hex::decode(pair).ok());
        if let Some(byte) = escaped {
            bytes.extend(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_the_credentials_is_in_an_error() {
        let redaction = Redaction::of("postgres://jam:p%40ss@db.example/jam");
        let text = redaction.clean("postgres://jam:p%40ss@db.example/jam, p%40ss, p@ss: no route");
        assert_eq!(text, "[redacted], [redacted], [redacted]: no route");
        assert_eq!(Redaction::of("postgres://db.example/jam").clean("db.example"), "db.example");
    }

    #[test]
    fn what_passes_by_itself_is_unavailable_and_the_rest_is_a_fault() {
        let unavailable = ["57P01", "57P03", "53100", "53300", "08006", "57014", "40P01", "25006", "28P01"];
        for code in unavailable {
            assert!(matches!(cause_of_code(code), Cause::Connection | Cause::Collision | Cause::Exhausted), "{code}");
        }
        for code in ["23505", "42601", "22P02", "42501", "XX000"] {
            assert_eq!(cause_of_code(code), Cause::Fault, "{code}");
        }
    }
}
