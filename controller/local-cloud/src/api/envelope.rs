//! The documents around every answer: response, account, 0.9 status.

use fleet_mcp::xml::{self, LEGACY, TYPES};
use serde_json::{Value, json};

use super::shape::{shape, trim};
use crate::state::{Answer, Done, Refused};

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Xml,
    Json,
}

/// XML unless JSON is asked for: public clients send `*/*` and mean XML.
pub(crate) fn form(accept: Option<&str>) -> Form {
    let json = accept.is_some_and(|accept| accept.to_ascii_lowercase().contains("application/json"));
    if json { Form::Json } else { Form::Xml }
}

/// A document in the form asked for.
pub(crate) fn print(form: Form, root: &str, value: &Value) -> String {
    match form {
        Form::Xml => xml::print(TYPES, root, value),
        Form::Json => value.to_string(),
    }
}

/// The answer's root and content.
pub(crate) fn answer(
    operation: &str,
    mut answer: Answer,
    minor: u32,
    request_id: &str,
) -> (&'static str, Value) {
    match &mut answer {
        Answer::Entity { kind, value } => {
            shape(*kind, minor, value);
            (kind.item(), value.take())
        }
        Answer::Page { kind, items, number, size, total } => {
            items.iter_mut().for_each(|item| shape(*kind, minor, item));
            let page = json!({
                kind.item(): items, "pageNumber": number, "pageCount": items.len(), "totalCount": total,
                "pageSize": size,
            });
            (kind.root(), page)
        }
        Answer::Done(done) => {
            trim(minor, done);
            let Done { in_progress, message, info, .. } = done;
            let code = if *in_progress { "IN_PROGRESS" } else { "OK" };
            let info: Vec<Value> =
                info.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            ("response", response(operation, code, message, &info, request_id))
        }
    }
}

/// The envelope of a refusal.
pub(crate) fn refusal(operation: &str, refused: &Refused, request_id: &str) -> Value {
    response(operation, refused.code, &refused.message, &[], request_id)
}

/// The envelope of everything that is no entity.
pub(crate) fn response(
    operation: &str,
    code: &str,
    message: &str,
    info: &[Value],
    request_id: &str,
) -> Value {
    json!({
        "operation": operation, "responseCode": code, "message": message, "info": info, "warning": [],
        "error": [], "requestId": request_id,
    })
}

/// `/oec/0.9/myaccount`, always XML.
pub(crate) fn account(user: &str, organisation: &str) -> String {
    let value = json!({
        "userName": user, "fullName": "Fleet Operator", "firstName": "Fleet", "lastName": "Operator",
        "emailAddress": format!("{user}@cloud.invalid"), "orgId": organisation,
        "roles": {"role": {"name": "primary administrator"}},
    });
    xml::print(&format!("{LEGACY}directory"), "Account", &value)
}

/// `/caas/2.N/user/myUser`.
pub(crate) fn my_user(user: &str, organisation: &str) -> Value {
    json!({
        "userName": user, "firstName": "Fleet", "lastName": "Operator", "fullName": "Fleet Operator",
        "emailAddress": format!("{user}@cloud.invalid"), "state": "NORMAL",
        "organization": {"id": organisation, "name": "Fleet"}, "role": ["primary administrator"],
    })
}

/// `/oec/0.9/{org}/networkWithLocation`: there are no networks of that kind.
pub(crate) fn no_networks() -> String {
    xml::print(&format!("{LEGACY}network"), "NetworkWithLocations", &json!({}))
}

/// What 0.9 calls the end of an anti-affinity rule.
pub(crate) const DELETE_AFFINITY: &str = "Delete Anti Affinity Rule";

/// A 0.9 answer, always XML.
///
/// One public client knows a busy 0.9 resource only by the text, so the text begins with the 2.x code.
pub(crate) fn status(operation: &str, outcome: &Result<Answer, Refused>) -> String {
    let mut more = Vec::new();
    let (result, code, detail) = match outcome {
        Ok(Answer::Done(done)) => {
            let rule = done.info.iter().filter(|(name, _)| *name == "antiAffinityRuleId");
            more.extend(rule.map(|(_, value)| json!({"name": "antiaffinityrule.id", "value": value})));
            ("SUCCESS", "REASON_0", done.message.clone())
        }
        Ok(_) => ("SUCCESS", "REASON_0", String::new()),
        Err(refused) => {
            let code = match refused.code {
                "RESOURCE_BUSY" => "REASON_392",
                "RESOURCE_NOT_FOUND" if operation == DELETE_AFFINITY => "REASON_693",
                "RESOURCE_NOT_FOUND" => "REASON_395",
                "CONFIGURATION_NOT_SUPPORTED" => "REASON_692",
                "EXCEEDS_LIMIT" => "REASON_751",
                other => other,
            };
            ("ERROR", code, refused.to_string())
        }
    };
    let value = json!({
        "operation": operation, "result": result, "resultDetail": detail, "resultCode": code,
        "additionalInformation": more,
    });
    xml::print(&format!("{LEGACY}general"), "Status", &value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_unless_json_is_asked_for() {
        let check = |accept: Option<&str>, want: Form| assert_eq!(form(accept), want, "{accept:?}");
        check(None, Form::Xml);
        check(Some("*/*"), Form::Xml);
        check(Some("application/xml"), Form::Xml);
        check(Some("application/json"), Form::Json);
        check(Some("Application/JSON; charset=utf-8"), Form::Json);
    }
}
