//! Operations on plain data.

use serde_json::{Map, Value, json};

use super::{
    datum,
    error::{Class, ReqlError, Result},
    eval::{Call, as_sequence, truthy},
    sequence::{element, elements, has_field, nth},
    term::{Op, Term},
    value::{Function, Sequence, Source, Stage, Val},
};

pub(super) async fn evaluate(call: Call<'_>) -> Result<Val> {
    match call.op {
        Op::MakeArray => Ok(Val::Datum(call.data(0).await?.into())),
        Op::And | Op::Or => logic(call).await,
        Op::Not => Ok(Val::Datum((!truthy(&call.datum(0).await?)).into())),
        Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge => compare(call).await,
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Mod => arithmetic(call).await,
        Op::Bracket | Op::GetField => field(call).await,
        Op::Pluck | Op::Without | Op::HasFields | Op::Merge => shape(call).await,
        Op::Append => {
            let mut items = array(call, 0).await?;
            items.push(call.datum(1).await?);
            Ok(Val::Datum(items.into()))
        }
        Op::Keys => match call.datum(0).await? {
            Value::Object(fields) => {
                Ok(Val::Datum(fields.into_iter().map(|(name, _)| Value::from(name)).collect()))
            }
            other => Err(ReqlError::wrong_type("OBJECT", &other)),
        },
        Op::TypeOf => Ok(Val::Datum(call.arg(0).await?.type_name().into())),
        Op::CoerceTo => coerce(call).await,
        Op::Literal => {
            let mut literal = Map::from_iter([("$reql_type$".to_owned(), json!("LITERAL"))]);
            if !call.args.is_empty() {
                literal.insert("value".into(), call.datum(0).await?);
            }
            Ok(Val::Datum(Value::Object(literal)))
        }
        Op::Now => Ok(Val::Datum(call.evaluator.now().clone())),
        Op::EpochTime => Ok(Val::Datum(super::eval::time(call.number(0).await?))),
        Op::ToEpochTime => {
            let time = call.datum(0).await?;
            match datum::pseudo_type(&time) {
                Some("TIME") => Ok(Val::Datum(time["epoch_time"].clone())),
                _ => Err(ReqlError::logic(format!("Not a TIME pseudotype: `{}`.", datum::print(&time)))),
            }
        }
        Op::Uuid if call.args.is_empty() => Ok(Val::Datum(uuid::Uuid::new_v4().to_string().into())),
        Op::Uuid => Err(ReqlError::logic("the stand-in does not know `uuid` of a text")),
        other => Err(ReqlError::new(Class::Internal, format!("{other:?} is no operation on data"))),
    }
}

async fn array(call: Call<'_>, at: usize) -> Result<Vec<Value>> {
    match call.datum(at).await? {
        Value::Array(items) => Ok(items),
        other => Err(ReqlError::wrong_type("ARRAY", &other).at(at)),
    }
}

/// The last value looked at is the answer, and nothing after it is looked at.
async fn logic(call: Call<'_>) -> Result<Val> {
    let stops_at = call.op == Op::Or;
    let mut last = Value::Bool(!stops_at);
    for at in 0..call.args.len() {
        last = call.datum(at).await?;
        if truthy(&last) == stops_at {
            break;
        }
    }
    Ok(Val::Datum(last))
}

async fn compare(call: Call<'_>) -> Result<Val> {
    let data = call.data(0).await?;
    let holds = |pair: &[Value]| {
        let order = datum::compare(&pair[0], &pair[1]);
        match call.op {
            Op::Lt => order.is_lt(),
            Op::Le => order.is_le(),
            Op::Gt => order.is_gt(),
            Op::Ge => order.is_ge(),
            _ => order.is_eq(),
        }
    };
    let all = data.windows(2).all(holds);
    Ok(Val::Datum((all != (call.op == Op::Ne)).into()))
}

async fn arithmetic(call: Call<'_>) -> Result<Val> {
    let data = call.data(0).await?;
    let mut data = data.into_iter();
    let Some(mut total) = data.next() else { return Ok(Val::Datum(Value::Null)) };
    for next in data {
        total = combine(call.op, total, next)?;
    }
    if !matches!(call.op, Op::Add) && !total.is_number() {
        return Err(ReqlError::wrong_type("NUMBER", &total));
    }
    Ok(Val::Datum(total))
}

fn combine(op: Op, left: Value, right: Value) -> Result<Value> {
    match (op, left, right) {
        (Op::Add, Value::String(left), Value::String(right)) => Ok((left + &right).into()),
        (Op::Add, Value::String(_), other) => Err(ReqlError::wrong_type("STRING", &other)),
        (Op::Add, Value::Array(mut left), Value::Array(right)) => {
            left.extend(right);
            Ok(left.into())
        }
        (Op::Add, Value::Array(_), other) => Err(ReqlError::wrong_type("ARRAY", &other)),
        (Op::Add | Op::Sub, left, right) if datum::pseudo_type(&left) == Some("TIME") => {
            let at = left["epoch_time"].as_f64().unwrap_or_default();
            match (op, right.as_f64(), right["epoch_time"].as_f64()) {
                (Op::Add, Some(seconds), _) => Ok(super::eval::time(at + seconds)),
                (_, Some(seconds), _) => Ok(super::eval::time(at - seconds)),
                (Op::Sub, None, Some(other)) => Ok(datum::number(at - other)),
                _ => Err(ReqlError::wrong_type("NUMBER", &right)),
            }
        }
        (op, left, right) => {
            let l = left.as_f64().ok_or_else(|| ReqlError::wrong_type("NUMBER", &left))?;
            let r = right.as_f64().ok_or_else(|| ReqlError::wrong_type("NUMBER", &right))?;
            if r == 0.0 && matches!(op, Op::Div | Op::Mod) {
                let what =
                    if op == Op::Div { "Cannot divide by zero." } else { "Cannot take a number modulo 0." };
                return Err(ReqlError::logic(what));
            }
            Ok(datum::number(match op {
                Op::Add => l + r,
                Op::Sub => l - r,
                Op::Mul => l * r,
                Op::Div => l / r,
                _ => l % r,
            }))
        }
    }
}

async fn field(call: Call<'_>) -> Result<Val> {
    let name = if call.op == Op::Bracket { "bracket" } else { "get_field" };
    let value = match call.arg(0).await? {
        single @ Val::Single(_) => Val::Datum(call.evaluator.plain(single).await.map_err(|why| why.at(0))?),
        other => other,
    };
    let key = call.datum(1).await?;
    match (value, key) {
        (Val::Datum(object @ Value::Object(_)), Value::String(field)) => match object.get(&field) {
            Some(found) => Ok(Val::Datum(found.clone())),
            None => {
                let shown = datum::print(&object);
                Err(ReqlError::absent(format!("No attribute `{field}` in object:\n{shown}")))
            }
        },
        (Val::Datum(Value::Array(items)), Value::String(field)) => {
            if let Some(odd) = items.iter().find(|item| !item.is_object()) {
                return Err(not_for(name, odd));
            }
            Ok(Val::Datum(items.iter().filter_map(|item| item.get(&field).cloned()).collect()))
        }
        (Val::Datum(Value::Array(items)), Value::Number(at)) if call.op == Op::Bracket => {
            nth(&items, at.as_f64().unwrap_or_default() as i64).map(Val::Datum)
        }
        (Val::Sequence(sequence), Value::Number(at)) if call.op == Op::Bracket => {
            element(call.evaluator, &sequence, at.as_f64().unwrap_or_default() as i64).await
        }
        (Val::Sequence(sequence), Value::String(field)) => {
            Ok(Val::Sequence(sequence.then(Stage::Field(field))))
        }
        (Val::Datum(Value::Object(_)), Value::Number(_)) => {
            Err(ReqlError::logic("Cannot convert OBJECT to SEQUENCE"))
        }
        (Val::Datum(Value::Object(_) | Value::Array(_)), key) => {
            Err(ReqlError::wrong_type("STRING", &key).at(1))
        }
        (Val::Datum(other), _) => Err(not_for(name, &other).at(0)),
        (other, _) => Err(other.not_a("DATUM").at(0)),
    }
}

fn not_for(operation: &str, value: &Value) -> ReqlError {
    let class = if value.is_null() { Class::NonExistence } else { Class::QueryLogic };
    let shown = datum::print(value);
    ReqlError::new(class, format!("Cannot perform {operation} on a non-object non-sequence `{shown}`."))
}

async fn shape(call: Call<'_>) -> Result<Val> {
    let value = match call.arg(0).await? {
        single @ Val::Single(_) => Val::Datum(call.evaluator.plain(single).await.map_err(|why| why.at(0))?),
        other => other,
    };
    if call.op == Op::Merge {
        return merge(call, value).await;
    }
    let specs = call.data(1).await?;
    let name = match call.op {
        Op::Pluck => "pluck",
        Op::Without => "without",
        _ => "has_fields",
    };
    match value {
        Val::Datum(object @ Value::Object(_)) => Ok(Val::Datum(match call.op {
            Op::Pluck => datum::pluck(&object, &specs),
            Op::Without => datum::without(&object, &specs),
            _ => specs.iter().all(|spec| has_field(&object, spec)).into(),
        })),
        Val::Datum(other) if !other.is_array() => Err(not_for(name, &other).at(0)),
        other => {
            let stage = match call.op {
                Op::Pluck => Stage::Pluck(specs),
                Op::Without => Stage::Without(specs),
                _ => Stage::HasFields(specs),
            };
            staged(call, as_sequence(other)?.then(stage)).await
        }
    }
}

async fn merge(call: Call<'_>, value: Val) -> Result<Val> {
    let mut functions = Vec::new();
    for at in 1..call.args.len() {
        functions.push(match &call.args[at] {
            Term::Call { op: Op::Func, .. } => call.function(at).await?,
            _ => Function::constant(call.datum(at).await?),
        });
    }
    match value {
        Val::Datum(mut object @ Value::Object(_)) => {
            for function in &functions {
                let more = call.evaluator.call(function, std::slice::from_ref(&object)).await?;
                if !more.is_object() {
                    return Err(ReqlError::wrong_type("OBJECT", &more));
                }
                object = datum::merge(&object, &more);
            }
            Ok(Val::Datum(object))
        }
        Val::Datum(other) if !other.is_array() => Err(not_for("merge", &other).at(0)),
        other => {
            let mut sequence = as_sequence(other)?;
            sequence.stages.extend(functions.into_iter().map(Stage::Merge));
            staged(call, sequence).await
        }
    }
}

/// Arrays are worked on at once, streams when they are read.
async fn staged(call: Call<'_>, sequence: Sequence) -> Result<Val> {
    match &sequence.source {
        Source::Rows { array: true, .. } => Ok(Val::Datum(elements(call.evaluator, &sequence).await?.into())),
        _ => Ok(Val::Sequence(sequence)),
    }
}

async fn coerce(call: Call<'_>) -> Result<Val> {
    let value = call.arg(0).await?;
    let wanted = call.text(1).await?.to_uppercase();
    let from = value.type_name();
    if from == wanted {
        return Ok(value);
    }
    let refused = || ReqlError::logic(format!("Cannot coerce {from} to {wanted}.")).at(0);
    match (wanted.as_str(), value) {
        ("ARRAY", Val::Sequence(sequence)) => {
            Ok(Val::Datum(elements(call.evaluator, &sequence).await?.into()))
        }
        ("ARRAY", Val::Datum(Value::Object(fields))) => {
            Ok(Val::Datum(fields.into_iter().map(|(name, value)| json!([name, value])).collect()))
        }
        ("STRING", Val::Datum(value)) => Ok(Val::Datum(value.to_string().into())),
        ("BOOL", Val::Datum(value)) => Ok(Val::Datum(truthy(&value).into())),
        ("NUMBER", Val::Datum(Value::String(text))) => match text.trim().parse::<f64>() {
            Ok(number) => Ok(Val::Datum(datum::number(number))),
            Err(_) => Err(ReqlError::logic(format!("Could not coerce `{text}` to NUMBER."))),
        },
        ("OBJECT", value) => {
            let pairs = elements(call.evaluator, &as_sequence(value).map_err(|_| refused())?).await?;
            let mut object = Map::new();
            for pair in pairs {
                let (Some(Value::String(name)), Some(value)) = (pair.get(0), pair.get(1)) else {
                    return Err(refused());
                };
                object.insert(name.clone(), value.clone());
            }
            Ok(Val::Datum(Value::Object(object)))
        }
        _ => Err(refused()),
    }
}
