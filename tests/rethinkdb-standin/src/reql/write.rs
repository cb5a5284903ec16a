//! `insert`, `update`, `replace`, `delete`, `sync`.

use serde_json::{Value, json};

use super::{
    datum,
    error::{Frame, ReqlError, Result},
    eval::{Call, as_sequence},
    sequence,
    term::{Op, Term},
    value::{Sequence, Source, Table, TableKind, Val},
};
use crate::{
    system,
    table::write::{Conflict, How, Returned, Write},
};

pub(super) async fn evaluate(call: Call<'_>) -> Result<Val> {
    match call.op {
        Op::Insert => insert(call).await,
        Op::Sync => {
            the_table(call.arg(0).await?).map_err(|why| why.at(0))?;
            Ok(Val::Datum(json!({ "synced": 1 })))
        }
        _ => change(call).await,
    }
}

fn the_table(value: Val) -> Result<Table> {
    match value {
        Val::Sequence(Sequence { source: Source::Table(table), stages }) if stages.is_empty() => Ok(table),
        other => Err(other.not_a("TABLE")),
    }
}

async fn returned(call: Call<'_>) -> Result<Returned> {
    if call.options.contains_key("return_vals") {
        return Err(ReqlError::logic(
            "Error:  encountered obsolete optarg `return_vals`.  Use `return_changes` instead.",
        ));
    }
    match call.option("return_changes").await? {
        None | Some(Value::Bool(false)) => Ok(Returned::No),
        Some(Value::Bool(true)) => Ok(Returned::Yes),
        Some(Value::String(text)) if text == "always" => Ok(Returned::Always),
        Some(other) => {
            let shown = other.as_str().map_or_else(|| datum::print(&other), str::to_owned);
            Err(ReqlError::logic(format!(
                "Invalid return_changes value `{shown}` (options are `true`, `false`, and `'always'`.)"
            )))
        }
    }
}

async fn check_durability(call: Call<'_>) -> Result<()> {
    match call.option("durability").await? {
        None => Ok(()),
        Some(Value::String(text)) if text == "hard" || text == "soft" => Ok(()),
        Some(other) => Err(ReqlError::logic(format!(
            "Durability option `{}` unrecognized (options are \"hard\" and \"soft\").",
            other.as_str().unwrap_or_default()
        ))
        .within(Frame::Option("durability".into()))),
    }
}

async fn run(call: Call<'_>, table: &Table, write: Write) -> Result<Value> {
    let server = call.evaluator.server()?;
    match &table.kind {
        TableKind::Stored { id } => server.write(id, write).await,
        TableKind::System { table, by_id } => system::write(server, *table, *by_id, write).await,
    }
}

async fn insert(call: Call<'_>) -> Result<Val> {
    let table = the_table(call.arg(0).await?).map_err(|why| why.at(0))?;
    let returned = returned(call).await?;
    check_durability(call).await?;
    let conflict = match call.options.get("conflict") {
        None => Conflict::Error,
        Some(term @ Term::Call { op: Op::Func, .. }) => match call.evaluator.eval(term, call.scope).await? {
            Val::Function(function) if matches!(function.parameters.len(), 0 | 3) => {
                Conflict::Function(function)
            }
            _ => {
                return Err(ReqlError::logic(
                    "The conflict function passed to `insert` should expect 3 arguments.",
                ));
            }
        },
        Some(_) => match call.option("conflict").await?.as_ref().and_then(Value::as_str) {
            Some("error") => Conflict::Error,
            Some("replace") => Conflict::Replace,
            Some("update") => Conflict::Update,
            other => {
                return Err(ReqlError::logic(format!(
                    "Conflict option `{}` unrecognized (options are \"error\", \"replace\" and \"update\").",
                    other.unwrap_or_default()
                ))
                .within(Frame::Option("conflict".into())));
            }
        },
    };
    let mut items = match call.arg(1).await? {
        Val::Datum(object @ Value::Object(_)) => vec![object],
        single @ Val::Single(_) => vec![call.evaluator.plain(single).await.map_err(|why| why.at(1))?],
        // Real servers place this error at the whole term.
        other => sequence::elements(call.evaluator, &as_sequence(other)?).await?,
    };
    let mut generated = Vec::new();
    for item in &mut items {
        if let Value::Object(fields) = item
            && !fields.contains_key(&table.primary_key)
        {
            let key = Value::from(uuid::Uuid::new_v4().to_string());
            generated.push(key.clone());
            fields.insert(table.primary_key.clone(), key);
        }
    }
    let write = Write { how: How::Insert(conflict), items, returned, now: call.evaluator.now().clone() };
    let mut result = run(call, &table, write).await?;
    if !generated.is_empty() {
        result["generated_keys"] = generated.into();
    }
    Ok(Val::Datum(result))
}

async fn change(call: Call<'_>) -> Result<Val> {
    let returned = returned(call).await?;
    check_durability(call).await?;
    let how = match call.op {
        Op::Delete => How::Delete,
        op => {
            if !call.args[1].is_deterministic() {
                let hint = if call.flag("non_atomic").await? {
                    "the stand-in does not know non_atomic"
                } else {
                    "Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?"
                };
                return Err(ReqlError::logic(hint));
            }
            let function = call.function(1).await?;
            if op == Op::Update { How::Update(function) } else { How::Replace(function) }
        }
    };
    let (table, items) = match call.arg(0).await? {
        Val::Single(single) => (single.table, vec![single.key]),
        Val::Sequence(selected) => {
            let Some(table) = selected.selection().cloned() else {
                return Err(Val::Sequence(selected).not_a("SELECTION").at(0));
            };
            let rows = sequence::elements(call.evaluator, &selected).await?;
            let keys = rows.iter().filter_map(|row| row.get(&table.primary_key).cloned()).collect();
            (table, keys)
        }
        other => return Err(other.not_a("SELECTION").at(0)),
    };
    let write = Write { how, items, returned, now: call.evaluator.now().clone() };
    run(call, &table, write).await.map(Val::Datum)
}
