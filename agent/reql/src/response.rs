//! What a server answers.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::{ReqlError, ServerError, ServerErrorKind};

/// Numbers of `Response.ResponseType` in the public `ql2.proto`.
const SUCCESS_ATOM: u32 = 1;
const SUCCESS_SEQUENCE: u32 = 2;
const SUCCESS_PARTIAL: u32 = 3;
const WAIT_COMPLETE: u32 = 4;
const SERVER_INFO: u32 = 5;
const CLIENT_ERROR: u32 = 16;
const COMPILE_ERROR: u32 = 17;
const RUNTIME_ERROR: u32 = 18;

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "t")]
    kind: u32,
    #[serde(rename = "r", default)]
    results: Vec<Value>,
    #[serde(rename = "e")]
    error: Option<u32>,
}

/// One answer, understood.
#[derive(Debug, PartialEq)]
pub(crate) enum Response {
    /// One value.
    Atom(Value),
    /// Rows, and whether more can be had by asking.
    Rows { rows: Vec<Value>, more: bool },
}

/// Reads the JSON of a frame.
pub(crate) fn parse(json: &[u8]) -> Result<Response, ReqlError> {
    let Wire { kind, mut results, error } = serde_json::from_slice(json).map_err(ReqlError::decode)?;
    let failed = |kind| {
        let message = match results.first() {
            Some(Value::String(message)) => message.clone(),
            _ => "no reason given".into(),
        };
        Err(ReqlError::Server(Arc::new(ServerError { kind, message })))
    };
    match kind {
        CLIENT_ERROR => failed(ServerErrorKind::Client),
        COMPILE_ERROR => failed(ServerErrorKind::Compile),
        RUNTIME_ERROR => failed(ServerErrorKind::of_runtime(error)),
        SUCCESS_ATOM | SERVER_INFO if results.len() == 1 => {
            Ok(Response::Atom(results.pop().expect("its length is one")))
        }
        SUCCESS_SEQUENCE => Ok(Response::Rows { rows: results, more: false }),
        SUCCESS_PARTIAL => Ok(Response::Rows { rows: results, more: true }),
        WAIT_COMPLETE => Ok(Response::Atom(Value::Null)),
        _ => Err(ReqlError::decode(format_args!("response type {kind} with {} results", results.len()))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_answer() {
        let check = |text: &str, expected: Response| {
            assert_eq!(parse(text.as_bytes()).expect(text), expected, "{text}");
        };
        check(r#"{"t":1,"r":[null]}"#, Response::Atom(Value::Null));
        check(r#"{"t":5,"r":[{"id":"a"}],"n":[]}"#, Response::Atom(json!({"id": "a"})));
        check(
            r#"{"t":2,"r":[1,2],"b":[],"p":null}"#,
            Response::Rows { rows: vec![1.into(), 2.into()], more: false },
        );
        check(r#"{"t":3,"r":[],"n":[1,5]}"#, Response::Rows { rows: vec![], more: true });
        check(r#"{"t":4,"r":[]}"#, Response::Atom(Value::Null));
    }

    #[test]
    fn every_kind_of_error() {
        let check = |text: &str, expected: ServerErrorKind, message: &str| match parse(text.as_bytes()) {
            Err(ReqlError::Server(error)) => {
                assert_eq!((error.kind, error.message.as_str()), (expected, message), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        };
        check(r#"{"t":16,"r":["bad"]}"#, ServerErrorKind::Client, "bad");
        check(r#"{"t":17,"r":["bad"],"b":[0]}"#, ServerErrorKind::Compile, "bad");
        check(r#"{"t":18,"e":4100000,"r":["no table"],"b":[]}"#, ServerErrorKind::OpFailed, "no table");
        check(r#"{"t":18,"e":4200000,"r":["lost"]}"#, ServerErrorKind::OpIndeterminate, "lost");
        check(r#"{"t":18,"e":6000000,"r":[]}"#, ServerErrorKind::Permission, "no reason given");
        check(r#"{"t":18,"r":[3]}"#, ServerErrorKind::Other(0), "no reason given");
        for text in
            ["", "{", "[]", r#"{"t":99,"r":[]}"#, r#"{"t":1,"r":[]}"#, r#"{"t":1,"r":[1,2]}"#, r#"{"r":[]}"#]
        {
            assert!(matches!(parse(text.as_bytes()), Err(ReqlError::Decode(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
