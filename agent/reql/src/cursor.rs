//! The rows of a query, taken as they are wanted.

use std::{collections::VecDeque, marker::PhantomData};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Connection, ReqlError, response::Response, routes::Ticket};

/// Rows of a query or changes of a feed. Letting go of it stops the query at the server.
pub struct Cursor<T> {
    ticket: Ticket,
    rows: VecDeque<Value>,
    /// An answer is on its way.
    asked: bool,
    /// The server has more.
    more: bool,
    /// The answer was one value, not a sequence.
    atom: bool,
    /// Keeps the connection open while the cursor is used.
    connection: Connection,
    kind: PhantomData<fn() -> T>,
}

impl<T> Cursor<T> {
    /// After START was put into the outbox.
    pub(crate) fn new(connection: Connection, ticket: Ticket) -> Self {
        let rows = VecDeque::new();
        Self { ticket, rows, asked: true, more: true, atom: false, connection, kind: PhantomData }
    }

    pub(crate) fn typed<U>(self) -> Cursor<U> {
        let Self { ticket, rows, asked, more, atom, connection, kind: _ } = self;
        Cursor { ticket, rows, asked, more, atom, connection, kind: PhantomData }
    }

    pub(crate) fn sent(&self) -> bool {
        self.ticket.sent()
    }

    /// Takes in one more answer. Cancel-safe: an answer asked for is remembered.
    pub(crate) async fn fill(&mut self) -> Result<(), ReqlError> {
        if !self.asked {
            self.ticket.more();
            self.asked = true;
        }
        let answer = match self.ticket.answer.recv().await {
            Some(answer) => answer,
            None => Err(self.ticket.lost()),
        };
        self.asked = false;
        match answer {
            Ok(Response::Atom(value)) => {
                self.rows.push_back(value);
                (self.more, self.atom) = (false, true);
            }
            Ok(Response::Rows { rows, more }) => {
                self.rows.extend(rows);
                self.more = more;
            }
            Err(error) => {
                self.more = false;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Everything as one value: an atom as itself, rows as an array.
    pub(crate) async fn collect(&mut self, most: usize) -> Result<Value, ReqlError> {
        while self.more {
            self.fill().await?;
            if self.rows.len() > most {
                return Err(ReqlError::decode(format_args!("more than {most} rows")));
            }
        }
        Ok(match self.atom {
            true => self.rows.pop_front().unwrap_or_default(),
            false => Value::Array(std::mem::take(&mut self.rows).into()),
        })
    }

    /// The connection that carries it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl<T: DeserializeOwned> Cursor<T> {
    /// The next row, or `None` after the last. Waits as long as it takes: a feed may be silent for hours.
    ///
    /// # Errors
    /// When the server ends the query, the connection ends, or the row is no `T`.
    ///
    /// # Cancel safety
    /// A future dropped early loses nothing; ask again.
    pub async fn next(&mut self) -> Option<Result<T, ReqlError>> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                // A sequence the server had to hold whole, to sort it, comes as one value.
                let row = match row {
                    Value::Array(rows) if std::mem::take(&mut self.atom) => {
                        self.rows = rows.into();
                        continue;
                    }
                    row => row,
                };
                return Some(serde_json::from_value(row).map_err(ReqlError::decode));
            }
            if !self.more {
                return None;
            }
            if let Err(error) = self.fill().await {
                return Some(Err(error));
            }
        }
    }
}
