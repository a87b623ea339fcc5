//! A transaction of our own: however it ends, also in the middle of its beginning, nobody inherits it with its connection.
//!
//! The library takes back what is dropped once it knows that a transaction has begun. A beginning that fails in its second statement, such
//! as a lock that is not to be had in time, or that nobody waits for any more, it gives back to the pool as it is: every statement
//! after that fails, or stands in a transaction that is never committed.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Executor, Postgres, raw_sql};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::pool::Begin;

/// How long taking it back may take; a connection that needs longer is closed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A transaction, and the connection that it has for itself.
pub(super) struct Transaction(Option<PoolConnection<Postgres>>);

impl Transaction {
    /// Begins one on a connection of the pool.
    pub(super) async fn begin(pool: &PgPool, begin: Begin) -> Result<Self, sqlx::Error> {
        let mut transaction = Self(Some(pool.acquire().await?));
        raw_sql(begin.statement()).execute(&mut *transaction).await?;
        Ok(transaction)
    }

    /// Makes it last.
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        self.end("commit").await
    }

    /// Takes it back.
    pub(super) async fn rollback(self) -> Result<(), sqlx::Error> {
        self.end("rollback").await
    }

    async fn end(mut self, how: &'static str) -> Result<(), sqlx::Error> {
        (&mut *self).execute(how).await?;
        // From here on the connection is like any other.
        self.0 = None;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("it has its connection until its end")
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("it has its connection until its end")
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(mut connection) = self.0.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return connection.close_on_drop() };
        runtime.spawn(async move {
            let taken_back = timeout(PATIENCE, connection.execute("rollback")).await;
            if !matches!(taken_back, Ok(Ok(_))) {
                connection.close_on_drop();
            }
        });
    }
}
