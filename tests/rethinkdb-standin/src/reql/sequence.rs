//! Operations on tables and sequences, and the stages through which elements pass.

use std::cmp::Ordering;

use serde_json::Value;

use super::{
    datum,
    error::{Class, Frame, ReqlError, Result},
    eval::{Call, Evaluator, as_sequence, truthy},
    term::{Op, Term},
    value::{FeedSpec, Predicate, Sequence, Single, Source, Stage, Table, TableKind, Val, Watched},
};
use crate::system;

pub(super) async fn evaluate(call: Call<'_>) -> Result<Val> {
    match call.op {
        Op::Get => get(call).await,
        Op::GetAll => get_all(call).await,
        Op::Filter => filter(call).await,
        Op::Map => {
            let function = call.function(1).await?;
            add_stage(call, Stage::Map(function)).await
        }
        Op::OrderBy => order_by(call).await,
        Op::Asc | Op::Desc => {
            let by = match &call.args[0] {
                Term::Call { op: Op::Func, .. } => Val::Function(call.function(0).await?),
                _ => call.arg(0).await?,
            };
            Ok(Val::Ordering { descending: call.op == Op::Desc, by: Box::new(by) })
        }
        Op::Limit | Op::Skip => {
            let count = call.integer(1).await?;
            let count = usize::try_from(count).map_err(|_| {
                ReqlError::logic(format!("LIMIT takes a non-negative argument (got {count})"))
            })?;
            let stage = if call.op == Op::Limit { Stage::Limit(count) } else { Stage::Skip(count) };
            add_stage(call, stage).await
        }
        Op::Slice => slice(call).await,
        Op::Nth => {
            let at = call.integer(1).await?;
            element(call.evaluator, &call.sequence(0).await?, at).await
        }
        Op::Count => count(call).await,
        Op::IsEmpty => {
            let found = elements(call.evaluator, &call.sequence(0).await?).await?;
            Ok(Val::Datum(found.is_empty().into()))
        }
        Op::Contains => contains(call).await,
        Op::Distinct => {
            let mut found = elements(call.evaluator, &call.sequence(0).await?).await?;
            found.sort_by(datum::compare);
            found.dedup();
            Ok(Val::Datum(Value::Array(found)))
        }
        Op::Range => range(call).await,
        Op::Changes => changes(call).await,
        other => Err(ReqlError::new(Class::Internal, format!("{other:?} is no operation on sequences"))),
    }
}

/// The row of a single selection; null if there is none.
pub async fn row(evaluator: &Evaluator, single: &Single) -> Result<Value> {
    let key = datum::row_key(&single.key)?;
    let server = evaluator.server()?;
    let found = match &single.table.kind {
        TableKind::Stored { id } => server.read(id, Some(key), single.table.outdated).await?.pop(),
        TableKind::System { table, by_id } => {
            system::rows(server, *table, *by_id).into_iter().find(|row| row["id"] == single.key)
        }
    };
    Ok(found.unwrap_or(Value::Null))
}

/// All elements of a sequence.
pub async fn elements(evaluator: &Evaluator, sequence: &Sequence) -> Result<Vec<Value>> {
    let rows = match &sequence.source {
        Source::Rows { rows, .. } => rows.clone(),
        Source::Table(table) => table_rows(evaluator, table).await?,
        Source::Keys(table, keys) => {
            let mut rows = Vec::new();
            for key in keys {
                let single = Single { table: table.clone(), key: key.clone() };
                let found = row(evaluator, &single).await?;
                if !found.is_null() {
                    rows.push(found);
                }
            }
            rows
        }
        Source::Feed(_) => {
            return Err(ReqlError::logic(
                "Cannot call a terminal (`reduce`, `count`, etc.) on an infinite stream (such as a changefeed).",
            ));
        }
    };
    let mut seen = vec![0; sequence.stages.len()];
    let mut passed = Vec::new();
    for row in rows {
        match pass(evaluator, &sequence.stages, row, &mut seen).await? {
            Passed::Out(value) => passed.push(value),
            Passed::Dropped => {}
            Passed::Over => break,
        }
    }
    Ok(passed)
}

async fn table_rows(evaluator: &Evaluator, table: &Table) -> Result<Vec<Value>> {
    let server = evaluator.server()?;
    match &table.kind {
        TableKind::Stored { id } => server.read(id, None, table.outdated).await,
        TableKind::System { table, by_id } => Ok(system::rows(server, *table, *by_id)),
    }
}

/// What became of an element.
pub enum Passed {
    /// It came out.
    Out(Value),
    /// It was left out.
    Dropped,
    /// No element comes out any more.
    Over,
}

/// Sends an element through stages; `seen` counts what reached each of them.
pub async fn pass(
    evaluator: &Evaluator,
    stages: &[Stage],
    value: Value,
    seen: &mut [usize],
) -> Result<Passed> {
    let mut value = value;
    for (stage, seen) in stages.iter().zip(seen) {
        match stage {
            Stage::Limit(most) => {
                *seen += 1;
                if *seen > *most {
                    return Ok(Passed::Over);
                }
            }
            Stage::Skip(least) => {
                *seen += 1;
                if *seen <= *least {
                    return Ok(Passed::Dropped);
                }
            }
            Stage::Filter { keep, default } => {
                if !keeps(evaluator, keep, *default, &value).await? {
                    return Ok(Passed::Dropped);
                }
            }
            Stage::Map(function) => value = evaluator.call(function, &[value]).await?,
            Stage::Field(name) => match value.get(name) {
                Some(field) => value = field.clone(),
                None => return Ok(Passed::Dropped),
            },
            Stage::Pluck(specs) => value = datum::pluck(&value, specs),
            Stage::Without(specs) => value = datum::without(&value, specs),
            Stage::HasFields(specs) => {
                if !specs.iter().all(|spec| has_field(&value, spec)) {
                    return Ok(Passed::Dropped);
                }
            }
            Stage::Merge(function) => {
                let more = evaluator.call(function, std::slice::from_ref(&value)).await?;
                value = datum::merge(&value, &more);
            }
        }
    }
    Ok(Passed::Out(value))
}

/// Whether an object has what a path names, not null.
pub fn has_field(value: &Value, spec: &Value) -> bool {
    match spec {
        Value::String(name) => value.get(name).is_some_and(|field| !field.is_null()),
        Value::Array(specs) => specs.iter().all(|spec| has_field(value, spec)),
        Value::Object(nested) => nested.iter().all(|(name, under)| match (value.get(name), under) {
            (Some(field), Value::Bool(true)) => !field.is_null(),
            (Some(field), under) => has_field(field, under),
            (None, _) => false,
        }),
        _ => false,
    }
}

async fn keeps(
    evaluator: &Evaluator,
    keep: &Predicate,
    default: Option<bool>,
    value: &Value,
) -> Result<bool> {
    match keep {
        Predicate::Shape(shape) => Ok(matches_shape(value, shape)),
        Predicate::Function(function) => match evaluator.call(function, std::slice::from_ref(value)).await {
            Ok(answer @ Value::Object(_)) if datum::pseudo_type(&answer).is_none() => {
                Ok(matches_shape(value, &answer))
            }
            Ok(answer) => Ok(truthy(&answer)),
            Err(why) if why.class == Class::NonExistence => default.ok_or(why),
            Err(why) => Err(why),
        },
    }
}

fn matches_shape(value: &Value, shape: &Value) -> bool {
    let Value::Object(fields) = shape else { return value == shape };
    fields.iter().all(|(name, wanted)| match value.get(name) {
        Some(found) if wanted.is_object() && datum::pseudo_type(wanted).is_none() => {
            matches_shape(found, wanted)
        }
        Some(found) => found == wanted,
        None => false,
    })
}

async fn add_stage(call: Call<'_>, stage: Stage) -> Result<Val> {
    let sequence = call.sequence(0).await?.then(stage);
    settle(call.evaluator, sequence).await
}

/// An array stays an array: its stages are run at once.
async fn settle(evaluator: &Evaluator, sequence: Sequence) -> Result<Val> {
    if let Source::Rows { array: true, .. } = &sequence.source {
        let table = sequence.selection().cloned();
        let rows = elements(evaluator, &sequence).await?;
        return Ok(match table {
            Some(_) => Val::Sequence(Sequence::rows(rows, table, true)),
            None => Val::Datum(Value::Array(rows)),
        });
    }
    Ok(Val::Sequence(sequence))
}

async fn a_table(call: Call<'_>) -> Result<Table> {
    match call.arg(0).await? {
        Val::Sequence(Sequence { source: Source::Table(table), stages }) if stages.is_empty() => Ok(table),
        other => Err(other.not_a("TABLE").at(0)),
    }
}

async fn get(call: Call<'_>) -> Result<Val> {
    let table = a_table(call).await?;
    let key = call.datum(1).await?;
    // A bad key is refused at once, with the class that a missing value has.
    datum::row_key(&key).map_err(|why| if key.is_null() { ReqlError::absent(why.message) } else { why })?;
    Ok(Val::Single(Single { table, key }))
}

async fn get_all(call: Call<'_>) -> Result<Val> {
    let table = a_table(call).await?;
    check_index(call, &table).await?;
    let keys = call.data(1).await?;
    if keys.iter().any(Value::is_null) {
        return Err(ReqlError::absent("Keys cannot be NULL.").at(1));
    }
    Ok(Val::Sequence(Sequence::of(Source::Keys(table, keys))))
}

/// The stand-in has the primary index alone.
async fn check_index(call: Call<'_>, table: &Table) -> Result<bool> {
    match call.option("index").await? {
        None => Ok(false),
        Some(Value::String(name)) if name == table.primary_key => Ok(true),
        Some(name) => {
            let name = name.as_str().unwrap_or_default();
            Err(ReqlError::failed(format!("Index `{name}` was not found on table `{}`.", table.display())))
        }
    }
}

async fn filter(call: Call<'_>) -> Result<Val> {
    let default = match call.options.get("default") {
        None => Some(false),
        Some(Term::Call { op: Op::Error, args, .. }) if args.is_empty() => None,
        Some(_) => Some(truthy(&call.option("default").await?.unwrap_or(Value::Null))),
    };
    let keep = match &call.args[1] {
        Term::Datum(shape @ Value::Object(_)) => Predicate::Shape(shape.clone()),
        _ => Predicate::Function(call.function(1).await?),
    };
    add_stage(call, Stage::Filter { keep, default }).await
}

async fn slice(call: Call<'_>) -> Result<Val> {
    let from = call.integer(1).await?;
    let to = if call.args.len() == 3 { call.integer(2).await? } else { i64::MAX };
    if !call.options.is_empty() {
        return Err(ReqlError::logic("the stand-in does not know `slice` with bounds"));
    }
    let sequence = call.sequence(0).await?;
    if let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to)) {
        return settle(call.evaluator, sequence.then(Stage::Limit(to)).then(Stage::Skip(from))).await;
    }
    // Places counted from the end need all elements.
    let items = elements(call.evaluator, &sequence).await?;
    let place = |at: i64| match usize::try_from(at) {
        Ok(at) => at.min(items.len()),
        Err(_) => items.len().saturating_sub(at.unsigned_abs() as usize),
    };
    let range = place(from)..place(to).max(place(from));
    Ok(Val::Datum(Value::Array(items[range].to_vec())))
}

/// An element of a sequence; a row of a table can be written.
pub async fn element(evaluator: &Evaluator, sequence: &Sequence, at: i64) -> Result<Val> {
    let found = nth(&elements(evaluator, sequence).await?, at)?;
    Ok(match sequence.selection() {
        Some(table) => {
            let key = found.get(&table.primary_key).cloned().unwrap_or(Value::Null);
            Val::Single(Single { table: table.clone(), key })
        }
        None => Val::Datum(found),
    })
}

/// An element by its place; negative ones count from the end.
pub fn nth(items: &[Value], at: i64) -> Result<Value> {
    let place =
        if at < 0 { items.len().checked_sub(at.unsigned_abs() as usize) } else { usize::try_from(at).ok() };
    let found = place.and_then(|place| items.get(place)).cloned();
    found.ok_or_else(|| ReqlError::absent(format!("Index out of bounds: {at}")))
}

async fn count(call: Call<'_>) -> Result<Val> {
    let value = call.arg(0).await?;
    let count = match value {
        Val::Datum(Value::String(text)) => text.chars().count(),
        Val::Datum(Value::Object(fields)) => fields.len(),
        other => {
            let mut sequence = as_sequence(other).map_err(|why| why.at(0))?;
            if call.args.len() == 2 {
                let keep = match &call.args[1] {
                    Term::Call { op: Op::Func, .. } => Predicate::Function(call.function(1).await?),
                    _ => Predicate::Shape(call.datum(1).await?),
                };
                sequence = sequence.then(Stage::Filter { keep, default: Some(false) });
            }
            elements(call.evaluator, &sequence).await?.len()
        }
    };
    Ok(Val::Datum(count.into()))
}

async fn contains(call: Call<'_>) -> Result<Val> {
    let found = elements(call.evaluator, &call.sequence(0).await?).await?;
    for at in 1..call.args.len() {
        let there = match &call.args[at] {
            Term::Call { op: Op::Func, .. } => {
                let function = call.function(at).await?;
                let mut any = false;
                for value in &found {
                    any = any || truthy(&call.evaluator.call(&function, std::slice::from_ref(value)).await?);
                }
                any
            }
            _ => found.contains(&call.datum(at).await?),
        };
        if !there {
            return Ok(Val::Datum(false.into()));
        }
    }
    Ok(Val::Datum(true.into()))
}

/// Most numbers a range may have here; the real one is lazy.
const RANGE_MAX: i64 = 100_000;

async fn range(call: Call<'_>) -> Result<Val> {
    let (from, to) = match call.args.len() {
        0 => (0, i64::MAX),
        1 => (0, call.integer(0).await?),
        _ => (call.integer(0).await?, call.integer(1).await?),
    };
    if to.saturating_sub(from) > RANGE_MAX {
        return Err(ReqlError::logic(format!(
            "the stand-in does not know ranges of more than {RANGE_MAX} numbers"
        )));
    }
    Ok(Val::Sequence(Sequence::rows((from..to).map(Value::from).collect(), None, false)))
}

async fn order_by(call: Call<'_>) -> Result<Val> {
    let sequence = call.sequence(0).await?;
    let mut orders = Vec::new();
    if let Some(Term::Call { op: Op::Asc | Op::Desc, .. }) = call.options.get("index") {
        return Err(ReqlError::logic("the stand-in does not know an order on an index"));
    }
    let mut indexed = false;
    if let (Source::Table(table), true) = (&sequence.source, sequence.stages.is_empty()) {
        indexed = check_index(call, table).await?;
        if indexed {
            orders.push((false, Val::Datum(table.primary_key.clone().into())));
        }
    } else if call.options.contains_key("index") {
        return Err(ReqlError::logic(
            "Indexed order_by can only be performed on a TABLE or TABLE_SLICE. Make sure order_by comes before any \
             transformations (such as map) or filters.",
        ));
    }
    for at in 1..call.args.len() {
        let order = match &call.args[at] {
            Term::Call { op: Op::Func, .. } => Val::Function(call.function(at).await?),
            _ => call.arg(at).await?,
        };
        orders.push(match order {
            Val::Ordering { descending, by } => (descending, *by),
            by => (false, by),
        });
    }
    if orders.is_empty() {
        return Err(ReqlError::logic("Must specify something to order by."));
    }
    let table = sequence.selection().cloned();
    let mut keyed = Vec::new();
    for value in elements(call.evaluator, &sequence).await? {
        let mut keys = Vec::new();
        for (descending, by) in &orders {
            keys.push((*descending, sort_key(call.evaluator, by, &value).await?));
        }
        keyed.push((keys, value));
    }
    keyed.sort_by(|(left, _), (right, _)| compare_keys(left, right));
    let rows = keyed.into_iter().map(|(_, value)| value).collect();
    Ok(match table {
        Some(table) => Val::Sequence(Sequence::rows(rows, Some(table), !indexed)),
        None => Val::Datum(Value::Array(rows)),
    })
}

async fn sort_key(evaluator: &Evaluator, by: &Val, value: &Value) -> Result<Option<Value>> {
    match by {
        Val::Datum(Value::String(name)) => Ok(value.get(name).cloned()),
        Val::Function(function) => match evaluator.call(function, std::slice::from_ref(value)).await {
            Ok(key) => Ok(Some(key)),
            Err(why) if why.class == Class::NonExistence => Ok(None),
            Err(why) => Err(why),
        },
        other => Err(other.not_a("STRING")),
    }
}

type SortKey = (bool, Option<Value>);

/// What is missing comes first, or last if the order is downwards.
fn compare_keys(left: &[SortKey], right: &[SortKey]) -> Ordering {
    for ((descending, left), (_, right)) in left.iter().zip(right) {
        let order = match (left, right) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(left), Some(right)) => datum::compare(left, right),
        };
        let order = if *descending { order.reverse() } else { order };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

async fn changes(call: Call<'_>) -> Result<Val> {
    let squash = match call.option("squash").await? {
        None => false,
        Some(Value::Bool(flag)) => flag,
        Some(Value::Number(number)) if number.as_f64().is_some_and(|seconds| seconds >= 0.0) => true,
        Some(Value::Number(_)) => {
            let message = "Expected BOOL or a positive NUMBER but found a negative NUMBER.";
            return Err(ReqlError::logic(message).within(Frame::Option("squash".into())));
        }
        Some(other) => {
            let message = format!("Expected BOOL or NUMBER but found {}.", datum::type_name(&other));
            return Err(ReqlError::logic(message).within(Frame::Option("squash".into())));
        }
    };
    let (watched, stages) = match call.arg(0).await? {
        Val::Single(single) => (Watched::Row(single), Vec::new()),
        Val::Sequence(Sequence { source: Source::Table(table), stages }) => {
            (Watched::Rows(table, None), stages)
        }
        Val::Sequence(Sequence { source: Source::Keys(table, keys), stages }) => {
            (Watched::Rows(table, Some(keys)), stages)
        }
        Val::Sequence(_) => return Err(ReqlError::logic("Cannot call `changes` on an eager stream.")),
        other => return Err(other.not_a("SELECTION").at(0)),
    };
    if stages.iter().any(|stage| matches!(stage, Stage::Limit(_) | Stage::Skip(_))) {
        return Err(ReqlError::logic("Cannot get changes on the first elements of an unordered stream."));
    }
    let spec = FeedSpec {
        watched,
        stages,
        include_initial: call.flag("include_initial").await?,
        include_states: call.flag("include_states").await?,
        include_types: call.flag("include_types").await?,
        squash,
    };
    if call.flag("include_offsets").await? {
        return Err(ReqlError::logic("the stand-in does not know `include_offsets`"));
    }
    Ok(Val::Sequence(Sequence::of(Source::Feed(Box::new(spec)))))
}
