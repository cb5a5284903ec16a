//! Errors as drivers see them: a class, a message and the place in the query.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Result of anything a query does.
pub type Result<T> = std::result::Result<T, ReqlError>;

/// Response type of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Phase {
    /// The driver broke the protocol.
    Client = 16,
    /// The query is malformed.
    Compile = 17,
    /// The query failed.
    Runtime = 18,
}

/// Class of an error (`e` of a response, `ErrorType` of the protocol).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum Class {
    /// Something of ours broke.
    Internal = 1_000_000,
    /// A limit was passed.
    ResourceLimit = 2_000_000,
    /// The query asks for something senseless.
    QueryLogic = 3_000_000,
    /// A value that is not there.
    NonExistence = 3_100_000,
    /// An operation failed and changed nothing.
    OpFailed = 4_100_000,
    /// An operation may have happened or not.
    OpIndeterminate = 4_200_000,
    /// `r.error`.
    User = 5_000_000,
    /// Not allowed.
    Permission = 6_000_000,
}

impl From<&std::io::Error> for ReqlError {
    fn from(why: &std::io::Error) -> Self {
        Self::failed(format!("The server cannot write to its disk: {why}"))
    }
}

/// One step of a backtrace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// Positional argument.
    Position(usize),
    /// Optional argument.
    Option(String),
}

/// An error on its way to the driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ReqlError {
    /// When it was found.
    pub phase: Phase,
    /// What kind it is.
    pub class: Class,
    /// What it says.
    pub message: String,
    /// Where it is, innermost step first while it travels outwards.
    frames: Vec<Frame>,
}

impl ReqlError {
    /// A runtime error of a class.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { phase: Phase::Runtime, class, message: message.into(), frames: Vec::new() }
    }

    /// The query asks for something senseless.
    pub fn logic(message: impl Into<String>) -> Self {
        Self::new(Class::QueryLogic, message)
    }

    /// The operation failed and changed nothing.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Class::OpFailed, message)
    }

    /// The operation may have happened or not.
    pub fn indeterminate(message: impl Into<String>) -> Self {
        Self::new(Class::OpIndeterminate, message)
    }

    /// A value that is not there.
    pub fn absent(message: impl Into<String>) -> Self {
        Self::new(Class::NonExistence, message)
    }

    /// The query is malformed.
    pub fn compile(message: impl Into<String>) -> Self {
        Self { phase: Phase::Compile, ..Self::logic(message) }
    }

    /// The driver broke the protocol.
    pub fn client(class: Class, message: impl Into<String>) -> Self {
        Self { phase: Phase::Client, ..Self::new(class, message) }
    }

    /// A value of another type was needed.
    pub fn wrong_type(wanted: &str, found: &Value) -> Self {
        let name = super::datum::type_name(found);
        let class = if found.is_null() { Class::NonExistence } else { Class::QueryLogic };
        Self::new(class, format!("Expected type {wanted} but found {name}."))
    }

    /// Adds the step by which the error left a term.
    #[must_use]
    pub fn within(mut self, frame: Frame) -> Self {
        self.frames.push(frame);
        self
    }

    /// Adds a positional step.
    #[must_use]
    pub fn at(self, position: usize) -> Self {
        self.within(Frame::Position(position))
    }

    /// The response to the driver.
    pub fn response(&self) -> Value {
        let trace: Vec<Value> = self
            .frames
            .iter()
            .rev()
            .map(|frame| match frame {
                Frame::Position(at) => json!(at),
                Frame::Option(name) => json!(name),
            })
            .collect();
        let mut response = json!({ "t": self.phase as u8, "r": [self.message], "b": trace });
        if self.phase != Phase::Compile {
            response["e"] = json!(self.class as u32);
        }
        response
    }
}
